package promote_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
	faults "github.com/tandemd/tandem/pkg/zfs/zfstest/fault"
)

// once brings a first complete point, p1.
func once(w *world) {
	w.write(w.owner, diskDS, 0, 64)
	w.write(w.owner, rootDS, 0, 16)
	w.take("p1")
	w.bring(diskDS, "", "p1")
	w.bring(rootDS, "", "p1")
	w.complete("p1")
	w.begin("p1")
}

// ahead brings p2 of the disk only, before the owner died.
func ahead(w *world) {
	once(w)
	w.write(w.owner, diskDS, 30, 20)
	w.write(w.owner, rootDS, 8, 4)
	w.take("p2")
	w.bring(diskDS, "p1", "p2")
}

// cut is ahead with a part of the filesystem's p2.
func cut(w *world) {
	ahead(w)
	w.pool.Inject(zfstest.Fault{Op: "Receive", Times: 1, Cut: 3 * 4200})
	if err := w.send(rootDS, "p1", "p2"); err == nil {
		w.t.Fatal("the receive was not cut")
	}
	equal(w.t, w.dataset(w.pool, rootDS).ResumeToken != "", true)
}

// parted had a diverged replica of the disk set aside, and the new one is not parted from the copy yet.
func parted(w *world) {
	once(w)
	must(w.t, w.pool.SetProps(w.t.Context(), map[string]string{"readonly": "off"}, diskDS))
	w.write(w.pool, diskDS, 50, 4)
	must(w.t, w.pool.Snapshot(w.t.Context(), []string{diskDS + "@mine"}, nil))
	must(w.t, w.pool.CreateFilesystem(w.t.Context(), "tank/g/diverged", map[string]string{zfs.PropRole: zfs.RoleFolder, zfs.PropCluster: cluster}))
	must(w.t, w.pool.CreateFilesystem(w.t.Context(), "tank/g/diverged/100", map[string]string{zfs.PropRole: zfs.RoleFolder, zfs.PropCluster: cluster}))
	must(w.t, w.pool.SetProps(w.t.Context(), map[string]string{zfs.PropRole: zfs.RoleDiverged, "readonly": "on"}, diskDS))
	must(w.t, w.pool.Rename(w.t.Context(), diskDS, "tank/g/diverged/100/x"))
	w.write(w.owner, diskDS, 30, 20)
	w.take("p2")
	g := w.guest
	g.Term = term(1)
	props := local.Marks(cluster, g, disk, zfs.RoleReplica)
	props["readonly"], props["volmode"], props[zfs.PropManifest] = "on", "none", `{"values":{"refreservation":"65536"}}`
	must(w.t, w.pool.Clone(w.t.Context(), "tank/g/diverged/100/x@p1", diskDS, props))
	w.bring(diskDS, "p1", "p2")
}

func TestPromote_AReplicaAtThePointStaysAsItIs(t *testing.T) {
	w := newWorld(t)
	once(w)
	must(t, w.pool.Snapshot(t.Context(), []string{diskDS + "@operators"}, nil)) // Empty.
	before := []uint64{w.dataset(w.pool, diskDS).GUID, w.dataset(w.pool, rootDS).GUID}
	ready, err := w.promoter.Ready(t.Context(), cluster, w.guest)
	must(t, err)
	equal(t, ready, false)
	out := w.promote()
	equal(t, out, promote.Outcome{Point: "p1", Volumes: []promote.Volume{
		{Volume: disk, Dataset: diskDS, State: promote.AsItWas}, {Volume: root, Dataset: rootDS, State: promote.AsItWas},
	}})
	w.same("p1")
	equal(t, []uint64{w.dataset(w.pool, diskDS).GUID, w.dataset(w.pool, rootDS).GUID}, before)
	equal(t, len(w.copies()), 0)

	w.write(w.pool, diskDS, 3, 1) // The guest has run: nothing brings the point back.
	data, err := w.pool.Read(diskDS)
	must(t, err)
	w.promote()
	again, err := w.pool.Read(diskDS)
	must(t, err)
	equal(t, bytes.Equal(again, data), true)
	equal(t, len(w.copies()), 0)
}

func TestPromote_WhatIsNewerIsSetAside(t *testing.T) {
	for name, before := range map[string]func(*world){
		"one volume ahead":  ahead,
		"and the other cut": cut,
		"written to": func(w *world) {
			once(w)
			must(t, w.pool.SetProps(t.Context(), map[string]string{"readonly": "off"}, diskDS))
			w.write(w.pool, diskDS, 3, 1)
		},
		"not parted from an older copy": parted,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before(w)
			newer, err := w.pool.Read(diskDS)
			must(t, err)
			out := w.promote()
			equal(t, []promote.State{out.Volumes[0].State, out.Volumes[1].State}, []promote.State{promote.Cloned, promote.AsItWas})
			equal(t, len(out.Aside), 1)
			w.same("p1")
			kept := w.copies()[disk]
			if len(kept) == 0 || !slices.ContainsFunc(kept, func(b []byte) bool { return bytes.Equal(b, newer) }) {
				t.Error("what was newer is not kept")
			}
			equal(t, len(w.promote().Aside), 0)
			w.same("p1")
		})
	}
}

func TestPromote_NothingIsChangedWhereThePointIsMissing(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(*world)
		text   string
	}{
		"snapshot gone": {func(w *world) {
			ahead(w)
			must(t, w.pool.DestroySnapshots(t.Context(), rootDS, []string{"p1"}))
		}, "volume local-zfs:vm-100-root: tank/g/vm-100-root does not have the snapshot p1"},
		"volume gone":     {func(w *world) { ahead(w); w.pool.Destroy(rootDS) }, "does not have the snapshot p1"},
		"somebody else's": {func(w *world) { ahead(w); w.pool.Destroy(rootDS); must(t, w.pool.Create(rootDS, 0, nil)) }, "is not of this guest"},
		"another guest's": {func(w *world) {
			ahead(w)
			must(t, w.pool.SetProps(t.Context(), map[string]string{zfs.PropGuest: "101"}, rootDS))
		}, "is not of this guest"},
		"same name, other":    {func(w *world) { ahead(w); w.guest.Beginning.GUIDs[root]++ }, "does not have the snapshot p1 with GUID"},
		"nothing known of it": {func(w *world) { ahead(w); w.guest.Beginning = nil }, "does not say from which point"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tc.before(w)
			calls := len(w.pool.Calls())
			_, err := w.promoter.Promote(t.Context(), cluster, w.guest)
			if replicate.ClassOf(err) != replicate.ClassPerson || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %q", err, tc.text)
			}
			for _, c := range w.pool.Calls()[calls:] {
				if !slices.Contains([]string{"List", "Children", "Properties"}, c.Op) {
					t.Errorf("%s %s was called", c.Op, c.Name)
				}
			}
		})
	}
}

func TestPromote_ANewerPointWhereTheOwnerHadTheOldOneRemoved(t *testing.T) {
	var names []string
	for seq := range uint64(3) {
		names = append(names, guest.SnapshotName{Term: term(1), Node: "n1", Seq: 9 + seq, Time: time.Unix(1_800_000_000, 0)}.String())
	}
	for _, begun := range []int{1, 2} {
		w := newWorld(t)
		for i, name := range names {
			w.write(w.owner, diskDS, int64(i), 5)
			w.take(name)
			if i < 2 {
				w.bring(diskDS, append([]string{""}, names...)[i], name)
				w.bring(rootDS, append([]string{""}, names...)[i], name)
				w.complete(name)
			}
		}
		w.begin(names[begun])
		if begun == 2 { // It never came: an older one is no substitute.
			_, err := w.promoter.Promote(t.Context(), cluster, w.guest)
			equal(t, replicate.ClassOf(err), replicate.ClassPerson)
			continue
		}
		w.begin(names[0])
		for _, d := range []string{diskDS, rootDS} {
			must(t, w.pool.DestroySnapshots(t.Context(), d, []string{names[0]}))
		}
		out := w.promote()
		equal(t, out.Point, names[1])
		equal(t, len(out.Warnings), 1)
		w.same(names[1])
	}
}

func TestPromote_TheOwnersOwnVolumesAreTakenAsTheyAre(t *testing.T) {
	owner := func(w *world, term guest.Term) {
		for _, d := range []string{diskDS, rootDS} {
			must(w.t, w.pool.SetProps(w.t.Context(), map[string]string{zfs.PropRole: zfs.RoleOwner, zfs.PropTerm: term.String(), "readonly": "off"}, d))
		}
		must(w.t, w.pool.SetProps(w.t.Context(), map[string]string{"canmount": "on", "mountpoint": "/srv/web"}, rootDS))
		must(w.t, w.pool.SetProps(w.t.Context(), map[string]string{"volmode": "default", "refreservation": "65536"}, diskDS))
		w.write(w.pool, diskDS, 3, 1)
	}
	for name, before := range map[string]func(*world){
		"a new term": func(w *world) { owner(w, term(2)); w.guest.Term = term(4) },
		"a term that forced quorum made its own": func(w *world) {
			owner(w, term(2))
			w.guest.Term.Generation = "fedcba9876543210"
		},
		"nothing known of how it began":               func(w *world) { owner(w, term(1)); w.guest.Beginning = nil },
		"disks of the owner before, under a new node": func(w *world) { owner(w, term(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			once(w)
			before(w)
			want, err := w.pool.Read(diskDS)
			must(t, err)
			equal(t, len(w.promote().Aside), 0)
			w.ready()
			got, err := w.pool.Read(diskDS)
			must(t, err)
			equal(t, bytes.Equal(got, want), true)
		})
	}
	t.Run("a stale owner that comes back", func(t *testing.T) {
		w := newWorld(t)
		once(w)
		owner(w, term(1))
		w.guest.Term, w.guest.Beginning.Term = term(3), term(2)
		must(t, w.pool.Mount(t.Context(), rootDS))
		equal(t, len(w.promote().Aside), 1)
		w.same("p1")
	})
	t.Run("unmarked", func(t *testing.T) {
		w := newWorld(t)
		w.guest.Beginning = nil
		must(t, w.pool.Create(diskDS, 3<<19, map[string]string{"refreservation": "65536"}))
		must(t, w.pool.Create(rootDS, 0, map[string]string{"mountpoint": "/srv/web", "compression": "lz4"}))
		must(t, w.pool.Mount(t.Context(), rootDS))
		w.promote()
		w.ready()
	})
}

func TestPromote_AVolumeThatWasNotInThePointIsTold(t *testing.T) {
	w := newWorld(t)
	once(w)
	extra := guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-1"}
	w.guest.Volumes = append(w.guest.Volumes, extra)
	out, err := w.promoter.Promote(t.Context(), cluster, w.guest)
	if replicate.ClassOf(err) != replicate.ClassPerson || !strings.Contains(err.Error(), "vm-100-disk-1") {
		t.Fatalf("got %v", err)
	}
	equal(t, out.Volumes[2].State, promote.Missing)
	ready, err := w.promoter.Ready(t.Context(), cluster, w.guest)
	must(t, err)
	equal(t, ready, false)
	w.guest.Volumes = w.guest.Volumes[:2]
	w.same("p1")
}

func TestPromote_NoRoomForTheReservationIsTold(t *testing.T) {
	w := newWorld(t)
	once(w)
	w.pool.Inject(zfstest.Fault{Op: "SetProps", Name: diskDS, Times: 1, Err: faults.Fail("set", diskDS, "cannot set property: out of space")})
	out := w.promote()
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "zfs set refreservation=65536") {
		t.Errorf("warnings %q", out.Warnings)
	}
	ready, err := w.promoter.Ready(t.Context(), cluster, w.guest)
	must(t, err)
	equal(t, ready, true)
}

func TestPromote_NotTheOwner(t *testing.T) {
	w := newWorld(t)
	once(w)
	w.guest.Owner = former
	if _, err := w.promoter.Promote(t.Context(), cluster, w.guest); replicate.ClassOf(err) != replicate.ClassNever {
		t.Errorf("got %v", err)
	}
}

// Where this node does not have the point from which the guest's term began, the names tell which points its owners have left.
func TestPoints_OfALineThatWasLeft(t *testing.T) {
	const n1, n3 = guest.NodeName("n1"), guest.NodeName("n3")
	name := func(term guest.Term, node guest.NodeName, seq uint64) string {
		return guest.SnapshotName{Term: term, Node: node, Seq: seq, Time: time.Unix(1_800_000_000, 0)}.String()
	}
	another := guest.Term{N: 4, Generation: "fedcba9876543210"}
	for point, want := range map[string]bool{
		name(term(1), n3, 9):  false,
		name(term(1), n3, 10): true, // a recovery before gave it up
		name(term(2), n1, 5):  false,
		name(term(2), n1, 7):  true,
		name(term(3), n3, 1):  true,
		name(term(4), n1, 8):  true,
		name(term(5), n3, 9):  false, // of the present owner
		name(term(6), n3, 9):  false,
		name(another, n1, 9):  false, // nobody knows
		"somebodys":           false,
	} {
		w := newWorld(t)
		w.write(w.owner, diskDS, 0, 64)
		w.take(point)
		for _, d := range []string{diskDS, rootDS} {
			w.bring(d, "", point)
		}
		w.complete(point)
		w.guest.Owner, w.guest.Term = "00000000000000000000000000000003", term(6)
		w.guest.Beginning = &guest.Beginning{
			How: guest.ByMigration, From: former, Term: term(4), Point: name(term(2), n1, 6), GUIDs: map[guest.Volume]uint64{disk: 77, root: 78},
			Cuts: []guest.Cut{{From: name(term(1), n3, 9), Term: term(1)}},
		}
		list, err := w.promoter.Points(t.Context(), cluster, w.guest)
		must(t, err)
		if len(list) != 1 || list[0].Left != want || list[0].Diverged {
			t.Errorf("%s: %+v, want left: %v", point, list, want)
		}
	}
}

func TestPoints_NewestFirstWithWhatIsNewer(t *testing.T) {
	w := newWorld(t)
	ahead(w)
	w.guest.Owner, w.guest.Term, w.guest.Beginning = former, term(1), nil
	list, err := w.promoter.Points(t.Context(), cluster, w.guest)
	must(t, err)
	equal(t, len(list), 1) // p2 is of one volume only.
	want := promote.Held{
		Name: "p1", Term: term(1).String(), Taken: time.Unix(1_800_000_060, 0), Consistency: guest.Crash,
		GUIDs: map[guest.Volume]uint64{disk: w.snapshot(w.owner, diskDS, "p1").GUID, root: w.snapshot(w.owner, rootDS, "p1").GUID},
		Newer: map[guest.Volume]uint64{disk: 20 * 4096},
	}
	equal(t, list[0], want)

	w.bring(rootDS, "p1", "p2")
	w.complete("p2")
	list, err = w.promoter.Points(t.Context(), cluster, w.guest)
	must(t, err)
	equal(t, []string{list[0].Name, list[1].Name}, []string{"p2", "p1"})
	equal(t, list[0].Diverged, false)

	// Another node has gone on from p1: what is newer here has diverged from it.
	w.guest.Owner, w.guest.Term = "00000000000000000000000000000003", term(2)
	w.begin("p1")
	list, err = w.promoter.Points(t.Context(), cluster, w.guest)
	must(t, err)
	equal(t, []bool{list[0].Diverged, list[1].Diverged}, []bool{true, false})
}
