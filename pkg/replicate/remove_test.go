package replicate_test

import (
	"bytes"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// removed has the owner end a job that is marked, and the job dropped as its daemon does then.
func (w *world) removed(j guest.JobID) replicate.RemoveResult {
	w.t.Helper()
	out, err := w.owner().source.Remove(w.t.Context(), replicate.Task{Job: j})
	if err != nil {
		w.t.Fatalf("remove job %s: %v (hint: %s)", j, err, replicate.HintOf(err))
	}
	w.change(func(s *ledger.State) { s.Jobs = without(s.Jobs, j) })
	return out
}

func without(jobs map[guest.JobID]guest.Job, j guest.JobID) map[guest.JobID]guest.Job {
	out := map[guest.JobID]guest.Job{}
	for k, v := range jobs {
		if k != j {
			out[k] = v
		}
	}
	return out
}

// stays wants all that a node has to be left, with a text.
func (w *world) stays(out replicate.RemoveResult, text string) {
	w.t.Helper()
	left := strings.Join(out.Left, "\n")
	if len(out.Destroyed) > 0 || !strings.Contains(left, diskDS) || !strings.Contains(left, rootDS) || !strings.Contains(left, text) {
		w.t.Errorf("destroyed %q, left %q, want both left with a text with %q", out.Destroyed, out.Left, text)
	}
}

// goes wants a node to have nothing any more.
func (w *world) goes(node string, out replicate.RemoveResult) {
	w.t.Helper()
	equal(w.t, []any{out.Destroyed, len(out.Left)}, []any{[]string{diskDS, rootDS}, 0})
	equal(w.t, []bool{w.node(node).dataset(diskDS).Exists(), w.node(node).dataset(rootDS).Exists()}, []bool{false, false})
}

// The target has the newest state that there is, from the owner before; what a sync would set aside no removal destroys.
func TestRemove_ATargetThatIsAheadOfTheNewOwnerStays(t *testing.T) {
	w := pair(t)
	n2, n3 := w.node("2"), w.node("3")
	w.run(second) // n3 has a newer point than n2.
	ahead := map[guest.Volume][]byte{disk: n3.content(t, diskDS), root: n3.content(t, rootDS)}
	before := [][]byte{n3.content(t, diskDS), n3.content(t, rootDS)}
	w.give("2", guest.ByRecovery, w.held("2")[0])
	w.promoted("2")
	jobs := w.View().Jobs
	remove(w, second, false)
	out := w.removed(second)
	w.stays(out, "holds data that the owner does not have")
	equal(t, len(out.Warnings), 2)
	out, err := n2.source.RemoveCopy(t.Context(), 100, id("3"))
	must(t, err)
	w.stays(out, "holds data that the owner does not have")
	equal(t, []bool{bytes.Equal(n3.content(t, diskDS), before[0]), bytes.Equal(n3.content(t, rootDS), before[1])}, []bool{true, true})

	// A job to it sets it aside, and then it can go.
	w.change(func(s *ledger.State) { s.Jobs = jobs })
	n2.write(diskDS, 5, 2)
	cheap(t, w.run(second))
	w.keeps("3", ahead)
	all, err := n3.keeper.All(t.Context(), "c1")
	must(t, err)
	for _, c := range all {
		_, err := n3.keeper.Discard(t.Context(), "c1", c.Data.Name)
		must(t, err)
	}
	remove(w, second, false)
	w.goes("3", w.removed(second))
}

// A part of a receive on top of what stays is not dropped either.
func TestRemove_WhatStaysIsNotTouched(t *testing.T) {
	w := pair(t)
	n3 := w.node("3")
	w.run(second)
	w.node("1").write(diskDS, 100, 64)
	n3.pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 40 * 4096})
	if err := w.try(second); err == nil || n3.dataset(diskDS).ResumeToken == "" {
		t.Fatalf("the sync was not cut: %v", err)
	}
	w.give("2", guest.ByRecovery, w.held("2")[0])
	w.promoted("2")
	before := []any{n3.dataset(diskDS), n3.dataset(rootDS)}
	remove(w, second, false)
	w.removed(second)
	equal(t, []any{n3.dataset(diskDS), n3.dataset(rootDS)}, before)
}

// What the former owner brought goes with the job where the present one has it, or had it.
func TestRemove_ReplicasThatAFormerOwnerBroughtGo(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"the same as the new owner began from": func(w *world) { w.run(job); w.run(second) },
		"behind":                               func(w *world) { w.run(job) },
		"behind, and others are served while it is away": func(w *world) { w.run(job) },
		"away for long": func(w *world) { w.absent(30) },
	} {
		t.Run(name, func(t *testing.T) {
			w := pair(t)
			prepare(w)
			w.give("2", guest.ByRecovery, w.held("2")[0])
			w.promoted("2")
			w.retired("1")
			remove(w, second, false)
			if name != "behind" {
				for i := range 3 {
					w.owner().write(diskDS, int64(i), 2)
					w.run(job)
				}
				w.pass(16 * time.Minute)
				w.run(job)
			}
			w.goes("3", w.removed(second))
			// What it needed goes as well.
			w.owner().write(diskDS, 1, 2)
			w.run(job)
			w.pass(16 * time.Minute)
			w.run(job)
			w.have(1, 0, "1", "2")
		})
	}
}

// A target of the owner before that was deleted when that still was the owner.
func TestRemove_TheJobWasDeletedBeforeTheOwnerChanged(t *testing.T) {
	w := pair(t)
	remove(w, second, false)
	for i := range 3 {
		w.node("1").write(diskDS, int64(i), 2)
		w.run(job)
	}
	w.give("2", guest.ByRecovery, w.held("2")[0])
	w.promoted("2")
	w.goes("3", w.removed(second))
}

// The owner was rolled back past what it had sent: that was its own.
func TestRemove_WhatTheOwnerBroughtItselfGoes(t *testing.T) {
	w := newWorld(t)
	n1 := w.node("1")
	n1.snap(diskDS + "@before")
	w.run(job)
	n1.write(diskDS, 60, 10)
	w.run(job)
	must(t, n1.pool.Rollback(diskDS+"@before"))
	remove(w, job, false)
	w.goes("2", w.removed(job))
}

// A replica of a guest that was removed, whose ID and volumes another has got that was added elsewhere.
func TestRemove_AReplicaOfAFormerGuestStays(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	had := w.node("2").content(t, diskDS)
	n3 := w.node("3")
	must(t, n3.pool.Create(diskDS, 3<<19, nil))
	must(t, n3.pool.Create(rootDS, 0, nil))
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		g.Owner, g.Term.N = id("3"), g.Term.N+1
		s.Guests = map[guest.ID]guest.Guest{100: g}
	})
	remove(w, job, false)
	w.stays(w.removed(job), "holds data that the owner does not have")
	equal(t, bytes.Equal(w.node("2").content(t, diskDS), had), true)
}

// A migration goes to the very node from which the replica would be removed.
func TestRemove_WaitsForAMoveToEnd(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	h := w.handover("2")
	_, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	had := n2.content(t, diskDS)
	remove(w, job, false)
	_, err = n1.source.Remove(t.Context(), replicate.Task{Job: job})
	if replicate.ClassOf(err) != replicate.ClassBusy || !strings.Contains(err.Error(), "being moved") {
		t.Errorf("while it is moved: %v", err)
	}
	equal(t, bytes.Equal(n2.content(t, diskDS), had), true)
	h.Close()
	release, err := n1.options.LockGuest(t.Context(), w.guest()) // Whoever is in doubt whose the guest is has its lock.
	must(t, err)
	if _, err := n1.source.Remove(t.Context(), replicate.Task{Job: job}); replicate.ClassOf(err) != replicate.ClassBusy {
		t.Errorf("in doubt: %v", err)
	}
	equal(t, n1.points(diskDS), 1)
	release()
	w.goes("2", w.removed(job))
	equal(t, n1.points(diskDS), 0)
}

// The new owner's volumes are not made its own yet: the point that they are made of stays.
func TestRemove_WaitsForTheNewOwner(t *testing.T) {
	w := pair(t)
	n2, n3 := w.node("2"), w.node("3")
	w.give("2", guest.ByRecovery, w.held("2")[0])
	w.change(func(s *ledger.State) { s.Jobs = without(s.Jobs, job) })
	remove(w, second, false)
	_, err := n2.source.Remove(t.Context(), replicate.Task{Job: second})
	if replicate.ClassOf(err) != replicate.ClassBusy || !strings.Contains(err.Error(), "not made the owner's yet") {
		t.Errorf("before the new owner has its volumes: %v", err)
	}
	equal(t, []any{n2.points(diskDS), n2.points(rootDS), n3.dataset(diskDS).Exists()}, []any{1, 1, true})
	w.promoted("2")
	w.goes("3", w.removed(second))
	equal(t, []int{n2.points(diskDS), n2.points(rootDS)}, []int{0, 0})
}

// Two jobs of a guest that are deleted together leave nothing, and neither waits for a later try.
func TestRemove_TwoJobsAtOnce(t *testing.T) {
	w := pair(t)
	remove(w, job, false)
	remove(w, second, false)
	var wg sync.WaitGroup
	for _, j := range []guest.JobID{job, second} {
		wg.Go(func() {
			if _, err := w.node("1").source.Remove(t.Context(), replicate.Task{Job: j}); err != nil {
				t.Errorf("job %s: %v", j, err)
			}
		})
	}
	wg.Wait()
	w.bare("2")
	w.bare("3")
	w.clean("1", diskDS, rootDS)
	equal(t, w.node("1").points(diskDS)+w.node("1").points(rootDS), 0)
}

// A migration that begins while a replica goes waits for that to end.
func TestRemove_AMoveWaitsForItToEnd(t *testing.T) {
	w := pair(t)
	remove(w, second, false)
	going := newGate()
	w.node("3").setTrap(func(what string) error {
		if strings.HasPrefix(what, "called "+replicate.PathRemove) {
			going.pass()
		}
		return nil
	})
	ended, opened := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := w.node("1").source.Remove(t.Context(), replicate.Task{Job: second})
		ended <- err
	}()
	<-going.reached
	go func() {
		h, err := w.node("1").source.Handover(t.Context(), 100, id("3"))
		if err == nil {
			_, err = h.Sync(t.Context(), replicate.Transfer{})
			h.Close()
		}
		opened <- err
	}()
	close(going.open)
	must(t, <-ended)
	must(t, <-opened)
	w.same("3")
}

// A replica that is kept is not made anew by a job that points to its node later, whatever was cleaned meanwhile: what it builds on is
// left as a bookmark, until somebody is rid of the copy.
func TestRemove_AKeptReplicaIsGoneOnWith(t *testing.T) {
	for _, others := range []bool{false, true} {
		w := newWorld(t)
		n1, n2 := w.node("1"), w.node("2")
		w.run(job)
		if others {
			secondJob(w)
			must(t, syncBoth(w))
		}
		ended := func(j guest.JobID) {
			t.Helper()
			remove(w, j, true)
			w.removed(j)
			w.change(func(s *ledger.State) { s.Jobs = without(s.Jobs, j) })
			for range 3 {
				n1.write(diskDS, 5, 1)
				n1.write(rootDS, 5, 1)
				n1.pool.Sync()
				w.pass(2 * time.Hour)
				if others {
					w.run(second)
				}
				must(t, findOnce(w))
				n1.restart()
			}
			equal(t, []int{n1.bookmarks(diskDS), n1.bookmarks(rootDS)}, []int{1, 1})
		}
		old := w.View().Jobs[job]
		ended(job)
		old.ID = guest.JobID{Guest: 100, Number: 7}
		w.change(func(s *ledger.State) {
			s.Jobs = maps.Clone(s.Jobs)
			s.Jobs[old.ID] = old
		})
		cheap(t, w.run(old.ID))
		w.same("2")
		equal(t, []int{len(n2.aside()), n1.bookmarks(diskDS), n1.bookmarks(rootDS)}, []int{0, 0, 0})

		ended(old.ID)
		out, err := n1.source.RemoveCopy(t.Context(), 100, id("2"))
		must(t, err)
		equal(t, []int{len(out.Left), len(out.Destroyed), n1.bookmarks(diskDS), n1.bookmarks(rootDS)}, []int{0, 2, 0, 0})
		if others {
			w.run(second)
		}
	}
}
