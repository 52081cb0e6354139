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

// Guests is the text of `guest list`.
func (p Printer) Guests(guests []api.Guest) []string {
	if len(guests) == 0 {
		return []string{"No guests. Find some: tandem guest discover. Add one: tandem guest add --help"}
	}
	rows := [][]string{{"ID", "Type", "Name", "Owner", "State", "Unit", "Volumes"}}
	for _, g := range guests {
		rows = append(rows, []string{
			g.ID.String(), string(g.Type), g.Name, string(g.Owner), orDash(runState(g)), orDash(g.Unit), volumeList(g.Volumes),
		})
	}
	return columns(2, rows)
}

func runState(g api.Guest) string {
	if g.Run == nil {
		return ""
	}
	return g.Run.State
}

// GuestRuns is the text of `guest status`.
func (p Printer) GuestRuns(guests []api.Guest, c Copies) []string {
	if len(guests) == 0 {
		return []string{"No guest has a unit. Name it: tandem guest set ID --unit SERVICE"}
	}
	rows := [][]string{{"ID", "Name", "Owner", "State", "Since", "Runs on", "Drilled"}}
	var notes []string
	shown := map[guest.ID]bool{}
	for _, g := range guests {
		since := ""
		if !g.Run.Since.IsZero() {
			since = p.second(g.Run.Since)
		}
		rows = append(rows, []string{g.ID.String(), g.Name, string(g.Owner), g.Run.State, orDash(since), orDash(NodeNames(g.Run.On)), orDash(c.drilledShort(g.ID))})
		shown[g.ID] = true
		notes = append(notes, runNotes(g)...)
	}
	lines := columns(2, rows)
	if len(notes) > 0 {
		lines = append(append(lines, ""), notes...)
	}
	return append(lines, p.apart(c, func(id guest.ID) bool { return shown[id] })...)
}

// runNotes are what is not as it should be about where a guest runs.
func runNotes(g api.Guest) (notes []string) {
	for _, n := range g.Run.On {
		if n != g.Owner {
			notes = append(notes, fmt.Sprintf("WARNING: guest %s runs on %s although it is %s's", g.ID, n, g.Owner))
		}
	}
	if g.Run.State == api.GuestFailed {
		notes = append(notes, fmt.Sprintf("guest %s has failed; on %s: systemctl status %s", g.ID, g.Owner, g.Unit))
	}
	return notes
}

// runText is how a guest fares, in a line.
func (p Printer) runText(g api.Guest) string {
	if g.Run == nil {
		return "-"
	}
	text := g.Run.State
	if !g.Run.Since.IsZero() {
		text += " since " + p.second(g.Run.Since)
	}
	all := []string{text}
	for _, n := range g.Run.On {
		if n != g.Owner {
			all = append(all, fmt.Sprintf("it runs on %s although it is %s's", n, g.Owner))
		}
	}
	return strings.Join(all, "; ")
}

func volumeList(volumes []guest.Volume) string {
	var out []string
	for _, v := range volumes {
		out = append(out, v.String())
	}
	return strings.Join(out, " ")
}

// Guest is the text of `guest show`.
func (p Printer) Guest(g api.Guest, c Copies) []string {
	config := "-"
	if g.Config != "" {
		config = fmt.Sprintf("%s (tandem guest show %s --config prints it)", Count(len(g.Config), "byte"), g.ID)
	}
	var jobs []string
	for _, j := range g.Jobs {
		jobs = append(jobs, j.String())
	}
	rows := [][]string{
		{"id", g.ID.String()},
		{"type", string(g.Type)},
		{"name", g.Name},
		{"owner", orDash(string(g.Owner))},
		{"term", orDash(g.Term)},
		{"unit", orDash(g.Unit)},
		{"state", p.runText(g)},
		{"config", config},
		{"onboot", onBoot(g.Boot)},
		{"quiesce", cmp.Or(string(g.Quiesce), "off")},
	}
	for i, v := range g.Volumes {
		label := ""
		if i == 0 {
			label = "volumes"
		}
		rows = append(rows, []string{label, v.String()})
	}
	if m := g.Migration; m != nil && (!m.Ended() || !slices.ContainsFunc(g.Moves, func(x api.Move) bool { return x.ID == m.ID })) {
		rows = append(rows, []string{"move", p.migration(*m)})
	}
	for i, m := range g.Moves[:min(len(g.Moves), shownMoves)] {
		label := ""
		if i == 0 {
			label = "moves"
		}
		rows = append(rows, []string{label, p.move(m)})
	}
	rows = append(append(rows, p.drillRows(c, g.ID)...), []string{"jobs", orDash(strings.Join(jobs, " "))}, []string{"digest", g.Digest})
	return append(columns(2, rows), p.apart(c, func(id guest.ID) bool { return id == g.ID })...)
}

// shownMoves is how many of a guest's moves are shown; the JSON has more.
const shownMoves = 5

// move is a move in a line.
func (p Printer) move(m api.Move) string {
	text := fmt.Sprintf("%s %s to %s: ", p.second(m.Finished), m.From, orDash(string(m.To)))
	switch {
	case m.Outcome != api.MigrationMoved:
		text += m.Outcome + ", " + OneLine(m.Reason)
	case m.Kind == api.MoveRecovery:
		text += "recovered"
	case m.Downtime != nil:
		text += "moved, downtime " + seconds(*m.Downtime).Round(10*time.Millisecond).String()
	case m.Started:
		text += "moved, downtime not measured"
	default:
		text += "moved, not started"
	}
	if m.By != "" {
		text += ", by " + m.By
	}
	return text
}

// onBoot is whether and when a guest is started by itself.
func onBoot(b guest.Boot) string {
	text := "off"
	if b.On {
		text = "on"
	}
	if b.Order != 0 {
		text += fmt.Sprintf(", order %d", b.Order)
	}
	if b.Delay != 0 {
		text += fmt.Sprintf(", the next ones %d s later", b.Delay)
	}
	return text
}

// Traces tells what became of datasets that Tandem no longer takes care of.
func (p Printer) Traces(traces []api.Trace) []string {
	var lines []string
	for _, t := range traces {
		text := fmt.Sprintf("  %s on %s ", t.Dataset, t.Node)
		switch t.Fate {
		case api.FateKept:
			text += "is kept, as an ordinary dataset"
		case api.FateReplica:
			text += "is kept, a replica"
		case api.FateDestroyed:
			text += "is destroyed"
		default:
			text += "was left as it is: " + orDash(Printable(t.Reason))
		}
		lines = append(lines, text)
	}
	return lines
}

// Discovery is the text of `guest discover`: commands to run.
func (p Printer) Discovery(d api.Discovery) []string {
	if len(d.Guests) == 0 {
		return []string{"Nothing was found that is not known."}
	}
	lines := []string{"# Run what you want added; correct the names first."}
	for _, g := range d.Guests {
		line := fmt.Sprintf("tandem guest add %s --type %s --name %s --node %s", g.ID, g.Type, g.Name, g.Node)
		flag := "--volume"
		if g.Known {
			line, flag = fmt.Sprintf("tandem guest set %s", g.ID), "--add-volume"
		}
		for _, v := range g.Volumes {
			line += fmt.Sprintf(" \\\n    %s %s", flag, v)
		}
		lines = append(lines, line)
	}
	return lines
}
