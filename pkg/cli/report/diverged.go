package report

import "github.com/tandemd/tandem/pkg/api"

// Diverged is the text of `diverged list`: a line for each copy, and below it why
// it is there and what it is called.
func (p Printer) Diverged(copies []api.DivergedCopy) []string {
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
