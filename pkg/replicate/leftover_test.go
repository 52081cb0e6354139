package replicate_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/leftover"
)

// find looks once on a node and wants these findings: their first words, and whether it was taken away.
func (w *world) find(node string, want ...string) {
	w.t.Helper()
	list, err := w.node(node).finder.Run(w.t.Context())
	must(w.t, err)
	var got []string
	for _, x := range list {
		got = append(got, told(x))
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i], want[i]) {
			w.t.Errorf("n%s: found %q, want %q", node, got, want)
			return
		}
	}
}

func told(x leftover.Finding) string {
	text := strings.TrimPrefix(x.Dataset, "tank/g/") + ": " + x.What
	if x.Removed {
		return "removed " + text
	}
	return "left " + text
}

func drop(w *world) {
	w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{} })
}

func TestLeftover_OfAJobThatIsThereNothing(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	change(w)
	cutBoth(w)
	w.find("1")
	w.find("2")
	remove(w, job, false) // Its removal does it, and tells.
	w.find("2")
	equal(t, w.node("2").dataset(rootDS).ResumeToken != "", true)
}

func TestLeftover_OfAForcedRemoval(t *testing.T) {
	w := newWorld(t)
	w.node("1").snap(diskDS + "@op")
	forcedOut(w)
	w.find("2", "removed vm-100-disk-0: a part of a receive, and no job", "removed vm-100-root: a part of a receive, and no job")
	w.clean("2", diskDS)
	equal(t, w.node("2").operators(diskDS), []string{"op"}) // The kept replica is what it was.
	must(t, w.node("1").pool.Hold(t.Context(), "backup", diskDS+"@"+w.node("1").dataset(diskDS).Snapshots[1].Name))
	w.find("1", "removed vm-100-disk-0: 1 points", "removed vm-100-root: 2 points")
	equal(t, []int{w.node("1").points(diskDS), w.node("1").points(rootDS)}, []int{1, 0})
	equal(t, w.node("1").operators(diskDS), []string{"op", "late"})
	w.find("1")
	w.find("2")
}

// What the ledger does not have may be missing from it by a mistake.
func TestLeftover_OfAnUnknownGuestIsNamed(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	change(w)
	cutBoth(w)
	before := []any{w.node("1").dataset(diskDS), w.node("2").dataset(diskDS), w.node("2").dataset(rootDS)}
	w.change(func(s *ledger.State) { s.Guests, s.Jobs = nil, nil })
	w.find("1", "left vm-100-disk-0: an owner's marks and 2 points", "left vm-100-root: an owner's marks and 2 points")
	w.find("2", "left vm-100-disk-0: a part of a receive, and the ledger", "left vm-100-root: a part of a receive, and the ledger")
	equal(t, []any{w.node("1").dataset(diskDS), w.node("2").dataset(diskDS), w.node("2").dataset(rootDS)}, before)
}

func TestLeftover_AFirstReceiveThatNobodyRemembersIsNamed(t *testing.T) {
	w := newWorld(t)
	cutBoth(w)
	drop(w)
	w.node("2").files.m = map[string][]byte{}
	w.node("2").restart()
	w.find("2", "left vm-100-disk-0: a part of a first receive", "left vm-100-root: a part of a first receive")
	equal(t, w.node("2").dataset(diskDS).ResumeToken != "", true)
}

func TestLeftover_HoldsForACopyThatSomebodyDestroyed(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.diverge(50)
	n2 := w.node("2")
	w.find("2")
	equal(t, holds(n2.dataset(diskDS)), uint64(1))

	// Renamed past Tandem it needs the snapshot still, and ZFS keeps that.
	c := n2.aside()[0]
	must(t, n2.pool.Rename(t.Context(), c.Name, "tank/mine"))
	w.find("2", "removed vm-100-disk-0: 1 holds")
	w.node("1").write(diskDS, 1, 1)
	w.run(job)
	equal(t, n2.dataset("tank/mine").Origin, c.Origin)
	equal(t, n2.points(diskDS), 2)

	n2.pool.Destroy("tank/mine")
	w.node("1").write(diskDS, 2, 1)
	w.run(job)
	w.same("2")
	equal(t, n2.points(diskDS), 1)
}

// forcedOut leaves a job dropped from the ledger in the middle of a sync: a replica of one volume, a part of its increment, and
// a part of the other's first receive.
func forcedOut(w *world) {
	w.run(job)
	w.node("2").pool.Destroy(rootDS)
	change(w)
	cutBoth(w)
	drop(w)
}

func findOnce(w *world) error {
	for _, n := range []string{"1", "2"} {
		if _, err := w.node(n).finder.Run(w.t.Context()); err != nil {
			return err
		}
	}
	return nil
}

func nothingLeft(w *world) {
	must(w.t, findOnce(w))
	w.find("1")
	w.find("2")
	w.clean("1", diskDS, rootDS)
	w.bare("2", diskDS) // A note of what ended harms nobody.
	equal(w.t, w.node("1").points(diskDS)+w.node("1").points(rootDS), 0)
}
