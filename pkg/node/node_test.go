package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/sched"
)

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

func jobID(g, n int) guest.JobID { return guest.JobID{Guest: guest.ID(g), Number: n} }

// world is the syncer, the history and the ledger around one loop.
type world struct {
	mu      sync.Mutex
	runs    []history.Run
	started []time.Time
	removed int
	dropped []guest.JobID
	err     error
	// hold, where set, keeps a sync going until it is closed or canceled.
	hold chan struct{}
}

func (w *world) Run(ctx context.Context, t replicate.Task) (replicate.Result, error) {
	w.mu.Lock()
	w.started = append(w.started, time.Now())
	hold, err := w.hold, w.err
	w.mu.Unlock()
	t.Progress(replicate.Progress{Phase: "send", Bytes: 5, Total: 10})
	t.Log("a line")
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return replicate.Result{}, context.Cause(ctx)
		}
	}
	return replicate.Result{Kind: "full", Bytes: 10}, err
}

func (w *world) Remove(context.Context, replicate.Task) (replicate.RemoveResult, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removed++
	return replicate.RemoveResult{Warnings: []string{"left on n2: tank/x: it was written to"}}, w.err
}

func (w *world) Append(r history.Run) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.ID = uint64(len(w.runs) + 1)
	w.runs = append(w.runs, r)
	return r.ID, nil
}

func (w *world) Update(r history.Run) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[r.ID-1] = r
	return nil
}

func (w *world) Last(guest.JobID) (history.Run, bool, error) { return history.Run{}, false, nil }
func (w *world) Facts(guest.JobID) (job.Facts, error)        { return job.Facts{}, nil }
func (w *world) Forget(guest.JobID) error                    { return nil }
func (w *world) drop(_ context.Context, id guest.JobID) error {
	w.dropped = append(w.dropped, id)
	return nil
}

func (w *world) starts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.started)
}

func state(jobs ...guest.Job) *ledger.State {
	s := &ledger.State{
		Cluster: "c", Members: map[guest.NodeID]ledger.Member{nodeID(1): {Name: "n1"}, nodeID(2): {Name: "n2"}},
		Guests: map[guest.ID]guest.Guest{100: {ID: 100, Owner: nodeID(1)}, 200: {ID: 200, Owner: nodeID(2)}},
		Jobs:   map[guest.JobID]guest.Job{},
	}
	for _, j := range jobs {
		s.Jobs[j.ID] = j
	}
	return s
}

func every(schedule string) guest.Job {
	return guest.Job{ID: jobID(100, 0), Target: nodeID(2), Schedule: schedule, Snapshots: guest.Mirror}
}

// play runs a loop of node 1 in a bubble until the script ends.
func play(t *testing.T, script func(t *testing.T, ctx context.Context, n *node.Node, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		n := node.New(node.Options{
			Self: nodeID(1), Name: "n1", Limits: sched.Limits{Node: 4, Target: 4}, Local: time.UTC,
			Syncer: w, History: w, Drop: w.drop, Logger: zap.NewNop(), Now: time.Now,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); n.Run(ctx) }()
		script(t, ctx, n, w)
		cancel()
		<-done
	})
}

func pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

func only(t *testing.T, n *node.Node) node.JobStatus {
	t.Helper()
	jobs := n.Status().Jobs
	if len(jobs) != 1 {
		t.Fatalf("%d jobs, want 1", len(jobs))
	}
	return jobs[0]
}

func TestNode_RunsOwnJobsOnSchedule(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		foreign := every("*/1")
		foreign.ID, foreign.Target = jobID(200, 0), nodeID(1)
		n.Ledger(ctx, state(every("*/1"), foreign))
		pass(10*time.Minute + time.Second)
		if got := w.starts(); got != 10 {
			t.Errorf("%d runs in 10 minutes, want 10", got)
		}
		j := only(t, n)
		if _, ok := j.Job.State.(job.OK); !ok || j.Job.Facts.LastSync.IsZero() {
			t.Errorf("state %T, last sync %v", j.Job.State, j.Job.Facts.LastSync)
		}
		last := w.runs[len(w.runs)-1]
		if last.Outcome != history.OK || last.Bytes != 10 || len(last.Log) != 2 || last.End.IsZero() {
			t.Errorf("recorded %+v", last)
		}
	})
}

// Who watches a run hears at once that it goes on and that its end is recorded, and does not ask again and again.
func TestNode_NewsOfARun(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		w.hold = make(chan struct{})
		n.Ledger(ctx, state(every("sat 03:00")))
		pass(time.Second)
		hears := func(what string, ok func() bool) {
			t.Helper()
			for start := time.Now(); ; {
				news := n.News()
				if ok() {
					if d := time.Since(start); d != 0 {
						t.Errorf("that %s was heard after %s", what, d)
					}
					return
				}
				<-news
			}
		}
		if err := n.ScheduleNow(ctx, jobID(100, 0)); err != nil {
			t.Fatal(err)
		}
		hears("it says something", func() bool {
			live, ok := only(t, n).Live()
			return ok && live.Record != 0 && len(live.Log) == 1
		})
		close(w.hold)
		hears("its end is recorded", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.runs[0].Outcome == history.OK
		})
		hears("it has ended", func() bool { return only(t, n).Last.Outcome == history.OK })
		news := n.News()
		pass(time.Hour)
		select {
		case <-news:
			t.Error("an hour without a run has news")
		default:
		}
	})
}

func TestNode_BacksOffAndComesBack(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		w.err = errors.New("out of space")
		begin := time.Now()
		n.Ledger(ctx, state(every("*/1")))
		pass(96 * time.Minute)
		var got []time.Duration
		for _, at := range w.started {
			got = append(got, at.Sub(begin).Truncate(time.Minute))
		}
		want := []time.Duration{1 * time.Minute, 6 * time.Minute, 16 * time.Minute, 31 * time.Minute, 61 * time.Minute, 91 * time.Minute}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("tries:\n%s", d)
		}
		if j := only(t, n); j.Job.Facts.Fails != 6 || j.Job.Facts.LastError != "out of space" || j.Last.Fails != 6 {
			t.Errorf("fails %d, error %q, recorded %d", j.Job.Facts.Fails, j.Job.Facts.LastError, j.Last.Fails)
		}
		w.mu.Lock()
		w.err = nil
		w.mu.Unlock()
		if err := n.ScheduleNow(ctx, jobID(100, 0)); err != nil {
			t.Fatal(err)
		}
		pass(10*time.Minute + time.Second)
		if got := w.starts() - 6; got != 11 {
			t.Errorf("%d runs after it was mended, want 11", got)
		}
	})
}

func TestNode_DeletedJobIsCleanedAndDropped(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		w.hold = make(chan struct{})
		n.Ledger(ctx, state(every("*/1")))
		pass(61 * time.Second)
		if _, p, ok := only(t, n).Running(); !ok || p.Bytes != 5 {
			t.Errorf("running %v, progress %+v", ok, p)
		}
		gone := every("*/1")
		gone.Removing = true
		n.Ledger(ctx, state(gone))
		pass(time.Minute)
		if d := cmp.Diff([]guest.JobID{jobID(100, 0)}, w.dropped); d != "" || w.removed != 1 {
			t.Errorf("removed %d times, dropped:\n%s", w.removed, d)
		}
		last := w.runs[len(w.runs)-1].Log
		if len(last) != 1 || last[0].Level != "warn" || last[0].Message != "left on n2: tank/x: it was written to" {
			t.Errorf("what is left is not in the run's log: %+v", last)
		}
		n.Ledger(ctx, state())
		pass(time.Second)
		if jobs := n.Status().Jobs; len(jobs) != 0 {
			t.Errorf("it is still shown: %+v", jobs)
		}
	})
}

func TestNode_StopCancelsARun(t *testing.T) {
	play(t, func(_ *testing.T, ctx context.Context, n *node.Node, w *world) {
		w.hold = make(chan struct{})
		n.Ledger(ctx, state(every("*/1")))
		pass(61 * time.Second)
	}) // play waits for Run, which waits for the run
}

func TestNode_AGuestThatMovedAwayIsLetGo(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		w.hold = make(chan struct{})
		n.Ledger(ctx, state(every("*/1")))
		pass(61 * time.Second)
		moved := state(every("*/1"))
		moved.Guests[100] = guest.Guest{ID: 100, Owner: nodeID(2)}
		n.Ledger(ctx, moved)
		pass(5 * time.Minute)
		if w.starts() != 1 || len(n.Status().Jobs) != 0 {
			t.Errorf("%d runs, %d jobs", w.starts(), len(n.Status().Jobs))
		}
		if err := n.ScheduleNow(ctx, jobID(100, 0)); !errors.Is(err, node.ErrNotHere) {
			t.Errorf("schedule-now: %v", err)
		}
	})
}

func TestNode_IgnoresAnOlderLedger(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		newer, older := state(every("*/1")), state()
		newer.Index, older.Index = 7, 6
		n.Ledger(ctx, newer)
		n.Ledger(ctx, older)
		pass(61 * time.Second)
		if w.starts() != 1 || len(w.runs) != 1 {
			t.Errorf("%d runs, %d recorded: the job was forgotten by news that came late", w.starts(), len(w.runs))
		}
	})
}

func TestNode_TargetDownIsWaitedFor(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		w.err = errors.New("no route to host")
		n.Peers(ctx, map[guest.NodeID]node.Peer{nodeID(2): {Since: time.Now()}})
		n.Ledger(ctx, state(every("*/1")))
		pass(59 * time.Minute)
		before := w.starts()
		if before > 3 {
			t.Errorf("%d tries in an hour although the target is down", before)
		}
		n.Peers(ctx, map[guest.NodeID]node.Peer{nodeID(2): {Alive: true, Since: time.Now()}})
		pass(time.Second)
		if w.starts() != before+1 {
			t.Error("it was not tried at once when the target came back")
		}
	})
}

func TestNode_TargetRestartedTooFastToBeMissed(t *testing.T) {
	play(t, func(t *testing.T, ctx context.Context, n *node.Node, w *world) {
		t.Helper()
		w.err = errors.New("the stream was cut")
		n.Peers(ctx, map[guest.NodeID]node.Peer{nodeID(2): {Alive: true, Boot: 3}})
		n.Ledger(ctx, state(every("*/1")))
		pass(90 * time.Second)
		if w.starts() != 1 {
			t.Fatalf("%d tries, want 1", w.starts())
		}
		n.Peers(ctx, map[guest.NodeID]node.Peer{nodeID(2): {Alive: true, Boot: 4}})
		pass(time.Minute)
		if w.starts() != 2 {
			t.Error("it was not tried again when the target's daemon had restarted")
		}
		n.Peers(ctx, map[guest.NodeID]node.Peer{nodeID(2): {Alive: true, Boot: 4}})
		pass(2 * time.Minute)
		if w.starts() != 2 {
			t.Error("news of the same life made it try again")
		}
	})
}

func TestLagging(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 30, 0, time.UTC)
	for _, tc := range []struct {
		schedule string
		lag      time.Duration
		want     bool
	}{
		{"*/1", 30 * time.Second, false},
		{"*/1", 2 * time.Minute, false},
		{"*/1", 4 * time.Minute, true},
		{"*/15", 29 * time.Minute, false},
		{"*/15", 47 * time.Minute, true},
		{"daily", 30 * time.Hour, false},
		{"daily", 60 * time.Hour, true},
	} {
		s, err := calendar.Parse(tc.schedule)
		if err != nil {
			t.Fatal(err)
		}
		if got := node.Lagging(s, tc.lag, now, time.UTC); got != tc.want {
			t.Errorf("%s with a lag of %s: %v", tc.schedule, tc.lag, got)
		}
	}
}
