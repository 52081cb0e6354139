package replica

import (
	"context"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs"
)

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
	if n := t.note(id); n.Current == nil && len(n.Begun)+len(n.Modified) == 0 {
		return nil
	}
	return t.annotate(id, func(n *notes) { *n = notes{} })
}

// Begun says whether this node remembers to have begun the first receive that was
// interrupted in a dataset without marks.
func (t *Target) Begun(ctx context.Context, id guest.ID, v guest.Volume, d zfs.Dataset) bool {
	l := found{volume: v, name: d.Name, data: d}
	return l.unborn() && t.begun(ctx, id, l)
}

// Ended forgets that it was begun. The caller has the volume's lock.
func (t *Target) Ended(id guest.ID, v guest.Volume) error { return t.settle(id, []guest.Volume{v}) }
