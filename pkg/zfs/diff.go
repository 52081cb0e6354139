package zfs

import (
	"bytes"
	"context"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Diff counts the files in which two snapshots differ.
type Diff struct {
	Added    int `json:"added"`
	Removed  int `json:"removed"`
	Modified int `json:"modified"`
	Renamed  int `json:"renamed"`
	// First are some of them, as `zfs diff -H` prints them: "M", a tab and the path.
	First []string `json:"first,omitempty"`
}

// DiffKept is how many lines a [Diff] keeps.
const DiffKept = 20

// Diff compares a filesystem's snapshot with an earlier one, which may be the one that it was cloned from. The filesystem must
// be mounted. It takes as long as there are differences: the context bounds it, and beside an error is what was counted until
// then.
func (z *ZFS) Diff(ctx context.Context, from, to string) (Diff, error) {
	if err := checkAll("diff", []string{from, to}, zname.Snapshot); err != nil {
		return Diff{}, err
	}
	var lines diffLines
	_, err := z.feed(ctx, call{op: "diff", names: []string{to, from}, args: []string{"diff", "-H", from, to}, timeout: z.opt.QueryTimeout}, &lines)
	if ClassOf(err) == ClassHung {
		return Diff{}, err // The child may still be writing.
	}
	return lines.diff, err
}

// diffLines counts what `zfs diff -H` prints, as it comes.
type diffLines struct {
	diff Diff
	line []byte
}

// Write takes a piece of output; it never fails.
func (l *diffLines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.line = append(l.line, p...)
			return n, nil
		}
		l.diff.Count(string(append(l.line, p[:i]...)))
		l.line, p = l.line[:0], p[i+1:]
	}
}

// Count takes one line of `zfs diff -H`.
func (d *Diff) Count(line string) {
	kind, _, ok := strings.Cut(line, "\t")
	if !ok {
		return
	}
	switch kind {
	case "+":
		d.Added++
	case "-":
		d.Removed++
	case "M":
		d.Modified++
	case "R":
		d.Renamed++
	default:
		return
	}
	if len(d.First) < DiffKept {
		d.First = append(d.First, line)
	}
}

// Changes is how many files differ.
func (d Diff) Changes() int { return d.Added + d.Removed + d.Modified + d.Renamed }
