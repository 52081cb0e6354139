package node_test

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/sched"
)

// The rate of a job is that of its sync, and a change holds for the sync that runs.
func TestNode_AChangedRateHoldsForTheRunningSync(t *testing.T) {
	var sent atomic.Int64
	f := newFleet(each(100, 0, 2, func(ctx context.Context, _ int, task replicate.Task) error {
		for {
			if err := task.Limiter.WaitN(ctx, 64<<10); err != nil {
				return err
			}
			sent.Add(64 << 10)
			if task.Limiter.Limit() > 1e12 {
				return nil // without a limit it is done at once
			}
		}
	}))
	m := f.members[jobID(100, 0)]
	m.job.Rate = 2
	f.members[jobID(100, 0)] = m
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, ctx context.Context, n *node.Node) {
		t.Helper()
		pass(75 * time.Second)
		measure := func(want float64) {
			t.Helper()
			before := sent.Load()
			pass(10 * time.Second)
			if got := float64(sent.Load()-before) / 10 / 1e6; math.Abs(got-want) > want*0.05 {
				t.Errorf("%.3f MB/s over 10 s, want %v within 5 %%", got, want)
			}
		}
		measure(2)
		index := uint64(0)
		set := func(rate float64) {
			t.Helper()
			index++
			s := f.state()
			s.Index = index
			j := s.Jobs[jobID(100, 0)]
			j.Rate = rate
			s.Jobs[j.ID] = j
			n.Ledger(ctx, s)
		}
		set(1.25)
		measure(1.25)
		set(40)
		measure(40)
		if got := len(f.starts(jobID(100, 0))); got != 1 {
			t.Fatalf("%d runs, want the one", got)
		}
		set(0)
		pass(time.Second)
		if j := only(t, n); j.Last.Outcome != "ok" {
			t.Errorf("without a limit the sync is %q", j.Last.Outcome)
		}
	})
}

// Limits that change concern what starts from then on.
func TestNode_ChangedLimits(t *testing.T) {
	var all []member
	for g := 100; g < 120; g++ {
		all = append(all, each(g, 0, 2, takes(30*time.Second, nil)))
	}
	f := newFleet(all...)
	f.sail(t, sched.Limits{Node: 2, Target: 2}, func(t *testing.T, ctx context.Context, n *node.Node) {
		t.Helper()
		pass(10 * time.Minute)
		if f.mostAll != 2 {
			t.Errorf("%d runs at the same time, the limit is 2", f.mostAll)
		}
		n.SetLimits(ctx, sched.Limits{Node: 6, Target: 6})
		pass(10 * time.Minute)
		if f.mostAll != 6 {
			t.Errorf("%d runs at the same time, the limit is 6 now", f.mostAll)
		}
	})
}
