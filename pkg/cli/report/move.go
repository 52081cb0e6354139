package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// Migrated is how a migration ended.
func (p Printer) Migrated(m api.Migration) []string {
	switch m.Outcome {
	case api.MigrationMoved:
		text := fmt.Sprintf("Guest %s is on %s", m.Guest, m.To)
		if m.Started {
			text += " and runs there"
		}
		text += fmt.Sprintf("; %s in %s sent", size(int64(m.Bytes)), Count(m.Round, "sync")) //nolint:gosec // bytes of one guest
		if m.Downtime != nil {
			text += ", downtime " + seconds(*m.Downtime).Round(10*time.Millisecond).String()
		} else if m.Started {
			text += ", downtime not measured"
		}
		return []string{text + "."}
	case api.MigrationUndone:
		return []string{fmt.Sprintf("Guest %s stays on %s, nothing has changed: %s", m.Guest, m.From, Printable(m.Reason))}
	case api.MigrationSuperseded:
		return []string{fmt.Sprintf("The migration of guest %s is over: %s", m.Guest, Printable(m.Reason))}
	default:
		return nil
	}
}

// migration is a migration in a line.
func (p Printer) migration(m api.Migration) string {
	switch {
	case m.Ended():
		return strings.TrimSuffix(strings.Join(p.Migrated(m), " "), ".") + ", " + p.Time(m.Finished)
	case !m.InDoubt.IsZero():
		return fmt.Sprintf("in doubt since %s whether it is on %s or %s, stopped on both: %s", p.Time(m.InDoubt), m.From, orDash(string(m.To)), OneLine(m.Advice))
	}
	text := fmt.Sprintf("moving to %s: phase %s since %s", m.To, m.Phase, p.Time(m.Since))
	if m.Progress != nil {
		text += ", " + Progress(*m.Progress, m.Time)
	}
	if m.Trouble != "" {
		text += "; " + OneLine(m.Trouble)
	}
	return text
}

// migrations are those that go on, for the head of `status`.
func (p Printer) migrations(list []api.Migration) []string {
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("Moving   guest %s (%s): %s", m.Guest, m.From, p.migration(m)))
	}
	return out
}

// Candidates is who has what of a guest.
func (p Printer) Candidates(r api.Recovery) []string {
	if len(r.Candidates) == 0 {
		return nil
	}
	rows := [][]string{{"Node", "Newest complete point", "Taken", "Note"}}
	for _, c := range r.Candidates {
		note := OneLine(c.Why)
		if c.Node == r.On {
			note = "goes on from here"
		}
		taken := ""
		if !c.Taken.IsZero() {
			taken = p.Time(c.Taken)
		}
		rows = append(rows, []string{string(c.Node), orDash(c.Point), orDash(taken), orDash(note)})
	}
	return columns(2, rows)
}

// Recovery is the plan of a recovery.
func (p Printer) Recovery(r api.Recovery) []string {
	lines := []string{fmt.Sprintf("Guest %s (%s), owned by %s, would go to %s:", r.Guest, OneLine(r.Name), r.Owner, r.On), ""}
	lines = append(append(lines, p.Candidates(r)...), "")
	if r.Tie != "" {
		lines = append(lines, "- "+Printable(r.Tie))
	}
	for _, l := range r.Loss {
		lines = append(lines, "- "+Printable(l))
	}
	return append(lines, "")
}

// NodeRecovery is the plan for all guests of a node.
func (p Printer) NodeRecovery(n api.NodeRecovery) []string {
	if len(n.Guests) == 0 {
		return []string{fmt.Sprintf("Node %s owns no guest.", n.Node)}
	}
	rows := [][]string{{"Guest", "Name", "To", "Point", "Note"}}
	for _, r := range n.Guests {
		note := ""
		switch {
		case r.Error != nil:
			note = r.Error.Message
		case r.Refused != "":
			note = r.Refused
		case len(r.Loss) > 0:
			note = r.Loss[0]
		}
		if r.Tie != "" {
			note += "; " + r.Tie
		}
		rows = append(rows, []string{r.Guest.String(), OneLine(r.Name), orDash(string(r.On)), orDash(r.Point), orDash(OneLine(note))})
	}
	return append(columns(2, rows), "")
}

// NodeRecovered is what became of them.
func (p Printer) NodeRecovered(n api.NodeRecovery) []string {
	var lines []string
	failed := 0
	for _, r := range n.Guests {
		if r.Done {
			lines = append(lines, fmt.Sprintf("guest %s is on %s now, from %s", r.Guest, r.On, r.Point))
			continue
		}
		failed++
		why := r.Refused
		if r.Error != nil {
			why = r.Error.Message
		}
		lines = append(lines, fmt.Sprintf("guest %s failed: %s", r.Guest, Printable(why)))
	}
	return append(lines, fmt.Sprintf("%s of %s are recovered, %d failed.", Count(len(n.Guests)-failed, "guest"), n.Node, failed))
}
