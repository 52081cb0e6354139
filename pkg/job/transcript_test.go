package job_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/job"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// TestTranscripts plays testdata/*.script, each a story of one job, and
// compares what it does with the transcript beside it. The commands:
//
//	job SCHEDULE            a new job to n2, at 2026-03-02 10:03:00 UTC, a Monday
//	runs ok|fail|skip D …   how every run ends from now on, after D, with a reason
//	runs hang               runs do not end by themselves
//	end ok|fail|skip …      ends the run that hangs
//	for D                   lets time pass; what is due is picked at once
//	down, up, ask, enable, disable, delete [keep] [force], schedule EXPR
//	restart                 the daemon ends and starts
//	off D                   the daemon ends, and starts after D
//	clock D                 the clock is set forward, or back
func TestTranscripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.script")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		name := strings.TrimSuffix(filepath.Base(path), ".script")
		t.Run(name, func(t *testing.T) {
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			p := &player{t: t, now: time.Date(2026, 3, 2, 10, 3, 0, 0, time.UTC)}
			for line := range strings.Lines(string(script)) {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					fmt.Fprintf(&p.out, "> %s\n", line)
					p.command(strings.Fields(line))
				}
			}
			golden := strings.TrimSuffix(path, ".script") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(p.out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), p.out.String()); diff != "" {
				t.Errorf("transcript (-want +got), -update to accept:\n%s", diff)
			}
		})
	}
}

type player struct {
	t    *testing.T
	out  strings.Builder
	now  time.Time
	j    job.Job
	spec job.Spec

	result job.Event // nil: hangs
	takes  time.Duration
	busy   bool
	ends   time.Time
}

func (p *player) command(f []string) {
	p.t.Helper()
	switch rest := strings.Join(f[1:], " "); f[0] {
	case "job":
		p.spec = job.Spec{Settings: job.Settings{Schedule: p.schedule(rest), Target: "n2"}}
		p.j = job.New(p.spec, job.Facts{}, p.now)
		p.busy = false
		p.print("new", nil)
	case "runs":
		p.result, p.takes = nil, 0
		if f[1] != "hang" {
			p.takes = p.duration(f[2])
			p.result = p.outcome(f[1], strings.Join(f[3:], " "))
		}
	case "end":
		p.end(p.outcome(f[1], strings.Join(f[2:], " ")))
	case "for":
		p.pass(p.duration(rest))
	case "clock":
		p.now = p.now.Add(p.duration(rest))
		if !p.ends.IsZero() { // A run takes as long as it takes.
			p.ends = p.ends.Add(p.duration(rest))
		}
		p.print("clock set", nil)
	case "restart":
		p.restart(0)
	case "off":
		p.restart(p.duration(rest))
	default:
		p.event(f)
	}
}

func (p *player) event(f []string) {
	p.t.Helper()
	rest := strings.Join(f[1:], " ")
	events := map[string]job.Event{
		"down": job.TargetDown{Since: p.now}, "up": job.TargetUp{}, "ask": job.Ask{},
		"enable": job.Enable{}, "disable": job.Disable{},
		"delete": job.Delete{Keep: strings.Contains(rest, "keep"), Force: strings.Contains(rest, "force")},
	}
	if f[0] == "schedule" {
		s := p.j.Settings
		s.Schedule = p.schedule(rest)
		p.step(job.Changed{Settings: s}, "schedule "+rest)
		return
	}
	e, ok := events[f[0]]
	if !ok {
		p.t.Fatalf("unknown command %q", f)
	}
	p.step(e, strings.Join(f, " "))
}

// pass lets time pass, from one wake-up or end of a run to the next.
func (p *player) pass(d time.Duration) {
	until := p.now.Add(d)
	for range 100_000 {
		at, ok := job.NextWake(p.j, p.now)
		if p.busy {
			at, ok = p.ends, !p.ends.IsZero()
		}
		if !ok || at.After(until) {
			p.now = until
			return
		}
		if at.After(p.now) {
			p.now = at
		}
		if p.busy {
			p.end(p.result)
		} else {
			p.step(job.Picked{}, "picked")
		}
	}
	p.t.Fatal("the job never rests")
}

func (p *player) end(result job.Event) {
	p.busy = false
	label := "run is good"
	switch e := result.(type) {
	case job.Failed:
		label = "run fails: " + e.Reason
	case job.Skipped:
		label = "run is skipped: " + e.Reason
	default:
	}
	p.step(result, label)
}

func (p *player) step(e job.Event, label string) {
	var effects []job.Effect
	p.j, effects = job.Step(p.j, e, p.now)
	for _, effect := range effects {
		switch effect.(type) {
		case job.StartSync, job.StartRemoval:
			if p.busy {
				p.t.Fatal("two runs at a time")
			}
			p.busy, p.ends = true, time.Time{}
			if p.result != nil {
				p.ends = p.now.Add(p.takes)
			}
		default:
		}
	}
	p.print(label, effects)
}

// restart plays the daemon's end, for a while, and its start from facts alone.
func (p *player) restart(off time.Duration) {
	p.j, _ = job.Step(p.j, job.Restarted{}, p.now)
	spec := job.Spec{Settings: p.j.Settings}
	switch s := p.j.State.(type) {
	case job.Disabled:
		spec.Disabled = true
	case job.Removing:
		spec.Removing, spec.Keep = true, s.Keep
	default:
	}
	down := p.j.DownSince
	p.now = p.now.Add(off)
	p.j = job.New(spec, p.j.Facts, p.now)
	p.j.DownSince = down
	p.busy = false
	p.print("restarted", nil)
}

func (p *player) print(label string, effects []job.Effect) {
	next := "-"
	if at, ok := job.NextWake(p.j, p.now); ok {
		next = at.Format("Mon 15:04:05")
		if !at.After(p.now) {
			next = "pending"
		}
	}
	line := fmt.Sprintf("%s  %-34s %-46s next %s", p.now.Format("Mon 15:04:05"), label, job.Describe(p.j, p.now), next)
	for _, e := range effects {
		line += fmt.Sprintf("  %T%+v", e, e)
	}
	p.out.WriteString(strings.ReplaceAll(strings.TrimRight(line, " "), "job.", "") + "\n")
}

func (p *player) schedule(expr string) calendar.Schedule {
	p.t.Helper()
	s, err := calendar.Parse(expr)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *player) duration(s string) time.Duration {
	p.t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) outcome(word, reason string) job.Event {
	p.t.Helper()
	switch word {
	case "ok":
		return job.Succeeded{}
	case "fail":
		return job.Failed{Reason: reason}
	case "skip":
		return job.Skipped{Reason: reason}
	}
	p.t.Fatalf("unknown outcome %q", word)
	return nil
}
