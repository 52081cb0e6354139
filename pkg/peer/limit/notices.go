package limit

import (
	"sync"
	"time"
)

const (
	// noticeAgain is when something that goes on is told again.
	noticeAgain = time.Hour
	// maxNotices bounds what is remembered of what was told; what exceeds it is one
	// kind.
	maxNotices = 1024
)

// Notices keep what others do again and again from filling the log: the first of a
// kind is told, then one an hour as long as it goes on.
type Notices struct {
	mu    sync.Mutex
	last  map[string]*notice
	swept time.Time
}

type notice struct {
	told  time.Time
	since int // how many were not told since
}

// NewNotices has told nothing yet.
func NewNotices() *Notices { return &Notices{last: map[string]*notice{}} }

// Tell says whether to tell something of this kind now, and how many of it were left
// out before.
func (n *Notices) Tell(kind string, now time.Time) (leftOut int, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last[kind] == nil && len(n.last) >= maxNotices {
		n.sweep(now)
		if len(n.last) >= maxNotices {
			kind = ""
		}
	}
	last := n.last[kind]
	switch {
	case last == nil:
		n.last[kind] = &notice{told: now}
		return 0, true
	case now.Sub(last.told) < noticeAgain:
		last.since++
		return 0, false
	}
	leftOut = last.since
	last.told, last.since = now, 0
	return leftOut, true
}

// sweep forgets what was told long ago.
func (n *Notices) sweep(now time.Time) {
	if now.Sub(n.swept) < sweepEvery {
		return
	}
	n.swept = now
	for k, v := range n.last {
		if now.Sub(v.told) >= noticeAgain {
			delete(n.last, k)
		}
	}
}

// Over forgets a kind: it has ended, and is told at once when it comes again.
func (n *Notices) Over(kind string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.last, kind)
}
