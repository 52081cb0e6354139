package daemon

import (
	"context"
	"sync"
	"time"
)

const (
	quorateFile = "quorate"
	// quorateStep is how often the time is counted, quorateKept how often it is kept
	// on disk: so much is forgotten when the daemon is killed.
	quorateStep, quorateKept = time.Minute, 10 * time.Minute
)

// quorateTime counts for how long this node has been quorate in all: only then its
// targets' silence is theirs and not its own. A count that was lost begins anew.
type quorateTime struct {
	facts facts
	// lasts is for how long the node has been quorate without a break.
	lasts func() time.Duration

	mu    sync.Mutex
	total time.Duration
}

type quorateCount struct {
	Seconds int64 `json:"seconds"`
}

func newQuorateTime(f facts, lasts func() time.Duration) *quorateTime {
	q := &quorateTime{facts: f, lasts: lasts}
	var kept quorateCount
	if err := f.Read(quorateFile, &kept); err == nil && kept.Seconds > 0 {
		q.total = time.Duration(kept.Seconds) * time.Second
	}
	return q
}

// get is the time counted so far.
func (q *quorateTime) get() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

// count adds what of the time that has passed the node was quorate.
func (q *quorateTime) count(passed time.Duration) {
	quorate := min(passed, q.lasts())
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total += max(0, quorate)
}

func (q *quorateTime) keep() {
	// What stands in the way is told with the other files.
	_ = q.facts.Write(quorateFile, quorateCount{int64(q.get() / time.Second)})
}

func (q *quorateTime) run(ctx context.Context) {
	tick := time.NewTicker(quorateStep)
	defer tick.Stop()
	last, kept := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			q.count(time.Since(last))
			q.keep()
			return
		case <-tick.C:
			q.count(time.Since(last))
			last = time.Now()
			if time.Since(kept) >= quorateKept {
				q.keep()
				kept = last
			}
		}
	}
}
