package replicate_test

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

const (
	asideRoot = "tank/g/diverged"
	diskSize  = 384 * 4096
)

// scribble writes to a replica as an operator can who makes it writable.
func (n *node) scribble(dataset string, block int64, blocks int) {
	n.w.t.Helper()
	must(n.w.t, n.pool.SetProps(n.w.t.Context(), map[string]string{"readonly": "off"}, dataset))
	n.write(dataset, block, blocks)
}

// aside lists what was set aside of guest 100 on a node.
func (n *node) aside() []zfs.Dataset {
	n.w.t.Helper()
	list, err := n.pool.Children(n.w.t.Context(), asideRoot+"/100")
	if zfs.ClassOf(err) == zfs.ClassGone {
		return nil
	}
	must(n.w.t, err)
	var out []zfs.Dataset
	for _, d := range list {
		out = append(out, n.dataset(d.Name))
	}
	return out
}

// holds counts all holds on a dataset's snapshots.
func holds(d zfs.Dataset) (n uint64) {
	for _, s := range d.Snapshots {
		n += s.UserRefs
	}
	return n
}

// cheap wants an increment that sent less than a third of the disk.
func cheap(tb testing.TB, r replicate.Result) {
	tb.Helper()
	if r.Kind != replicate.KindIncremental || r.Bytes > diskSize/3 {
		tb.Errorf("kind %s with %d bytes, want an increment", r.Kind, r.Bytes)
	}
}

func TestDiverged_IsSetAsideAndGoneOnByIncrement(t *testing.T) {
	for name, diverge := range map[string]func(w *world, n2 *node){
		"written":     func(_ *world, n2 *node) { n2.scribble(diskDS, 50, 20) },
		"touched":     func(_ *world, n2 *node) { n2.scribble(diskDS, 50, 1) },
		"snapshotted": func(_ *world, n2 *node) { n2.scribble(diskDS, 50, 1); n2.snap(diskDS + "@mine") },
		"cut": func(w *world, n2 *node) {
			w.node("1").write(diskDS, 100, 64)
			n2.pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 40 * 4096})
			w.fails(replicate.ClassRetry, "disk-0")
			n2.scribble(diskDS, 50, 20)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(job)
			n1, n2 := w.node("1"), w.node("2")
			diverge(w, n2)
			lost, err := n2.pool.Read(diskDS)
			must(t, err)
			before := n2.dataset(diskDS)
			n1.snap(diskDS + "@daily")
			n1.write(diskDS, 3, 2)
			n1.write(rootDS, 3, 1)
			r := w.run(job)
			w.same("2")
			if name != "cut" {
				cheap(t, r)
			}
			if !strings.Contains(strings.Join(r.Warnings, " "), "was set aside as "+asideRoot) {
				t.Errorf("warnings %q do not say where it is", r.Warnings)
			}
			equal(t, n2.operators(diskDS), []string{"daily"})
			copies := n2.aside()
			if len(copies) != 1 {
				t.Fatalf("%d copies set aside, want 1", len(copies))
			}
			c := copies[0]
			kept, err := n2.pool.Read(c.Name)
			must(t, err)
			equal(t, bytes.Equal(kept, lost), true)
			equal(t, []any{c.GUID, c.ReadOnly, c.Mounted, c.Written, c.Props[zfs.PropRole], c.Props[zfs.PropVolume]},
				[]any{before.GUID, true, false, uint64(0), zfs.RoleDiverged, disk.String()})
			equal(t, holds(c), uint64(1))
			equal(t, holds(n2.dataset(diskDS)), uint64(1))
			equal(t, n2.dataset(diskDS).Origin, "")
			equal(t, strings.HasPrefix(c.Origin, diskDS+"@"), true)

			// It goes on as ever, and what was set aside stays.
			for i := range 3 {
				n1.write(diskDS, int64(i), 1)
				cheap(t, w.run(job))
			}
			w.same("2")
			equal(t, n2.points(diskDS), 2) // the newest, and the one that the copy depends on
			equal(t, len(n2.aside()), 1)
			equal(t, n1.points(diskDS), 1)
		})
	}
}

func TestDiverged_FilesystemIsUnmountedFirst(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	must(t, n2.pool.Mount(t.Context(), rootDS))
	n1.write(rootDS, 3, 1)
	cheap(t, w.run(job)) // Mounted and not changed: it is unmounted, no more.
	w.same("2")
	equal(t, len(n2.aside()), 0)

	must(t, n2.pool.Mount(t.Context(), rootDS))
	n2.scribble(rootDS, 20, 20)
	n1.write(rootDS, 4, 1)
	n2.pool.SetBusy(rootDS, true)
	w.fails(replicate.ClassRetry, "in use")
	equal(t, n2.dataset(rootDS).Exists(), true)
	n2.pool.SetBusy(rootDS, false)
	cheap(t, w.run(job))
	w.same("2")
	equal(t, len(n2.aside()), 1)
	equal(t, n2.aside()[0].Mounted, false)
	equal(t, n2.aside()[0].Mountpoint, "none")
}

func TestDiverged_OwnerRolledBack(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n1.snap(diskDS + "@good")
	w.run(job)
	n1.write(diskDS, 200, 40)
	second := w.run(job)
	must(t, n1.pool.Rollback(diskDS+"@good"))
	n1.write(diskDS, 100, 10)
	cheap(t, w.run(job))
	w.same("2")
	c := n2.aside()
	equal(t, len(c), 1)
	equal(t, c[0].Snapshots[len(c[0].Snapshots)-1].Name, second.Point)
}

func TestDiverged_TargetRolledBackIsNoDivergence(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n1.snap(diskDS + "@good")
	w.run(job)
	n1.write(diskDS, 200, 40)
	w.run(job)
	must(t, n2.pool.Rollback(diskDS+"@good"))
	n1.write(diskDS, 100, 10)
	cheap(t, w.run(job))
	w.same("2")
	equal(t, len(n2.aside()), 0)
}

func TestDiverged_EmptySnapshotsOfOperatorsAreNone(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.node("2").snap(diskDS + "@theirs")
	w.node("1").write(diskDS, 9, 1)
	cheap(t, w.run(job))
	equal(t, len(w.node("2").aside()), 0)
	equal(t, w.node("2").operators(diskDS), []string{"theirs"})
}

func TestDiverged_NoCommonBaseIsSetAsideAndSentWhole(t *testing.T) {
	for name, lose := range map[string]func(w *world, point string){
		"base destroyed at the owner": func(w *world, point string) {
			must(t, w.node("1").pool.DestroySnapshots(t.Context(), diskDS, []string{point}))
		},
		"base destroyed at the target": func(w *world, point string) {
			must(t, w.node("2").pool.DestroySnapshots(t.Context(), diskDS, []string{point}))
		},
		"volume made anew": func(w *world, _ string) {
			n1 := w.node("1")
			n1.pool.Destroy(diskDS)
			must(t, n1.pool.Create(diskDS, diskSize, nil))
			n1.write(diskDS, 0, 50)
			must(t, n1.source.Take(t.Context(), 100, []guest.Volume{disk}))
		},
		"made anew as a filesystem": func(w *world, _ string) {
			n1 := w.node("1")
			n1.pool.Destroy(diskDS)
			must(t, n1.pool.Create(diskDS, 0, map[string]string{"canmount": "off"}))
			n1.write(diskDS, 0, 50)
			must(t, n1.source.Take(t.Context(), 100, []guest.Volume{disk}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.run(job)
			n2 := w.node("2")
			before, err := n2.pool.Read(diskDS)
			must(t, err)
			lose(w, r.Point)
			w.pass(time.Minute)
			var log []string
			r, err = w.node("1").source.Run(t.Context(), replicate.Task{Job: job, Log: func(line string) { log = append(log, line) }})
			must(t, err)
			w.same("2")
			equal(t, r.Kind, replicate.KindFull)
			if text := strings.Join(log, "\n"); !strings.Contains(text, "everything is then sent again, about") {
				t.Errorf("the log does not announce the bytes:\n%s", text)
			}
			copies := n2.aside()
			equal(t, len(copies), 1)
			after, err := n2.pool.Read(copies[0].Name)
			must(t, err)
			equal(t, bytes.Equal(before, after), true)
			w.node("1").write(rootDS, 1, 1)
			w.run(job)
			w.same("2")
			equal(t, len(n2.aside()), 1)
		})
	}
}

func TestDiverged_BookmarkAtTheOwnerIsBaseEnough(t *testing.T) {
	w := newWorld(t)
	r := w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	must(t, n1.pool.Bookmark(t.Context(), diskDS+"@"+r.Point, diskDS+"#b"))
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{r.Point}))
	n2.scribble(diskDS, 50, 20)
	n1.write(diskDS, 3, 2)
	cheap(t, w.run(job))
	w.same("2")
	equal(t, len(n2.aside()), 1)
}

func TestDiverged_AgainAndAgain(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	for i := range 4 {
		n2.scribble(diskDS, int64(50+i), 20)
		if i%2 == 0 {
			n1.write(diskDS, int64(i), 1)
		}
		cheap(t, w.run(job))
		w.same("2")
		equal(t, len(n2.aside()), i+1)
	}
	seen := map[string]bool{}
	for _, c := range n2.aside() {
		seen[c.Name] = true
		equal(t, holds(c), uint64(1))
	}
	equal(t, len(seen), 4)
}

func TestDiverged_SameInstantGivesOtherNames(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	for range 2 {
		n2.scribble(diskDS, 50, 20)
		w.pass(-time.Minute) // run passes one
		w.run(job)
	}
	equal(t, len(n2.aside()), 2)
}

func TestDiverged_OtherTargetsPinTheBase(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	w.run(second)
	n2.scribble(diskDS, 50, 20)
	// The setting aside is cut right after: until the next sync only the copy has the base.
	var died atomic.Bool
	w.mu.Lock()
	n1.trap = func(what string) error {
		if what == "answered "+replicate.PathAside {
			died.Store(true)
		}
		if died.Load() {
			return errKilled
		}
		return nil
	}
	w.mu.Unlock()
	n1.write(diskDS, 1, 1)
	w.fails(replicate.ClassRetry, "killed")
	n1.restart()
	for i := range 3 {
		n1.write(diskDS, int64(i), 2)
		w.run(second)
	}
	cheap(t, w.run(job))
	w.same("2")
}

func TestDiverged_WhatIsNotOursIsLeft(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	must(t, n2.pool.Create(asideRoot, 0, map[string]string{"canmount": "off"}))
	n2.scribble(diskDS, 50, 20)
	w.fails(replicate.ClassPerson, "was not made by Tandem")
	equal(t, n2.dataset(diskDS).Exists(), true)
	must(t, n2.pool.Rename(t.Context(), asideRoot, "tank/g/theirs"))
	cheap(t, w.run(job))
	w.same("2")
	equal(t, n2.dataset("tank/g/theirs").Exists(), true)
	equal(t, len(n2.aside()), 1)
}

// A name that is too long is told before anything is changed.
func TestDiverged_NameTooLong(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n1.snap(diskDS + "@" + strings.Repeat("x", 255-len(diskDS)-1))
	w.run(job)
	n2.scribble(diskDS, 50, 20)
	w.fails(replicate.ClassPerson, "ZFS allows 255")
	equal(t, n2.dataset(diskDS).Props[zfs.PropRole], zfs.RoleReplica)
	equal(t, len(n2.operators(diskDS)), 1)
	equal(t, n2.dataset(asideRoot).Exists(), false)
}

func TestDiverged_SnapshotOfTheSameNameOnBothSides(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	n2.snap(diskDS + "@auto") // Before the base: it stays with the replica.
	n1.write(diskDS, 1, 1)
	w.run(job)
	n2.scribble(diskDS, 50, 20)
	n2.snap(diskDS + "@late") // After it: it stays with the copy.
	for _, s := range []string{"auto", "late"} {
		n1.write(diskDS, 2, 1)
		n1.snap(diskDS + "@" + s)
	}
	cheap(t, w.run(job))
	w.same("2")
	equal(t, n2.operators(diskDS), []string{"auto", "late"})
}

// An operator's snapshot that came with a sync which was cut, and was destroyed at
// the source then, is nobody's data: nothing of it stays.
func TestDiverged_SentAndDestroyedAtTheSource(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	n1.write(diskDS, 100, 30)
	n1.snap(diskDS + "@hourly")
	n1.write(diskDS, 200, 64)
	n2.pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 60 * 4096})
	w.fails(replicate.ClassRetry, "disk-0")
	equal(t, n2.operators(diskDS), []string{"hourly"})
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"hourly"}))
	n1.restart()
	n2.restart()
	r := w.run(job)
	w.same("2")
	if r.Kind == replicate.KindFull {
		t.Error("it was sent whole again")
	}
	n1.write(diskDS, 1, 1)
	w.run(job)
	w.same("2")
	equal(t, len(n2.aside()), 0)
	equal(t, holds(n2.dataset(diskDS)), uint64(0))
	equal(t, n2.points(diskDS), 1)
}

// diverge leaves a replica that somebody has written to; whole: without a base for the disk.
func diverge(whole bool) func(*world) { //nolint:revive // flag-parameter: which of two scenarios
	return func(w *world) {
		n1, n2 := w.node("1"), w.node("2")
		first := w.run(job)
		n2.scribble(diskDS, 50, 20)
		n2.scribble(rootDS, 40, 1)
		n2.pool.Sync() // What a power cut takes back has not diverged.
		var err error
		w.lost, err = n2.pool.Read(diskDS)
		must(w.t, err)
		if whole {
			must(w.t, n1.pool.DestroySnapshots(w.t.Context(), diskDS, []string{first.Point}))
		}
		n1.write(diskDS, 200, 10)
		n1.snap(diskDS + "@daily")
		n1.write(diskDS, 3, 2)
		w.pass(time.Minute)
	}
}

// setAside wants what had diverged to be kept, and the replica to have begun anew by as little as could be.
func setAside(whole bool) func(*world) { //nolint:revive // flag-parameter: which of two scenarios
	return func(w *world) {
		t, n1, n2 := w.t, w.node("1"), w.node("2")
		r := w.run(job)
		for _, v := range r.Volumes {
			if v.Kind == replicate.KindFull && (!whole || v.Volume == root) {
				t.Errorf("%s was sent whole", v.Volume)
			}
		}
		w.same("2")
		n1.write(diskDS, 300, 1)
		w.run(job)
		w.same("2")
		copies := n2.aside()
		if len(copies) != 2 {
			t.Errorf("%d copies set aside, want 2", len(copies))
		}
		for _, c := range copies {
			if c.Props[zfs.PropVolume] == disk.String() {
				kept, err := n2.pool.Read(c.Name)
				must(t, err)
				if !bytes.Equal(kept, w.lost) {
					t.Error("what had diverged is not what was kept")
				}
			}
			if want := uint64(1); c.Origin != "" && holds(c) != want {
				t.Errorf("%s has %d holds, want %d", c.Name, holds(c), want)
			}
		}
		for _, d := range []string{diskDS, rootDS} {
			if x := n2.dataset(d); x.Origin != "" || x.ResumeToken != "" {
				t.Errorf("%s has origin %q, token %q", d, x.Origin, x.ResumeToken)
			}
			if got := n1.points(d); got != 1 {
				t.Errorf("the owner has %d points of %s", got, d)
			}
		}
	}
}

func TestClonedVolumeIsReplicatedWhole(t *testing.T) {
	w := newWorld(t)
	n1 := w.node("1")
	must(t, n1.pool.Create("tank/template", diskSize, nil))
	n1.write("tank/template", 0, 100)
	n1.snap("tank/template@golden")
	n1.pool.Destroy(diskDS)
	must(t, n1.pool.Clone(t.Context(), "tank/template@golden", diskDS, nil))
	n1.write(diskDS, 7, 3)
	equal(t, w.run(job).Kind, replicate.KindFull)
	w.same("2")
	n1.write(diskDS, 9, 3)
	cheap(t, w.run(job))
	w.same("2")
}

func TestVolumeRemovedAndAddedAgain(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		g.Volumes = slices.DeleteFunc(slices.Clone(g.Volumes), func(v guest.Volume) bool { return v == disk })
		s.Guests = map[guest.ID]guest.Guest{100: g}
	})
	for _, s := range n1.dataset(diskDS).Snapshots {
		must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{s.Name}))
	}
	w.run(job)
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		g.Volumes = []guest.Volume{disk, root}
		s.Guests = map[guest.ID]guest.Guest{100: g}
	})
	w.run(job)
	w.same("2")
	equal(t, len(n2.aside()), 1)
}
