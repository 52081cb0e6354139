package replicate_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/move/retire"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// give does to the ledger what an owner change does: another owner, the next term, what it begins from, the job turned.
func (w *world) give(to, how string, from promote.Held) {
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		begun := &guest.Beginning{How: how, From: g.Owner, Term: g.Term, Point: from.Name, GUIDs: maps.Clone(from.GUIDs)}
		jobs := maps.Clone(s.Jobs)
		for k, j := range jobs {
			if j.Target == id(to) {
				j.Target = g.Owner
				jobs[k] = j
			}
		}
		g.Owner, g.Term.N, g.Beginning = id(to), g.Term.N+1, begun
		s.Jobs, s.Guests = jobs, map[guest.ID]guest.Guest{100: g}
	})
}

func (w *world) guest() guest.Guest { return w.View().Guests[100] }

// held are the points that a node can offer.
func (w *world) held(node string) []promote.Held {
	w.t.Helper()
	list, err := w.node(node).promoter.Points(w.t.Context(), "c1", w.guest())
	must(w.t, err)
	return list
}

func (w *world) promoted(node string) promote.Outcome {
	w.t.Helper()
	out, err := w.node(node).promoter.Promote(w.t.Context(), "c1", w.guest())
	if err != nil {
		w.t.Fatalf("promote on n%s: %v (hint: %s)", node, err, replicate.HintOf(err))
	}
	return out
}

func (w *world) retired(node string) retire.Retired {
	w.t.Helper()
	out, err := w.node(node).retirer.Retire(w.t.Context(), w.View(), w.guest())
	if err != nil {
		w.t.Fatalf("retire on n%s: %v (hint: %s)", node, err, replicate.HintOf(err))
	}
	return out
}

// migrate moves the guest as a migration does, without the guest.
func (w *world) migrate(j guest.JobID, to string) {
	w.t.Helper()
	from := strings.TrimPrefix(string(w.owner().name), "n")
	w.run(j)
	w.owner().write(rootDS, 40, 1) // Until it is sealed the guest runs.
	must(w.t, w.owner().retirer.Seal(w.t.Context(), "c1", w.guest()))
	r := w.run(j)
	point := w.held(from)[0]
	equal(w.t, []any{point.Name, len(point.Newer), len(point.GUIDs)}, []any{r.Point, 0, 2})
	w.give(to, guest.ByMigration, point)
	w.promoted(to)
	for _, v := range w.retired(from).Volumes {
		equal(w.t, v.State, retire.Replica)
	}
}

// owned wants a node to have the guest's volumes as its owner, and every other node as replicas or not at all.
func (w *world) owned(by string) {
	w.t.Helper()
	for _, n := range w.nodes {
		for _, name := range []string{diskDS, rootDS} {
			d := n.dataset(name)
			switch {
			case n.id == id(by):
				equal(w.t, []any{d.Props[zfs.PropRole], d.Props[zfs.PropTerm], d.ReadOnly}, []any{zfs.RoleOwner, w.guest().Term.String(), false})
			case d.Exists():
				equal(w.t, []any{d.Props[zfs.PropRole], d.ReadOnly, d.Mounted}, []any{zfs.RoleReplica, true, false})
			}
		}
	}
	w.ready(by)
}

// ready wants a node to have the guest's volumes as its owner.
func (w *world) ready(by string) {
	w.t.Helper()
	ready, err := w.node(by).promoter.Ready(w.t.Context(), "c1", w.guest())
	must(w.t, err)
	equal(w.t, ready, true)
}

// pair is a guest on n1 with jobs to n2 and n3.
func pair(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	secondJob(w)
	must(t, syncBoth(w))
	w.node("1").write(diskDS, 100, 30)
	w.node("1").write(rootDS, 4, 4)
	return w
}

func TestOwner_MigrationThereAndBackGoesOnByIncrements(t *testing.T) {
	w := pair(t)
	for i, to := range []string{"2", "1", "2", "1"} {
		w.migrate(job, to)
		w.owned(to)
		w.owner().write(diskDS, int64(10*i), 3)
		w.owner().write(rootDS, int64(i), 1)
		cheap(t, w.run(job))
		cheap(t, w.run(second))
		for _, n := range []string{"1", "2", "3"} {
			if n != to {
				w.same(n)
			}
			equal(t, len(w.node(n).aside()), 0)
		}
	}
	// Nothing is left behind: what the moves needed goes with the next syncs.
	w.owner().write(diskDS, 0, 1)
	w.run(job)
	w.run(second)
	w.pass(16 * time.Minute)
	w.run(job)
	w.run(second)
	for _, n := range []string{"1", "2", "3"} {
		for _, d := range []string{diskDS, rootDS} {
			equal(t, w.node(n).points(d), 1)
			equal(t, []any{holds(w.node(n).dataset(d)), w.node(n).dataset(d).Origin}, []any{uint64(0), ""})
		}
	}
}

func TestOwner_RecoveryWhereTheFormerOwnerHadWrittenMore(t *testing.T) {
	w := pair(t)
	n1 := w.node("1")
	w.run(job)
	lost := n1.content(t, diskDS) // Until now all was sent.
	n1.write(diskDS, 60, 10)
	n1.write(rootDS, 30, 2)
	wrote := []([]byte){n1.content(t, diskDS), n1.content(t, rootDS)}
	w.give("2", guest.ByRecovery, w.held("2")[0])

	// n1 is still away: what it has is not touched, and the others go on.
	w.fails(replicate.ClassBusy, "not made the owner's yet")
	out := w.promoted("2")
	equal(t, len(out.Aside), 0)
	equal(t, bytes.Equal(w.node("2").content(t, diskDS), lost), true)
	w.node("2").write(diskDS, 5, 2)
	w.fails(replicate.ClassBusy, "still has tank/g/vm-100-disk-0 as the owner's volume")
	cheap(t, w.run(second))
	w.same("3")

	// It comes back, and is a replica again by increments. What it had written can be read.
	r := w.retired("1")
	equal(t, []retire.State{r.Volumes[0].State, r.Volumes[1].State}, []retire.State{retire.Aside, retire.Aside})
	cheap(t, w.run(job))
	w.same("1")
	w.owned("2")
	w.keeps("1", map[guest.Volume][]byte{disk: wrote[0], root: wrote[1]})
	equal(t, len(w.retired("1").Volumes), 0)
	// And the guest can go back there, where it was.
	w.node("2").write(diskDS, 7, 2)
	w.migrate(job, "1")
	w.owned("1")
	n1.write(diskDS, 8, 2)
	cheap(t, w.run(job))
	cheap(t, w.run(second))
	w.same("2")
	w.same("3")
	w.keeps("1", map[guest.Volume][]byte{disk: wrote[0], root: wrote[1]})
}

func TestOwner_ATargetThatIsAheadOfTheNewOwner(t *testing.T) {
	w := pair(t)
	n1, n3 := w.node("1"), w.node("3")
	w.run(second) // n3 has a newer point than n2.
	ahead := n3.content(t, diskDS)
	n1.write(diskDS, 60, 10)
	points := w.held("3")
	w.give("2", guest.ByRecovery, w.held("2")[0])
	equal(t, []any{w.held("3")[0].Name, w.held("3")[0].Diverged}, []any{points[0].Name, true})
	w.promoted("2")
	w.node("2").write(diskDS, 5, 2)
	cheap(t, w.run(second))
	w.same("3")
	w.keeps("3", map[guest.Volume][]byte{disk: ahead})
	equal(t, w.held("3")[0].Diverged, false)
	w.retired("1")
	cheap(t, w.run(job))
	w.same("1")
	w.owned("2")
}

func TestOwner_RecoveryOfTheTargetThatIsAhead(t *testing.T) {
	w := pair(t)
	w.run(second)
	want := w.node("3").content(t, diskDS)
	w.give("3", guest.ByRecovery, w.held("3")[0])
	equal(t, len(w.promoted("3").Aside), 0)
	equal(t, bytes.Equal(w.node("3").content(t, diskDS), want), true)
	w.node("3").write(diskDS, 5, 2)
	cheap(t, w.run(job)) // n3 to n2
	w.same("2")
	w.retired("1")
	cheap(t, w.run(second))
	w.same("1")
	w.owned("3")
}

// The owner dies in the middle of a sync: one volume has arrived, of the other a part.
func TestOwner_VolumesAtDifferentSnapshots(t *testing.T) {
	w := pair(t)
	n2 := w.node("2")
	before := map[string][]byte{diskDS: n2.content(t, diskDS), rootDS: n2.content(t, rootDS)}
	var died atomic.Bool // Two volumes are sent at the same time.
	w.mu.Lock()
	w.node("1").trap = func(what string) error {
		if what == "call "+replicate.PathCommit {
			died.Store(true)
		}
		if died.Load() {
			return errKilled
		}
		return nil
	}
	w.mu.Unlock()
	w.fails(replicate.ClassRetry, "killed")
	arrived := n2.content(t, diskDS)
	equal(t, bytes.Equal(arrived, before[diskDS]), false)
	must(t, n2.pool.Rollback(rootDS+"@"+w.held("2")[0].Name)) // Only the disk's arrived.
	w.give("2", guest.ByRecovery, w.held("2")[0])
	equal(t, len(w.promoted("2").Aside), 1)
	for d, want := range before {
		equal(t, bytes.Equal(n2.content(t, d), want), true)
	}
	w.keeps("2", map[guest.Volume][]byte{disk: arrived})
	w.node("1").restart()
	w.retired("1")
	cheap(t, w.run(job))
	w.same("1")
	w.owned("2")
}

// Two owner changes while the first owner was away: it does not have the point from which the present one began.
func TestOwner_AFormerOwnerThatMissedAChange(t *testing.T) {
	w := pair(t)
	w.run(job)
	n1 := w.node("1")
	n1.write(diskDS, 60, 20)
	wrote := n1.content(t, diskDS)
	w.give("2", guest.ByRecovery, w.held("2")[0])
	w.promoted("2")
	w.node("2").write(diskDS, 5, 2)
	w.run(second)
	w.give("3", guest.ByRecovery, w.held("3")[0])
	w.promoted("3")
	w.node("3").write(diskDS, 9, 2)
	w.turn(second, "1")
	out := w.retired("1")
	equal(t, len(out.Warnings) > 0, true)
	w.run(second)
	w.same("1")
	w.keeps("1", map[guest.Volume][]byte{disk: wrote})
}

func TestOwner_NothingIsTakenFromAFormerOwner(t *testing.T) {
	w := pair(t)
	stale := *w.View()
	n1, n3 := w.node("1"), w.node("3")
	w.give("2", guest.ByRecovery, w.held("2")[0])
	before := n3.dataset(diskDS)
	// n1 has not heard of it.
	n1.ledger = fixed{stale}
	n1.restart()
	_, err := n1.source.Run(t.Context(), replicate.Task{Job: second})
	if replicate.ClassOf(err) != replicate.ClassNever || !strings.Contains(err.Error(), "does not own it") {
		t.Errorf("got %v", err)
	}
	equal(t, n3.dataset(diskDS), before)
}

// A request that was admitted while its sender was the owner finds out when it has the lock that it is none any more.
func TestOwner_ARequestThatWaitedForTheLockIsTooLate(t *testing.T) {
	w := pair(t)
	n2 := w.node("2")
	held := w.held("2")[0]
	req := replicate.Request{Version: replicate.WireVersion, Job: job, Term: term}
	release, err := n2.options.LockGuest(t.Context(), w.guest())
	must(t, err)
	done := make(chan error)
	go func() {
		v := replicate.RemoveRequest{Request: req}
		_, err := n2.target.Abort(context.Background(), id("1"), replicate.AbortRequest{Request: v.Request, Volume: disk, Token: "1-a"})
		done <- err
	}()
	for len(n2.options.Locks.Turn("volume-local-zfs.vm-100-disk-0")) == 0 {
		time.Sleep(time.Millisecond)
	}
	w.give("2", guest.ByRecovery, held)
	release()
	if err := <-done; replicate.ClassOf(err) != replicate.ClassNever {
		t.Errorf("got %v", err)
	}
}

func TestOwner_WithoutAJobAKeptCopyStays(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1 := w.node("1")
	must(t, n1.retirer.Seal(t.Context(), "c1", w.guest()))
	w.run(job)
	w.give("2", guest.ByMigration, w.held("1")[0])
	turned := w.View().Jobs
	w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{} })
	w.promoted("2")
	for _, v := range w.retired("1").Volumes {
		equal(t, v.State, retire.Kept)
	}
	list, err := n1.target.Replicas(t.Context())
	must(t, err)
	equal(t, []bool{len(list) == 1, list[0].Kept, list[0].Point != nil}, []bool{true, true, true})

	// A job to it goes on from it.
	w.change(func(s *ledger.State) { s.Jobs = turned })
	w.node("2").write(diskDS, 5, 2)
	cheap(t, w.run(job))
	w.same("1")
	list, err = n1.target.Replicas(t.Context())
	must(t, err)
	equal(t, list[0].Kept, false)
}

// A kept copy goes by its owner's word, and what the owner does not have stays.
func TestOwner_RemovesAKeptCopyThatItHasItself(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n1.snap(diskDS + "@weekly") // An operator's, which travels.
	w.run(job)
	must(t, n1.retirer.Seal(t.Context(), "c1", w.guest()))
	w.run(job)
	w.give("2", guest.ByMigration, w.held("1")[0])
	turned := w.View().Jobs
	if _, err := n2.source.RemoveCopy(t.Context(), 100, id("1")); err == nil {
		t.Error("a copy to which a job points was removed")
	}
	w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{} })
	if _, err := n2.source.RemoveCopy(t.Context(), 100, id("1")); replicate.ClassOf(err) != replicate.ClassBusy {
		t.Errorf("before the new owner has its volumes: %v", err)
	}
	w.promoted("2")
	w.retired("1")
	if _, err := n1.source.RemoveCopy(t.Context(), 100, id("2")); err == nil {
		t.Error("another than the owner has removed a copy")
	}
	n1.snap(diskDS + "@mine") // Made there later, and nowhere else.
	out, err := n2.source.RemoveCopy(t.Context(), 100, id("1"))
	must(t, err)
	equal(t, []any{out.Destroyed, len(out.Left), strings.Contains(strings.Join(out.Left, ""), "mine")}, []any{[]string{rootDS}, 1, true})
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"mine"}))
	out, err = n2.source.RemoveCopy(t.Context(), 100, id("1"))
	must(t, err)
	equal(t, []any{out.Destroyed, n1.dataset(diskDS).Exists(), n2.operators(diskDS)}, []any{[]string{diskDS}, false, []string{"weekly"}})

	// A job to it begins anew.
	w.change(func(s *ledger.State) { s.Jobs = turned })
	w.run(job)
	w.same("1")
}

// What a former owner took as points, and nobody else has, is not a replica's to destroy.
func TestOwner_PointsThatNobodyElseHasAreNotDestroyedWithTheReplica(t *testing.T) {
	w := pair(t)
	n1 := w.node("1")
	w.run(job)
	handed := n1.dataset(diskDS).Snapshots
	n1.write(diskDS, 60, 20)
	must(t, n1.retirer.Seal(t.Context(), "c1", w.guest()))
	w.node("2").pool.Inject(zfstest.Fault{Op: "Receive", Err: errors.New("lost")})
	w.node("3").pool.Inject(zfstest.Fault{Op: "Receive", Err: errors.New("lost")})
	if err := w.try(job); err == nil { // It takes a point, which does not arrive.
		t.Fatal("it arrived")
	}
	w.node("2").pool.Heal()
	wrote := n1.content(t, diskDS)
	lost := w.held("2")[0]
	lost.GUIDs = maps.Clone(lost.GUIDs)
	lost.GUIDs[disk]++ // n1 does not have it, and cannot tell what has diverged.
	w.give("2", guest.ByRecovery, lost)
	w.retired("1")
	equal(t, len(n1.dataset(diskDS).Snapshots), len(handed)+1)
	g := w.guest()
	remove(w, job, false)
	reply, err := n1.target.Remove(t.Context(), g.Owner, replicate.RemoveRequest{Request: replicate.Request{
		Version: replicate.WireVersion, Job: job, Term: g.Term,
	}})
	must(t, err)
	if !strings.Contains(strings.Join(reply.Left, " "), diskDS) {
		t.Errorf("left: %q, destroyed: %q", reply.Left, reply.Destroyed)
	}
	equal(t, bytes.Equal(n1.content(t, diskDS), wrote), true)
}

// turn points a job elsewhere.
func (w *world) turn(j guest.JobID, to string) {
	w.change(func(s *ledger.State) {
		jobs := maps.Clone(s.Jobs)
		x := jobs[j]
		x.Target = id(to)
		jobs[j] = x
		s.Jobs = jobs
	})
}

func (n *node) content(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := n.pool.Read(name)
	must(tb, err)
	return b
}

// keeps wants a node to have this among what was set aside.
func (w *world) keeps(node string, want map[guest.Volume][]byte) {
	w.t.Helper()
	n := w.node(node)
	all, err := n.keeper.All(w.t.Context(), "c1")
	must(w.t, err)
	for v, data := range want {
		if !slices.ContainsFunc(all, func(c aside.Copy) bool { return c.Volume == v && bytes.Equal(n.content(w.t, c.Data.Name), data) }) {
			w.t.Errorf("what %s had on n%s is not kept", v, node)
		}
	}
}

// fixed is a ledger that hears of nothing.
type fixed struct{ state ledger.State }

func (f fixed) View() *ledger.State                     { return &f.state }
func (fixed) WaitApplied(context.Context, uint64) error { return nil }

// recovering leaves a guest that the ledger has just given to n2. n1, which had it, wrote more; n3 is ahead of n2.
func recovering(w *world) {
	secondJob(w)
	must(w.t, syncBoth(w))
	n1 := w.node("1")
	n1.write(diskDS, 100, 30)
	w.run(second)
	n1.write(diskDS, 60, 10)
	n1.write(rootDS, 30, 2)
	n1.pool.Sync()
	w.lost = n1.content(w.t, diskDS)
	w.give("2", guest.ByRecovery, w.held("2")[0])
	w.pass(time.Minute)
}

// migrating is the same after a migration.
func migrating(w *world) {
	secondJob(w)
	must(w.t, syncBoth(w))
	n1 := w.node("1")
	n1.write(diskDS, 100, 30)
	must(w.t, n1.retirer.Seal(w.t.Context(), "c1", w.guest()))
	w.run(job)
	w.lost = n1.content(w.t, diskDS)
	w.give("2", guest.ByMigration, w.held("1")[0])
	w.pass(time.Minute)
}

// changeOwner does what nodes do that learn of an owner change, and syncs.
func changeOwner(w *world) error {
	_, err := w.node("2").promoter.Promote(w.t.Context(), "c1", w.guest())
	_, failed := w.node("1").retirer.Retire(w.t.Context(), w.View(), w.guest())
	_, one := w.owner().source.Run(w.t.Context(), replicate.Task{Job: job})
	_, two := w.owner().source.Run(w.t.Context(), replicate.Task{Job: second})
	return errors.Join(err, failed, one, two)
}

// changedOwner wants the same to end well: n2 goes on from the point, and what others had is kept.
func changedOwner(copies int) func(*world) {
	return func(w *world) {
		t, n2 := w.t, w.node("2")
		w.promoted("2")
		w.retired("1")
		w.ready("2") // What n3 was about to set aside may still be in its place.
		equal(t, len(n2.aside()), 0)
		n2.write(diskDS, 5, 2)
		for n, j := range map[string]guest.JobID{"1": job, "3": second} {
			if r := w.run(j); r.Kind != replicate.KindResumed || r.Bytes > diskSize/3 {
				cheap(t, r)
			}
			w.same(n)
		}
		w.owned("2")
		equal(t, len(w.node("1").aside()), copies)
		if copies > 0 {
			w.keeps("1", map[guest.Volume][]byte{disk: w.lost})
		} else {
			equal(t, bytes.Equal(n2.content(t, diskDS)[30*4096:], w.lost[30*4096:]), true)
		}
		w.migrate(job, "1")
		w.owned("1")
		w.node("1").write(diskDS, 7, 2)
		for n, j := range map[string]guest.JobID{"2": job, "3": second} {
			cheap(t, w.run(j))
			w.same(n)
		}
	}
}
