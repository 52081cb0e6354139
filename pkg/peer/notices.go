package peer

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

// notices keep what others do again and again from filling the log: the first of a
// kind is told, then one an hour as long as it goes on.
type notices struct {
	mu   sync.Mutex
	last map[string]*notice
}

type notice struct {
	told  time.Time
	since int // how many were not told since
}

func newNotices() *notices { return &notices{last: map[string]*notice{}} }

// tell says whether to tell something of this kind now, and how many of it were left
// out before.
func (n *notices) tell(kind string, now time.Time) (leftOut int, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last[kind] == nil && len(n.last) >= maxNotices {
		for k, v := range n.last {
			if now.Sub(v.told) >= noticeAgain {
				delete(n.last, k)
			}
		}
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

// over forgets a kind: it has ended, and is told at once when it comes again.
func (n *notices) over(kind string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.last, kind)
}
