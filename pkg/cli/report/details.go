package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// Details is the text of `status --details`: everything about every job, with
// the members and their storages.
func (p Printer) Details(s api.Status, all bool) []string {
	jobs := sorted(s.Jobs)
	lines := p.head(s)
	if s.Cluster.ID == "" {
		return lines
	}
	lines = append(lines, "Jobs     "+tally(jobs), "")
	lines = append(lines, p.clusterFacts(s.Cluster)...)
	var storages []api.NodeStorages
	for _, m := range s.Cluster.Members {
		if len(m.Storages) == 0 {
			continue
		}
		storages = append(storages, api.NodeStorages{Node: m.Name, Storages: m.Storages})
	}
	if len(storages) > 0 {
		lines = append(append(lines, ""), p.Storages(storages)...)
	}
	if len(jobs) == 0 {
		return append(lines, "", nothing(all))
	}
	for _, j := range jobs {
		lines = append(lines, "", fmt.Sprintf("Job %s (%s), %s to %s", j.ID, orDash(OneLine(j.GuestName)), orDash(string(j.Source)), j.Target))
		for _, row := range columns(2, p.details(s, j)) {
			lines = append(lines, "  "+row)
		}
	}
	return lines
}

func (p Printer) details(s api.Status, j api.JobStatus) [][]string {
	settings := "schedule " + j.Schedule
	if j.Rate != 0 {
		settings += ", at most " + rate(j.Rate)
	}
	if !j.Enabled {
		settings += ", disabled"
	}
	cells := [][]string{{"settings", settings}}
	add := func(name, text string) {
		if text != "" {
			cells = append(cells, []string{name, text})
		}
	}
	add("comment", j.Comment)
	state := j.State
	if j.FailCount > 0 {
		state += ", " + Count(j.FailCount, "failed run") + " in a row"
	}
	add("state", state)
	if j.Progress != nil {
		add("progress", Progress(*j.Progress, s.Time))
	}
	add("last sync", p.ago(j.LastSync, s.Time))
	if !j.LastTry.IsZero() {
		add("last run", fmt.Sprintf("%s: %s, %s in %s", p.ago(j.LastTry, s.Time), orDash(j.Kind), size(j.Bytes), span(seconds(j.Duration))))
	}
	if left := j.NextSync.Sub(s.Time); left > 0 {
		add("next sync", fmt.Sprintf("%s, in %s", p.second(j.NextSync), span(left)))
	} else if p.nextSync(s, j, "") != "-" && !j.NextSync.IsZero() {
		add("next sync", p.second(j.NextSync)+", pending")
	}
	add("on "+string(j.Target), p.replica(s, j))
	add("verified", p.verified(s, j))
	add("drilled", p.drilled(s, j))
	add("error", j.Error)
	add("hint", j.Hint)
	add("waiting", strings.TrimPrefix(j.Waiting, "waiting "))
	return cells
}

// ago is a time of the past with its distance.
func (p Printer) ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s, %s ago", p.second(t), span(now.Sub(t)))
}

// replica is what the target has.
func (p Printer) replica(s api.Status, j api.JobStatus) string {
	text := lag(s, j)
	if j.Lag == nil {
		if text == "?" {
			return "not known"
		}
		return "no complete point"
	}
	text = span(seconds(*j.Lag)) + " old"
	if j.Point != "" {
		text = j.Point + ", " + text
		if j.Consistency != "" && j.Consistency != guest.Crash {
			text += ", " + string(j.Consistency)
		}
	}
	if j.Lagging {
		text += ": it lags"
	}
	return text
}
