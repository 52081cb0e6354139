package guard

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

var (
	errMute    = errors.New("this node's state disk does not take writes: it is silent until it does")
	errNoVotes = errors.New("this node's ledger was set aside: it does not vote until it has caught up")
)

// Wire is raft's transport with a switch: mute, it neither asks others nor answers
// them.
type Wire struct {
	raft.Transport
	prevote raft.WithPreVote
	calls   chan raft.RPC

	mu       sync.Mutex
	muted    bool
	changed  chan struct{} // closed and replaced when muted changes
	finished bool          // mute for good

	// Voteless keeps a node from voting and from standing for election.
	Voteless atomic.Bool
	// Commit is the highest commit index that a leader told.
	Commit atomic.Uint64

	raft Raft
	log  *Log
	anew func()

	done chan struct{}
	wg   sync.WaitGroup
}

// NewWire wraps a transport, which must know pre-votes: raft would do without them.
// It carries no calls to raft before Start.
func NewWire(t raft.Transport) (*Wire, error) {
	p, ok := t.(raft.WithPreVote)
	if !ok {
		return nil, errors.New("raft's transport does not know pre-votes")
	}
	w := &Wire{
		Transport: t, prevote: p, calls: make(chan raft.RPC),
		changed: make(chan struct{}), done: make(chan struct{}),
	}
	return w, nil
}

// Start lets the calls of others come to raft, which runs on log. anew is called when
// raft must be started anew: it is told nothing more, and must be stopped.
func (w *Wire) Start(r Raft, log *Log, anew func()) {
	w.raft, w.log, w.anew = r, log, anew
	log.guard.raft.Store(&r)
	w.wg.Go(w.pump)
}

// SetMuted turns the switch.
func (w *Wire) SetMuted(muted bool) { //nolint:revive // the state of a switch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished || w.muted == muted {
		return
	}
	w.muted = muted
	close(w.changed)
	w.changed = make(chan struct{})
}

// Finish mutes for good.
func (w *Wire) Finish() {
	w.SetMuted(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished = true
}

func (w *Wire) state() (muted bool, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.muted, w.changed
}

// Muted says how the switch stands.
func (w *Wire) Muted() bool {
	muted, _ := w.state()
	return muted
}

// check is what a call to another node must pass.
func (w *Wire) check() error {
	if w.Muted() {
		return errMute
	}
	return nil
}

// pump carries the calls of others to raft.
func (w *Wire) pump() {
	for {
		select {
		case rpc := <-w.Transport.Consumer():
			w.deliver(rpc)
		case <-w.done:
			return
		}
	}
}

func (w *Wire) deliver(rpc raft.RPC) {
	if err := w.admits(rpc); err != nil {
		refuse(rpc, err)
		return
	}
	switch c := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		w.append(rpc, c)
	case *raft.InstallSnapshotRequest:
		w.install(rpc, c)
	case *raft.RequestVoteRequest:
		w.vote(rpc, c)
	case *raft.RequestPreVoteRequest:
		w.wouldVote(rpc, c)
	default:
		w.hand(rpc)
	}
}

// hand gives a call to raft, unless this node falls silent first.
func (w *Wire) hand(rpc raft.RPC) {
	for {
		muted, changed := w.state()
		if muted {
			refuse(rpc, errMute)
			return
		}
		select {
		case w.calls <- rpc:
			return
		case <-changed:
		case <-w.done:
			refuse(rpc, errMute)
			return
		}
	}
}

// admits notes what a call tells, and refuses what raft would fall over and votes that
// must not be given.
func (w *Wire) admits(rpc raft.RPC) error {
	if err := sound(rpc.Command); err != nil {
		return err
	}
	switch c := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		for old := w.Commit.Load(); c.LeaderCommitIndex > old && !w.Commit.CompareAndSwap(old, c.LeaderCommitIndex); {
			old = w.Commit.Load()
		}
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest, *raft.TimeoutNowRequest:
		if w.Voteless.Load() {
			return errNoVotes
		}
	}
	return nil
}

// refuse answers a call that raft does not get. The answer has the type that the
// transports expect beside the error.
func refuse(rpc raft.RPC, err error) {
	var answer any
	switch rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		answer = &raft.AppendEntriesResponse{}
	case *raft.RequestVoteRequest:
		answer = &raft.RequestVoteResponse{}
	case *raft.RequestPreVoteRequest:
		answer = &raft.RequestPreVoteResponse{}
	case *raft.InstallSnapshotRequest:
		answer = &raft.InstallSnapshotResponse{}
		read(rpc, func() { rpc.Respond(answer, err) })
		return
	case *raft.TimeoutNowRequest:
		answer = &raft.TimeoutNowResponse{}
	}
	rpc.Respond(answer, err)
}

// Close implements raft.WithClose.
func (w *Wire) Close() error {
	w.Finish()
	close(w.done)
	w.wg.Wait()
	if c, ok := w.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

// Consumer implements raft.Transport.
func (w *Wire) Consumer() <-chan raft.RPC { return w.calls }

// SetHeartbeatHandler implements raft.Transport.
func (w *Wire) SetHeartbeatHandler(handle func(raft.RPC)) {
	w.Transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if err := w.check(); err != nil {
			refuse(rpc, err)
			return
		}
		handle(rpc)
	})
}

// AppendEntriesPipeline implements raft.Transport.
func (w *Wire) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	p, err := w.Transport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return &pipeline{AppendPipeline: p, wire: w}, nil
}

type pipeline struct {
	raft.AppendPipeline
	wire *Wire
}

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.wire.check(); err != nil {
		return nil, err
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}

// AppendEntries implements raft.Transport.
func (w *Wire) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := w.check(); err != nil {
		return err
	}
	return w.Transport.AppendEntries(id, to, args, resp)
}

// RequestVote implements raft.Transport.
func (w *Wire) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := w.mayVote(); err != nil {
		return err
	}
	return w.Transport.RequestVote(id, to, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (w *Wire) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := w.mayVote(); err != nil {
		return err
	}
	return w.prevote.RequestPreVote(id, to, args, resp)
}

func (w *Wire) mayVote() error {
	if w.Voteless.Load() {
		return errNoVotes
	}
	return w.check()
}

// InstallSnapshot implements raft.Transport.
func (w *Wire) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest,
	resp *raft.InstallSnapshotResponse, data io.Reader,
) error {
	if err := w.check(); err != nil {
		return err
	}
	return w.Transport.InstallSnapshot(id, to, args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (w *Wire) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if err := w.check(); err != nil {
		return err
	}
	return w.Transport.TimeoutNow(id, to, args, resp)
}
