package report

import (
	"fmt"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
)

// Explanation is the text of `explain`.
func (p Printer) Explanation(e api.Explanation) []string {
	j, st := e.Job, e.Status
	lines := []string{
		fmt.Sprintf("Job      %s, guest %s (%s): %s", j.ID, j.Guest, orDash(OneLine(st.GuestName)), JobLine(j)),
		"State    " + p.state(e),
		fmt.Sprintf("Told by  %s, %s", e.Node, p.Time(e.Time)),
	}
	for _, n := range e.Silent {
		lines = append(lines, fmt.Sprintf("WARNING: %s did not answer.", n))
	}
	lines = append(lines, section("Why", e.Why)...)
	lines = append(lines, section("What comes next", e.Next)...)
	lines = append(lines, "", "The next sync, as things are now")
	if e.Plan == nil {
		return append(lines, "  cannot be told: "+Printable(e.NoPlan))
	}
	return append(lines, plan(*e.Plan)...)
}

func (p Printer) state(e api.Explanation) string {
	st := e.Status
	text := st.State
	if st.FailCount > 0 {
		text += ", " + Count(st.FailCount, "failed run") + " in a row"
	}
	if st.Progress != nil {
		text += ": " + Progress(*st.Progress, e.Time)
	}
	return text
}

func section(title string, sentences []string) []string {
	if len(sentences) == 0 {
		return nil
	}
	lines := []string{"", title}
	for _, s := range sentences {
		lines = append(lines, "  - "+OneLine(s))
	}
	return lines
}

func plan(s api.PlannedSync) []string {
	var lines []string
	if s.Remembered != "" {
		lines = append(lines, "  from what the owner remembers of the target: "+OneLine(s.Remembered))
	}
	for _, r := range s.Refusals {
		lines = append(lines, fmt.Sprintf("  refused: volume %s: %s", r.Volume, OneLine(r.Reason)))
		if r.Hint != "" {
			lines = append(lines, "    hint: "+OneLine(r.Hint))
		}
	}
	if len(s.Refusals) == 0 {
		lines = append(lines, "  "+planLine(s))
		for _, v := range s.Volumes {
			lines = append(lines, volume(v)...)
		}
	}
	for _, c := range s.Cleans {
		lines = append(lines, fmt.Sprintf("  removed then on %s: %s: %s", c.Node, c.Volume, some(c.Snapshots)))
	}
	for _, w := range s.Warnings {
		lines = append(lines, "  warning: "+OneLine(w))
	}
	return lines
}

// some are names, of many only the first ones.
func some(names []string) string {
	const most = 4
	var left string
	if n := len(names) - most; n > 0 {
		names, left = names[:most], fmt.Sprintf(" and %d more", n)
	}
	return OneLine(strings.Join(names, ", ")) + left
}

// Plan is the text of `run --dry-run`.
func (p Printer) Plan(e api.Explanation) []string {
	j := e.Job
	lines := []string{fmt.Sprintf("job %s, %s to %s, as planned by %s at %s; nothing was changed:", j.ID, j.Source, j.Target, e.Node, p.Time(e.Time))}
	if e.Plan == nil {
		return append(lines, "  cannot be told: "+Printable(e.NoPlan))
	}
	return append(lines, plan(*e.Plan)...)
}

func planLine(s api.PlannedSync) string {
	switch s.Kind {
	case "nothing":
		return "nothing to send: nothing was written since " + s.Base
	case "":
		return "an interrupted transfer is dropped first, then it is planned anew"
	}
	text := s.Kind
	if s.Base != "" {
		text += " from " + s.Base
	}
	return fmt.Sprintf("%s, about %s", text, size(s.Bytes))
}

func volume(v api.PlannedVolume) []string {
	head := fmt.Sprintf("  %s: %s", v.Volume, orDash(v.Kind))
	if v.Bytes > 0 {
		head += ", about " + size(v.Bytes)
	}
	if v.Reason != "" {
		head += ": " + OneLine(v.Reason)
	}
	lines := []string{head}
	for _, step := range v.Steps {
		lines = append(lines, "    "+OneLine(step))
	}
	return lines
}
