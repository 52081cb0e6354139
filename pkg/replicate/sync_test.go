package replicate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

func TestSync_FullThenIncrementalThenNothing(t *testing.T) {
	w := newWorld(t)
	first := w.run(job)
	equal(t, first.Kind, replicate.KindFull)
	equal(t, first.Base, "")
	w.same("2")
	if first.Bytes < 80*4096 {
		t.Errorf("the first sync sent %d bytes, less than there is", first.Bytes)
	}

	w.node("1").write(diskDS, 3, 2)
	second := w.run(job)
	equal(t, second.Kind, replicate.KindIncremental)
	equal(t, second.Base, first.Point)
	w.same("2")
	if second.Bytes > 8*4096 {
		t.Errorf("an increment of 2 blocks sent %d bytes", second.Bytes)
	}

	calls := len(w.node("1").pool.Calls()) + len(w.node("2").pool.Calls())
	third := w.run(job)
	equal(t, third.Kind, replicate.KindNothing)
	equal(t, third.Point, second.Point)
	equal(t, third.Bytes, uint64(0))
	if n := len(w.node("1").pool.Calls()) + len(w.node("2").pool.Calls()) - calls; n > 2 {
		t.Errorf("a sync with nothing to do took %d zfs processes, want at most 2", n)
	}
	for _, n := range []string{"1", "2"} {
		equal(t, w.node(n).points(diskDS), 1)
		equal(t, w.node(n).points(rootDS), 1)
	}
}

func TestSync_StampsOnlyWhatCarriesNoMark(t *testing.T) {
	w := newWorld(t)
	must(t, w.node("1").pool.SetProps(t.Context(), map[string]string{zfs.PropGuest: "101"}, diskDS))
	w.fails(replicate.ClassPerson, "the ledger says")
	if got := w.node("1").dataset(diskDS).Props[zfs.PropRole]; got != "" {
		t.Errorf("the volume of guest 101 was stamped with role %q", got)
	}
	if err := w.node("1").source.Check(t.Context(), w.state.Guests[100]); err == nil {
		t.Error("Check accepted a volume of guest 101")
	}
}

func TestSync_OperatorsSnapshotsAreMirrored(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	for _, s := range []string{"old-1", "old-2", "old-3"} {
		n1.snap(diskDS + "@" + s)
		n1.write(diskDS, 7, 1)
	}
	w.run(job)
	equal(t, n2.operators(diskDS), []string{"old-1", "old-2", "old-3"})

	n1.snap(diskDS + "@new")
	n2.snap(diskDS + "@theirs") // Made on the target by an operator: never touched.
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"old-2"}))
	w.run(job)
	equal(t, n2.operators(diskDS), []string{"old-1", "old-3", "theirs", "new"})
	w.same("2")

	// Removed while nothing else changed.
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"old-1"}))
	equal(t, w.run(job).Kind, replicate.KindNothing)
	equal(t, n2.operators(diskDS), []string{"old-3", "theirs", "new"})

	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"old-3", "new"}))
	r := w.run(job)
	equal(t, n2.operators(diskDS), []string{"old-3", "theirs", "new"})
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "more than half") {
		t.Errorf("warnings %q, want one that says more than half", r.Warnings)
	}
}

func TestSync_ModeKeepAndNone(t *testing.T) {
	for mode, want := range map[guest.SnapshotMode][]string{guest.Keep: {"a", "b", "c", "d"}, guest.None: nil} {
		w := newWorld(t)
		w.change(func(s *ledger.State) {
			j := s.Jobs[job]
			j.Snapshots = mode
			s.Jobs = map[guest.JobID]guest.Job{job: j}
		})
		n1 := w.node("1")
		for _, s := range []string{"a", "b", "c"} {
			n1.snap(diskDS + "@" + s)
			n1.write(diskDS, 9, 1)
		}
		w.run(job)
		n1.snap(diskDS + "@d")
		must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"a"}))
		w.run(job)
		w.same("2")
		equal(t, w.node("2").operators(diskDS), want)
	}
}

func TestSync_SameNameOnBothNodesIsSteppedOver(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1 := w.node("1")
	for _, s := range []string{"a", "auto", "b"} {
		n1.write(diskDS, 5, 1)
		n1.snap(diskDS + "@" + s)
	}
	w.node("2").snap(diskDS + "@auto")
	r := w.run(job)
	w.same("2")
	equal(t, w.node("2").operators(diskDS), []string{"auto", "a", "b"})
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "auto") {
		t.Errorf("warnings %q, want one that names auto", r.Warnings)
	}
	w.run(job)
}

func TestSync_CutInTheMiddleIsResumed(t *testing.T) {
	for _, first := range []bool{true, false} {
		for _, op := range []string{"Send", "Receive"} {
			w := newWorld(t)
			if !first {
				w.run(job)
				w.node("1").write(diskDS, 100, 64)
			}
			on := map[string]string{"Send": "1", "Receive": "2"}[op]
			w.node(on).pool.Inject(zfstest.Fault{Op: op, Name: "disk-0", Times: 1, Cut: 40 * 4096})
			w.fails(replicate.ClassRetry, "disk-0")
			w.node("1").restart()
			w.node("2").restart()
			r := w.run(job)
			equal(t, r.Kind, replicate.KindResumed)
			w.same("2")
			if r.Bytes > 40*4096 {
				t.Errorf("first=%v %s: %d bytes were sent again or anew, the cut left 24 blocks", first, op, r.Bytes)
			}
			equal(t, w.node("2").points(diskDS), 1)
		}
	}
}

func TestSync_StaleTokenIsReplaced(t *testing.T) {
	for _, first := range []bool{true, false} {
		w := newWorld(t)
		n1 := w.node("1")
		if !first {
			w.run(job)
			n1.write(diskDS, 100, 64)
		}
		w.node("2").pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 40 * 4096})
		w.fails(replicate.ClassRetry, "disk-0")
		snaps := n1.dataset(diskDS).Snapshots
		must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{snaps[len(snaps)-1].Name}))
		w.run(job)
		w.same("2")
	}
}

func TestSync_ForeignDatasetIsRefusedAndUntouched(t *testing.T) {
	for name, props := range map[string]map[string]string{
		"no marks":       nil,
		"another guest":  {zfs.PropCluster: "c1", zfs.PropGuest: "101", zfs.PropRole: zfs.RoleReplica, zfs.PropVolume: disk.String()},
		"another role":   {zfs.PropCluster: "c1", zfs.PropGuest: "100", zfs.PropRole: zfs.RoleOwner, zfs.PropVolume: disk.String()},
		"other cluster":  {zfs.PropCluster: "c2", zfs.PropGuest: "100", zfs.PropRole: zfs.RoleReplica, zfs.PropVolume: disk.String()},
		"another volume": {zfs.PropCluster: "c1", zfs.PropGuest: "100", zfs.PropRole: zfs.RoleReplica, zfs.PropVolume: root.String()},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n2 := w.node("2")
			must(t, n2.pool.Create(diskDS, 4<<20, props))
			n2.write(diskDS, 0, 8)
			before, err := n2.pool.Read(diskDS)
			must(t, err)
			w.fails(replicate.ClassPerson, "no replica of guest 100")
			after, err := n2.pool.Read(diskDS)
			must(t, err)
			equal(t, string(after) == string(before), true)
			equal(t, len(n2.dataset(diskDS).Snapshots), 0)
			equal(t, w.node("1").points(diskDS), 0)
		})
	}
}

func TestSync_BookmarkIsABase(t *testing.T) {
	w := newWorld(t)
	r := w.run(job)
	n1 := w.node("1")
	for _, d := range []string{diskDS, rootDS} {
		must(t, n1.pool.Bookmark(t.Context(), d+"@"+r.Point, d+"#base"))
		must(t, n1.pool.DestroySnapshots(t.Context(), d, []string{r.Point}))
	}
	n1.snap(diskDS + "@a")
	n1.write(diskDS, 1, 1)
	equal(t, w.run(job).Kind, replicate.KindIncremental)
	w.same("2")
}

func TestSync_NoSpaceSaysNumbers(t *testing.T) {
	w := newWorld(t)
	w.node("2").pool = zfstest.New(zfstest.Options{Node: "n2", Size: 100 << 10, Now: w.clock})
	must(t, w.node("2").pool.Create("tank/g", 0, nil))
	w.node("2").restart()
	w.fails(replicate.ClassRetry, "bytes) available")
}

func TestSync_CancelledRunGoesOnLater(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.mu.Lock()
	w.node("2").trap = func(what string) error {
		if what == "got" {
			cancel()
		}
		return nil
	}
	w.mu.Unlock()
	_, err := w.node("1").source.Run(ctx, replicate.Task{Job: job})
	var e *replicate.Error
	if !errors.As(err, &e) || e.Class != replicate.ClassRetry || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	w.node("2").restart()
	w.run(job)
	w.same("2")
}

// twoTargets adds job 100-1 to n3.
func twoTargets(w *world) guest.JobID {
	second := guest.JobID{Guest: 100, Number: 1}
	w.change(func(s *ledger.State) {
		s.Jobs = map[guest.JobID]guest.Job{
			job:    s.Jobs[job],
			second: {ID: second, Target: id("3"), Schedule: "4:00", Snapshots: guest.Mirror},
		}
	})
	return second
}

// What one job's sync took serves the other one, so that a guest which does
// nothing costs nothing, also with two targets.
func TestSync_TwoTargetsOfAnIdleGuestSettle(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	first := w.run(job)
	equal(t, w.run(second).Point, first.Point)
	w.same("2")
	w.same("3")
	for range 3 {
		equal(t, w.run(job).Kind, replicate.KindNothing)
		equal(t, w.run(second).Kind, replicate.KindNothing)
	}
	w.node("1").write(diskDS, 3, 2)
	third := w.run(second)
	equal(t, third.Kind, replicate.KindIncremental)
	equal(t, w.run(job).Point, third.Point)
	equal(t, w.run(second).Kind, replicate.KindNothing)
	w.same("2")
	w.same("3")
	for _, n := range []string{"1", "2", "3"} {
		equal(t, w.node(n).points(diskDS), 1)
	}
}

func TestSync_TwoTargetsKeepEachOthersBase(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	n1 := w.node("1")
	w.run(job)
	w.run(second)
	base := w.node("3").dataset(diskDS).Snapshots
	for i := range 5 { // n3 is away.
		n1.write(diskDS, int64(i), 1)
		w.run(job)
	}
	// n1 and n2 keep their newest point and the base of the pair n1-n3.
	for _, n := range []string{"1", "2"} {
		equal(t, w.node(n).points(diskDS), 2)
	}
	n1.restart() // What is known of n3 survives.
	n1.write(diskDS, 9, 1)
	w.run(job)
	equal(t, n1.dataset(diskDS).Snapshots[0].GUID, base[len(base)-1].GUID)

	r := w.run(second)
	equal(t, r.Kind, replicate.KindIncremental)
	w.same("3")
	w.same("2")
	n1.write(diskDS, 10, 1)
	w.run(job)
	w.run(second)
	w.run(job)
	for _, n := range []string{"1", "2", "3"} {
		if got := w.node(n).points(diskDS); got > 2 {
			t.Errorf("n%s has %d points, want at most 2", n, got)
		}
	}
}

// What a target has that this owner never heard of is one of the points that there
// were at first: those stay, and what is taken later does not pile up.
func TestSync_UnknownTargetPinsWhatThereWas(t *testing.T) {
	w := newWorld(t)
	first := w.run(job)
	second := twoTargets(w)
	for i := range 4 {
		w.node("1").write(diskDS, int64(i), 1)
		w.run(job)
	}
	for _, n := range []string{"1", "2"} {
		equal(t, w.node(n).points(diskDS), 2)
		equal(t, w.node(n).dataset(diskDS).Snapshots[0].Name, first.Point)
	}
	w.run(second)
	w.node("1").write(diskDS, 1, 1)
	w.run(job)
	w.run(second)
	w.run(job)
	for _, n := range []string{"1", "2", "3"} {
		if got := w.node(n).points(diskDS); got > 2 {
			t.Errorf("n%s has %d points, want at most 2", n, got)
		}
	}
}

func TestSync_LogsAndProgress(t *testing.T) {
	w := newWorld(t)
	var phases []replicate.Phase
	var last replicate.Progress
	lines := 0
	_, err := w.node("1").source.Run(t.Context(), replicate.Task{
		Job: job,
		Log: func(string) { lines++ },
		Progress: func(p replicate.Progress) {
			if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
				phases = append(phases, p.Phase)
			}
			last = p
		},
	})
	must(t, err)
	equal(t, phases, []replicate.Phase{
		replicate.PhasePlan, replicate.PhaseSnapshot, replicate.PhaseSend, replicate.PhaseCommit, replicate.PhaseClean,
	})
	if lines == 0 || last.Total == 0 || last.Bytes == 0 {
		t.Errorf("%d lines, progress %+v", lines, last)
	}
}

func TestSync_TargetsSideBySide(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	for round := range 6 {
		w.node("1").write(diskDS, int64(round), 2)
		w.node("1").snap(fmt.Sprintf("%s@op-%d", diskDS, round))
		w.pass(time.Minute)
		var wg sync.WaitGroup
		for _, j := range []guest.JobID{job, second} {
			wg.Go(func() {
				if _, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: j}); err != nil {
					t.Errorf("round %d, job %s: %v", round, j, err)
				}
			})
		}
		wg.Wait()
	}
	w.run(job)
	w.run(second)
	w.run(job)
	for _, n := range []string{"2", "3"} {
		w.same(n)
		equal(t, len(w.node(n).operators(diskDS)), 6)
		if got := w.node(n).points(diskDS); got > 2 {
			t.Errorf("n%s has %d points, want at most 2", n, got)
		}
	}
}

func TestSync_OneRunOfAJobAtATime(t *testing.T) {
	w := newWorld(t)
	var second error
	w.mu.Lock()
	var once sync.Once
	w.node("2").trap = func(what string) error {
		if what == "got" {
			once.Do(func() { _, second = w.node("1").source.Run(t.Context(), replicate.Task{Job: job}) })
		}
		return nil
	}
	w.mu.Unlock()
	w.run(job)
	if second == nil || !strings.Contains(second.Error(), "already running") {
		t.Errorf("the second run of the job: %v", second)
	}
}
