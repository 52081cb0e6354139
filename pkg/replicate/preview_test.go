package replicate_test

import (
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
)

// preview plans a job's next sync, and wants nothing to be changed by that: no
// dataset, snapshot or property of any node, and no file.
func (w *world) preview() replicate.Preview {
	w.t.Helper()
	before := w.traces()
	p, err := w.node("1").source.Preview(w.t.Context(), job, time.Second)
	must(w.t, err)
	if d := cmp.Diff(before, w.traces()); d != "" {
		w.t.Errorf("the preview left traces (-before +after):\n%s", d)
	}
	return p
}

// traces are all that a preview could change.
func (w *world) traces() map[string]any {
	out := map[string]any{}
	for _, n := range w.nodes {
		list, err := n.pool.List(w.t.Context(), diskDS, rootDS)
		must(w.t, err)
		for i := range list {
			if list[i].Err != nil {
				list[i] = zfs.Dataset{}
			}
		}
		out[string(n.name)+" datasets"] = list
		n.files.mu.Lock()
		files := map[string]string{}
		for name, b := range n.files.m {
			files[name] = string(b)
		}
		n.files.mu.Unlock()
		out[string(n.name)+" files"] = files
	}
	return out
}

// agrees wants the next sync to do what the preview says; its bytes may differ by
// what a stream has besides the data.
func (w *world) agrees(p replicate.Preview) replicate.Result {
	w.t.Helper()
	r := w.run(job)
	if p.Kind != r.Kind || p.Base != r.Base && r.Kind != replicate.KindNothing {
		w.t.Errorf("previewed %s from %q, was %s from %q", p.Kind, p.Base, r.Kind, r.Base)
	}
	const slack = 32 << 10
	if diff := int64(p.Bytes) - int64(r.Bytes); diff > slack || diff < -slack {
		w.t.Errorf("previewed %d bytes, sent were %d", p.Bytes, r.Bytes)
	}
	return r
}

func TestPreview_SaysWhatTheNextSyncDoes(t *testing.T) {
	w := newWorld(t)
	p := w.preview() // The volumes are not even marked yet.
	equal(t, p.Kind, replicate.KindFull)
	equal(t, p.Base, "")
	equal(t, len(p.Volumes), 2)
	first := w.agrees(p)

	w.node("1").write(diskDS, 3, 20)
	p = w.preview()
	equal(t, p.Kind, replicate.KindIncremental)
	equal(t, p.Base, first.Point)
	second := w.agrees(p)

	p = w.preview()
	equal(t, p.Kind, replicate.KindNothing)
	equal(t, p.Base, second.Point)
	equal(t, p.Bytes, uint64(0))
	w.agrees(p)
}

func TestPreview_OfAnInterruptedTransfer(t *testing.T) {
	w := newWorld(t)
	n1 := w.node("1")
	var sends atomic.Int32 // the volumes travel side by side
	n1.trap = func(what string) error {
		if what == "send" && sends.Add(1) > 2 {
			return errors.New("cut")
		}
		return nil
	}
	_, err := n1.source.Run(t.Context(), replicate.Task{Job: job})
	if err == nil {
		t.Fatal("the sync was not cut")
	}
	n1.trap = nil
	for range 5 { // However often it is looked at, it does not count as stuck.
		p := w.preview()
		if p.Kind != replicate.KindResumed {
			t.Fatalf("previewed %s, %d bytes", p.Kind, p.Bytes)
		}
	}
	w.run(job)
	w.same("2")
}

func TestPreview_FromMemoryWhereTheTargetIsSilent(t *testing.T) {
	w := newWorld(t)
	silence := func() {
		w.node("2").trap = func(what string) error {
			if strings.HasPrefix(what, "called") {
				return errors.New("not reachable")
			}
			return nil
		}
	}
	silence()
	p := w.preview()
	if !p.Unknown || p.Silent == nil || !strings.Contains(p.Silent.Error(), "ask n2 what it has: not reachable") {
		t.Errorf("of a target that was never heard of: %+v", p)
	}
	w.node("2").trap = nil
	first := w.run(job)
	w.node("1").write(diskDS, 3, 20)
	want := w.preview()
	silence()
	got := w.preview()
	if got.Silent == nil || got.Unknown {
		t.Errorf("silent %v, unknown %v", got.Silent, got.Unknown)
	}
	equal(t, got.Base, first.Point)
	equal(t, got.Kind, replicate.KindIncremental)
	equal(t, got.Bytes, want.Bytes)
}

func TestPreview_TellsRefusals(t *testing.T) {
	w := newWorld(t)
	must(t, w.node("2").pool.Create(diskDS, 3<<19, nil))
	p := w.preview()
	if len(p.Refusals) != 1 || p.Refusals[0].Volume != disk || p.Refusals[0].Hint == "" ||
		!strings.Contains(p.Refusals[0].Error(), "no replica of guest 100") {
		t.Errorf("refusals: %v", p.Refusals)
	}
	equal(t, len(p.Volumes), 0)

	w.change(func(s *ledger.State) {
		s.Jobs = maps.Clone(s.Jobs)
		j := s.Jobs[job]
		j.Removing = true
		s.Jobs[job] = j
	})
	if _, err := w.node("1").source.Preview(t.Context(), job, time.Second); err == nil || !strings.Contains(err.Error(), "is being removed") {
		t.Errorf("of a job that is being removed: %v", err)
	}
	if _, err := w.node("2").source.Preview(t.Context(), job, time.Second); err == nil || !strings.Contains(err.Error(), "does not own guest 100") {
		t.Errorf("on another node: %v", err)
	}
	if _, err := w.node("1").source.Preview(t.Context(), guest.JobID{Guest: 999}, time.Second); err == nil {
		t.Error("of no job: no error")
	}
}
