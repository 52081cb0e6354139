// Package report turns the daemon's answers into text for people: lines that fit
// a terminal of 80 columns where names are short.
//
// It is not what JSON output is made of, it writes nowhere and looks at no clock:
// "now" is the time in the answer. pkg/cli calls it.
package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// Printer makes the text.
type Printer struct {
	// Zone is the time zone in which times are shown.
	Zone *time.Location
}

// Jobs is the text of `list`: the columns of pvesr, then source and comment.
func (p Printer) Jobs(jobs []api.Job) []string {
	if len(jobs) == 0 {
		return []string{noJobs}
	}
	jobs = slices.Clone(jobs)
	slices.SortFunc(jobs, func(x, y api.Job) int { return x.ID.Compare(y.ID) })
	rows := [][]string{{"JobID", "Target", "Schedule", "Rate", "Enabled", "Source", "Comment"}}
	for _, j := range jobs {
		enabled := yesNo(j.Enabled)
		if j.Removing {
			enabled = "removing"
		}
		rows = append(rows, []string{
			j.ID.String(), string(j.Target), j.Schedule, rate(j.Rate), enabled, orDash(string(j.Source)), j.Comment,
		})
	}
	return columns(2, rows)
}

const noJobs = "No jobs. Make one: tandem create-local-job GUEST-NUMBER TARGET, like 100-0 n2"

// Job is the text of `read`.
func (p Printer) Job(j api.Job) []string {
	rows := [][]string{
		{"id", j.ID.String()},
		{"guest", j.Guest.String()},
		{"source", orDash(string(j.Source))},
		{"target", string(j.Target)},
		{"schedule", j.Schedule},
		{"rate", rate(j.Rate)},
		{"comment", orDash(j.Comment)},
		{"enabled", strings.ToLower(yesNo(j.Enabled))},
		{"snapshots", orDash(string(j.Snapshots))},
		{"digest", j.Digest},
	}
	if j.Removing {
		rows = append(rows, []string{"removing", "yes"})
	}
	return columns(2, rows)
}

// JobLine says what a job does, for the verbs that change one.
func JobLine(j api.Job) string {
	text := fmt.Sprintf("%s to %s, schedule %s", orDash(string(j.Source)), j.Target, j.Schedule)
	if j.Rate != 0 {
		text += ", at most " + rate(j.Rate)
	}
	if !j.Enabled {
		text += ", disabled"
	}
	return text
}

func rate(mbs float64) string {
	if mbs == 0 {
		return "-"
	}
	return strconv.FormatFloat(mbs, 'f', -1, 64) + " MB/s"
}

// Log is the text of `log`: a head for each run, its lines, its error.
func (p Printer) Log(runs []api.Run) []string {
	var lines []string
	for _, r := range runs {
		lines = append(lines, fmt.Sprintf("run %d, %s to %s: %s", r.ID, r.Source, r.Target, Outcome(r)))
		for _, l := range r.Log {
			lines = append(lines, p.LogLine(r.Job, l))
		}
		lines = append(lines, Reason(r)...)
	}
	return lines
}

// LogLine is a line of a run's log.
func (p Printer) LogLine(job guest.JobID, l api.LogLine) string {
	level := ""
	if l.Level != "" && l.Level != "info" {
		level = l.Level + ": "
	}
	return fmt.Sprintf("%s %s: %s%s", p.second(l.Time), job, level, OneLine(l.Message))
}

// Reason is why a run did not succeed, and what to do.
func Reason(r api.Run) []string {
	var lines []string
	if r.Error != "" {
		lines = append(lines, "error: "+Printable(r.Error))
	}
	if r.Hint != "" {
		lines = append(lines, "hint: "+Printable(r.Hint))
	}
	return lines
}

// Outcome is a run in a few words.
func Outcome(r api.Run) string {
	switch r.Outcome {
	case api.OutcomeRunning:
		return "running"
	case api.OutcomeInterrupted:
		return "interrupted"
	case api.OutcomeFailed:
		return "failed after " + took(r)
	case api.OutcomeSkipped:
		return "skipped"
	default:
		return fmt.Sprintf("%s, %s in %s", orDash(r.Kind), size(r.Bytes), took(r))
	}
}

func took(r api.Run) string {
	if r.End.IsZero() {
		return "-"
	}
	return span(r.End.Sub(r.Start))
}

// History is the text of `history`: a line for each run.
func (p Printer) History(runs []api.Run) []string {
	rows := [][]string{{"Run", "Start", "Duration", "Kind", "Bytes", "Target", "Result"}}
	for _, r := range runs {
		result := orDash(r.Outcome)
		if r.Error != "" {
			result += ": " + r.Error
		}
		rows = append(rows, []string{
			fmt.Sprint(r.ID), p.second(r.Start), took(r), orDash(r.Kind), size(r.Bytes), string(r.Target), result,
		})
	}
	return columns(2, rows)
}
