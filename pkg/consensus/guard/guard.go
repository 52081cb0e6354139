// Package guard stands between raft and what it works with: its stores, which may
// fail or hang, and its transport, which it must not use while they do.
//
// Raft never sees a write fail: it would panic, or go on as if it had never tried.
// The write is parked and tried again until it works, so that raft, which waits for
// it, acknowledges nothing that is not durable. A write that takes too long makes
// the node mute: raft's heartbeats go on beside a hanging write and would keep the
// others from electing. It knows nothing of generations and little of what is in the
// log; pkg/consensus puts it around each raft that it starts.
package guard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/statefile"
)

// writeAgain is how long a write that failed waits for its next try.
const writeAgain = time.Second

// ErrStopped is what raft's last calls to its stores get once it is being closed.
var ErrStopped = errors.New("raft is being closed")

// TroubleError says that the state disk does not take raft's writes.
type TroubleError struct {
	// What is that which does not work, Where the folder.
	What, Where string
	// Since is how long it has not worked.
	Since time.Duration
	// Err is the disk's answer; nil: it does not answer at all.
	Err error
}

// Error tells what does not work, where, since when and why.
func (e *TroubleError) Error() string {
	why := "the disk does not answer"
	if e.Err != nil {
		why = e.Err.Error()
	}
	return fmt.Sprintf("cannot %s in %s for %s: %s", e.What, e.Where, e.Since.Round(time.Second), why)
}

// Unwrap is the disk's answer.
func (e *TroubleError) Unwrap() error { return e.Err }

// Hint tells the operator what to do about it.
func (e *TroubleError) Hint() string {
	if errors.Is(e.Err, syscall.ENOSPC) || errors.Is(e.Err, syscall.EDQUOT) {
		return "free some space on the disk of " + e.Where + "; the node goes on by itself; until then it confirms nothing, and guests run on"
	}
	return "look at the disk of " + e.Where + "; the node goes on by itself once the disk takes writes; until then it confirms nothing, and guests run on"
}

// Options say what is guarded.
type Options struct {
	// Where names the stores to people: a folder.
	Where string
	// Stuck is how long a write may take.
	Stuck time.Duration
	// Mute is called when a write takes longer, and when none does any more. It must
	// not block.
	Mute func(muted bool)
	// Reserve is given up when the disk is full; nil: none.
	Reserve *statefile.Reserve
	// Snapshot is where the newest snapshot ends; zero: there is none.
	Snapshot Entry
	Logger   *zap.Logger
}

// Guard carries raft's writes to its stores.
type Guard struct {
	Options
	stopped chan struct{}
	stop    sync.Once
	raft    atomic.Pointer[Raft] // nil before it runs

	mu    sync.Mutex
	calls map[*call]bool // those under way that failed once, or are stuck
	muted int            // how many of them are stuck
	// newest is where the newest snapshot ends that is on disk.
	newest Entry

	// snapshot is why the last snapshot failed, since when; raft tries again by itself.
	snapshot      error
	snapshotSince time.Time
}

// call is one write under way.
type call struct {
	what    string
	started time.Time
	err     error // of the last try
	stuck   bool
	timer   *time.Timer
}

// New makes a guard.
func New(o Options) *Guard {
	return &Guard{Options: o, stopped: make(chan struct{}), calls: map[*call]bool{}, newest: o.Snapshot}
}

// Close lets go of those who wait; what they get is ErrStopped. Raft must be mute
// by then, and apply nothing any more.
func (g *Guard) Close() { g.stop.Do(func() { close(g.stopped) }) }

// do carries a write through: it returns nil once it worked, or ErrStopped.
func (g *Guard) do(what string, write func() error) error {
	c := &call{what: what, started: time.Now()}
	g.mu.Lock()
	c.timer = time.AfterFunc(g.Stuck, func() { g.isStuck(c) })
	g.mu.Unlock()
	defer g.end(c)
	for {
		err, answered := g.try(write)
		switch {
		case !answered:
			return ErrStopped
		case err == nil:
			return nil
		}
		if g.failed(c, err) {
			continue // there is some space again
		}
		select {
		case <-time.After(writeAgain):
		case <-g.stopped:
			return ErrStopped
		}
	}
}

// try runs the write where it can hang without holding up those who close raft.
func (g *Guard) try(write func() error) (err error, answered bool) {
	select {
	case <-g.stopped:
		return nil, false
	default:
	}
	done := make(chan error, 1)
	go func() { done <- write() }()
	select {
	case err := <-done:
		return err, true
	case <-g.stopped:
		return nil, false
	}
}

// failed notes a failure. It says whether trying again at once makes sense.
func (g *Guard) failed(c *call, err error) bool {
	g.mu.Lock()
	first := c.err == nil || c.err.Error() != err.Error()
	c.err = err
	g.calls[c] = true
	g.mu.Unlock()
	if first {
		g.Logger.Error("the state disk does not take a write; it is tried again until it does",
			zap.String("what", c.what), zap.String("folder", g.Where), zap.Error(err))
	}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && g.Reserve != nil && g.Reserve.Release() {
		g.Logger.Warn("the state disk is full: its reserve was given up", zap.Int64("bytes", g.Reserve.Size()))
		return true
	}
	return false
}

// isStuck is called when a write has not worked for too long.
func (g *Guard) isStuck(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.timer == nil { // it ended just now
		return
	}
	c.stuck = true
	g.calls[c] = true
	if g.muted++; g.muted == 1 {
		g.Mute(true)
		g.Logger.Error("the state disk does not take writes: this node is silent until it does, so that others can lead",
			zap.String("what", c.what), zap.String("folder", g.Where), zap.Duration("for", time.Since(c.started)), zap.Error(c.err))
	}
}

func (g *Guard) end(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.timer.Stop()
	c.timer = nil
	if !g.calls[c] {
		return
	}
	delete(g.calls, c)
	select {
	case <-g.stopped:
		return // mute it stays
	default:
	}
	g.Logger.Info("the state disk takes writes again",
		zap.String("what", c.what), zap.String("folder", g.Where), zap.Duration("after", time.Since(c.started)))
	if !c.stuck {
		return
	}
	if g.muted--; g.muted == 0 {
		g.Mute(false)
	}
}

// Trouble tells which writes do not work; nil for none.
func (g *Guard) Trouble() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := slices.SortedFunc(maps.Keys(g.calls), func(a, b *call) int { return a.started.Compare(b.started) })
	var errs []error
	for _, c := range calls {
		errs = append(errs, &TroubleError{What: c.what, Where: g.Where, Since: time.Since(c.started), Err: c.err})
	}
	if g.snapshot != nil {
		errs = append(errs, &TroubleError{What: "write a snapshot", Where: g.Where, Since: time.Since(g.snapshotSince), Err: g.snapshot})
	}
	return errors.Join(errs...)
}
