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
