package replicate_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

func (w *world) handover(to string) *replicate.Handover {
	w.t.Helper()
	h, err := w.node("1").source.Handover(w.t.Context(), 100, id(to))
	must(w.t, err)
	w.t.Cleanup(h.Close)
	return h
}

func TestHandover_ByTheJobWhichWaitsMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.node("1").write(diskDS, 3, 2)
	h := w.handover("2")
	w.fails(replicate.ClassBusy, "is being moved to n2")
	got, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, got.Kind, replicate.KindIncremental)
	w.same("2")
	if _, err := w.node("1").source.Handover(t.Context(), 100, id("3")); err == nil || replicate.ClassOf(err) != replicate.ClassBusy {
		t.Errorf("a second move: %v", err)
	}
	h.Close()
	equal(t, w.run(job).Kind, replicate.KindNothing)
}

// The node has no job: the first sync is whole, what follows are increments, whatever
// the jobs to others clean up in between.
func TestHandover_ToANodeWithoutAJob(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	h := w.handover("3")
	first, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, first.Kind, replicate.KindFull)
	for range 3 {
		w.node("1").write(diskDS, 5, 1)
		w.node("1").pool.Sync()
		w.pass(time.Hour)
		w.run(job)
	}
	w.node("1").write(diskDS, 6, 1)
	second, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, second.Kind, replicate.KindIncremental)
	equal(t, second.Base, first.Point)
	w.same("3")
}

// What guests without any job have is cleaned away hourly, but not during a move.
func TestHandover_WithoutAnyJobKeepsItsBase(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *ledger.State) { delete(s.Jobs, job) })
	h := w.handover("3")
	first, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	w.find("1")
	w.node("1").write(diskDS, 6, 1)
	second, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, second.Base, first.Point)
}

// A move that no job stands behind: what was cut is gone on with, and another try soon
// after finds what the first one brought. Later nobody needs it.
func TestHandover_WithoutAnyJobIsGoneOnWith(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *ledger.State) { delete(s.Jobs, job) })
	h := w.handover("3")
	for _, v := range []string{"disk-0", "root"} {
		w.node("3").pool.Inject(zfstest.Fault{Op: "Receive", Name: v, Times: 1, Cut: 2 * 4200})
	}
	if _, err := h.Sync(t.Context(), replicate.Transfer{}); err == nil {
		t.Fatal("the sync was not cut")
	}
	w.find("3")
	first, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, first.Kind, replicate.KindResumed)

	h.Close()
	w.pass(time.Minute)
	w.find("1")
	w.node("1").write(diskDS, 6, 1)
	h = w.handover("3")
	second, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, second.Base, first.Point)
	h.Close()
	w.pass(2 * time.Hour)
	w.find("1", "removed vm-100-disk-0: ", "removed vm-100-root: ")
}

// What a move has brought that went back is not a copy that somebody kept: the next move goes on from it, and else its owner has it removed.
func TestHandover_WhatItBroughtIsNoKeptCopy(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{} })
	n1, n3 := w.node("1"), w.node("3")
	h := w.handover("3")
	_, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, w.keptOn("3"), []bool{true, true})
	if _, err := n1.source.RemoveCopy(t.Context(), 100, id("3")); replicate.ClassOf(err) != replicate.ClassBusy {
		t.Errorf("while it is moved: %v", err)
	}
	h.Close()
	if _, err := n1.source.RemoveUnfinished(t.Context(), 100, id("3")); replicate.ClassOf(err) != replicate.ClassBusy {
		t.Errorf("right after the move: %v", err)
	}
	n1.write(diskDS, 6, 1)
	h = w.handover("3")
	next, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	equal(t, next.Kind, replicate.KindIncremental)
	h.Close()
	w.pass(2 * time.Hour)

	// Whoever is in doubt whose the guest is has its lock.
	release, err := n1.options.Locks.Lock(t.Context(), local.GuestLock(100))
	must(t, err)
	for _, remove := range []func(context.Context, guest.ID, guest.NodeID) (replicate.RemoveResult, error){n1.source.RemoveUnfinished, n1.source.RemoveCopy} {
		if _, err := remove(t.Context(), 100, id("3")); replicate.ClassOf(err) != replicate.ClassBusy {
			t.Errorf("in doubt: %v", err)
		}
	}
	release()
	equal(t, n3.dataset(diskDS).Exists(), true)
	out, err := n1.source.RemoveUnfinished(t.Context(), 100, id("3"))
	must(t, err)
	equal(t, []any{out.Destroyed, len(out.Left)}, []any{[]string{diskDS, rootDS}, 0})
	h = w.handover("3")
	_, err = h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	w.same("3")
}

// What was there before a move, or was brought by a job since, is a kept copy and stays.
func TestHandover_AKeptCopyThatAMoveUsedStays(t *testing.T) {
	w := newWorld(t)
	secondJob(w)
	jobs := w.View().Jobs
	none := func() { w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{} }) }
	w.run(job)
	none()
	for _, n := range []string{"2", "3"} {
		h := w.handover(n)
		w.node("1").write(diskDS, 6, 1)
		_, err := h.Sync(t.Context(), replicate.Transfer{})
		must(t, err)
		h.Close()
	}
	equal(t, w.keptOn("2"), []bool{true, false})
	equal(t, w.keptOn("3"), []bool{true, true})
	w.change(func(s *ledger.State) { s.Jobs = jobs })
	w.node("1").write(diskDS, 7, 1)
	w.run(second)
	none()
	equal(t, w.keptOn("3"), []bool{true, false})
	w.pass(2 * time.Hour)
	for _, n := range []string{"2", "3"} {
		out, err := w.node("1").source.RemoveUnfinished(t.Context(), 100, id(n))
		must(t, err)
		equal(t, []int{len(out.Destroyed), len(out.Left)}, []int{0, 2})
	}
}

// keptOn tells of what a node has of the guest whether no job points there, and whether a migration has brought all of it.
func (w *world) keptOn(node string) []bool {
	w.t.Helper()
	list, err := w.node(node).target.Replicas(w.t.Context())
	must(w.t, err)
	equal(w.t, len(list), 1)
	return []bool{list[0].Kept, list[0].Unfinished}
}

func TestHandover_ProvesThatNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	n1 := w.node("1")
	h := w.handover("2")
	release, err := local.NewLocks(n1.dir).Lock(t.Context(), local.GuestLock(100)) // the sync would wait for it
	must(t, err)
	defer release()
	must(t, n1.pool.SetProps(t.Context(), map[string]string{"readonly": "on"}, diskDS, rootDS))
	res, err := h.Sync(t.Context(), replicate.Transfer{Locked: true})
	must(t, err)
	guids, err := h.Prove(t.Context(), res.Point)
	must(t, err)
	for v, dataset := range map[guest.Volume]string{disk: diskDS, root: rootDS} {
		list := n1.dataset(dataset).Snapshots
		equal(t, guids[v], list[len(list)-1].GUID)
	}

	must(t, n1.pool.SetProps(t.Context(), map[string]string{"readonly": "off"}, diskDS))
	n1.write(diskDS, 9, 1)
	n1.pool.Sync()
	if _, err := h.Prove(t.Context(), res.Point); err == nil || !strings.Contains(err.Error(), "were written") {
		t.Errorf("after a write: %v", err)
	}
	res, err = h.Sync(t.Context(), replicate.Transfer{Locked: true})
	must(t, err)
	w.node("2").snap(diskDS + "@operator")
	if _, err := h.Prove(t.Context(), res.Point); err == nil || !strings.Contains(err.Error(), "newest snapshot on n2") {
		t.Errorf("with a newer snapshot there: %v", err)
	}
}

// Only the owner hands a guest over, at its term.
func TestHandover_IsTheOwnersAlone(t *testing.T) {
	w := newWorld(t)
	if _, err := w.node("2").source.Handover(t.Context(), 100, id("3")); err == nil || replicate.ClassOf(err) != replicate.ClassNever {
		t.Errorf("from n2: %v", err)
	}
	req := replicate.InventoryRequest{Request: replicate.Request{Version: replicate.WireVersion, Job: job, Term: term, Index: 10, Move: true}}
	if _, err := w.node("3").target.Inventory(context.WithoutCancel(t.Context()), id("1"), req); err != nil {
		t.Errorf("from the owner: %v", err)
	}
	if _, err := w.node("3").target.Inventory(t.Context(), id("2"), req); err == nil {
		t.Error("another node was heard")
	}
	req.Term.N++
	if _, err := w.node("3").target.Inventory(t.Context(), id("1"), req); err == nil {
		t.Error("another term was heard")
	}
}
