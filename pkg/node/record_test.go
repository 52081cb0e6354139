package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/sched"
)

// Being unable to get a guest's lock is no failure, and fills no history.
func TestNode_ALockedGuestIsNoFailure(t *testing.T) {
	busy := &replicate.Error{Class: replicate.ClassBusy, Text: "guest 100 is locked: it is being moved", Hint: "it passes"}
	f := newFleet(each(100, 0, 2, func(_ context.Context, n int, _ replicate.Task) error {
		if n > 1 && n < 12 {
			return busy
		}
		return nil
	}))
	f.file = historyFile(t)
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, _ context.Context, n *node.Node) {
		t.Helper()
		pass(5 * time.Minute)
		if j := only(t, n); j.Job.Facts.Fails != 0 || j.Job.Facts.LastError != "" || j.Last.Outcome != "ok" {
			t.Errorf("while it is locked: %d failures, %q, the last run %s", j.Job.Facts.Fails, j.Job.Facts.LastError, j.Last.Outcome)
		}
		pass(10 * time.Minute)
		if j := only(t, n); j.Job.Facts.Fails != 0 || j.Last.Outcome != "ok" {
			t.Errorf("after it: %d failures, the last run %s", j.Job.Facts.Fails, j.Last.Outcome)
		}
		if got := len(f.starts(jobID(100, 0))); got < 14 {
			t.Errorf("it was tried %d times in 15 minutes, want every minute", got)
		}
	})
	got := outcomes(t, f.file, jobID(100, 0))
	want := []string{"1 ok", "2 skipped guest 100 is locked: it is being moved", "12 ok", "13 ok", "14 ok"}
	if d := cmp.Diff(want, got[:min(len(got), len(want))]); d != "" {
		t.Errorf("the history, oldest first (-want +got):\n%s", d)
	}
}

// outcomes are a job's runs as the history in a file tells them, oldest first.
func outcomes(t *testing.T, file string, id guest.JobID) (out []string) {
	t.Helper()
	s := store(t, file)
	defer s.Close()
	runs, err := s.Runs(id, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		text := fmt.Sprint(r.ID, " ", r.Outcome)
		if r.Error != "" {
			text += " " + r.Error
		}
		out = append([]string{text}, out...)
	}
	return out
}

// A job that is made anew at once under the ID of a removed one has no past.
func TestNode_AJobOfTheSameIDHasNoPast(t *testing.T) {
	f := newFleet(each(100, 0, 2, takes(time.Second, errors.New("out of space"))))
	f.file = historyFile(t)
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, ctx context.Context, n *node.Node) {
		t.Helper()
		pass(7 * time.Minute)
		if j := only(t, n); j.Job.Facts.Fails != 2 {
			t.Fatalf("%d failures, want 2", j.Job.Facts.Fails)
		}
		without, with := f.state(), f.state()
		without.Jobs = map[guest.JobID]guest.Job{}
		without.Index, with.Index = 1, 2
		for _, s := range []*ledger.State{without, with} {
			n.Ledger(ctx, s)
		}
		pass(time.Second)
		if j := only(t, n); !j.Ready || j.Job.Facts.Fails != 0 || !j.Job.Facts.LastTry.IsZero() || j.Last.ID != 0 {
			t.Errorf("the new job has a past: %+v, last run %d", j.Job.Facts, j.Last.ID)
		}
	})
}

// Runs that are due together begin together, whatever the disk does with their records.
func TestNode_ARunDoesNotWaitForItsRecord(t *testing.T) {
	f := newFleet(each(100, 0, 2, nil), each(101, 0, 2, nil))
	f.file, f.disk = historyFile(t), 10*time.Second
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, _ context.Context, _ *node.Node) {
		t.Helper()
		pass(time.Minute)
		for _, id := range []guest.JobID{jobID(100, 0), jobID(101, 0)} {
			for _, at := range f.starts(id) {
				if !at.Equal(at.Truncate(time.Minute).Add(sched.Offset(nodeID(1), sched.DefaultLimits().Spread))) {
					t.Errorf("job %s began at %s", id, at)
				}
			}
		}
	})
	if got := outcomes(t, f.file, jobID(100, 0)); len(got) < 2 || got[0] != "1 ok" || got[1] != "2 ok" {
		t.Errorf("the history is %q", got)
	}
}

// What a run has done so far is on disk every minute: a daemon that is killed in
// the middle of a long sync leaves a record that says how far it was.
func TestNode_AKilledRunLeavesItsRecord(t *testing.T) {
	f := newFleet(each(100, 0, 2, func(ctx context.Context, n int, task replicate.Task) error {
		task.Log("send everything")
		task.Progress(replicate.Progress{Phase: replicate.PhaseSend, Bytes: 7 << 30, Total: 10 << 30})
		return takes(time.Hour, nil)(ctx, n, task)
	}))
	f.file = historyFile(t)
	killed := historyFile(t)
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, _ context.Context, _ *node.Node) {
		t.Helper()
		pass(5 * time.Minute)
		b, err := os.ReadFile(f.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(killed, b, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	s := store(t, killed)
	defer s.Close()
	r, ok, err := s.Last(jobID(100, 0))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if r.Outcome != history.Interrupted || r.Bytes != 7<<30 || len(r.Log) != 1 || r.Log[0].Message != "send everything" || !r.End.IsZero() {
		t.Errorf("the record is %+v", r)
	}
	if got := outcomes(t, f.file, jobID(100, 0)); len(got) != 1 || got[0] != "1 interrupted the daemon was stopped" {
		t.Errorf("a daemon that was stopped leaves %q", got)
	}
}

// A run's record says all: kind, bytes, snapshots, volumes, error, lines.
func TestNode_TheRecordOfARun(t *testing.T) {
	f := newFleet(each(100, 0, 2, func(_ context.Context, n int, task replicate.Task) error {
		task.Log(fmt.Sprint("run ", n))
		if n == 2 {
			return &replicate.Error{Class: replicate.ClassPerson, Text: "out of space", Hint: "free some"}
		}
		return nil
	}))
	f.file = historyFile(t)
	f.volumes = []guest.Volume{{Storage: "local-zfs", Name: "vm-100-disk-0"}}
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, _ context.Context, _ *node.Node) {
		t.Helper()
		pass(150 * time.Second)
	})
	s := store(t, f.file)
	defer s.Close()
	runs, err := s.Runs(jobID(100, 0), 0)
	if err != nil || len(runs) != 2 {
		t.Fatal(len(runs), err)
	}
	for i := range runs {
		if runs[i].End.Before(runs[i].Start) || runs[i].Start.IsZero() {
			t.Errorf("run %d: %s to %s", runs[i].ID, runs[i].Start, runs[i].End)
		}
		runs[i].Start, runs[i].End = time.Time{}, time.Time{}
		for k := range runs[i].Log {
			runs[i].Log[k].Time = time.Time{}
		}
	}
	both := history.Run{
		Job: jobID(100, 0), Guest: 100, Source: "n1", Target: "n2", Kind: history.Incremental, Bytes: 4096,
		BaseSnapshot: "old", NewSnapshot: "p", Volumes: f.volumes,
	}
	good, bad := both, both
	good.ID, good.Outcome = 1, history.OK
	good.Log = []history.LogLine{{Level: "info", Message: "run 1"}, {Level: "info", Message: "done: incremental, 4096 bytes sent; n2 has p complete"}}
	bad.ID, bad.Outcome, bad.Fails, bad.Error, bad.ErrorHint = 2, history.Failed, 1, "out of space", "free some"
	bad.Log = []history.LogLine{{Level: "info", Message: "run 2"}, {Level: "error", Message: "out of space"}}
	if d := cmp.Diff([]history.Run{bad, good}, runs); d != "" {
		t.Errorf("newest first (-want +got):\n%s", d)
	}
}

// Facts are by the wall clock alone: with Go's monotonic reading in them nothing
// would tell that the clock was set back.
func TestNode_FactsAreByTheWallClock(t *testing.T) {
	f := newFleet(each(100, 0, 2, nil))
	outside := time.Now() // with a monotonic reading, which the bubble's clock has not
	f.now = func() time.Time { return outside.Add(time.Since(time.Unix(946_684_800, 0))) }
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, ctx context.Context, n *node.Node) {
		t.Helper()
		n.Peers(ctx, map[guest.NodeID]node.Peer{nodeID(2): {Since: f.now()}})
		pass(time.Minute)
		j := only(t, n)
		for name, at := range map[string]time.Time{
			"Known": j.Job.Facts.Known, "LastTry": j.Job.Facts.LastTry, "LastEnd": j.Job.Facts.LastEnd,
			"LastSync": j.Job.Facts.LastSync, "DownSince": j.Job.DownSince, "Start": j.Last.Start, "End": j.Last.End,
		} {
			if at.IsZero() || at != at.Round(0) { // with ==, which sees the reading
				t.Errorf("%s is %s", name, at)
			}
		}
	})
}

// The clock is set back by days: the job runs at once, and then by the new time.
func TestNode_TheClockIsSetBack(t *testing.T) {
	f := newFleet(each(100, 0, 2, nil), each(101, 0, 2, nil))
	var set atomicDuration
	f.now = func() time.Time { return time.Now().Add(set.Load()) }
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, _ context.Context, _ *node.Node) {
		t.Helper()
		pass(90 * time.Second)
		before := len(f.starts(jobID(100, 0)))
		set.Store(-240 * time.Hour)
		pass(6 * time.Second) // the loop sleeps for five seconds at most
		if got := len(f.starts(jobID(100, 0))); got != before+1 {
			t.Errorf("%d runs at once, want 1", got-before)
		}
		pass(5 * time.Minute)
		if got := len(f.starts(jobID(100, 0))); got < before+5 || got > before+7 {
			t.Errorf("%d runs within five minutes after it, want one a minute", got-before)
		}
	})
}
