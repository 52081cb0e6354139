package replicate_test

import (
	"errors"
	"maps"
	"regexp"
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

// snapshots are the names of all snapshots of a node's volumes.
func (n *node) snapshots() map[string]bool {
	out := map[string]bool{}
	for _, d := range []string{diskDS, rootDS} {
		for _, s := range n.dataset(d).Snapshots {
			out[d+"@"+s.Name] = true
		}
	}
	return out
}

// TestPreview_IsWhatTheRunDoes compares what is printed ahead with the log of the
// run that follows, and with what is gone after it.
func TestPreview_IsWhatTheRunDoes(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *ledger.State) {
		other := guest.JobID{Guest: 100, Number: 1}
		s.Jobs = maps.Clone(s.Jobs)
		s.Jobs[other] = guest.Job{ID: other, Target: id("3"), Schedule: "*/1", Snapshots: guest.Keep}
	})
	n1 := w.node("1")
	names := map[string]string{disk.String(): diskDS, root.String(): rootDS}
	for round := range 8 {
		n1.write(diskDS, int64(round), 8)
		switch round {
		case 1:
			n1.snap(diskDS + "@one")
			n1.snap(diskDS + "@two")
			n1.snap(diskDS + "@three")
		case 3:
			must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"two"}))
		case 2, 5:
			w.run(guest.JobID{Guest: 100, Number: 1})
		case 6:
			must(t, n1.pool.Hold(t.Context(), "mine", n1.newest(diskDS)))
		}
		before := map[string]map[string]bool{"n1": n1.snapshots(), "n2": w.node("2").snapshots()}
		p := w.preview()
		var lines []string
		w.pass(time.Minute)
		r, err := n1.source.Run(t.Context(), replicate.Task{Job: job, Log: func(l string) { lines = append(lines, l) }})
		must(t, err)
		log := strings.ReplaceAll(strings.Join(lines, "\n"), r.Point, "POINT")
		for _, v := range p.Volumes {
			for _, step := range v.Steps {
				said := v.Volume.String() + ": " + predicted.ReplaceAllStringFunc(step, func(name string) string {
					if name != r.Point && before["n1"][names[v.Volume.String()]+"@"+name] {
						return name
					}
					return "POINT"
				})
				if !strings.Contains(log, said) {
					t.Errorf("round %d: the plan said %q, the run did\n%s", round, said, log)
				}
			}
			if p.Kind == replicate.KindNothing && len(v.Steps) > 0 {
				t.Errorf("round %d: nothing, with steps %q", round, v.Steps)
			}
		}
		told := map[string]bool{}
		for _, c := range p.Cleans {
			for _, s := range c.Snapshots {
				told[c.Node+" "+names[c.Volume.String()]+"@"+s] = true
			}
		}
		for _, n := range []string{"1", "2"} {
			now := w.node(n).snapshots()
			for name := range before["n"+n] {
				switch key := "n" + n + " " + name; {
				case !now[name] && !told[key]:
					t.Errorf("round %d: %s went, which was not told", round, key)
				case now[name] && told[key] && n == "2":
					t.Errorf("round %d: %s stays, which was to go", round, key)
				}
			}
		}
	}
}

var predicted = regexp.MustCompile(`tandem_[0-9a-zA-Z_-]+`)
