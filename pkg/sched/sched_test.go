package sched_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/sched"
)

func at(minute int) time.Time { return time.Date(2026, 3, 2, 10, minute, 0, 0, time.UTC) }

func id(t rapid.TB, s string) guest.JobID {
	t.Helper()
	j, err := guest.ParseJobID(s)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func names(ids []guest.JobID) (out []string) {
	for _, j := range ids {
		out = append(out, j.String())
	}
	return out
}

func TestPick_Order(t *testing.T) {
	none := sched.Limits{Node: 10, Target: 10}
	for _, c := range []struct {
		name    string
		waiting []sched.Candidate
		running []sched.Active
		limits  sched.Limits
		start   []string
		held    []string
	}{
		{"longest waiting first", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(20)},
			{Job: id(t, "101-0"), Target: "n2", Due: at(10)},
			{Job: id(t, "102-0"), Target: "n2", Due: at(15)},
			{Job: id(t, "103-0"), Target: "n2", Due: at(40)},
		}, nil, none, []string{"101-0", "102-0", "100-0"}, nil},
		{"of those due at the same minute who ran longest ago", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(20), Last: at(19)},
			{Job: id(t, "101-0"), Target: "n2", Due: at(20), Last: at(5)},
			{Job: id(t, "102-0"), Target: "n2", Due: at(20)},
		}, nil, none, []string{"102-0", "101-0", "100-0"}, nil},
		{"asked for first, failing last", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(5), Failing: true},
			{Job: id(t, "101-0"), Target: "n2", Due: at(10)},
			{Job: id(t, "102-0"), Target: "n2", Due: at(29), Manual: true, Failing: true},
		}, nil, none, []string{"102-0", "101-0", "100-0"}, nil},
		{"a failing job is not put off for ever", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(0).Add(-time.Hour), Failing: true},
			{Job: id(t, "101-0"), Target: "n2", Due: at(10)},
		}, nil, none, []string{"100-0", "101-0"}, nil},
		{"limit of the node", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(1)},
			{Job: id(t, "101-0"), Target: "n3", Due: at(2)},
			{Job: id(t, "102-0"), Target: "n3", Due: at(3)},
		}, []sched.Active{{Job: id(t, "200-0"), Target: "n2"}}, sched.Limits{Node: 3, Target: 3}, []string{"100-0", "101-0"}, []string{"102-0"}},
		{"a full target holds up nobody else", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(1)},
			{Job: id(t, "100-1"), Target: "n3", Due: at(2)},
		}, []sched.Active{{Job: id(t, "200-0"), Target: "n2"}}, sched.Limits{Node: 3, Target: 1}, []string{"100-1"}, []string{"100-0"}},
		{"two targets of one guest side by side", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(2)},
		}, []sched.Active{{Job: id(t, "100-1"), Target: "n3", Slow: true}}, none, []string{"100-0"}, nil},
		{"never twice the same job", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(1)},
			{Job: id(t, "101-0"), Target: "n2", Due: at(2)},
			{Job: id(t, "101-0"), Target: "n2", Due: at(2)},
		}, []sched.Active{{Job: id(t, "100-0"), Target: "n2"}}, none, []string{"101-0"}, nil},
		{"first syncs leave a place", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(1), Long: true},
			{Job: id(t, "101-0"), Target: "n3", Due: at(2), Long: true},
			{Job: id(t, "102-0"), Target: "n2", Due: at(3)},
		}, []sched.Active{{Job: id(t, "200-0"), Target: "n3", Slow: true}}, sched.Limits{Node: 3, Target: 3}, []string{"100-0", "102-0"}, []string{"101-0"}},
		{"failing jobs leave a place at the target", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(1), Failing: true},
			{Job: id(t, "101-0"), Target: "n2", Due: at(2)},
		}, []sched.Active{{Job: id(t, "200-0"), Target: "n2", Slow: true}}, sched.Limits{Node: 9, Target: 2}, []string{"101-0"}, []string{"100-0"}},
		{"what was asked for takes the last place too", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(1), Failing: true, Manual: true},
		}, []sched.Active{{Job: id(t, "200-0"), Target: "n2", Slow: true}}, sched.Limits{Node: 2, Target: 2}, []string{"100-0"}, nil},
		{"a single place is anybody's", []sched.Candidate{
			{Job: id(t, "100-0"), Target: "n2", Due: at(1), Long: true},
		}, nil, sched.Limits{}, []string{"100-0"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := sched.Pick(c.waiting, c.running, c.limits, at(30))
			if diff := cmp.Diff(c.start, names(got.Start)); diff != "" {
				t.Errorf("start (-want +got):\n%s", diff)
			}
			var held []string
			for _, h := range got.Held {
				held = append(held, h.Job.String())
				if h.Reason == "" {
					t.Errorf("%s is held for no reason", h.Job)
				}
			}
			if diff := cmp.Diff(c.held, held); diff != "" {
				t.Errorf("held (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPick_SpreadIsFixedAndOffForWhatWasAskedFor(t *testing.T) {
	job := id(t, "100-0")
	limits := sched.Limits{Node: 8, Target: 8, Spread: 10 * time.Second, Self: "0123456789abcdef"}
	offset := sched.Offset(limits.Self, limits.Spread)
	if offset <= 0 {
		t.Fatalf("this node has no offset: %v", offset)
	}
	waiting := []sched.Candidate{{Job: job, Target: "n2", Due: at(0)}}
	if diff := cmp.Diff(sched.Decision{Wake: at(0).Add(offset)}, sched.Pick(waiting, nil, limits, at(0))); diff != "" {
		t.Errorf("at its minute (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(sched.Decision{Start: []guest.JobID{job}}, sched.Pick(waiting, nil, limits, at(0).Add(offset))); diff != "" {
		t.Errorf("at its place in the spread (-want +got):\n%s", diff)
	}
	waiting[0].Manual = true
	if diff := cmp.Diff(sched.Decision{Start: []guest.JobID{job}}, sched.Pick(waiting, nil, limits, at(0))); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	again := at(0).Add(17 * time.Second) // five minutes after its last try, say
	waiting[0].Manual, waiting[0].Due = false, again
	if diff := cmp.Diff(sched.Decision{Start: []guest.JobID{job}}, sched.Pick(waiting, nil, limits, again)); diff != "" {
		t.Errorf("not by the calendar (-want +got):\n%s", diff)
	}
}

func TestOffset_FillsTheSpreadEvenly(t *testing.T) {
	var tenths [10]int
	const spread = 10 * time.Second
	for n := range 1000 {
		tenths[sched.Offset(guest.NodeID(fmt.Sprintf("%032x", n)), spread)/time.Second]++
	}
	for i, n := range tenths {
		if n < 60 || n > 140 {
			t.Errorf("%d of 1,000 nodes start in second %d of 10", n, i)
		}
	}
	if got := sched.Offset("1", 0); got != 0 {
		t.Errorf("without a spread: got %v", got)
	}
}

func drawJobs(t *rapid.T) (waiting []sched.Candidate, running []sched.Active) {
	targets := []guest.NodeID{"n1", "n2", "n3"}
	for n := range rapid.IntRange(0, 30).Draw(t, "jobs") {
		job := guest.JobID{Guest: guest.ID(100 + n/2), Number: n % 2}
		target := rapid.SampledFrom(targets).Draw(t, "target")
		c := sched.Candidate{
			Job: job, Target: target, Due: at(rapid.IntRange(0, 45).Draw(t, "due")),
			Manual: rapid.IntRange(0, 5).Draw(t, "manual") == 0, Failing: rapid.Bool().Draw(t, "failing"), Long: rapid.Bool().Draw(t, "long"),
		}
		if rapid.IntRange(0, 3).Draw(t, "runs") == 0 {
			running = append(running, sched.Active{Job: job, Target: target, Slow: c.Slow()})
			continue
		}
		waiting = append(waiting, c)
	}
	return waiting, running
}

func TestPick_KeepsTheLimitsAndIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		waiting, running := drawJobs(t)
		l := sched.Limits{Node: rapid.IntRange(1, 8).Draw(t, "node"), Target: rapid.IntRange(1, 8).Draw(t, "per target")}
		now := at(30)
		d := sched.Pick(waiting, running, l, now)

		started := map[guest.JobID]bool{}
		node, targets := len(running), map[guest.NodeID]int{}
		for _, a := range running {
			started[a.Job] = true
			targets[a.Target]++
		}
		picked := map[guest.JobID]sched.Candidate{}
		for _, job := range d.Start {
			c := waiting[slices.IndexFunc(waiting, func(c sched.Candidate) bool { return c.Job == job })]
			if started[job] {
				t.Fatalf("%s is started twice", job)
			}
			started[job], picked[job] = true, c
			if c.Due.After(now) {
				t.Fatalf("%s is started before it is due", job)
			}
			node++
			targets[c.Target]++
			if node > l.Node || targets[c.Target] > l.Target {
				t.Fatalf("%s exceeds the limits %+v", job, l)
			}
		}
		for _, c := range waiting {
			if started[c.Job] || c.Due.After(now) {
				continue
			}
			if node < l.Node && targets[c.Target] < l.Target && !c.Slow() {
				t.Fatalf("%s is held though there is room", c.Job)
			}
			for job, p := range picked { // nobody of the same kind and target overtakes
				if p.Target == c.Target && p.Manual == c.Manual && p.Failing == c.Failing && p.Long == c.Long && p.Due.After(c.Due) {
					t.Fatalf("%s overtakes %s", job, c.Job)
				}
			}
		}
		slices.Reverse(waiting)
		if diff := cmp.Diff(names(d.Start), names(sched.Pick(waiting, running, l, now).Start)); diff != "" {
			t.Fatalf("the order of the input matters:\n%s", diff)
		}
	})
}

// Simulated: first syncs that take hours and jobs that hang and fail never keep
// the others from their minute, and never more runs than the limit.
func TestPick_LongAndFailingRunsStarveNobody(t *testing.T) {
	type state struct {
		c    sched.Candidate
		runs time.Duration
		ends time.Time
	}
	var jobs []*state
	for n := range 30 {
		s := &state{c: sched.Candidate{Job: guest.JobID{Guest: guest.ID(100 + n)}, Target: guest.NodeID(fmt.Sprint("n", n%2)), Due: at(0)}, runs: 2 * time.Second}
		switch {
		case n < 10:
			s.c.Long, s.runs = true, 5*time.Hour
		case n < 20:
			s.c.Failing, s.runs = true, 10*time.Minute
		}
		jobs = append(jobs, s)
	}
	l := sched.DefaultLimits()
	worst := time.Duration(0)
	for now := at(0); now.Before(at(120)); now = now.Add(time.Second) {
		var waiting []sched.Candidate
		var running []sched.Active
		for _, s := range jobs {
			if !s.ends.IsZero() && !s.ends.After(now) {
				s.ends, s.c.Due = time.Time{}, now.Truncate(time.Minute).Add(time.Minute)
			}
			if s.ends.IsZero() {
				waiting = append(waiting, s.c)
			} else {
				running = append(running, sched.Active{Job: s.c.Job, Target: s.c.Target, Slow: s.c.Slow()})
			}
		}
		d := sched.Pick(waiting, running, l, now)
		if len(running)+len(d.Start) > l.Node {
			t.Fatalf("%v: %d runs", now, len(running)+len(d.Start))
		}
		for _, s := range jobs {
			if slices.Contains(d.Start, s.c.Job) {
				s.ends = now.Add(s.runs)
				if !s.c.Slow() {
					worst = max(worst, now.Sub(s.c.Due))
				}
			}
		}
	}
	if worst > 30*time.Second {
		t.Errorf("a healthy job waited %v", worst)
	}
}

func BenchmarkPick(b *testing.B) {
	var waiting []sched.Candidate
	for n := range 1000 {
		waiting = append(waiting, sched.Candidate{Job: guest.JobID{Guest: guest.ID(100 + n)}, Target: "n2", Due: at(n % 30)})
	}
	for b.Loop() {
		sched.Pick(waiting, nil, sched.DefaultLimits(), at(30))
	}
}
