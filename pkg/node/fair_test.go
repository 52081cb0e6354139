package node_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/sched"
)

func TestNode_LimitsHoldAndAreUsed(t *testing.T) {
	var all []member
	for g := 100; g < 140; g++ {
		all = append(all, each(g, 0, 2+g%3, takes(20*time.Second, nil)))
	}
	f := newFleet(all...)
	f.sail(t, sched.Limits{Node: 5, Target: 2, Spread: 10 * time.Second}, func(t *testing.T, _ context.Context, n *node.Node) {
		t.Helper()
		pass(90 * time.Second)
		held := 0
		for _, j := range n.Status().Jobs {
			if j.Held != "" {
				held++
			}
		}
		if held == 0 {
			t.Error("no job says that it waits for a place")
		}
		pass(10 * time.Minute) // Who had its first sync early ran more often.
		before := map[guest.JobID]int{}
		for id := range f.members {
			before[id] = len(f.starts(id))
		}
		pass(time.Hour)
		if f.mostAll != 5 {
			t.Errorf("%d runs at the same time, the limit is 5", f.mostAll)
		}
		for target, most := range f.most {
			if most != 2 {
				t.Errorf("%d runs at the same time to %s, the limit is 2", most, target)
			}
		}
		least, most := 1000, 0
		for id := range f.members {
			ran := len(f.starts(id)) - before[id]
			least, most = min(least, ran), max(most, ran)
		}
		if most-least > 1 {
			t.Errorf("some jobs ran %d times and others %d times: not fair", least, most)
		}
	})
}

// First full syncs that take hours, more of them than there are places, keep
// nobody else from their minute: not other guests, and not the same guest's job
// to another target.
func TestNode_LongFirstSyncsStarveNobody(t *testing.T) {
	long := takes(5*time.Hour, nil)
	all := []member{each(100, 0, 2, nil), each(100, 1, 3, long)}
	for g := 200; g < 212; g++ {
		all = append(all, each(g, 0, 2+g%2, long))
	}
	for g := 300; g < 310; g++ {
		all = append(all, each(g, 0, 2+g%2, nil))
	}
	f := newFleet(all...)
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, ctx context.Context, n *node.Node) {
		t.Helper()
		if err := n.ScheduleNow(ctx, jobID(100, 1)); err != nil {
			t.Fatal(err)
		}
		f.keepTheirMinute(t, 60)
		if len(f.starts(jobID(100, 1))) != 1 {
			t.Error("the first sync of guest 100 to its second target has not begun")
		}
	})
}

// Jobs that hang until they fail, more of them than there are places.
func TestNode_FailingJobsStarveNobody(t *testing.T) {
	hangs := takes(10*time.Minute, errors.New("n3: no answer"))
	all := []member{each(100, 0, 2, nil), each(100, 1, 3, hangs)}
	for g := 200; g < 220; g++ {
		all = append(all, each(g, 0, 2+g%2, hangs))
	}
	for g := 300; g < 310; g++ {
		all = append(all, each(g, 0, 2+g%2, nil))
	}
	f := newFleet(all...)
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, _ context.Context, n *node.Node) {
		t.Helper()
		f.keepTheirMinute(t, 180)
		for _, j := range n.Status().Jobs {
			if f.members[j.Conf.ID].run != nil && len(f.starts(j.Conf.ID)) < 2 {
				t.Errorf("job %s was tried %d times: failing jobs starve each other", j.Conf.ID, len(f.starts(j.Conf.ID)))
			}
		}
	})
}

// Guests that change so much that each of their syncs takes long.
func TestNode_LongIncrementalSyncsStarveNobody(t *testing.T) {
	long := takes(20*time.Minute, nil)
	var all []member
	for g := 200; g < 216; g++ {
		all = append(all, each(g, 0, 2+g%2, long))
	}
	for g := 300; g < 310; g++ {
		all = append(all, each(g, 0, 2+g%2, nil))
	}
	f := newFleet(all...)
	f.sail(t, sched.DefaultLimits(), func(t *testing.T, _ context.Context, _ *node.Node) {
		t.Helper()
		f.keepTheirMinute(t, 240)
		for id, m := range f.members {
			if m.run != nil && len(f.starts(id)) < 3 {
				t.Errorf("job %s ran %d times in four hours", id, len(f.starts(id)))
			}
		}
	})
}

func TestNode_StartsInItsPlaceOfTheSpreadButAtOnceWhenAsked(t *testing.T) {
	limits := sched.Limits{Node: 100, Target: 100, Spread: 20 * time.Second}
	var all []member
	for g := 100; g < 150; g++ {
		all = append(all, each(g, 0, 2, nil))
	}
	f := newFleet(all...)
	f.sail(t, limits, func(t *testing.T, ctx context.Context, n *node.Node) {
		t.Helper()
		pass(5 * time.Minute)
		// The node's own: its jobs start together.
		want := sched.Offset(nodeID(1), limits.Spread)
		if want == 0 {
			t.Error("this node has no place in the spread")
		}
		for id := range f.members {
			for _, at := range f.starts(id)[1:] { // First syncs wait for each other.
				if got := at.Sub(at.Truncate(time.Minute)); got != want {
					t.Errorf("job %s started %s after the minute, its place is %s", id, got, want)
				}
			}
		}
		pass(30 * time.Second)
		asked := time.Now()
		if err := n.ScheduleNow(ctx, jobID(100, 0)); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		starts := f.starts(jobID(100, 0))
		if got := starts[len(starts)-1]; !got.Equal(asked) {
			t.Errorf("schedule-now at %s started the job at %s", asked.Format(time.StampMilli), got.Format(time.StampMilli))
		}
	})
}

// A run that was ended because its guest went elsewhere counts until it has ended.
func TestNode_RunsThatAreStillEndingCountForTheLimits(t *testing.T) {
	stubborn := func(context.Context, int, replicate.Task) error {
		time.Sleep(5 * time.Minute) // a zfs process that hangs does not hear of it
		return nil
	}
	f := newFleet(each(100, 0, 2, stubborn), each(101, 0, 2, nil))
	f.sail(t, sched.Limits{Node: 1, Target: 1}, func(t *testing.T, ctx context.Context, n *node.Node) {
		t.Helper()
		pass(61 * time.Second)
		away := f.state()
		away.Index = 1
		away.Guests[100] = guest.Guest{ID: 100, Owner: nodeID(2)}
		n.Ledger(ctx, away)
		pass(2 * time.Minute)
		back := f.state()
		back.Index = 2
		n.Ledger(ctx, back)
		pass(10 * time.Minute)
		if f.mostAll != 1 {
			t.Errorf("%d runs at the same time, the limit is 1", f.mostAll)
		}
		if len(f.starts(jobID(101, 0))) == 0 || len(f.starts(jobID(100, 0))) < 2 {
			t.Errorf("the jobs ran %d and %d times", len(f.starts(jobID(100, 0))), len(f.starts(jobID(101, 0))))
		}
	})
}
