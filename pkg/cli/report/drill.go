package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
)

// Drilled is the text of `guest drill`.
func Drilled(d api.Drill) []string {
	r := d.Result
	head := fmt.Sprintf("guest %s on %s: ", d.Guest, d.Node)
	what := "the guest stayed up"
	if d.Check != "" {
		what = OneLine(d.Check) + " is content"
	}
	switch r.Outcome {
	case api.DrillPassed:
		head += "passed: " + what
	case api.DrillFailed:
		head += "FAILED: " + OneLine(r.Error)
	default:
		head += "cannot tell: " + OneLine(r.Error)
	}
	lines := []string{head}
	took := fmt.Sprintf("in %s", span(seconds(r.Duration)))
	if d.Point != "" {
		took = fmt.Sprintf("at %s, %s old when the drill began, %s", d.Point, span(seconds(d.Age)), took)
	}
	lines = append(lines, "  "+took)
	if len(r.Output) > 0 {
		lines = append(lines, "  it last said:")
		for _, line := range r.Output {
			lines = append(lines, "    "+OneLine(line))
		}
	}
	if r.Hint != "" {
		lines = append(lines, "  hint: "+OneLine(r.Hint))
	}
	return lines
}

// Drills is the text of `guest drill --list`.
func (p Printer) Drills(s api.Status) []string {
	rows := [][]string{{"Guest", "Name", "Replica on", "Passed", "Point", "Failed since"}}
	var notes []string
	seen := map[string]bool{}
	for _, j := range sorted(s.Jobs) {
		key := j.Guest.String() + " " + string(j.Target)
		if seen[key] {
			continue
		}
		seen[key] = true
		passed, point, failed := "never", "", ""
		if d := j.Drilled; d != nil {
			if !d.Passed.IsZero() {
				passed, point = p.ago(d.Passed, s.Time), d.PassedPoint
			}
			if !d.Failed.IsZero() {
				failed = p.ago(d.Failed, s.Time)
				notes = append(notes, fmt.Sprintf("guest %s on %s failed at %s: %s", j.Guest, j.Target, orDash(d.FailedPoint), OneLine(d.Error)))
			}
			if d.Running {
				notes = append(notes, fmt.Sprintf("guest %s on %s is being drilled", j.Guest, j.Target))
			}
		}
		if slices.Contains(s.Silent, j.Target) {
			passed = "?"
		}
		rows = append(rows, []string{j.Guest.String(), orDash(OneLine(j.GuestName)), string(j.Target), passed, orDash(point), orDash(failed)})
	}
	if len(rows) == 1 {
		return []string{"No guest has a job, so there is no replica to try."}
	}
	lines := columns(2, rows)
	if len(notes) > 0 {
		lines = append(append(lines, ""), notes...)
	}
	return lines
}

// drilled is what `status --details` tells of a replica's drills.
func (p Printer) drilled(s api.Status, j api.JobStatus) string {
	d := j.Drilled
	if d == nil {
		return ""
	}
	var all []string
	if !d.Passed.IsZero() {
		all = append(all, "passed "+p.ago(d.Passed, s.Time))
	}
	if !d.Failed.IsZero() {
		all = append(all, "failed "+p.ago(d.Failed, s.Time)+": "+OneLine(d.Error))
	}
	if d.Running {
		all = append(all, "one goes on")
	}
	if len(all) == 0 {
		all = append(all, "ended "+p.ago(d.Time, s.Time)+" before it could be told")
	}
	return strings.Join(all, "; ")
}
