package replicate_test

import (
	"errors"
	"slices"
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

// scenario is something that machines are ended in the middle of.
type scenario struct {
	name string
	// targets besides n2.
	more []string
	// before brings the world to where it begins.
	before func(w *world)
	// act is what is interrupted. Its error is nil where nothing interrupts it.
	act func(w *world) error
	// after wants what was to come of it; nil: the jobs sync on, and nothing is left behind.
	after func(w *world)
	// operators' snapshots of the disk that the targets have in the end.
	operators []string
	// stale: the target's partial receive is of no use.
	stale bool
}

var second = guest.JobID{Guest: 100, Number: 1}

func scenarios() []scenario {
	return []scenario{
		{name: "first sync", act: syncOnce, operators: []string{"early"}},
		{name: "increment", before: increment, act: syncOnce, operators: []string{"early", "late"}},
		{name: "increment with the old point still there", before: minutely, act: syncOnce, operators: []string{"early", "late"}},
		{name: "nothing", before: func(w *world) { w.run(job) }, act: syncOnce, operators: []string{"early"}},
		{name: "resumed first sync", before: cutBoth, act: syncOnce, operators: []string{"early"}},
		{name: "resumed increment", before: func(w *world) { increment(w); cutBoth(w) }, act: syncOnce, operators: []string{"early", "late"}},
		{name: "first sync whose receives were killed", before: killBoth, act: syncOnce, operators: []string{"early"}},
		{name: "stale token", before: staleToken, act: syncOnce, operators: []string{"early"}, stale: true},
		{name: "commit of what arrived", before: uncommitted, act: syncOnce, operators: []string{"early", "late"}},
		{name: "clean of many points", before: manyPoints, act: syncOnce, operators: []string{"early", "late"}},
		{name: "operators' snapshots go", before: operatorsGo, act: syncOnce, operators: []string{"early", "c"}},
		{name: "diverged replica", before: diverge(false), act: syncOnce, after: setAside(false)},
		{name: "diverged replica without a base", before: diverge(true), act: syncOnce, after: setAside(true)},
		{name: "copy of what diverged is discarded", before: setOneAside, act: discardOnce, after: discarded},
		{name: "copy of what diverged is restored", before: setOneAside, act: restoreOnce, after: restored},
		{name: "copy of what diverged is restored, and refused", before: setOneAside, act: unrestoreOnce, after: restored},
		{name: "what is left of a forced removal", before: forcedOut, act: findOnce, after: nothingLeft},
		{name: "verification", before: verifiable, act: verifyOnce, after: sweptAway},
		{name: "base of a target that was away for long", before: longAway, act: syncOnce, after: back},
		{name: "first sync to two targets", more: []string{"3"}, before: secondJob, act: syncBoth, operators: []string{"early"}},
		{
			name: "increment to two targets", more: []string{"3"}, act: syncBoth, operators: []string{"early", "late"},
			before: func(w *world) { secondJob(w); must(w.t, syncBoth(w)); change(w) },
		},
		{
			name: "target that was away", more: []string{"3"}, act: syncBoth, operators: []string{"early", "late"},
			before: func(w *world) {
				secondJob(w)
				must(w.t, syncBoth(w))
				change(w)
				w.run(job)
				w.node("1").write(rootDS, 40, 3)
			},
		},
		{name: "job removed", before: func(w *world) { increment(w); remove(w, job, false) }, act: removeOnce(job), after: removed},
		{name: "job removed, replica kept", before: func(w *world) { increment(w); remove(w, job, true) }, act: removeOnce(job), after: kept},
		{
			name: "job removed after a cut first sync", act: removeOnce(job), after: removed,
			before: func(w *world) { cutBoth(w); remove(w, job, false) },
		},
		{
			name: "job removed after a killed first sync", act: removeOnce(job), after: removed,
			before: func(w *world) { killBoth(w); remove(w, job, false) },
		},
		{
			name: "one of two jobs removed", more: []string{"3"}, act: removeOnce(second), operators: []string{"early", "late"},
			before: func(w *world) { secondJob(w); must(w.t, syncBoth(w)); change(w); remove(w, second, false) },
			after:  removedSecond,
		},
		{name: "another owner, and the former had written more", more: []string{"3"}, before: recovering, act: changeOwner, after: changedOwner(2)},
		{name: "another owner by a migration", more: []string{"3"}, before: migrating, act: changeOwner, after: changedOwner(0)},
	}
}

func (s scenario) world(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.streams = 1 // One volume after another: the moments are the same each time.
	for _, n := range w.nodes {
		n.restart()
	}
	w.node("1").snap(diskDS + "@early")
	if s.before != nil {
		s.before(w)
	}
	return w
}

// victims are who can be ended: each machine that takes part, and all of them together.
func (s scenario) victims() [][]string {
	all := append([]string{"1", "2"}, s.more...)
	out := [][]string{all}
	for _, n := range all {
		out = append(out, []string{n})
	}
	return out
}

func syncOnce(w *world) error { return w.try(job) }

func syncBoth(w *world) error { return errors.Join(w.try(job), w.try(second)) }

func (w *world) try(j guest.JobID) error {
	_, err := w.node("1").source.Run(w.t.Context(), replicate.Task{Job: j})
	return err
}

// change is what a guest and an operator do between two syncs.
func change(w *world) {
	n1 := w.node("1")
	n1.write(diskDS, 200, 64)
	n1.snap(diskDS + "@late")
	n1.write(rootDS, 30, 4)
}

func increment(w *world) {
	w.run(job)
	change(w)
}

// minutely leaves an old point for the next sync's snapshot to destroy.
func minutely(w *world) {
	w.change(func(s *ledger.State) {
		j := s.Jobs[job]
		j.Schedule = "*/1"
		s.Jobs = map[guest.JobID]guest.Job{job: j}
	})
	w.run(job)
	w.node("1").write(diskDS, 100, 2)
	w.run(job)
	equal(w.t, w.node("1").points(diskDS), 2)
	change(w)
}

// cutBoth has a sync fail in the middle of both volumes.
func cutBoth(w *world) {
	for _, v := range []string{"disk-0", "root"} {
		w.node("2").pool.Inject(zfstest.Fault{Op: "Receive", Name: v, Times: 1, Cut: 2 * 4200})
	}
	if err := w.try(job); err == nil {
		w.t.Fatal("the sync was not cut")
	}
}

// killBoth has a first sync in which the receiving processes are killed in the middle of both volumes: the replicas then carry
// their marks, and no snapshot.
func killBoth(w *world) {
	n2, got := w.node("2"), map[string]int{}
	var mu sync.Mutex // Two volumes are received at the same time.
	w.mu.Lock()
	n2.reap = func(what string) error {
		mu.Lock()
		defer mu.Unlock()
		volume, ok := strings.CutPrefix(what, "got ")
		if got[volume]++; !ok || got[volume] < 2 {
			return nil
		}
		n2.pool.Kill()
		return errKilled
	}
	w.mu.Unlock()
	err := w.try(job)
	w.mu.Lock()
	n2.reap = nil
	w.mu.Unlock()
	if err == nil {
		w.t.Fatal("no receive was killed")
	}
	n2.restart()
	for _, d := range []string{diskDS, rootDS} {
		x := n2.dataset(d)
		if x.Props[zfs.PropRole] != zfs.RoleReplica || len(x.Snapshots) > 0 || x.ResumeToken == "" {
			w.t.Fatalf("%s is not what a killed receive leaves: %+v", d, x)
		}
	}
}

// staleToken leaves a partial receive of a snapshot that is gone.
func staleToken(w *world) {
	n1 := w.node("1")
	w.run(job)
	n1.write(diskDS, 200, 64)
	n1.write(rootDS, 30, 4)
	cutBoth(w)
	for _, d := range []string{diskDS, rootDS} {
		snaps := n1.dataset(d).Snapshots
		must(w.t, n1.pool.DestroySnapshots(w.t.Context(), d, []string{snaps[len(snaps)-1].Name}))
	}
}

// uncommitted leaves a point that arrived and was not marked.
func uncommitted(w *world) {
	increment(w)
	w.node("2").pool.Inject(zfstest.Fault{Op: "Change", Times: 1, Err: errors.New("lost")})
	if err := w.try(job); err == nil {
		w.t.Fatal("the commit did not fail")
	}
}

// manyPoints leaves points that could not be cleaned on either side: they were held.
func manyPoints(w *world) {
	held := map[string][]string{}
	for range 3 {
		w.node("1").write(diskDS, 100, 2)
		w.node("1").write(rootDS, 20, 2)
		point := w.run(job).Point
		for _, n := range []string{"1", "2"} {
			held[n] = append(held[n], diskDS+"@"+point, rootDS+"@"+point)
			must(w.t, w.node(n).pool.Hold(w.t.Context(), "operator", diskDS+"@"+point, rootDS+"@"+point))
		}
	}
	for n, snaps := range held {
		must(w.t, w.node(n).pool.Release(w.t.Context(), "operator", snaps...))
	}
	change(w)
}

// operatorsGo leaves copies of snapshots that an operator has destroyed since.
func operatorsGo(w *world) {
	n1 := w.node("1")
	for _, s := range []string{"a", "b", "c"} {
		n1.snap(diskDS + "@" + s)
		n1.write(diskDS, 7, 1)
	}
	w.run(job)
	must(w.t, n1.pool.DestroySnapshots(w.t.Context(), diskDS, []string{"a", "b"}))
	n1.write(rootDS, 2, 1)
}

func secondJob(w *world) {
	w.change(func(s *ledger.State) {
		s.Jobs = map[guest.JobID]guest.Job{job: s.Jobs[job], second: {ID: second, Target: id("3"), Schedule: "*/1", Snapshots: guest.Mirror}}
	})
}

func remove(w *world, j guest.JobID, keep bool) {
	w.change(func(s *ledger.State) {
		jobs := map[guest.JobID]guest.Job{}
		for k, v := range s.Jobs {
			if k == j {
				v.Removing, v.KeepReplica = true, keep
			}
			jobs[k] = v
		}
		s.Jobs = jobs
	})
}

func removeOnce(j guest.JobID) func(*world) error {
	return func(w *world) error {
		_, err := w.node("1").source.Remove(w.t.Context(), replicate.Task{Job: j})
		return err
	}
}

// converge wants the next runs to make everything good.
func (s scenario) converge(w *world) {
	if s.after != nil {
		s.after(w)
		return
	}
	jobs := map[string]guest.JobID{"2": job}
	if len(s.more) > 0 {
		jobs["3"] = second
	}
	for _, n := range []string{"2", "3"} {
		if j, ok := jobs[n]; ok {
			w.goesOn(j, n, s.stale)
		}
	}
	w.node("1").write(diskDS, 300, 1)
	for n, j := range jobs {
		last := w.run(j)
		w.same(n)
		equal(w.t, w.newest(n), last.Point)
	}
	// What the other targets no longer need goes with the runs after, and what was left
	// for a run's snapshot with one that takes none.
	w.pass(16 * time.Minute)
	for n, j := range jobs {
		w.run(j)
		equal(w.t, w.node(n).operators(diskDS), s.operators)
	}
	for _, n := range append([]string{"1", "2"}, s.more...) {
		w.tidy(n)
	}
	if s.operators[0] == "early" {
		w.forgets(jobs)
	}
}

// goesOn wants the next run of a job to bring what is missing, and no more.
func (w *world) goesOn(j guest.JobID, target string, stale bool) { //nolint:revive // flag-parameter: stale is a property of the scenario
	w.t.Helper()
	n := w.node(target)
	names := map[guest.Volume]string{disk: diskDS, root: rootDS}
	before := map[guest.Volume]zfs.Dataset{}
	for v, name := range names {
		before[v] = n.dataset(name)
	}
	r := w.run(j)
	w.same(target)
	for _, v := range r.Volumes {
		had, has := before[v.Volume], n.dataset(names[v.Volume])
		if (len(had.Snapshots) > 0 || had.ResumeToken != "") && v.Kind == replicate.KindFull {
			w.t.Errorf("%s was sent whole again", v.Volume)
		}
		if had.ResumeToken != "" && v.Kind != replicate.KindResumed && !stale {
			w.t.Errorf("%s: the partial receive of %d bytes was not gone on with: %s", v.Volume, had.Used, v.Kind)
		}
		// What was destroyed since is not in has.Used, and nothing of it had to be sent.
		missing := has.Used - min(has.Used, had.Used)
		if len(had.Snapshots) <= len(has.Snapshots) && v.Bytes > missing+missing/8+32<<10 {
			w.t.Errorf("%s: %d bytes were sent, %d were missing", v.Volume, v.Bytes, missing)
		}
	}
}

// newest is the newest complete point of a target, as it says itself.
func (w *world) newest(target string) string {
	w.t.Helper()
	list, err := w.node(target).target.Replicas(w.t.Context())
	must(w.t, err)
	if len(list) != 1 || list[0].Point == nil {
		w.t.Fatalf("n%s has replicas %+v", target, list)
	}
	return list[0].Point.Name
}

// tidy wants a node to have one point and nothing that a sync uses only while it runs.
func (w *world) tidy(node string) {
	w.t.Helper()
	n := w.node(node)
	for _, d := range []string{diskDS, rootDS} {
		if got := n.points(d); got != 1 {
			w.t.Errorf("%s has %d points of %s, want 1", n.name, got, d)
		}
	}
	w.clean(node, diskDS, rootDS)
}

// clean wants a node to have these datasets and no others, without partial receives, holds and bookmarks.
func (w *world) clean(node string, want ...string) {
	w.t.Helper()
	w.bare(node, want...)
	if b := w.node(node).files.m["arrivals-100"]; strings.Contains(string(b), "begun") {
		w.t.Errorf("n%s: it remembers receives that ended: %s", node, b)
	}
}

// bare is clean but for the daemon's files.
func (w *world) bare(node string, want ...string) {
	w.t.Helper()
	n := w.node(node)
	var got []string
	for _, parent := range []string{"tank", "tank/g"} {
		list, err := n.pool.Children(w.t.Context(), parent)
		must(w.t, err)
		for _, d := range list {
			got = append(got, d.Name)
		}
	}
	equal(w.t, got, append([]string{"tank/g"}, slices.Sorted(slices.Values(want))...))
	for _, name := range want {
		d := n.dataset(name)
		if d.ResumeToken != "" || len(d.Bookmarks) > 0 || d.Origin != "" {
			w.t.Errorf("%s: %s has a token %q, bookmarks %v, origin %q", n.name, name, d.ResumeToken, d.Bookmarks, d.Origin)
		}
		for _, s := range d.Snapshots {
			if s.UserRefs > 0 {
				w.t.Errorf("%s: %s@%s is held", n.name, name, s.Name)
			}
		}
	}
}

// forgets wants copies of operators' snapshots to be known as such: they go when they go at the source.
func (w *world) forgets(jobs map[string]guest.JobID) {
	w.t.Helper()
	had := w.node("1").operators(diskDS)
	if len(had) < 2 {
		return // More than half at once are not removed.
	}
	must(w.t, w.node("1").pool.DestroySnapshots(w.t.Context(), diskDS, []string{"early"}))
	for n, j := range jobs {
		w.run(j)
		equal(w.t, w.node(n).operators(diskDS), had[1:])
	}
}

// removed wants the second try to leave nothing of the job.
func removed(w *world) {
	must(w.t, removeOnce(job)(w))
	w.clean("2")
	equal(w.t, w.node("1").points(diskDS)+w.node("1").points(rootDS), 0)
	w.clean("1", diskDS, rootDS)
}

func kept(w *world) {
	must(w.t, removeOnce(job)(w))
	w.clean("2", diskDS, rootDS)
	n1 := w.node("1")
	equal(w.t, w.node("2").operators(diskDS), []string{"early"})
	equal(w.t, []int{n1.points(diskDS), n1.points(rootDS), n1.bookmarks(diskDS), n1.bookmarks(rootDS)}, []int{0, 0, 1, 1})
	// A job that is made later goes on from the bookmarks.
	w.change(func(s *ledger.State) {
		j := s.Jobs[job]
		j.Removing, j.KeepReplica = false, false
		s.Jobs = map[guest.JobID]guest.Job{job: j}
	})
	n1.write(diskDS, 11, 1)
	cheap(w.t, w.run(job))
	w.same("2")
	w.tidy("1")
	w.tidy("2")
}

func removedSecond(w *world) {
	must(w.t, removeOnce(second)(w))
	w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{job: s.Jobs[job]} })
	w.clean("3")
	w.goesOn(job, "2", false)
	w.run(job)
	w.tidy("1")
	w.tidy("2")
}
