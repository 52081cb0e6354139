package report

import (
	"fmt"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// Diverged is the text of `diverged list`: a line for each copy, and below it why
// it is there and what it is called; then the kept copies.
func (p Printer) Diverged(l api.DivergedList) []string {
	var out []string
	if len(l.Copies) > 0 || len(l.Kept) == 0 {
		out = p.copies(l.Copies)
	}
	if len(l.Kept) == 0 {
		return out
	}
	for _, part := range [][]string{keptTable(l.Kept), unfinished(l.Kept)} {
		if len(out) > 0 && len(part) > 0 {
			out = append(out, "")
		}
		out = append(out, part...)
	}
	return out
}

func keptTable(kept []api.KeptCopy) []string {
	rows := [][]string{{"Node", "Guest", "Kept copy of", "Age", "Used"}}
	for _, k := range kept {
		if !k.Unfinished {
			rows = append(rows, []string{string(k.Node), k.Guest.String(), keptVolumes(k), age(k), size(k.Used)})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	return append(columns(2, rows), "No job points to a kept copy. One goes with: tandem diverged discard NODE GUEST --yes")
}

// unfinished is what migrations have brought that have not ended.
func unfinished(kept []api.KeptCopy) []string {
	rows := [][]string{{"Node", "Guest", "Brought by a migration", "Used"}}
	for _, k := range kept {
		if k.Unfinished {
			rows = append(rows, []string{string(k.Node), k.Guest.String(), keptVolumes(k), size(k.Used)})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	return append(columns(2, rows), "These migrations have not ended: the next one goes on from it, or it is removed by itself within two hours.")
}

func (p Printer) copies(copies []api.DivergedCopy) []string {
	if len(copies) == 0 {
		return []string{"No diverged data was set aside."}
	}
	rows := [][]string{{"Node", "Guest", "Volume", "Set aside", "Used"}}
	for _, c := range copies {
		rows = append(rows, []string{string(c.Node), c.Guest.String(), c.Volume.String(), p.Time(c.SetAside), size(c.Used)})
	}
	table := columns(2, rows)
	out := []string{table[0]}
	for i, c := range copies {
		out = append(out, table[i+1], "  "+OneLine(c.Dataset), "  because "+orDash(OneLine(c.Why)))
		if c.Base != "" {
			out = append(out, "  shares "+OneLine(c.Base)+" with the replica")
		}
	}
	return out
}

func keptVolumes(k api.KeptCopy) string {
	var all []guest.Volume
	for _, v := range k.Volumes {
		all = append(all, v.Volume)
	}
	return volumeList(all)
}

func age(k api.KeptCopy) string {
	if k.Age == nil {
		return "-"
	}
	return span(seconds(*k.Age))
}

// KeptCopy is what a kept copy is, in a sentence without its end.
func (p Printer) KeptCopy(k api.KeptCopy) string {
	if k.Unfinished {
		return fmt.Sprintf("node %s has what a migration of guest %s has brought that has not ended (%s), %s: the next one goes on from it, or it is removed by itself",
			k.Node, k.Guest, keptVolumes(k), size(k.Used))
	}
	text := fmt.Sprintf("node %s has a kept copy of guest %s (%s), %s", k.Node, k.Guest, keptVolumes(k), size(k.Used))
	if k.Age != nil {
		text += ", " + age(k) + " old"
	}
	switch {
	case k.Owner == "":
		text += "; the cluster does not know that guest any more"
	case k.Only:
		text += fmt.Sprintf("; no job replicates the guest, so there is no other copy beside the guest itself on %s", k.Owner)
	}
	return text
}

// keptLines are for the head of `status`.
func keptLines(kept []api.KeptCopy) (lines []string) {
	var copies, brought []api.KeptCopy
	for _, k := range kept {
		if k.Unfinished {
			brought = append(brought, k)
		} else {
			copies = append(copies, k)
		}
	}
	switch used := usedBy(copies); len(copies) {
	case 0:
	case 1:
		k := copies[0]
		lines = append(lines, fmt.Sprintf("Kept     guest %s on %s, %s, age %s, no job points there: tandem diverged list", k.Guest, k.Node, used, age(k)))
	default:
		lines = append(lines, fmt.Sprintf("Kept     %d copies to which no job points, %s: tandem diverged list", len(copies), used))
	}
	switch used := usedBy(brought); len(brought) {
	case 0:
	case 1:
		lines = append(lines, fmt.Sprintf("Brought  guest %s to %s, %s, by a migration that has not ended", brought[0].Guest, brought[0].Node, used))
	default:
		lines = append(lines, fmt.Sprintf("Brought  %d guests, %s, by migrations that have not ended: tandem diverged list", len(brought), used))
	}
	return lines
}

func usedBy(kept []api.KeptCopy) string {
	var used uint64
	for _, k := range kept {
		used += k.Used
	}
	return size(used)
}

// DivergedCopy is the text of `diverged show`.
func (p Printer) DivergedCopy(d api.DivergedDetail) []string {
	base := "-"
	if d.Base != "" {
		base = d.Base + ", which the replica has too"
	}
	since := "written since the base"
	if d.Base == "" {
		since = "written in its snapshots"
	}
	var taken []string
	for _, s := range d.Snapshots {
		taken = append(taken, fmt.Sprintf("%s, %s, %s written", s.Name, p.Time(s.Taken), size(s.Written)))
	}
	var clones []string
	for _, c := range d.Clones {
		text := c.Dataset
		if c.Guest != 0 {
			text = fmt.Sprintf("guest %s was restored from it: %s", c.Guest, c.Dataset)
		}
		clones = append(clones, text)
	}
	rows := [][]string{
		{"node", string(d.Node)},
		{"dataset", d.Dataset},
		{"guest", d.Guest.String()},
		{"volume", fmt.Sprintf("%s (%s)", d.Volume, d.Type)},
		{"set aside", p.Time(d.SetAside)},
		{"because", orDash(d.Why)},
		{"written in", "term " + orDash(d.Term)},
		{"owner then", fmt.Sprintf("%s, term %s", orDash(string(d.Owner)), orDash(d.OwnerTerm))},
		{"base", base},
		{"size", fmt.Sprintf("%s, %s %s", size(d.Used), size(d.Newer), since)},
	}
	rows = append(rows, listed("snapshots", taken)...)
	rows = append(rows, listed("clones", clones)...)
	rows = append(rows, []string{"mounted", orDash(d.At)})
	return append(append(columns(2, rows), fileDiff(d)...), p.divergedVerbs(d)...)
}

// listed has the label in the first row only.
func listed(label string, items []string) [][]string {
	if len(items) == 0 {
		return [][]string{{label, "-"}}
	}
	var rows [][]string
	for i, item := range items {
		if i > 0 {
			label = ""
		}
		rows = append(rows, []string{label, item})
	}
	return rows
}

// fileDiff is what differs from the base.
func fileDiff(d api.DivergedDetail) []string {
	var out []string
	if f := d.Diff; f != nil {
		out = append(out, "", fmt.Sprintf("Files that differ from the base: %d added, %d removed, %d modified, %d renamed", f.Added, f.Removed, f.Modified, f.Renamed))
		for _, line := range f.First {
			out = append(out, "  "+OneLine(line))
		}
		if more := f.Added + f.Removed + f.Modified + f.Renamed - len(f.First); more > 0 {
			out = append(out, fmt.Sprintf("  and %d more", more))
		}
	}
	if d.Trouble != "" {
		out = append(out, "", "The files: "+Printable(d.Trouble))
	}
	return out
}

// divergedVerbs are what can be done with a copy.
func (p Printer) divergedVerbs(d api.DivergedDetail) []string {
	look := "tandem diverged mount "
	if d.At != "" {
		look = "tandem diverged umount "
	}
	args := fmt.Sprintf("%s %s", d.Node, OneLine(d.Dataset))
	return []string{"", strings.TrimSpace(look + args), "tandem diverged restore " + args, "tandem diverged discard " + args + " --yes"}
}

// Restored is the text of `diverged restore`.
func (p Printer) Restored(r api.Restored) []string {
	lines := []string{fmt.Sprintf("Guest %s (%s) on %s has what diverged of guest %s:", r.Guest, OneLine(r.Name), r.Node, r.From)}
	for _, v := range r.Volumes {
		lines = append(lines, fmt.Sprintf("  %s, cloned from %s", OneLine(v.Dataset), OneLine(v.Copy)))
	}
	return append(lines, fmt.Sprintf("It has no unit and no configuration yet: tandem guest set %s --unit SERVICE --config FILE", r.Guest))
}
