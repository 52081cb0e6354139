package replicate_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// diverge makes a copy of the disk that is set aside on n2.
func (w *world) diverge(block int64) {
	w.t.Helper()
	w.node("2").scribble(diskDS, block, 20)
	w.node("1").write(diskDS, block, 1)
	w.run(job)
}

func (n *node) cannotDiscard(dataset, text string) {
	n.w.t.Helper()
	_, err := n.keeper.Discard(n.w.t.Context(), "c1", dataset)
	if err == nil || !strings.Contains(err.Error()+" "+replicate.HintOf(err), text) {
		n.w.t.Errorf("discard %s: got %v, want a text with %q", dataset, err, text)
	}
}

func TestDiscard_FreesWhatDependedOnIt(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.diverge(50)
	n1, n2 := w.node("1"), w.node("2")
	all, err := n2.keeper.All(t.Context(), "c1")
	must(t, err)
	c := all[0]
	equal(t, []any{len(all), c.Guest, c.Volume, c.Owner, c.Term, c.ByTerm, c.At.Unix()},
		[]any{1, n1.w.state.Guests[100].ID, disk, id("1"), term.String(), term.String(), w.clock().Unix()})
	if !strings.Contains(c.Why, "it was written to") {
		t.Errorf("why: %q", c.Why)
	}
	before := n2.dataset(diskDS)
	gone, err := n2.keeper.Discard(t.Context(), "c1", c.Data.Name)
	must(t, err)
	equal(t, gone.Data.Name, c.Data.Name)
	equal(t, n2.dataset(c.Data.Name).Exists(), false)
	equal(t, n2.dataset(asideRoot+"/100").Exists(), false)
	after := n2.dataset(diskDS)
	equal(t, []any{len(after.Snapshots), holds(after)}, []any{len(before.Snapshots), uint64(0)})
	n1.write(diskDS, 1, 1)
	w.run(job)
	equal(t, n2.points(diskDS), 1)
	n2.cannotDiscard(c.Data.Name, "does not exist")
}

func TestDiscard_RefusesWhatIsNotMeant(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.diverge(50)
	n2 := w.node("2")
	name := n2.aside()[0].Name
	n2.cannotDiscard(diskDS, "no place for diverged data")
	n2.cannotDiscard(asideRoot, "no place for diverged data")
	n2.cannotDiscard(asideRoot+"/100", "no place for diverged data")
	n2.cannotDiscard("tank/other/diverged/100/x", "no place for diverged data")
	n2.cannotDiscard(asideRoot+"/100/none", "does not exist")
	must(t, n2.pool.Create(asideRoot+"/100/theirs", 4<<20, nil))
	n2.cannotDiscard(asideRoot+"/100/theirs", "no diverged data")
	snap := name + "@" + n2.dataset(name).Snapshots[0].Name
	must(t, n2.pool.Hold(t.Context(), "mine", snap))
	n2.cannotDiscard(name, "hold mine")
	equal(t, holds(n2.dataset(name)), uint64(2)) // Nothing was released.
	must(t, n2.pool.Release(t.Context(), "mine", snap))
	must(t, n2.pool.Clone(t.Context(), snap, "tank/g/look", nil))
	n2.cannotDiscard(name, "discard that first")
	n2.pool.Destroy("tank/g/look")
	_, err := n2.keeper.Discard(t.Context(), "c1", name)
	must(t, err)
	equal(t, n2.dataset(asideRoot+"/100/theirs").Exists(), true)
	equal(t, n2.dataset(asideRoot+"/100").Exists(), true)
}

// Where a promotion failed between the new name and the clone, the copy is all that the guest has.
func TestDiscard_RefusesWhatTheOwnersVolumeIsToBeMadeOf(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	n2.scribble(diskDS, 40, 3)
	w.give("2", guest.ByRecovery, w.held("2")[0])
	n2.setTrap(func(what string) error {
		if strings.HasPrefix(what, "n2 Clone") {
			return errors.New("out of space")
		}
		return nil
	})
	if _, err := n2.promoter.Promote(t.Context(), "c1", w.guest()); err == nil {
		t.Fatal("it was promoted")
	}
	n2.setTrap(nil)
	all := n2.aside()
	if len(all) != 1 || n2.dataset(diskDS).Exists() {
		t.Fatalf("%+v", all)
	}
	n2.cannotDiscard(all[0].Name, "goes on from it")
	w.promoted("2")
}

// Where a sync failed between the new name and the clone, the copy is the last good one on this target, until the job is gone.
func TestDiscard_RefusesWhatAJobGoesOnFrom(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	n2.scribble(diskDS, 40, 3)
	n1.write(diskDS, 2, 1)
	n1.setTrap(func(what string) error {
		if what == "answered "+replicate.PathAside {
			return errors.New("connection reset")
		}
		return nil
	})
	w.fails(replicate.ClassRetry, "connection reset")
	n1.setTrap(nil)
	all := n2.aside()
	if len(all) != 1 || n2.dataset(diskDS).Exists() {
		t.Fatalf("%+v", all)
	}
	n2.cannotDiscard(all[0].Name, "job "+job.String()+" goes on from it")
	n2.cannotDiscard(all[0].Name, "delete that job first")
	jobs := w.View().Jobs
	w.change(func(s *ledger.State) { s.Jobs = nil })
	_, err := n2.keeper.Discard(t.Context(), "c1", all[0].Name)
	must(t, err)
	w.change(func(s *ledger.State) { s.Jobs = jobs })
	w.run(job)
	w.same("2")
}

// ZFS may refuse what was not foreseen: a clone outside the storages, a device that is opened at that moment. The copy is kept then
// as it was, also from other tools.
func TestDiscard_PutsTheHoldsBackWhereZFSRefuses(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.diverge(50)
	n2 := w.node("2")
	name := n2.aside()[0].Name
	must(t, n2.pool.Clone(t.Context(), name+"@"+n2.dataset(name).Snapshots[0].Name, "tank/elsewhere", nil))
	all := func() []uint64 { return []uint64{holds(n2.dataset(name)), holds(n2.dataset(diskDS))} }
	before := all()
	equal(t, before, []uint64{1, 1})
	n2.cannotDiscard(name, "something was cloned from it")
	equal(t, all(), before)
	n2.pool.Destroy("tank/elsewhere")
	n2.pool.Inject(zfstest.Fault{Op: "DestroyDataset", Name: name, Times: 1, Err: errors.New("dataset is busy")})
	n2.cannotDiscard(name, "dataset is busy")
	equal(t, all(), []uint64{0, 1}) // Its own snapshot is gone.
	_, err := n2.keeper.Discard(t.Context(), "c1", name)
	must(t, err)
	equal(t, holds(n2.dataset(diskDS)), uint64(0))
}

// As long as the replica is being made out of a copy, that cannot go.
func TestDiscard_WaitsForTheNewReplica(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	n2.scribble(diskDS, 50, 20)
	n1.write(diskDS, 100, 64)
	n2.pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 30 * 4096})
	w.fails(replicate.ClassRetry, "disk-0")
	equal(t, n2.dataset(diskDS).ResumeToken != "", true)
	n2.cannotDiscard(n2.aside()[0].Name, "is being made out of")
	n2.pool.Inject(zfstest.Fault{Op: "Read", Name: diskDS, Times: 1, Err: errors.New("I/O error")})
	n2.cannotDiscard(n2.aside()[0].Name, "I/O error") // Whether it is cannot be told.
	w.run(job)
	w.same("2")
	_, err := n2.keeper.Discard(t.Context(), "c1", n2.aside()[0].Name)
	must(t, err)
}

// Copies that were set aside one after the other can be discarded in any order
// that ZFS allows; where it does not, the reason is told and nothing is lost.
func TestDiscard_ManyInAnyOrder(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	for i := range 3 {
		w.diverge(int64(50 + i))
	}
	n2 := w.node("2")
	for left := 3; left > 0; left-- {
		list := n2.aside()
		equal(t, len(list), left)
		_, err := n2.keeper.Discard(t.Context(), "c1", list[left/2].Name)
		must(t, err)
	}
	equal(t, holds(n2.dataset(diskDS)), uint64(0))
	w.node("1").write(diskDS, 9, 1)
	w.run(job)
	w.same("2")
	equal(t, n2.points(diskDS), 1)
}

// setOneAside leaves one copy on n2.
func setOneAside(w *world) {
	w.run(job)
	w.diverge(50)
	w.copied = w.node("2").aside()[0].Name
}

func discardOnce(w *world) error {
	_, err := w.node("2").keeper.Discard(w.t.Context(), "c1", w.copied)
	return err
}

// discarded wants the second try to leave nothing of the copy.
func discarded(w *world) {
	n2 := w.node("2")
	if len(n2.aside()) > 0 {
		must(w.t, discardOnce(w))
	}
	w.node("1").write(diskDS, 1, 1)
	w.run(job)
	w.same("2")
	if d := n2.dataset(diskDS); n2.points(diskDS) != 1 || holds(d) != 0 || len(n2.aside()) != 0 {
		w.t.Errorf("%d points, %d holds, %d copies", n2.points(diskDS), holds(d), len(n2.aside()))
	}
}

// A replica from which something was set aside is not destroyed with its job.
func TestDiscard_RemovedJobLeavesWhatDependsOnTheReplica(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.diverge(50)
	w.change(func(s *ledger.State) {
		j := s.Jobs[job]
		j.Removing = true
		s.Jobs = map[guest.JobID]guest.Job{job: j}
	})
	r, err := w.node("1").source.Remove(t.Context(), replicate.Task{Job: job})
	must(t, err)
	if len(r.Left) != 1 || !strings.Contains(r.Left[0], diskDS) || !strings.Contains(r.Left[0], "diverged") {
		t.Errorf("left: %q", r.Left)
	}
	equal(t, w.node("2").aside()[0].Props[zfs.PropRole], zfs.RoleDiverged)
}
