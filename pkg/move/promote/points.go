package promote

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Held is a complete point of a guest that this node has.
type Held struct {
	Name string `json:"name"`
	// GUIDs are those of its snapshots.
	GUIDs map[guest.Volume]uint64 `json:"guids"`
	// Term is the one in which it was taken or received.
	Term string `json:"term"`
	// Taken is by the clock of the node that took it.
	Taken       time.Time         `json:"taken"`
	Consistency guest.Consistency `json:"consistency"`
	// Newer is how many bytes this node has of each volume that are newer, where there
	// are any: they are set aside if the guest goes on from this point here.
	Newer map[guest.Volume]uint64 `json:"newer,omitempty"`
	// Diverged: it is newer than the point from which the guest's term began and is not of that term. The guest's owner does not
	// have it, or not any more.
	Diverged bool `json:"diverged,omitempty"`
	// Left: by its name it is such a point, and this node does not have the one from which the term began: nothing here is of the
	// line on which the guest goes on, but for what is older.
	Left bool `json:"left,omitempty"`
}

// Points are the complete points of the guest on this node, newest first by the order of this node. It changes nothing and takes
// no lock; whoever takes one of them into use finds out under the locks whether it is still there.
func (p *Promoter) Points(ctx context.Context, cluster string, g guest.Guest) ([]Held, error) {
	x := &promotion{p: p, cluster: cluster, guest: g}
	if err := x.look(ctx); err != nil {
		return nil, fault.Final(ctx, err)
	}
	return points(g, x.volumes), nil
}

// shelf is what one volume has of points, be it in what was set aside.
type shelf struct {
	snaps []plan.Snapshot // by createtxg
	props map[uint64]map[string]string
	terms map[uint64]string
	newer map[uint64]uint64
	// began is the place of the snapshot from which the guest's term began, or -1.
	began int
}

func points(g guest.Guest, volumes []volume) []Held {
	shelves, sides := map[guest.Volume]*shelf{}, map[guest.Volume][]plan.Snapshot{}
	for _, v := range volumes {
		s := v.shelf()
		s.began = -1
		if g.Beginning != nil {
			guid, listed := g.Beginning.GUIDs[v.Volume]
			s.began = slices.IndexFunc(s.snaps, func(x plan.Snapshot) bool { return listed && x.GUID == guid })
		}
		shelves[v.Volume], sides[v.Volume] = s, s.snaps
	}
	var out []Held
	for _, p := range plan.Points(sides) {
		if !p.Complete() {
			continue
		}
		h := Held{Name: p.Name, GUIDs: map[guest.Volume]uint64{}, Newer: map[guest.Volume]uint64{}}
		for v, snap := range p.Snapshots {
			s := shelves[v]
			h.GUIDs[v], h.Term = snap.GUID, s.terms[snap.GUID]
			if n := s.newer[snap.GUID]; n > 0 {
				h.Newer[v] = n
			}
			if point, err := guest.ParsePoint(s.props[snap.GUID][zfs.PropPoint]); err == nil {
				h.Taken, h.Consistency = time.Unix(point.Taken, 0), point.Consistency
			}
			at := slices.IndexFunc(s.snaps, func(x plan.Snapshot) bool { return x.GUID == snap.GUID })
			before := !reign(g, h.Term)
			h.Diverged = h.Diverged || before && s.began >= 0 && at > s.began
			h.Left = h.Left || before && s.began < 0 && left(g, p.Name)
		}
		out = append(out, h)
	}
	return out
}

// left says by its name that a point was taken after the one from which the guest's term began, by an owner before, or is one that
// a recovery gave up earlier: where a node does not have the point from which the term began, as after a recovery from an old copy
// elsewhere, nothing else tells.
func left(g guest.Guest, name string) bool {
	b := g.Beginning
	if b == nil {
		return false
	}
	point, err := guest.ParseSnapshotName(name)
	if err != nil || reign(g, point.Term.String()) {
		return false
	}
	if slices.ContainsFunc(b.Cuts, func(c guest.Cut) bool { return c.Has(point) }) {
		return true
	}
	from, err := guest.ParseSnapshotName(b.Point)
	known := slices.Contains([]string{from.Term.Generation, b.Term.Generation, g.Term.Generation}, point.Term.Generation)
	return err == nil && known && point.After(from)
}

// shelf puts together what a volume has of points. Copies count where there is nothing in the volume's place, or only a clone of
// them: else they are what diverged before.
func (v volume) shelf() *shelf {
	s := &shelf{props: map[uint64]map[string]string{}, terms: map[uint64]string{}, newer: map[uint64]uint64{}}
	switch v.standing {
	case absent, unborn:
		for _, c := range v.copies {
			s.add(c.Data, len(c.Data.Snapshots))
		}
	case leaving, replica, made, owned:
		if i := v.origin(); i >= 0 {
			from := v.copies[i].Data
			s.add(from, 1+slices.IndexFunc(from.Snapshots, func(x zfs.Snapshot) bool { return from.Name+"@"+x.Name == v.data.Origin }))
		}
		s.add(v.data, len(v.data.Snapshots))
	case foreign, bare:
	}
	slices.SortStableFunc(s.snaps, func(a, b plan.Snapshot) int { return cmp.Compare(a.TXG, b.TXG) })
	return s
}

// add puts the first n snapshots of a dataset beside the others. Every point is complete that says what is in it: it was taken
// here of all volumes at once, or it was marked when all had arrived.
func (s *shelf) add(d zfs.Dataset, n int) {
	for i, x := range d.Snapshots[:n] {
		if _, ok := s.props[x.GUID]; !ok {
			s.snaps = append(s.snaps, local.Snapshot(x, zfs.RoleOwner))
		}
		s.props[x.GUID], s.newer[x.GUID] = x.Props, newer(d, i)
		s.terms[x.GUID] = cmp.Or(x.Props[zfs.PropComplete], d.Props[zfs.PropTerm])
	}
}
