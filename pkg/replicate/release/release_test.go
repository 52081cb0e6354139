package release_test

import (
	"bytes"
	"context"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/release"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

const dataset = "tank/g/vm-100-disk-0"

// world is one node whose ledger no longer knows guest 100.
type world struct {
	t     *testing.T
	pool  *zfstest.Pool
	state ledger.State
	locks *local.Locks
	r     *release.Releaser
}

func volume() guest.Volume { return guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-0"} }

func newWorld(t *testing.T, role string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, pool: zfstest.New(zfstest.Options{Node: "n1"}), state: ledger.State{Cluster: "c1", Index: 7}, locks: local.NewLocks(dir)}
	w.ok(w.pool.Create("tank/g", 0, nil))
	w.ok(w.pool.Create(dataset, 1<<20, nil))
	w.mark(map[string]string{
		zfs.PropCluster: "c1", zfs.PropGuest: "100", zfs.PropRole: role, zfs.PropTerm: "1-0123456789abcdef", zfs.PropVolume: volume().String(),
	})
	point, err := guest.Point{Volumes: []guest.Volume{volume()}, Consistency: guest.Crash}.Property()
	w.ok(err)
	for _, name := range []string{"tandem_1", "tandem_2"} {
		w.ok(w.pool.Snapshot(t.Context(), []string{dataset + "@" + name}, map[string]string{zfs.PropPoint: point}))
	}
	w.r, err = release.New(local.Options{
		Node: guest.NodeID(strings.Repeat("1", 32)), Name: "n1", Storages: map[string]string{"local-zfs": "tank/g"}, ZFS: w.pool,
		Ledger: w, Store: nothing{}, LockDir: dir, Locks: w.locks, Now: time.Now, LockWait: time.Second,
	}, w.pool)
	w.ok(err)
	return w
}

func (w *world) View() *ledger.State                       { return &w.state }
func (w *world) WaitApplied(context.Context, uint64) error { return context.DeadlineExceeded }

type nothing struct{}

func (nothing) Read(string, any) error  { return fs.ErrNotExist }
func (nothing) Write(string, any) error { return nil }

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) mark(props map[string]string) {
	w.t.Helper()
	w.ok(w.pool.SetProps(w.t.Context(), props, dataset))
}

func (w *world) dataset() zfs.Dataset {
	w.t.Helper()
	list, err := w.pool.List(w.t.Context(), dataset)
	w.ok(err)
	return list[0]
}

func (w *world) snapshots() (names []string) {
	for _, s := range w.dataset().Snapshots {
		names = append(names, s.Name)
	}
	return names
}

func (w *world) release(change func(*release.Request)) []release.Result {
	w.t.Helper()
	req := release.Request{Guest: 100, Volumes: []guest.Volume{volume()}, Index: 7}
	if change != nil {
		change(&req)
	}
	got, err := w.r.Release(w.t.Context(), req)
	w.ok(err)
	return got
}

func TestRelease_TheOwnersVolumeIsAnOrdinaryOneAgain(t *testing.T) {
	w := newWorld(t, zfs.RoleOwner)
	w.ok(w.pool.Snapshot(t.Context(), []string{dataset + "@mine"}, nil))
	w.ok(w.pool.Hold(t.Context(), "backup", dataset+"@tandem_2"))
	want := []release.Result{{Volume: volume(), Dataset: dataset}}
	if d := cmp.Diff(want, w.release(nil)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"tandem_2", "mine"}, w.snapshots()); d != "" {
		t.Errorf("what is held and what is the operator's stays (-want +got):\n%s", d)
	}
	if p := w.dataset().Props; len(p) != 0 {
		t.Errorf("marks are left: %v", p)
	}
	if got := w.release(nil); len(got) != 0 {
		t.Errorf("again: %+v", got)
	}
}

func TestRelease_AReplicaStaysOne(t *testing.T) {
	w := newWorld(t, zfs.RoleReplica)
	before := w.dataset()
	if d := cmp.Diff([]release.Result{{Volume: volume(), Dataset: dataset, Replica: true}}, w.release(nil)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(before, w.dataset()); d != "" {
		t.Errorf("it was changed:\n%s", d)
	}
}

func TestRelease_TouchesNothingElse(t *testing.T) {
	for prop, value := range map[string]string{zfs.PropCluster: "c2", zfs.PropGuest: "101", zfs.PropVolume: "local-zfs:other", zfs.PropRole: "?"} {
		w := newWorld(t, zfs.RoleOwner)
		w.mark(map[string]string{prop: value})
		before := w.dataset()
		if got := w.release(func(r *release.Request) { r.Delete = true }); len(got) != 0 {
			t.Errorf("%s=%s: %+v", prop, value, got)
		}
		if d := cmp.Diff(before, w.dataset()); d != "" {
			t.Errorf("%s=%s: it was changed:\n%s", prop, value, d)
		}
	}
}

func TestRelease_Refuses(t *testing.T) {
	w := newWorld(t, zfs.RoleOwner)
	before := w.dataset()
	wants := func(text string, change func(*release.Request)) {
		t.Helper()
		req := release.Request{Guest: 100, Volumes: []guest.Volume{volume()}, Index: 7, Delete: true}
		change(&req)
		if got, err := w.r.Release(t.Context(), req); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %+v, %v, want an error that says %q", got, err, text)
		}
	}
	wants("must be from 100", func(r *release.Request) { r.Guest = 7 })
	wants("not applied the ledger to 8", func(r *release.Request) { r.Index = 8 })
	unlock, err := w.locks.Lock(t.Context(), local.GuestLock(100))
	w.ok(err)
	wants("locked by a sync", func(*release.Request) {})
	unlock()
	w.state.Guests = map[guest.ID]guest.Guest{100: {ID: 100, Volumes: []guest.Volume{volume()}}}
	wants("belongs to guest 100", func(*release.Request) {})
	if d := cmp.Diff(before, w.dataset()); d != "" {
		t.Errorf("it was changed:\n%s", d)
	}
}

func TestRelease_Delete(t *testing.T) {
	for name, tc := range map[string]struct {
		role string
		do   func(*world) error
		left string
	}{
		"owner":   {zfs.RoleOwner, func(*world) error { return nil }, ""},
		"replica": {zfs.RoleReplica, func(*world) error { return nil }, ""},
		"an operator's snapshot": {zfs.RoleOwner, func(w *world) error {
			return w.pool.Snapshot(w.t.Context(), []string{dataset + "@mine"}, nil)
		}, "snapshot mine was not made by Tandem"},
		"a hold": {zfs.RoleReplica, func(w *world) error {
			return w.pool.Hold(w.t.Context(), "backup", dataset+"@tandem_1")
		}, "snapshot tandem_1 has a hold"},
		"a replica that was written to": {zfs.RoleReplica, func(w *world) error {
			return w.pool.Write(dataset, 0, make([]byte, 4096))
		}, "written to"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.role)
			w.ok(tc.do(w))
			before := w.dataset()
			check := w.release(func(r *release.Request) { r.Delete, r.Check = true, true })
			if len(check) != 1 || !strings.Contains(check[0].Left, tc.left) || (tc.left == "") != (check[0].Left == "") {
				t.Errorf("the check: %+v", check)
			}
			if d := cmp.Diff(before, w.dataset()); d != "" {
				t.Errorf("the check changed it:\n%s", d)
			}
			got := w.release(func(r *release.Request) { r.Delete = true })
			if len(got) != 1 || got[0].Destroyed != (tc.left == "") || w.dataset().Exists() == got[0].Destroyed {
				t.Errorf("%+v, exists: %v", got, w.dataset().Exists())
			}
		})
	}
}

// disks has a second zvol beside the volume.
func disks(t *testing.T, role string) (w *world, change func(*release.Request)) {
	t.Helper()
	w = newWorld(t, role)
	w.ok(w.pool.Create(secondDS, 1<<20, nil))
	w.ok(w.pool.SetProps(t.Context(), map[string]string{
		zfs.PropCluster: "c1", zfs.PropGuest: "100", zfs.PropRole: role, zfs.PropTerm: "1-0123456789abcdef", zfs.PropVolume: second().String(),
	}, secondDS))
	w.ok(w.pool.Snapshot(t.Context(), []string{secondDS + "@tandem_2"}, map[string]string{
		zfs.PropPoint: w.dataset().Snapshots[0].Props[zfs.PropPoint],
	}))
	return w, func(r *release.Request) { r.Volumes, r.Delete = []guest.Volume{volume(), second()}, true }
}

// all is what the pool has of the two.
func (w *world) all() []zfs.Dataset {
	w.t.Helper()
	list, err := w.pool.List(w.t.Context(), dataset, secondDS)
	w.ok(err)
	return list
}

func TestRelease_DestroysNothingWhereAZvolIsOpen(t *testing.T) {
	for _, check := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w, both := disks(t, zfs.RoleOwner)
			w.pool.SetBusy(secondDS, true)
			before := w.all()
			got := w.release(func(r *release.Request) { both(r); r.Check = check })
			if len(got) != 2 || got[1].Left != "it is in use: process 4711 (qemu) has it open" {
				t.Errorf("check %v: %+v", check, got)
			}
			if !check && got[0].Left != secondDS+" cannot be destroyed, so it stays too" {
				t.Errorf("the disk beside it: %+v", got[0])
			}
			if d := cmp.Diff(before, w.all()); d != "" {
				t.Errorf("check %v: something was changed:\n%s", check, d)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // Who only looks into it is waited for.
		w, both := disks(t, zfs.RoleOwner)
		w.pool.SetBusy(secondDS, true)
		go func() {
			time.Sleep(time.Second)
			w.pool.SetBusy(secondDS, false)
		}()
		for _, r := range w.release(both) {
			if !r.Destroyed {
				t.Errorf("%+v", r)
			}
		}
	})
}

// The guest's unit is about to open the volumes, or has some of them open in a way that nobody sees.
func TestRelease_DestroysNothingOfAGuestThatRuns(t *testing.T) {
	w, both := disks(t, zfs.RoleOwner)
	before := w.all()
	for _, idle := range []bool{false, true} {
		got := w.release(func(r *release.Request) { both(r); r.Check, r.Whole, r.Unit, r.Idle = true, true, "vm.service", idle })
		for _, x := range got {
			if (x.Left == "") != idle || !idle && x.Left != "the guest's unit vm.service is not known to be stopped: stop the guest first" {
				t.Errorf("idle %v: %+v", idle, x)
			}
		}
	}
	// A disk that it gives up while it runs is another thing.
	if got := w.release(func(r *release.Request) { both(r); r.Check, r.Unit = true, "vm.service" }); got[0].Left != "" {
		t.Errorf("%+v", got)
	}
	w.release(func(r *release.Request) { both(r); r.Whole, r.Unit = true, "vm.service" })
	if d := cmp.Diff(before, w.all()); d != "" {
		t.Errorf("something was changed:\n%s", d)
	}
	// A node that has replicas of it has no say in that.
	w, both = disks(t, zfs.RoleReplica)
	for _, x := range w.release(func(r *release.Request) { both(r); r.Whole, r.Unit = true, "vm.service" }) {
		if !x.Destroyed {
			t.Errorf("%+v", x)
		}
	}
}

// What a former owner wrote and has not set aside, and what a recovery gave up, may be nowhere else.
func TestRelease_LeavesWhatTheOwnerDoesNotHave(t *testing.T) {
	w := newWorld(t, zfs.RoleOwner)
	before := w.all()
	got := w.release(func(r *release.Request) { r.Delete, r.Owner = true, "other" })
	if len(got) != 1 || !strings.Contains(got[0].Left, "has not set aside yet") {
		t.Errorf("%+v", got)
	}
	if d := cmp.Diff(before, w.all()); d != "" {
		t.Errorf("a former owner's volume was changed:\n%s", d)
	}
	w = newWorld(t, zfs.RoleReplica)
	term, err := guest.ParseTerm("1-0123456789abcdef")
	w.ok(err)
	from := guest.SnapshotName{Term: term, Node: "n2", Seq: 8, Time: time.Unix(1_800_000_000, 0)}
	last := from
	last.Seq++
	w.ok(w.pool.SetProps(t.Context(), map[string]string{"readonly": "off"}, dataset))
	w.ok(w.pool.Write(dataset, 0, bytes.Repeat([]byte{7}, 4096)))
	w.ok(w.pool.Snapshot(t.Context(), []string{dataset + "@" + last.String()}, map[string]string{
		zfs.PropPoint: w.dataset().Snapshots[0].Props[zfs.PropPoint],
	}))
	before = w.all()
	got = w.release(func(r *release.Request) {
		r.Delete, r.Owner, r.Cuts = true, "other", []guest.Cut{{From: from.String(), Term: last.Term}}
	})
	if len(got) != 1 || !strings.Contains(got[0].Left, "that a recovery gave up") {
		t.Errorf("%+v", got)
	}
	if d := cmp.Diff(before, w.all()); d != "" {
		t.Errorf("a replica that is ahead was changed:\n%s", d)
	}
	got = w.release(func(r *release.Request) {
		r.Delete, r.Owner, r.Cuts = true, "other", []guest.Cut{{From: last.String(), Term: last.Term}}
	})
	if len(got) != 1 || !got[0].Destroyed {
		t.Errorf("%+v", got)
	}
}

// A removal that was cut leaves the mark of a removal.
func TestRelease_TakesTheMarkOfARemovalOff(t *testing.T) {
	w := newWorld(t, zfs.RoleOwner)
	w.mark(map[string]string{zfs.PropRemoving: "7", zfs.PropSealed: "1-0123456789abcdef", zfs.PropManifest: "{}", zfs.PropLanding: "1-0123456789abcdef"})
	w.release(nil)
	if p := w.dataset().Props; len(p) != 0 {
		t.Errorf("marks are left: %v", p)
	}
}

// A guest may be removed in the middle of its migration. What a former owner wrote stays as it is.
func TestRelease_WhatAMigrationSealedCanBeWrittenAgain(t *testing.T) {
	for owner, readonly := range map[guest.NodeID]bool{guest.NodeID(strings.Repeat("1", 32)): false, "other": true, "": true} {
		w := newWorld(t, zfs.RoleOwner)
		w.mark(map[string]string{zfs.PropSealed: "1-0123456789abcdef", "readonly": "on"})
		w.release(func(r *release.Request) { r.Owner = owner })
		if d := w.dataset(); d.ReadOnly != readonly || len(d.Props) != 0 {
			t.Errorf("owner %q: read-only %v, marks %v", owner, d.ReadOnly, d.Props)
		}
	}
}

// A guest may get the volumes while the locks are waited for.
func TestRelease_AsksTheLedgerOnceItHasTheLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, zfs.RoleOwner)
		before := w.dataset()
		unlock, err := w.locks.Lock(t.Context(), local.VolumeLock(volume()))
		w.ok(err)
		go func() {
			time.Sleep(time.Second / 2)
			w.state.Guests = map[guest.ID]guest.Guest{101: {ID: 101, Volumes: []guest.Volume{volume()}}}
			unlock()
		}()
		got, err := w.r.Release(t.Context(), release.Request{Guest: 100, Volumes: []guest.Volume{volume()}, Index: 7, Delete: true})
		if err == nil || !strings.Contains(err.Error(), "belongs to guest 101") {
			t.Errorf("%+v, %v", got, err)
		}
		if d := cmp.Diff(before, w.dataset()); d != "" {
			t.Errorf("it was changed:\n%s", d)
		}
	})
}

// tree makes the volume a mounted filesystem, with a second one beside it.
func tree(t *testing.T) (w *world, change func(*release.Request)) {
	t.Helper()
	w = newWorld(t, zfs.RoleOwner)
	w.pool.Destroy(dataset)
	point, err := guest.Point{Volumes: []guest.Volume{volume(), second()}, Consistency: guest.Crash}.Property()
	w.ok(err)
	for name, v := range map[string]guest.Volume{dataset: volume(), secondDS: second()} {
		w.ok(w.pool.Create(name, 0, nil))
		w.ok(w.pool.SetProps(t.Context(), map[string]string{
			zfs.PropCluster: "c1", zfs.PropGuest: "100", zfs.PropRole: zfs.RoleOwner, zfs.PropTerm: "1-0123456789abcdef", zfs.PropVolume: v.String(),
		}, name))
		w.ok(w.pool.Snapshot(t.Context(), []string{name + "@tandem_1"}, map[string]string{zfs.PropPoint: point}))
	}
	return w, func(r *release.Request) {
		r.Volumes, r.Delete, r.Unit, r.Idle = []guest.Volume{volume(), second()}, true, "ct.service", true
	}
}

const secondDS = "tank/g/vm-100-disk-1"

func second() guest.Volume { return guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-1"} }

func (w *world) mounted(name string) bool {
	w.t.Helper()
	list, err := w.pool.List(w.t.Context(), name)
	w.ok(err)
	return list[0].Mounted
}

func TestRelease_DeletesTheMountedFilesystemsOfAStoppedGuest(t *testing.T) {
	w, all := tree(t)
	got := w.release(func(r *release.Request) { all(r); r.Check = true })
	if len(got) != 2 || got[0].Left != "" || !got[0].Mounted || !w.mounted(dataset) {
		t.Errorf("the check: %+v, mounted: %v", got, w.mounted(dataset))
	}
	got = w.release(func(r *release.Request) { all(r); r.Check, r.Mounts = true, release.Unmount })
	if len(got) != 2 || !got[0].Unmounted || !got[1].Unmounted || w.mounted(dataset) || w.mounted(secondDS) {
		t.Errorf("made sure: %+v", got)
	}
	// The ledger keeps the guest: all is as it was.
	w.release(func(r *release.Request) { all(r); r.Check, r.Mounts = true, release.Remount })
	if !w.mounted(dataset) || !w.mounted(secondDS) {
		t.Error("what was unmounted is not mounted again")
	}
	// It lets go, and the daemon died between: what is mounted again meanwhile goes all the same.
	for _, r := range w.release(all) {
		if !r.Destroyed {
			t.Errorf("%+v", r)
		}
	}
	if w.dataset().Exists() {
		t.Error("it is there")
	}
}

func TestRelease_DestroysNothingWhereAFilesystemIsInUse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *release.Request)
		want   string
	}{
		"in use":      {func(w *world, _ *release.Request) { w.pool.SetBusy(secondDS, true) }, "it is mounted and in use: process 4711 (qemu) has it open"},
		"not stopped": {func(_ *world, r *release.Request) { r.Idle = false }, "unit ct.service is not known to be stopped"},
		"no unit":     {func(_ *world, r *release.Request) { r.Unit = "" }, "unmount it first"},
		"a snapshot of an operator's": {func(w *world, _ *release.Request) {
			w.ok(w.pool.Snapshot(w.t.Context(), []string{secondDS + "@mine"}, nil))
		}, "snapshot mine was not made by Tandem"},
	} {
		t.Run(name, func(t *testing.T) {
			w, all := tree(t)
			for _, check := range []bool{true, false} {
				got := w.release(func(r *release.Request) {
					all(r)
					if check {
						r.Check, r.Mounts = true, release.Unmount
					}
					c.change(w, r)
					if name == "a snapshot of an operator's" {
						c.change = func(*world, *release.Request) {}
					}
				})
				said := ""
				for _, r := range got {
					said += r.Left
					if r.Destroyed || r.Unmounted {
						t.Errorf("%+v", r)
					}
				}
				if !strings.Contains(said, c.want) {
					t.Errorf("got %q, want %q", said, c.want)
				}
				if !w.mounted(dataset) || !w.mounted(secondDS) || len(w.snapshots()) != 1 {
					t.Error("something was changed")
				}
			}
		})
	}
	w, all := tree(t)
	if _, err := w.r.Release(t.Context(), func() (r release.Request) { all(&r); r.Mounts, r.Guest = release.Unmount, 100; return r }()); err == nil {
		t.Error("unmounted for nothing")
	}
}

func TestClear_TakesOnlyFormerMarksOff(t *testing.T) {
	g := guest.Guest{ID: 200, Volumes: []guest.Volume{volume()}}
	w := newWorld(t, zfs.RoleOwner)
	w.ok(w.r.Clear(t.Context(), g))
	if p := w.dataset().Props; len(p) != 0 {
		t.Errorf("marks are left: %v", p)
	}
	for name, change := range map[string]func(*world){
		"a replica":         func(w *world) { w.mark(map[string]string{zfs.PropRole: zfs.RoleReplica}) },
		"another cluster's": func(w *world) { w.mark(map[string]string{zfs.PropCluster: "c2"}) },
		"a guest's": func(w *world) {
			w.state.Guests = map[guest.ID]guest.Guest{100: {ID: 100, Volumes: []guest.Volume{volume()}}}
		},
	} {
		w := newWorld(t, zfs.RoleOwner)
		change(w)
		before := w.dataset()
		w.ok(w.r.Clear(t.Context(), g))
		if d := cmp.Diff(before, w.dataset()); d != "" {
			t.Errorf("%s: it was changed:\n%s", name, d)
		}
	}
	if err := w.r.Clear(t.Context(), guest.Guest{ID: 200, Volumes: []guest.Volume{{Storage: "absent", Name: "x"}}}); fault.ClassOf(err) != fault.ClassPerson {
		t.Errorf("a storage that is not there: %v", err)
	}
}
