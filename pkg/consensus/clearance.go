package consensus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/consensus/guard"
)

// clearance is the leave to act that a leader gets once in each leadership: before
// its first command it asks the other members whether their generation wins over
// its own.
type clearance struct {
	mu     sync.Mutex
	closed bool
	term   uint64 // of the leadership; 0: none
	ask    *question
}

// askAgain is how long a leader that may not act waits until it asks again.
const askAgain = time.Second

// question is one try to get the leave.
type question struct {
	cancel context.CancelFunc
	done   chan struct{}
	// Once done is closed:
	err   error
	ended time.Time
}

// begin asks, unless it was asked in this leadership and is under way or was
// answered with yes.
func (c *clearance) begin(r *run, ask func(context.Context) error) *question {
	term := r.raft.CurrentTerm()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ask != nil && c.term == term && !c.ask.stale() {
		return c.ask
	}
	if c.ask != nil {
		c.ask.cancel()
	}
	ctx, cancel := context.WithCancel(r.life)
	q := &question{cancel: cancel, done: make(chan struct{})}
	c.term, c.ask = term, q
	if c.closed {
		q.err = guard.ErrStopped
		close(q.done)
		return q
	}
	r.wg.Go(func() {
		defer close(q.done)
		q.err = ask(ctx)
		q.ended = time.Now()
	})
	return q
}

// stale says whether the question was answered with no, long enough ago.
func (q *question) stale() bool {
	select {
	case <-q.done:
		return q.err != nil && time.Since(q.ended) >= askAgain
	default:
		return false
	}
}

// close ends the question that is under way, and lets none begin.
func (c *clearance) close() {
	c.drop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// drop ends the question of a leadership that is over.
func (c *clearance) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ask != nil {
		c.ask.cancel()
	}
	c.term, c.ask = 0, nil
}

// wait returns once this leader may act. The command was not taken where it may not.
func (r *run) mayAct(ctx context.Context, ask func(context.Context) error) error {
	if ask == nil {
		return nil
	}
	q := r.clear.begin(r, ask)
	select {
	case <-q.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: as a new leader it still asks the other members", ErrNotLeader)
	}
	if q.err != nil {
		return fmt.Errorf("%w: %w", ErrNotLeader, q.err)
	}
	return nil
}
