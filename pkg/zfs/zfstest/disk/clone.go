package disk

import "maps"

// Clone copies all that a machine's pools hold, as one of its transaction groups has it on the disks. No send runs on it.
func Clone(all map[string]*Dataset) map[string]*Dataset {
	out := make(map[string]*Dataset, len(all))
	copies := map[*Snapshot]*Snapshot{}
	for name, d := range all {
		c := *d
		c.Props, c.Live = maps.Clone(d.Props), d.Live.Copy()
		c.Snaps, c.Marks = make([]*Snapshot, len(d.Snaps)), make(map[string]*Snapshot, len(d.Marks))
		for i, s := range d.Snaps {
			c.Snaps[i] = s.clone(&c)
			copies[s] = c.Snaps[i]
		}
		for own, b := range d.Marks {
			c.Marks[own] = b.clone(&c)
		}
		if d.Partial != nil {
			partial := *d.Partial
			partial.Work = d.Partial.Work.Copy()
			c.Partial = &partial
		}
		c.Receiving = false
		out[name] = &c
	}
	for _, d := range out {
		if d.Origin != nil {
			d.Origin = copies[d.Origin]
		}
	}
	return out
}

func (s *Snapshot) clone(of *Dataset) *Snapshot {
	c := *s
	c.Of, c.Sending = of, 0
	c.Props, c.Holds, c.Content = maps.Clone(s.Props), maps.Clone(s.Holds), s.Content.Copy()
	return &c
}
