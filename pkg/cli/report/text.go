package report

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tandemd/tandem/pkg/api"
)

// columns lays out rows as a table, with gap spaces between its columns.
func columns(gap int, rows [][]string) []string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, gap, ' ', 0)
	for _, r := range rows {
		var cells []string
		for _, cell := range r {
			cells = append(cells, OneLine(cell))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t")) //nolint:errcheck // a buffer takes everything
	}
	w.Flush() //nolint:errcheck // a buffer takes everything
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// narrowed is the table with the names in one column shortened in their middle,
// where that makes it fit a terminal.
func narrowed(table []string, cells [][]string, column int) []string {
	const least = 6
	widest := 0
	for _, line := range table {
		widest = max(widest, utf8.RuneCountInString(line))
	}
	if widest <= width {
		return table
	}
	name := 0
	for _, row := range cells {
		name = max(name, utf8.RuneCountInString(row[column]))
	}
	name = max(name-(widest-width), least)
	for _, row := range cells {
		row[column] = squeeze(row[column], name)
	}
	return columns(1, cells)
}

// squeeze leaves n runes of s: its beginning and, since names differ there, its end.
func squeeze(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	tail := (n - 1) / 2
	return string(r[:n-1-tail]) + "…" + string(r[len(r)-tail:])
}

// OneLine makes s fit a table's cell.
func OneLine(s string) string { return strings.Join(strings.Fields(Printable(s)), " ") }

// at is t in at most 8 columns as seen at now: the time of day where that is
// unambiguous, else the date.
func (p Printer) at(t, now time.Time) string {
	t, now = t.In(p.Zone), now.In(p.Zone)
	switch {
	case t.Sub(now).Abs() < 12*time.Hour, t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return t.Format(time.TimeOnly)
	case t.Year() == now.Year():
		return t.Format("Jan _2")
	default:
		return t.Format("Jan 2006")
	}
}

// Time is t with date, time and zone.
func (p Printer) Time(t time.Time) string { return t.In(p.Zone).Format("2006-01-02 15:04:05 MST") }

// second is t to the second, in a form that sorts.
func (p Printer) second(t time.Time) string { return t.In(p.Zone).Format(time.DateTime) }

// span is d in at most 5 columns, its two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 10*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d < day:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d < 10*day:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/day)
	}
}

// seconds is a number of seconds of the API as a duration.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second)) // 1e9 s, 31 years, keeps it in range
}

// size is n bytes in at most 5 columns.
func size[N int64 | uint64](n N) string { return api.Size(uint64(n)) }

// wrap breaks a list of items into lines that fit 80 columns behind a label.
func wrap(label string, items []string) []string {
	indent := strings.Repeat(" ", len(label))
	lines := []string{label}
	for i, item := range items {
		if i < len(items)-1 {
			item += ","
		}
		last := &lines[len(lines)-1]
		switch {
		case len(strings.TrimSpace(*last)) == 0 || i == 0:
			*last += item
		case len(*last)+1+len(item) > width:
			lines = append(lines, indent+item)
		default:
			*last += " " + item
		}
	}
	return lines
}

func yesNo(b bool) string { //nolint:revive // flag-parameter: it is the value to print
	if b {
		return "Yes"
	}
	return "No"
}

// orDash is what a table shows for a value that is not there.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Count is "1 job", "2 jobs".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Printable keeps what other nodes and programs wrote from driving the terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		if unicode.IsSpace(r) {
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}
