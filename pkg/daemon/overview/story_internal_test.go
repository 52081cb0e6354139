package overview

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/sched"
)

var update = flag.Bool("update", false, "rewrite testdata")

// Every state of a job, with what explain says of it: testdata/stories.txt.
func TestStory_OfEveryState(t *testing.T) {
	now := time.Date(2026, 11, 22, 19, 41, 30, 0, time.UTC)
	ago := func(minutes int) time.Time { return now.Add(-time.Duration(minutes) * time.Minute) }
	five, err := calendar.Parse("*/5")
	if err != nil {
		t.Fatal(err)
	}
	good := job.Facts{Known: ago(600), LastTry: ago(2), LastEnd: ago(2), LastSync: ago(2)}
	bad := job.Facts{Known: ago(600), LastTry: ago(2), LastEnd: ago(2), LastSync: ago(60), Fails: 3, LastError: "n2: no route to host"}
	cut := good
	cut.Interrupted = true
	late := job.Facts{Known: ago(600), LastTry: ago(6), LastEnd: ago(6), LastSync: ago(6)}
	var b strings.Builder
	for _, c := range []struct {
		name  string
		facts job.Facts
		state job.State
		down  time.Time
		held  string
		hint  string
	}{
		{name: "new", facts: job.Facts{Known: now}, state: job.OK{}},
		{name: "ok", facts: good, state: job.OK{}},
		{name: "ok, due", facts: late, state: job.OK{}},
		{name: "ok, due, held", facts: late, state: job.OK{}, held: "node limit: 8 runs go on"},
		{name: "ok, asked for", facts: good, state: job.OK{Wait: job.Wait{Now: now, Manual: true}}},
		{name: "ok, put off", facts: good, state: job.OK{Wait: job.Wait{Now: ago(1), Until: now.Add(time.Minute), Why: "the guest is locked: it is migrating"}}},
		{name: "ok, cut", facts: cut, state: job.OK{Wait: job.Wait{Now: now}}},
		{name: "ok, target down", facts: good, state: job.OK{}, down: ago(30)},
		{name: "error", facts: bad, state: job.Failing{}, hint: "look at the cable"},
		{name: "error, target down", facts: bad, state: job.Failing{}, down: ago(30)},
		{name: "error, target back", facts: bad, state: job.Failing{Wait: job.Wait{Now: now}}},
		{name: "running", facts: good, state: job.Running{Started: ago(1)}},
		{name: "running for long", facts: good, state: job.Running{Started: ago(30)}},
		{name: "running, to be disabled", facts: good, state: job.Running{Started: ago(1), Disable: true}},
		{name: "running, asked for again", facts: good, state: job.Running{Started: ago(1), Again: now}},
		{name: "disabled", facts: good, state: job.Disabled{}},
		{name: "disabled in error", facts: bad, state: job.Disabled{}},
		{name: "removing", facts: good, state: job.Removing{Since: ago(1), Busy: true}},
		{name: "removing, kept", facts: good, state: job.Removing{Since: ago(1), Keep: true}},
		{name: "removing fails", facts: good, state: job.Removing{Since: ago(60), Fails: 2, LastTry: ago(3), LastError: "n2: no route to host"}, down: ago(30)},
	} {
		j := node.JobStatus{
			Conf:  guest.Job{ID: guest.JobID{Guest: 100}, Schedule: "*/5"},
			Ready: true, Held: c.held, Last: history.Run{ErrorHint: c.hint},
			Job: job.Job{Settings: job.Settings{Schedule: five, Local: time.UTC, Target: "n2"}, Facts: c.facts, State: c.state, DownSince: c.down},
		}
		tell(&b, c.name, story{j: j, target: "n2", now: now, zone: time.UTC})
	}
	tell(&b, "not read yet", story{now: now, zone: time.UTC})

	file := filepath.Join("testdata", "stories.txt")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("(-want +got), -update accepts it:\n%s", d)
	}
}

// Where a job stands in the spread is pkg/sched's business.
func TestStory_TellsTheSpread(t *testing.T) {
	now := time.Date(2026, 11, 22, 19, 41, 30, 0, time.UTC)
	five, err := calendar.Parse("*/5")
	if err != nil {
		t.Fatal(err)
	}
	id, spread := guest.JobID{Guest: 100}, 10*time.Second
	self := guest.NodeID("0123456789abcdef")
	s := story{target: "n2", self: self, spread: spread, now: now, zone: time.UTC, j: node.JobStatus{
		Conf: guest.Job{ID: id, Schedule: "*/5"}, Ready: true,
		Job: job.Job{Settings: job.Settings{Schedule: five}, Facts: job.Facts{Known: now}, State: job.OK{}},
	}}
	offset := sched.Offset(self, spread)
	want := fmt.Sprintf("it then begins %s later: starts are spread (start_spread)", offset.Round(100*time.Millisecond))
	if got := s.next(); !slices.Contains(got, want) {
		t.Errorf("%q is not said in %q", want, got)
	}
	s.now = time.Date(2026, 11, 22, 19, 45, 0, 0, time.UTC)
	want = "it is due and begins at " + s.at(s.now.Add(offset)) + ": starts are spread (start_spread)"
	if got := s.next(); !slices.Contains(got, want) {
		t.Errorf("%q is not said in %q", want, got)
	}
}

func tell(b *strings.Builder, name string, s story) {
	fmt.Fprintf(b, "%s\n", name)
	for _, line := range s.why() {
		fmt.Fprintf(b, "  why   %s\n", line)
	}
	for _, line := range s.next() {
		fmt.Fprintf(b, "  next  %s\n", line)
	}
	if why := s.noPlan(); why != "" {
		fmt.Fprintf(b, "  plan  %s\n", why)
	}
}
