package consensus

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/statefile"
)

// writeAgain is how long a write that failed waits for its next try.
const writeAgain = time.Second

// errStopped is what raft's last calls to its stores get once it is being closed.
var errStopped = errors.New("raft is being closed")

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

// guard stands between raft and its stores. Raft never sees a write fail: it would
// panic, or go on as if it had never tried. The write is parked and tried again
// until it works, so that raft, which waits for it, acknowledges nothing that is
// not durable. A write that takes too long makes the node mute.
type guard struct {
	where   string
	stuck   time.Duration
	mute    func(muted bool)
	reserve *statefile.Reserve
	log     *zap.Logger

	stopped chan struct{}
	stop    sync.Once

	mu    sync.Mutex
	calls map[*call]bool // those under way that failed once, or are stuck
	muted int            // how many of them are stuck
}

// call is one write under way.
type call struct {
	what    string
	started time.Time
	err     error // of the last try
	stuck   bool
	timer   *time.Timer
}

func newGuard(where string, stuck time.Duration, mute func(bool), reserve *statefile.Reserve, log *zap.Logger) *guard {
	return &guard{
		where: where, stuck: stuck, mute: mute, reserve: reserve, log: log,
		stopped: make(chan struct{}), calls: map[*call]bool{},
	}
}

// close lets go of those who wait. What they get is errStopped.
func (g *guard) close() { g.stop.Do(func() { close(g.stopped) }) }

// do carries a write through: it returns nil once it worked, or errStopped.
func (g *guard) do(what string, write func() error) error {
	c := &call{what: what, started: time.Now()}
	c.timer = time.AfterFunc(g.stuck, func() { g.isStuck(c) })
	defer g.end(c)
	for {
		err, answered := g.try(write)
		switch {
		case !answered:
			return errStopped
		case err == nil:
			return nil
		}
		if g.failed(c, err) {
			continue // there is some space again
		}
		select {
		case <-time.After(writeAgain):
		case <-g.stopped:
			return errStopped
		}
	}
}

// try runs the write where it can hang without holding up those who close raft.
func (g *guard) try(write func() error) (err error, answered bool) {
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
func (g *guard) failed(c *call, err error) bool {
	g.mu.Lock()
	first := c.err == nil || c.err.Error() != err.Error()
	c.err = err
	g.calls[c] = true
	g.mu.Unlock()
	if first {
		g.log.Error("the state disk does not take a write; it is tried again until it does",
			zap.String("what", c.what), zap.String("folder", g.where), zap.Error(err))
	}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && g.reserve != nil && g.reserve.Release() {
		g.log.Warn("the state disk is full: its reserve was given up", zap.Int64("bytes", g.reserve.Size()))
		return true
	}
	return false
}

// isStuck is called when a write has not worked for too long.
func (g *guard) isStuck(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.timer == nil { // it ended just now
		return
	}
	c.stuck = true
	g.calls[c] = true
	if g.muted++; g.muted == 1 {
		g.mute(true)
		g.log.Error("the state disk does not take writes: this node is silent until it does, so that others can lead",
			zap.String("what", c.what), zap.String("folder", g.where), zap.Duration("for", time.Since(c.started)), zap.Error(c.err))
	}
}

func (g *guard) end(c *call) {
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
	g.log.Info("the state disk takes writes again",
		zap.String("what", c.what), zap.String("folder", g.where), zap.Duration("after", time.Since(c.started)))
	if !c.stuck {
		return
	}
	if g.muted--; g.muted == 0 {
		g.mute(false)
	}
}

// trouble tells which writes do not work; nil for none.
func (g *guard) trouble() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := slices.SortedFunc(maps.Keys(g.calls), func(a, b *call) int { return a.started.Compare(b.started) })
	var errs []error
	for _, c := range calls {
		errs = append(errs, &TroubleError{What: c.what, Where: g.where, Since: time.Since(c.started), Err: c.err})
	}
	return errors.Join(errs...)
}

// keyCurrentTerm is the name under which raft keeps its term.
const keyCurrentTerm = "CurrentTerm"

// guardedVotes is raft's stable store behind the guard.
type guardedVotes struct {
	raft.StableStore
	guard *guard
}

// Set implements raft.StableStore.
func (v guardedVotes) Set(key, value []byte) error {
	return v.guard.do("keep its vote", func() error { return v.StableStore.Set(key, value) })
}

// SetUint64 implements raft.StableStore.
func (v guardedVotes) SetUint64(key []byte, value uint64) error {
	// Raft writes the term that it has just read when it starts; that must work on
	// a full disk.
	if old, err := v.GetUint64(key); err == nil && old == value {
		return nil
	}
	err := v.guard.do("keep its vote", func() error { return v.StableStore.SetUint64(key, value) })
	if errors.Is(err, errStopped) && string(key) == keyCurrentTerm {
		// Raft panics when it cannot keep its term. It is being closed, mute
		// already, and forgets the term as we do.
		return nil
	}
	return err
}

// guardedSnapshots is raft's snapshot store behind the guard: raft tries again by
// itself after a failure, so that they are only told.
type guardedSnapshots struct {
	raft.SnapshotStore
	guard *guard
	note  *snapshotNote
}

// snapshotNote remembers that the last snapshot failed.
type snapshotNote struct {
	mu    sync.Mutex
	err   error
	since time.Time
}

func (n *snapshotNote) set(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil && n.err == nil {
		n.since = time.Now()
	}
	n.err = err
}

func (n *snapshotNote) trouble(where string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		return nil
	}
	return &TroubleError{What: "write a snapshot", Where: where, Since: time.Since(n.since), Err: n.err}
}

// Create implements raft.SnapshotStore.
func (s guardedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, servers raft.Configuration, //nolint:revive // raft's interface
	serversIndex uint64, trans raft.Transport,
) (sink raft.SnapshotSink, err error) {
	err = s.once(func() (err error) {
		sink, err = s.SnapshotStore.Create(version, index, term, servers, serversIndex, trans)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &guardedSink{SnapshotSink: sink, store: s}, nil
}

// once tries a write and notes that it failed.
func (s guardedSnapshots) once(write func() error) error {
	err, answered := s.guard.try(write)
	if !answered {
		return errStopped
	}
	if err == nil {
		return nil
	}
	s.note.set(err)
	if errors.Is(err, syscall.ENOSPC) && s.guard.reserve != nil {
		s.guard.reserve.Release() // for raft's next try
	}
	return err
}

type guardedSink struct {
	raft.SnapshotSink
	store guardedSnapshots
}

func (k *guardedSink) Write(b []byte) (n int, err error) {
	err = k.store.once(func() (err error) {
		n, err = k.SnapshotSink.Write(b)
		return err
	})
	return n, err
}

func (k *guardedSink) Close() error {
	if err := k.store.once(k.SnapshotSink.Close); err != nil {
		return err
	}
	k.store.note.set(nil)
	return nil
}
