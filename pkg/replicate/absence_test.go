package replicate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// bookmarks counts those of Tandem's.
func (n *node) bookmarks(dataset string) (count int) {
	for _, b := range n.dataset(dataset).Bookmarks {
		if strings.HasPrefix(b.Name, "tandem_base_") {
			count++
		}
	}
	return count
}

// absent runs job 100-0 once a day, while n3 does not answer.
func (w *world) absent(days int) {
	w.t.Helper()
	for i := range days {
		w.pass(24 * time.Hour)
		w.node("1").write(diskDS, int64(i), 1)
		w.node("1").snap(diskDS + "@" + w.clock().Format("daily-20060102"))
		w.run(job)
	}
}

// have wants so many points and bookmarks of the disk on the nodes.
func (w *world) have(points, bookmarks int, nodes ...string) {
	w.t.Helper()
	for _, n := range nodes {
		if p, b := w.node(n).points(diskDS), w.node(n).bookmarks(diskDS); p > points || b != bookmarks {
			w.t.Errorf("n%s has %d points and %d bookmarks, want at most %d and %d", n, p, b, points, bookmarks)
		}
	}
}

func TestAbsence_BaseBecomesABookmark(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	w.run(job)
	base := w.run(second)
	w.absent(6)
	w.have(2, 0, "1", "2")
	equal(t, w.node("1").dataset(diskDS).Snapshots[0].Name, base.Point)
	w.absent(3)
	w.node("1").restart() // What is known of n3 survives.
	w.node("2").restart()
	w.absent(21)
	w.have(2, 1, "1", "2")
	for _, n := range []string{"1", "2"} {
		for _, s := range w.node(n).dataset(diskDS).Snapshots {
			if s.Name == base.Point {
				t.Errorf("n%s still has the base of a target that has been away for a month", n)
			}
		}
	}

	// It goes on by an increment, with all snapshots that were made meanwhile.
	cheap(t, w.run(second))
	w.same("3")
	equal(t, len(w.node("3").operators(diskDS)), 30)
	w.node("1").write(diskDS, 1, 1)
	w.run(job)
	w.run(second)
	w.run(job)
	w.have(2, 0, "1", "2", "3")
}

func TestAbsence_DivergedMeanwhile(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	w.run(job)
	w.run(second)
	w.absent(30)
	w.node("3").scribble(diskDS, 50, 20)
	cheap(t, w.run(second))
	w.same("3")
	equal(t, len(w.node("3").aside()), 1)
}

// What a sync was sending when its target went away is resumed, or sent again from
// the bookmark; nothing is sent whole.
func TestAbsence_CutSync(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	w.run(job)
	w.run(second)
	w.node("1").write(diskDS, 100, 64)
	w.node("3").pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 40 * 4096})
	_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: second})
	if err == nil {
		t.Fatal("the sync was not cut")
	}
	w.absent(30)
	r := w.run(second)
	if r.Kind == replicate.KindFull {
		t.Error("it was sent whole again")
	}
	w.same("3")
	equal(t, w.node("3").dataset(diskDS).ResumeToken, "")
}

// Only the time in which the owner is quorate counts.
func TestAbsence_OwnerNotQuorate(t *testing.T) {
	w := newWorld(t)
	quorate := time.Hour
	for _, n := range w.nodes {
		n.quorate = func() time.Duration { return quorate }
		n.restart()
	}
	second := twoTargets(w)
	w.run(job)
	base := w.run(second)
	w.absent(30)
	w.have(2, 0, "1", "2")
	equal(t, w.node("1").dataset(diskDS).Snapshots[0].Name, base.Point)
	quorate = 0 // The count was lost: it begins anew.
	w.absent(1)
	quorate = 6 * 24 * time.Hour
	w.absent(1)
	w.have(2, 0, "1", "2")
	quorate = 8 * 24 * time.Hour
	w.absent(2)
	w.have(2, 1, "1", "2")
}

// A target that never answered keeps what it may have for keep_base only.
func TestAbsence_UnknownTarget(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	w.run(job)
	w.run(second)
	w.node("1").write(diskDS, 1, 1)
	w.run(job)
	w.node("1").files.m = map[string][]byte{} // The owner forgot.
	w.node("1").restart()
	w.absent(3)
	w.have(3, 0, "1", "2")
	w.absent(30)
	w.have(2, 2, "1", "2")
	cheap(t, w.run(second))
	w.same("3")
}

func TestAbsence_BookmarksGoWithTheJob(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	w.run(job)
	w.run(second)
	w.absent(30)
	w.have(2, 1, "1", "2")
	// An operator's bookmark is never touched.
	n1 := w.node("1")
	must(t, n1.pool.Bookmark(t.Context(), diskDS+"@"+n1.operators(diskDS)[0], diskDS+"#tandem_base_mine"))
	w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{job: s.Jobs[job]} })
	w.absent(2)
	w.have(1, 0, "2")
	equal(t, len(n1.dataset(diskDS).Bookmarks), 1)
	equal(t, n1.dataset(diskDS).Bookmarks[0].Name, "tandem_base_mine")
}

// longAway leaves a target whose base the next sync turns into a bookmark.
func longAway(w *world) {
	other := twoTargets(w)
	w.run(job)
	w.run(other)
	w.absent(7)
	w.node("1").write(diskDS, 20, 1)
	w.pass(24 * time.Hour)
}

// back wants the target that was away to go on from the bookmark.
func back(w *world) {
	w.absent(2)
	w.have(2, 1, "1", "2")
	cheap(w.t, w.run(second))
	w.same("3")
}
