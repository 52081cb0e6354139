package contract

import (
	"bytes"
	"maps"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs"
)

// withAside adds the tests of what setting a replica aside relies on.
func withAside(tests map[string]func(*suite)) map[string]func(*suite) {
	maps.Copy(tests, map[string]func(*suite){
		"CreatesFoldersThatAreNotMounted": (*suite).create,
		"SetsAsideTwice":                  (*suite).twiceAside,
		"ReplicatesAClone":                (*suite).clonedSource,
		"BranchesFromABookmark":           (*suite).fromBookmarkAside,
		"RollbackIsNoModification":        (*suite).rolledBack,
		"ANewOwnerGoesOnFromAnOlderPoint": (*suite).newOwner,
		"UsersOfDatasetsAreKnown":         (*suite).users,
		"SomePropertiesAreNotInherited":   (*suite).notInherited,
		"ShowsWhatIsInADataset":           (*suite).shows,
	})
	return tests
}

// create makes folders for datasets.
func (s *suite) create() {
	folder := s.ds("folder")
	props := map[string]string{"canmount": "off", "mountpoint": "none", zfs.PropRole: "x"}
	s.ok(s.env.ZFS.CreateFilesystem(s.ctx, folder, props))
	d := s.get(folder)
	equal(s, []any{d.Type, d.Mounted, d.CanMount, d.Mountpoint, d.Props[zfs.PropRole]}, []any{zfs.TypeFilesystem, false, "off", "none", "x"})
	s.wantClass(s.env.ZFS.CreateFilesystem(s.ctx, folder, props), zfs.ClassExists)
	s.wantClass(s.env.ZFS.CreateFilesystem(s.ctx, s.ds("none/deep"), nil), zfs.ClassGone)
	s.ok(s.env.ZFS.CreateFilesystem(s.ctx, folder+"/inner", nil))
	equal(s, s.get(folder+"/inner").Mounted, false)

	// A dataset that is moved there takes its snapshots, holds and properties along, and is not mounted from there.
	fs := s.ds("fs")
	s.ok(s.env.Create(fs, 0, map[string]string{"canmount": "noauto"}))
	s.snap(fs + "@a")
	s.ok(s.env.ZFS.Hold(s.ctx, "tandem", fs+"@a"))
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropGuest: "100", "refreservation": "none"}, fs))
	s.ok(s.env.ZFS.Rename(s.ctx, fs, folder+"/inner/fs"))
	d = s.get(folder + "/inner/fs")
	equal(s, []any{d.Mounted, d.Mountpoint, d.Props[zfs.PropGuest], d.Snapshots[0].UserRefs}, []any{false, "none", "100", uint64(1)})
	s.wantClass(s.env.ZFS.Rename(s.ctx, folder+"/inner/fs", s.ds("none/x")), zfs.ClassGone)
	s.ok(s.env.ZFS.Release(s.ctx, "tandem", folder+"/inner/fs@a"))
}

// twiceAside sets a replica aside twice: a copy set aside goes on depending on whoever owns the shared snapshot, holds
// stay with their snapshots, and each copy can go once nothing depends on it.
func (s *suite) twiceAside() {
	owner, replica := s.volume("owner"), s.ds("replica")
	s.copyTo(replica, zfs.SendSpec{Snapshot: owner + "@a"})
	s.change(owner, "b")
	s.change(owner, "c")
	for i, step := range [][2]string{{"a", "b"}, {"b", "c"}} {
		aside := s.ds("aside" + step[0])
		s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "off"}, replica))
		s.change(replica, "diverged"+step[0])
		s.ok(s.env.ZFS.Hold(s.ctx, "aside-"+step[0], replica+"@"+step[0], replica+"@diverged"+step[0]))
		s.ok(s.env.ZFS.Rename(s.ctx, replica, aside))
		_, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{Dataset: replica, Type: zfs.TypeVolume, Origin: aside + "@" + step[0]},
			bytes.NewReader(s.stream(zfs.SendSpec{Snapshot: owner + "@" + step[1], From: owner + "@" + step[0]})))
		s.ok(err)
		s.ok(s.env.ZFS.Promote(s.ctx, replica))
		equal(s, len(s.get(replica).Snapshots), i+2)
		equal(s, s.get(replica).Written, 0)
		equal(s, s.get(replica).Origin, "")
	}
	equal(s, []string{s.get(s.ds("asidea")).Origin, s.get(s.ds("asideb")).Origin}, []string{replica + "@a", replica + "@b"})
	equal(s, s.get(replica).Snapshots[0].UserRefs, 1)
	for _, name := range []string{"a", "b"} {
		aside := s.ds("aside" + name)
		s.ok(s.env.ZFS.Release(s.ctx, "aside-"+name, replica+"@"+name, aside+"@diverged"+name))
		s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, replica, []string{name}), zfs.ClassClones)
		s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropGuest: "100", zfs.PropRole: "diverged"}, aside))
		d := s.get(aside)
		s.settle()
		s.ok(s.env.ZFS.DestroyDataset(s.ctx, zfs.DestroySpec{
			Dataset: aside, GUID: d.GUID, Guest: "100", Role: "diverged", Snapshots: []uint64{d.Snapshots[0].GUID},
		}))
		s.ok(s.env.ZFS.DestroySnapshots(s.ctx, replica, []string{name}))
	}
	s.sameContent(replica+"@c", owner+"@c")
}

// clonedSource replicates a volume that is itself a clone: its first stream is whole, and the target knows nothing of the origin.
func (s *suite) clonedSource() {
	template := s.volume("template")
	src, dst := s.ds("src"), s.ds("dst")
	s.ok(s.env.ZFS.Clone(s.ctx, template+"@a", src, nil))
	s.change(src, "b")
	s.change(src, "c")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@b"})
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@c", From: src + "@b"})
	s.sameContent(dst+"@b", src+"@b")
	s.sameContent(dst+"@c", src+"@c")
	equal(s, s.get(dst).Origin, "")
	equal(s, strings.HasPrefix(s.get(src).Origin, template+"@"), true)
}

// fromBookmarkAside: the sender has only a bookmark left of the snapshot that the target's copy, set aside, begins anew from.
func (s *suite) fromBookmarkAside() {
	owner, replica, aside := s.volume("owner"), s.ds("replica"), s.ds("aside")
	s.copyTo(replica, zfs.SendSpec{Snapshot: owner + "@a"})
	s.ok(s.env.ZFS.Bookmark(s.ctx, owner+"@a", owner+"#a"))
	s.change(owner, "b")
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, owner, []string{"a"}))
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "off"}, replica))
	s.change(replica, "diverged")
	s.ok(s.env.ZFS.Bookmark(s.ctx, replica+"@a", replica+"#a"))
	s.ok(s.env.ZFS.Rename(s.ctx, replica, aside))
	_, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{Dataset: replica, Type: zfs.TypeVolume, Origin: aside + "@a"},
		bytes.NewReader(s.stream(zfs.SendSpec{Snapshot: owner + "@b", From: owner + "#a"})))
	s.ok(err)
	s.ok(s.env.ZFS.Promote(s.ctx, replica))
	s.sameContent(replica+"@b", owner+"@b")
	equal(s, []int{len(s.get(replica).Bookmarks), len(s.get(aside).Bookmarks)}, []int{1, 0})
}

// rolledBack: a dataset that was rolled back to its newest snapshot has not been modified, whatever it says of bytes written.
func (s *suite) rolledBack() {
	src, dst := s.volume("src"), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.change(src, "b")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
	s.settle()
	s.ok(s.env.Rollback(dst + "@a"))
	s.change(src, "c")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@c", From: src + "@a", Intermediates: true})
	s.sameContent(dst+"@c", src+"@c")
}

// newOwner makes a replica the owner's volume at a point that is not its newest: what is newer stays apart, and the new one can be
// written, and sent from as ever.
func (s *suite) newOwner() {
	owner, replica, aside := s.volume("owner"), s.ds("replica"), s.ds("aside")
	s.change(owner, "b")
	spec := zfs.ReceiveSpec{Dataset: replica, Type: zfs.TypeVolume, Props: map[string]string{"volmode": "none"}}
	_, err := s.env.ZFS.Receive(s.ctx, spec, bytes.NewReader(s.stream(zfs.SendSpec{Snapshot: owner + "@a"})))
	s.ok(err)
	s.copyTo(replica, zfs.SendSpec{Snapshot: owner + "@b", From: owner + "@a"})
	s.ok(s.env.ZFS.Rename(s.ctx, replica, aside))
	props := map[string]string{"readonly": "on", "volmode": "none", zfs.PropGuest: "100", zfs.PropRole: zfs.RoleReplica}
	s.ok(s.env.ZFS.Clone(s.ctx, aside+"@a", replica, props))
	d := s.get(replica)
	equal(s, []any{d.Origin, d.ReadOnly, d.Props[zfs.PropGuest], len(d.Snapshots)}, []any{aside + "@a", true, "100", 0})
	s.ok(s.env.ZFS.Promote(s.ctx, replica))
	equal(s, snapNames(s.get(replica)), []string{"a"})
	equal(s, []any{snapNames(s.get(aside)), s.get(aside).Origin}, []any{[]string{"b"}, replica + "@a"})
	s.ok(s.env.ZFS.Inherit(s.ctx, "volmode", replica))
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "off", zfs.PropRole: zfs.RoleOwner}, replica))
	_, err = s.env.ZFS.Device(s.ctx, replica)
	s.ok(err)
	s.ok(s.env.Write(replica, 40*block, noise("new", 2)))
	s.snap(replica + "@c")
	// Whoever has the point too goes on by an increment.
	s.settle()
	s.ok(s.env.Rollback(owner + "@a"))
	s.copyTo(owner, zfs.SendSpec{Snapshot: replica + "@c", From: replica + "@a"})
	s.sameContent(owner+"@c", replica+"@c")
}

func (s *suite) users() {
	vol, fs := s.volume("vol"), s.ds("fs")
	s.ok(s.env.Create(fs, 0, nil))
	s.settle()
	users, err := s.env.ZFS.Users(s.ctx, vol, s.ds("none"))
	s.ok(err)
	equal(s, len(users), 0)
	users, err = s.env.ZFS.Users(s.ctx, fs)
	s.ok(err)
	if len(users) == 0 || users[0].Dataset != fs || !strings.Contains(users[0].How, "mounted") {
		s.Errorf("a mounted filesystem has users %v", users)
	}
	s.ok(s.env.ZFS.Unmount(s.ctx, fs))
	s.ok(s.env.ZFS.Unmount(s.ctx, fs))
	users, err = s.env.ZFS.Users(s.ctx, fs, vol)
	s.ok(err)
	equal(s, len(users), 0)
}

func (s *suite) notInherited() {
	fs := s.ds("fs")
	s.ok(s.env.Create(fs, 0, map[string]string{"canmount": "noauto", "quota": "33554432", "mountpoint": "none"}))
	for _, name := range []string{"canmount", "quota", "refreservation"} {
		if err := s.env.ZFS.Inherit(s.ctx, name, fs); err == nil {
			s.Errorf("%s was inherited", name)
		}
	}
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"canmount": "on", "quota": "none"}, fs))
	own := s.get(fs).Own()
	equal(s, []string{own["canmount"], own["quota"]}, []string{"on", "0"})
	s.ok(s.env.ZFS.Inherit(s.ctx, "mountpoint", fs))
	s.ok(s.env.ZFS.Mount(s.ctx, fs))
	s.ok(s.env.ZFS.Mount(s.ctx, fs))
	equal(s, s.get(fs).Mounted, true)
}

// shows looks into a filesystem at a folder of one's own, and compares it with the snapshot that it was cloned from.
func (s *suite) shows() {
	base, side := s.ds("base"), s.ds("side")
	s.ok(s.env.Create(base, 0, nil))
	s.snap(base + "@a")
	s.ok(s.env.ZFS.Clone(s.ctx, base+"@a", side, nil))
	s.change(side, "b")
	s.ok(s.env.ZFS.Unmount(s.ctx, side))
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "on", "canmount": "noauto"}, side))
	at, err := s.env.ZFS.MountedAt(side)
	s.ok(err)
	equal(s, at, "")
	if _, err := s.env.ZFS.Diff(s.ctx, base+"@a", side+"@b"); err == nil {
		s.Errorf("what is not mounted was compared")
	}
	dir := s.TempDir()
	s.ok(s.env.ZFS.MountAt(s.ctx, side, dir))
	at, err = s.env.ZFS.MountedAt(side)
	s.ok(err)
	equal(s, []any{at, s.get(side).Mounted}, []any{dir, true})
	d, err := s.env.ZFS.Diff(s.ctx, base+"@a", side+"@b")
	s.ok(err)
	if d.Added == 0 || len(d.First) == 0 || d.Removed > 0 {
		s.Errorf("the difference is %+v", d)
	}
	s.ok(s.env.ZFS.UnmountAt(s.ctx, side, dir))
	equal(s, s.get(side).Mounted, false)
}
