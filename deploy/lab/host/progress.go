package host

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress tells a person what the lab is doing, a line each, with the seconds since the lab began to work.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

// NewProgress begins to count the seconds; nothing is told where out is nil.
func NewProgress(out io.Writer) *Progress {
	if out == nil {
		out = io.Discard
	}
	return &Progress{out: out, start: Now()}
}

// Say prints one line.
func (p *Progress) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Who cannot read what the lab does is no reason to stop it.
	_, _ = fmt.Fprintf(p.out, "[%6.1fs] %s\n", Now().Sub(p.start).Seconds(), fmt.Sprintf(format, args...))
}
