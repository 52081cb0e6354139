package job_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/job"
)

func mustParse(t rapid.TB, expr string) calendar.Schedule {
	t.Helper()
	s, err := calendar.Parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawSpec(t *rapid.T) job.Spec {
	return job.Spec{
		Settings: job.Settings{
			Schedule: mustParse(t, rapid.SampledFrom([]string{"*", "*/15", "*/00", "mon..fri 8..17,22:0/15", "daily", "weekly"}).Draw(t, "schedule")),
			Target:   "n2",
		},
		Disabled: rapid.Bool().Draw(t, "disabled"),
		Removing: rapid.IntRange(0, 9).Draw(t, "removing") == 0,
		Keep:     rapid.Bool().Draw(t, "keep"),
	}
}

func drawEvent(t *rapid.T, now time.Time) job.Event {
	return rapid.SampledFrom([]job.Event{
		job.Picked{},
		job.Picked{},
		job.Picked{},
		job.Succeeded{},
		job.Failed{Reason: "no route to host"},
		job.Failed{Reason: "out of space"},
		job.Skipped{Reason: "guest 100 is locked"},
		job.Ask{},
		job.Enable{},
		job.Enable{},
		job.Disable{},
		job.Delete{},
		job.Delete{Keep: true},
		job.Delete{Force: true},
		job.TargetDown{Since: now},
		job.TargetUp{},
		job.Restarted{},
		job.Changed{Settings: drawSpec(t).Settings},
	}).Draw(t, "event")
}

// any history of events, with the clock going forward and, rarely, anywhere.
func drawHistory(t *rapid.T, each func(before job.Job, e job.Event, after job.Job, effects []job.Effect, now time.Time)) (job.Job, time.Time) {
	now := time.Unix(rapid.Int64Range(1_700_000_000, 2_000_000_000).Draw(t, "start"), 0).UTC()
	j := job.New(drawSpec(t), job.Facts{}, now)
	for range rapid.IntRange(1, 60).Draw(t, "events") {
		if rapid.IntRange(0, 9).Draw(t, "jump") == 0 {
			now = now.Add(time.Duration(rapid.Int64Range(-1e6, 1e6).Draw(t, "clock")) * time.Second)
		} else if at, ok := job.NextWake(j, now); ok && at.After(now) && rapid.Bool().Draw(t, "sleep") {
			now = at
		} else {
			now = now.Add(time.Duration(rapid.Int64Range(0, 600).Draw(t, "pass")) * time.Second)
		}
		e := drawEvent(t, now)
		before := j
		var effects []job.Effect
		j, effects = job.Step(j, e, now)
		each(before, e, j, effects, now)
	}
	return j, now
}

func TestStep_NeverTwoRunsNorAnUnknownState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		running := false
		drawHistory(t, func(before job.Job, e job.Event, after job.Job, effects []job.Effect, now time.Time) {
			switch e.(type) {
			case job.Succeeded, job.Failed, job.Skipped, job.Restarted:
				running = false
			default:
			}
			for _, effect := range effects {
				switch effect.(type) {
				case job.StartSync, job.StartRemoval:
					if running {
						t.Fatalf("%#v in %#v starts a second run", e, before.State)
					}
					if !job.Due(before, now) {
						t.Fatalf("%#v in %#v starts a run that is not due", e, before.State)
					}
					running = true
				default:
				}
			}
			switch s := after.State.(type) {
			case job.OK:
				if after.Facts.Fails != 0 {
					t.Fatalf("ok after %d failures", after.Facts.Fails)
				}
			case job.Failing:
				if after.Facts.Fails == 0 || after.Facts.LastError == "" {
					t.Fatalf("error without a failure: %+v", after.Facts)
				}
			case job.Running:
				if !running {
					t.Fatalf("running after %#v, but nothing was started", e)
				}
			case job.Disabled:
			case job.Removing:
				if s.Busy && !s.Gone && !running {
					t.Fatalf("busy after %#v, but nothing runs", e)
				}
			default:
				t.Fatalf("%#v in %#v leads to %#v", e, before.State, after.State)
			}
			if text := job.Describe(after, now); text == "" || strings.Contains(text, "%!") {
				t.Fatalf("%#v is described as %q", after, text)
			}
		})
	})
}

// Whatever happened, a job that may run is due within its longest interval: a
// week for the calendar, half an hour after a failure. No clock jump and no lost
// event starves it.
func TestNextWake_NeverStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, now := drawHistory(t, func(job.Job, job.Event, job.Job, []job.Effect, time.Time) {})
		at, ok := job.NextWake(j, now)
		limit := 30*time.Minute + 2*time.Minute
		switch s := j.State.(type) {
		case job.OK:
			limit += 7 * 24 * time.Hour
		case job.Failing:
		case job.Removing:
			if s.Busy || s.Gone {
				return
			}
		case job.Running, job.Disabled:
			if ok {
				t.Fatalf("%#v wakes at %v", j.State, at)
			}
			return
		}
		if !ok || at.Sub(now) > limit {
			t.Fatalf("%#v with %+v wakes at %v, which is %v from now", j.State, j.Facts, at, at.Sub(now))
		}
	})
}

// A job that is removed stays so, and is forgotten exactly once.
func TestStep_RemovingIsFinal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		forgotten := 0
		drawHistory(t, func(before job.Job, e job.Event, after job.Job, effects []job.Effect, _ time.Time) {
			if _, was := before.State.(job.Removing); was {
				if _, is := after.State.(job.Removing); !is {
					t.Fatalf("%#v brings a removed job back to %#v", e, after.State)
				}
			}
			for _, effect := range effects {
				if _, ok := effect.(job.Forget); ok {
					forgotten++
				}
			}
			if s, ok := after.State.(job.Removing); ok && s.Gone != (forgotten == 1) || forgotten > 1 {
				t.Fatalf("forgotten %d times in %#v", forgotten, after.State)
			}
		})
	})
}

// The state after a restart follows from plain facts: what New makes of them is
// what Restarted makes of the job in memory.
func TestNew_IsTheStateAfterARestart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, now := drawHistory(t, func(job.Job, job.Event, job.Job, []job.Effect, time.Time) {})
		if s, ok := j.State.(job.Removing); ok && s.Gone {
			return
		}
		got, effects := job.Step(j, job.Restarted{}, now)
		if len(effects) > 0 {
			t.Fatalf("effects %v", effects)
		}
		spec := job.Spec{Settings: j.Settings}
		switch s := got.State.(type) {
		case job.Disabled:
			spec.Disabled = true
		case job.Removing:
			spec.Removing, spec.Keep = true, s.Keep
		default:
		}
		want := job.New(spec, got.Facts, now)
		want.DownSince = j.DownSince
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if _, was := j.State.(job.Running); was && !spec.Disabled && !spec.Removing && !job.Due(got, now) {
			at, _ := job.NextWake(got, now)
			if at.After(now.Add(job.MinPause)) {
				t.Fatalf("the run that was cut is due only at %v, now is %v", at, now)
			}
		}
	})
}

// Follow brings a job to what the ledger says from any state, and then has
// nothing to do.
func TestFollow_ReachesTheLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, now := drawHistory(t, func(job.Job, job.Event, job.Job, []job.Effect, time.Time) {})
		spec := drawSpec(t)
		_, removed := j.State.(job.Removing)
		got, _ := job.Follow(j, spec, now)
		switch s := got.State.(type) {
		case job.Disabled:
			if !spec.Disabled {
				t.Fatal("disabled, but not on the ledger")
			}
		case job.Running:
			if s.Disable != spec.Disabled {
				t.Fatalf("%+v for %+v", s, spec)
			}
		case job.Removing:
			if !spec.Removing && !removed {
				t.Fatal("removing, but not on the ledger")
			}
		case job.OK, job.Failing:
			if spec.Disabled || spec.Removing {
				t.Fatalf("%#v for %+v", s, spec)
			}
		}
		again, effects := job.Follow(got, spec, now)
		if len(effects) > 0 || !reflect.DeepEqual(again, got) {
			t.Fatalf("following twice: effects %v\n%s", effects, cmp.Diff(got, again))
		}
	})
}

// The times of a permanent failure, and any list of the operator's.
func TestStep_RetryList(t *testing.T) {
	start := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name    string
		retries []time.Duration
		want    []int // minutes
	}{
		{"default", nil, []int{0, 5, 15, 30, 60, 90, 120, 150}},
		{"one value", []time.Duration{time.Hour}, []int{0, 60, 120, 180}},
		{"as given", []time.Duration{time.Minute, 7 * time.Minute}, []int{0, 1, 8, 15, 22}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := job.Spec{Settings: job.Settings{Schedule: mustParse(t, "*"), Retries: c.retries}}
			j := job.New(spec, job.Facts{}, start.Add(-time.Second))
			var got []int
			at := start.Add(-time.Second)
			for range c.want {
				var ok bool
				at, ok = job.NextWake(j, at)
				if !ok {
					t.Fatal("it is never due")
				}
				got = append(got, int(at.Sub(start).Minutes()))
				j, _ = job.Step(j, job.Picked{}, at)
				j, _ = job.Step(j, job.Failed{Reason: "no"}, at)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("tries in minutes (-want +got):\n%s", diff)
			}
		})
	}
}

// Every job failing for ever still names the last error and the count.
func TestDescribe_Error(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	j := job.New(job.Spec{Settings: job.Settings{Schedule: mustParse(t, "*"), Target: "n2"}},
		job.Facts{LastTry: now, LastEnd: now, Fails: 12, LastError: "n2: out of space"}, now)
	if got, want := job.Describe(j, now), "error (12): n2: out of space"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	j, _ = job.Step(j, job.TargetDown{Since: now.Add(-time.Minute)}, now)
	if got, want := job.Describe(j, now), "waiting for n2 (down since 2026-03-02 09:59:00)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
