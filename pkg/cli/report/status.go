package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// Status is the text of `status`; all says that nothing was filtered out. Where
// nothing is wrong it fits a terminal of 80 columns and 24 rows: jobs in good
// order that find no place are counted.
func (p Printer) Status(s api.Status, all bool) []string {
	jobs := sorted(s.Jobs)
	lines := p.head(s)
	if s.Cluster.ID == "" {
		return lines
	}
	lines = append(lines, p.members(s)...)
	lines = append(lines, "Jobs     "+tally(jobs), "")
	if len(jobs) == 0 {
		return append(lines, nothing(all))
	}
	some, left := fitting(jobs, rows-len(lines)+len(alarms(s)))
	lines = append(lines, p.jobTable(s, some)...)
	if left > 0 {
		lines = append(lines, fmt.Sprintf("%s in good order, ok or disabled: tandem status --details", Count(left, "more job")))
	}
	if problems := p.problems(s, jobs); len(problems) > 0 {
		lines = append(append(lines, ""), problems...)
	}
	return lines
}

const (
	// rows are those of a terminal without the one of the prompt.
	rows = 23
	// width is that of a terminal.
	width = 80
)

// sorted is by source, then by ID.
func sorted(jobs []api.JobStatus) []api.JobStatus {
	jobs = slices.Clone(jobs)
	slices.SortFunc(jobs, func(x, y api.JobStatus) int {
		return cmp.Or(cmp.Compare(x.Source, y.Source), x.ID.Compare(y.ID))
	})
	return jobs
}

func nothing(all bool) string { //nolint:revive // flag-parameter: as above
	if !all {
		return "No job matches."
	}
	return noJobs
}

// head is the alarms, who tells this, and whether the cluster can decide.
func (p Printer) head(s api.Status) []string {
	lines := append(p.banner(s.Cluster), alarms(s)...)
	lines = append(lines, fmt.Sprintf("Node     %s, %s", s.Node, p.Time(s.Time)), "Cluster  "+ClusterLine(s.Cluster))
	return append(append(lines, p.migrations(s.Migrations)...), keptLines(s.Kept)...)
}

// members are two lines at most, if need be without the names of those who are well.
func (p Printer) members(s api.Status) []string {
	const label = "Members  "
	if lines := wrap(label, p.memberItems(s.Cluster.Members, s.Time)); len(lines) <= 2 {
		return lines
	}
	well := 0
	some := slices.DeleteFunc(slices.Clone(s.Cluster.Members), func(m api.Member) bool {
		if m.State == "alive" {
			well++
		}
		return m.State == "alive"
	})
	items := p.memberItems(some, s.Time)
	if well > 0 {
		items = append(items, fmt.Sprintf("%d more alive", well))
	}
	return wrap(label, items)
}

// fitting are the jobs to show in so many rows: those that are not in good order
// in any case, of the others as many as fit, in their order. left are the others.
func fitting(jobs []api.JobStatus, room int) (some []api.JobStatus, left int) {
	whole := 1 // the heads of the columns
	sources := map[guest.NodeName]bool{}
	used := func(j api.JobStatus) int {
		n := 1
		if !sources[j.Source] {
			n++ // the node's own line
		}
		if j.Progress != nil {
			n++
		}
		sources[j.Source] = true
		return n
	}
	for _, j := range jobs {
		whole += used(j)
	}
	if whole <= room {
		return jobs, 0
	}
	clear(sources)
	taken := 2 // the heads of the columns, and the line that counts the others
	for _, j := range jobs {
		if !quiet(j) {
			taken += used(j)
		}
	}
	for _, j := range jobs {
		need := 1
		if !sources[j.Source] {
			need = 2
		}
		switch {
		case !quiet(j):
		case taken+need > room:
			left++
			continue
		default:
			taken += used(j)
		}
		some = append(some, j)
	}
	return some, left
}

// quiet says that a job is in good order, or switched off, and does nothing just now.
func quiet(j api.JobStatus) bool {
	return (j.State == api.StateOK || j.State == api.StateDisabled) && j.FailCount == 0 && !j.Lagging && j.Progress == nil && j.Waiting == ""
}

// alarms is what stands above everything else.
func alarms(s api.Status) []string {
	var lines []string
	if c := s.Cluster; c.ID != "" && !c.Quorate {
		lines = append(lines, notQuorate(c))
	}
	for _, n := range s.Silent {
		lines = append(lines, fmt.Sprintf("WARNING: %s did not answer. What only it knows is missing here, or shown as ?.", n))
	}
	for _, w := range s.Warnings {
		lines = append(lines, "WARNING: "+Printable(w))
	}
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	return lines
}

func (p Printer) memberItems(members []api.Member, now time.Time) []string {
	var items []string
	for _, m := range members {
		items = append(items, string(m.Name)+" "+p.memberState(m, now))
	}
	return items
}

func (p Printer) memberState(m api.Member, now time.Time) string {
	state := m.State
	switch m.State {
	case "self":
		state = "(this node)"
	case "alive":
	default:
		state = strings.ToUpper(state)
		if !m.Since.IsZero() {
			state += " since " + p.at(m.Since, now)
		}
	}
	if !m.Voter {
		state += " (no vote)"
	}
	return state
}

// tally counts the jobs by state, in the order of the states' names.
func tally(jobs []api.JobStatus) string {
	if len(jobs) == 0 {
		return "none"
	}
	n := map[string]int{}
	for _, j := range jobs {
		n[j.State]++
	}
	var parts []string
	for _, state := range []string{api.StateError, api.StateUnknown, api.StateRunning, api.StateOK, api.StateDisabled, api.StateRemoving} {
		if n[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[state], state))
		}
	}
	return fmt.Sprintf("%d: %s", len(jobs), strings.Join(parts, ", "))
}

// jobTable is one table with lines woven in: the node above its jobs, the
// progress below a running one.
func (p Printer) jobTable(s api.Status, jobs []api.JobStatus) []string {
	cells := [][]string{{"JobID", "Enabled", "Target", "LastSync", "NextSync", "Duration", "FailCount", "State", "Lag", "Last"}}
	for _, j := range jobs {
		cells = append(cells, p.jobRow(s, j))
	}
	const target = 2
	table := narrowed(columns(1, cells), cells, target)
	lines := table[:1:1]
	for i, j := range jobs {
		if i == 0 || jobs[i-1].Source != j.Source {
			lines = append(lines, "on "+orDash(string(j.Source))+":")
		}
		lines = append(lines, table[i+1])
		if j.Progress != nil {
			lines = append(lines, "      "+Progress(*j.Progress, s.Time))
		}
	}
	return lines
}

func (p Printer) jobRow(s api.Status, j api.JobStatus) []string {
	// none stands for a fact that is not there: nobody told, or there is none.
	none, never := "-", "never"
	if j.State == api.StateUnknown {
		none, never = "?", "?"
	}
	last, duration, fails, sent := never, none, fmt.Sprint(j.FailCount), none
	if !j.LastSync.IsZero() {
		last = p.at(j.LastSync, s.Time)
	}
	if !j.LastTry.IsZero() {
		duration, sent = span(seconds(j.Duration)), size(j.Bytes)
	} else if j.State == api.StateUnknown {
		fails = none
	}
	return []string{
		j.ID.String(), yesNo(j.Enabled), string(j.Target), last, p.nextSync(s, j, none),
		duration, fails, j.State, lag(s, j), sent,
	}
}

func (p Printer) nextSync(s api.Status, j api.JobStatus, none string) string {
	switch due := !j.NextSync.After(s.Time); {
	case !j.Enabled, j.State == api.StateDisabled:
		return "-"
	case j.NextSync.IsZero():
		return none
	case due && j.State == api.StateRunning:
		return "-"
	case due:
		return "pending"
	default:
		return p.at(j.NextSync, s.Time)
	}
}

func lag(s api.Status, j api.JobStatus) string {
	switch {
	case j.Lag == nil && slices.Contains(s.Silent, j.Target):
		return "?"
	case j.Lag == nil && j.State == api.StateUnknown:
		return "?"
	case j.Lag == nil:
		return "-"
	}
	text := span(seconds(*j.Lag))
	if j.Lagging {
		text += "!"
	}
	return text
}

// Progress tells percent, rate (in MB/s of 10^6 bytes, as --rate takes it) and
// time left, where the daemon could estimate the whole.
func Progress(g api.Progress, now time.Time) string {
	line := orDash(g.Phase)
	switch {
	case g.Total <= 0 && g.Sent > 0:
		line += ": " + size(g.Sent)
	case g.Total > 0:
		percent := min(99, int(100*float64(g.Sent)/float64(g.Total)))
		line = fmt.Sprintf("%s: %d%% of %s", orDash(g.Phase), percent, size(g.Total))
	}
	took := now.Sub(g.Started).Seconds()
	if took <= 0 || g.Sent <= 0 {
		return line
	}
	rate := float64(g.Sent) / took
	line += fmt.Sprintf(", %.1f MB/s", rate/1e6)
	if left := g.Total - g.Sent; left > 0 {
		line += ", " + span(seconds(float64(left)/rate)) + " left"
	}
	return line
}

// problems tells what is wrong with jobs, and what to do.
func (p Printer) problems(s api.Status, jobs []api.JobStatus) []string {
	var lines []string
	for _, j := range jobs {
		name := fmt.Sprintf("%s (%s, %s to %s)", j.ID, orDash(OneLine(j.GuestName)), orDash(string(j.Source)), j.Target)
		if j.FailCount > 0 || j.Error != "" {
			lines = append(lines, p.failure(name, j, s.Time))
			if j.Hint != "" {
				lines = append(lines, "  hint: "+Printable(j.Hint))
			}
		}
		if j.Waiting != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", name, Printable(j.Waiting)))
		}
		if j.Lagging {
			lines = append(lines, fmt.Sprintf("%s lags: the newest complete state on %s is %s, schedule %s", name, j.Target, lagText(j), j.Schedule))
		}
	}
	return lines
}

func (p Printer) failure(name string, j api.JobStatus, now time.Time) string {
	text := name + " failed"
	if j.FailCount > 0 {
		text += " " + Count(j.FailCount, "time")
	}
	if !j.LastTry.IsZero() {
		text += ", last at " + p.at(j.LastTry, now)
	}
	return text + ": " + orDash(Printable(j.Error))
}

func lagText(j api.JobStatus) string {
	if j.Lag == nil {
		return "missing"
	}
	return span(seconds(*j.Lag)) + " old"
}
