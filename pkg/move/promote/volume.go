package promote

import (
	"context"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// volume is one volume of the guest as this node has it.
type volume struct {
	guest.Volume
	name string // of its dataset
	data zfs.Dataset
	// copies are what was set aside of it, oldest first.
	copies   []aside.Copy
	standing standing
}

// standing is what the dataset with a volume's name is to the guest now.
type standing int

// The standings.
const (
	absent standing = iota
	// foreign: somebody else's.
	foreign
	// bare: an unmarked dataset where no point has one, and no other was seen: the guest's,
	// from its beginning or added since.
	bare
	// unborn: a first receive into it was cut; it has no marks and no snapshots.
	unborn
	// leaving: its setting aside was cut before it got its other name.
	leaving
	// replica: as it was received, or what this node had as an owner before.
	replica
	// made: the clone that this promotion made.
	made
	// owned: the owner's data of the guest's present owner, at this or an earlier term of its.
	owned
)

// standing finds out by the marks, the guest's Beginning and what was set aside.
func (x *promotion) standing(ctx context.Context, v volume) standing {
	d, g := v.data, x.guest
	m := local.MarksOf(d)
	switch {
	case !d.Exists():
		return absent
	case m.None() && d.ResumeToken != "" && len(d.Snapshots) == 0:
		if v.origin() >= 0 || x.p.target.Begun(ctx, g.ID, v.Volume, d) {
			return unborn
		}
		return foreign
	case m.None():
		// Whether it is at the point nothing says; and it may be another than the guest had.
		if _, listed := x.begun(v.Volume); listed || x.p.o.Identities.Check(g, v.Volume, d) != nil {
			return foreign
		}
		return bare
	case !m.Are(x.cluster, g.ID, v.Volume, m.Role):
		return foreign
	}
	switch m.Role {
	case zfs.RoleDiverged:
		return leaving
	case zfs.RoleReplica:
		if m.Term == g.Term.String() {
			return made // Nobody could send anything here in this node's own term.
		}
		return replica
	case zfs.RoleOwner:
		if x.kept(v) {
			return owned
		}
		return replica
	}
	return foreign
}

// begun is the snapshot of the point from which the term began, if the volume was in it.
func (x *promotion) begun(v guest.Volume) (guid uint64, listed bool) {
	if x.guest.Beginning == nil {
		return 0, false
	}
	guid, listed = x.guest.Beginning.GUIDs[v]
	return guid, listed
}

// kept says that what this node has as an owner's volume is the truth as it is: the term in its marks is one of the present
// owner's, or the one before, so that these are the very disks on which the owner before had it.
func (x *promotion) kept(v volume) bool {
	marks := v.data.Props[zfs.PropTerm]
	if reign(x.guest, marks) {
		return true
	}
	guid, listed := x.begun(v.Volume)
	return marks == x.guest.Beginning.Term.String() && (!listed || v.has(guid) >= 0)
}

// reign says that a term in marks is one of the guest's present owner: a Retain gives the same owner a new one, and forced quorum
// may give its term the new generation. Terms are counted within a generation.
func reign(g guest.Guest, marks string) bool {
	b := g.Beginning
	if b == nil || marks == g.Term.String() {
		return true
	}
	term, err := guest.ParseTerm(marks)
	return err == nil && (term.Generation == g.Term.Generation || term.Generation == b.Term.Generation) && term.N > b.Term.N && term.N <= g.Term.N
}

// has is the place of a snapshot in the dataset, or -1.
func (v volume) has(guid uint64) int { return place(v.data, guid) }

func place(d zfs.Dataset, guid uint64) int {
	if guid == 0 || !d.Exists() {
		return -1
	}
	return slices.IndexFunc(d.Snapshots, func(s zfs.Snapshot) bool { return s.GUID == guid })
}

// source is the newest copy with a snapshot, or -1.
func (v volume) source(guid uint64) int {
	for i, c := range slices.Backward(v.copies) {
		if place(c.Data, guid) >= 0 {
			return i
		}
	}
	return -1
}

// origin is the copy of which the dataset is a clone, or -1.
func (v volume) origin() int {
	if !v.data.Exists() || v.data.Origin == "" {
		return -1
	}
	return slices.IndexFunc(v.copies, func(c aside.Copy) bool { return c.Data.Name == zname.DatasetOf(v.data.Origin) })
}

// newer is how many bytes were written to the dataset since its snapshot at a place.
func newer(d zfs.Dataset, at int) uint64 {
	n := d.Written
	for _, s := range d.Snapshots[at+1:] {
		n += s.Written
	}
	return n
}

// readable refuses what could not be read for another reason than that it does not exist.
func (v volume) readable() error {
	if v.data.Err != nil && zfs.ClassOf(v.data.Err) != zfs.ClassGone {
		return fault.WrapVolume(v.Volume, v.data.Err, "read it")
	}
	return nil
}

// finished says that nothing is left to do with it.
func (v volume) finished(cluster string, g guest.Guest) bool {
	m := local.MarksOf(v.data)
	return v.data.Exists() && m.Are(cluster, g.ID, v.Volume, zfs.RoleOwner) && m.Term == g.Term.String() && !v.data.ReadOnly &&
		!v.data.Unmounted()
}
