package replica

import "github.com/tandemd/tandem/pkg/guest"

// settle forgets first receives of volumes that are being committed: they have
// ended, and this node was killed before it noted so.
func (t *Target) settle(id guest.ID, volumes []guest.Volume) error {
	noted := t.note(id).Begun
	over := false
	for _, v := range volumes {
		_, begun := noted[v]
		over = over || begun
	}
	if !over {
		return nil
	}
	return t.annotate(id, func(n *notes) {
		for _, v := range volumes {
			delete(n.Begun, v)
		}
	})
}

// forget drops what is noted of a guest of which nothing is left here.
func (t *Target) forget(id guest.ID) error {
	if n := t.note(id); n.Current == nil && len(n.Begun) == 0 {
		return nil
	}
	return t.annotate(id, func(n *notes) { n.Current, n.Begun = nil, nil })
}
