package unit

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// journalTimeout is for reading a few lines, also from a disk that is slow.
	journalTimeout = 10 * time.Second
	// longestLine and mostLines bound what is kept of a unit's journal.
	longestLine, mostLines = 500, 1000
)

// Journal is the last n lines that the unit wrote to the journal, or systemd about it,
// oldest first.
func (m *Manager) Journal(ctx context.Context, unit string, n int) ([]string, error) {
	const op = "read the journal of"
	if err := check(op, unit); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	n = min(max(n, 1), mostLines)
	cmd := exec.CommandContext(ctx, m.o.Journalctl, "--unit", unit, "--lines", strconv.Itoa(n), "--output", "cat", "--no-pager", "--quiet")
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: journalctl did not end", ErrTimeout)
		} else if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, clip(said, longestLine))
		}
		return nil, &Error{Op: op, Unit: unit, Err: err}
	}
	var lines []string
	for line := range strings.Lines(stdout.String()) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, clip(line, longestLine))
		}
	}
	return lines[max(0, len(lines)-n):], nil
}

// clip shortens a text for people, and takes out what would break a terminal.
func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}
