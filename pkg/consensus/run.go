package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus/guard"
	"github.com/tandemd/tandem/pkg/guest"
)

// run is raft of one generation, from its start to its end.
type run struct {
	generation string
	raft       *raft.Raft
	fsm        *fsm
	guard      *guard.Guard
	wire       *guard.Wire
	log        *guard.Log
	stable     raft.StableStore
	stores     Stores
	contact    contact

	// confirmed gets a token when a command was: see herald.
	confirmed chan struct{}

	waiting  atomic.Int32 // those who wait for raft's answers
	observer *raft.Observer
	clear    clearance
	life     context.Context
	end      context.CancelFunc
	wg       sync.WaitGroup
}

// keyVoteless marks stores that took the place of others which were set aside. An
// empty log would give its vote to anybody, although this node acknowledged
// entries before: it does not vote until the cluster has made it a follower
// without a vote and it has caught up.
const keyVoteless = "TandemVoteless"

// start opens the stores of a generation and starts raft on them.
func (c *Consensus) start(generation string) (_ *run, err error) {
	stores, err := c.opts.Rooms.Open(generation)
	if err != nil {
		return nil, err
	}
	r := &run{generation: generation, stores: stores, fsm: newFSM(c.news), confirmed: make(chan struct{}, 1)}
	r.life, r.end = context.WithCancel(context.Background())
	r.contact.now, r.contact.gap = c.opts.Boottime, 3*c.opts.Timing.Heartbeat
	defer func() {
		if err != nil {
			err = errors.Join(err, r.abandon())
		}
	}()
	found, err := inspect(stores)
	if err != nil {
		return nil, err
	}
	if err := r.settle(found); err != nil {
		return nil, err
	}
	if found.empty && c.emptied == generation {
		if err := stores.Stable.SetUint64([]byte(keyVoteless), 1); err != nil {
			return nil, err
		}
	}
	trans, err := c.opts.Rooms.Transport(generation)
	if err != nil {
		return nil, err
	}
	if r.wire, err = guard.NewWire(trans); err != nil {
		return nil, err
	}
	r.guard = guard.New(guard.Options{
		Where: stores.Where, Stuck: c.opts.Timing.Stuck, Reserve: c.opts.Reserve, Snapshot: found.snapshot, Logger: c.opts.Logger,
		Mute: func(muted bool) {
			r.wire.SetMuted(muted)
			c.news.tell()
		},
	})
	r.log, r.stable = r.guard.Log(stores.Log, found.command), r.guard.Votes(stores.Stable)
	mark, err := stores.Stable.GetUint64([]byte(keyVoteless))
	if err != nil && err.Error() != "not found" {
		return nil, err
	}
	r.wire.Voteless.Store(mark != 0)
	snaps := r.guard.Snapshots(stores.Snapshots)
	if r.raft, err = raft.NewRaft(c.config(), r.fsm, r.log, r.stable, snaps, r.wire); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	r.wire.Start(r.raft, r.log, func() { go c.anew(r) })
	r.watch(c)
	return r, nil
}

func (c *Consensus) config() *raft.Config {
	t := c.opts.Timing
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.opts.Node)
	conf.HeartbeatTimeout, conf.ElectionTimeout = t.Heartbeat, t.Heartbeat
	conf.LeaderLeaseTimeout, conf.CommitTimeout = t.Lease, t.Commit
	if t.Snapshot != 0 {
		conf.SnapshotThreshold, conf.TrailingLogs = t.Snapshot, t.Trailing
	}
	if t.Look != 0 {
		conf.SnapshotInterval = t.Look
	}
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.Logger = raftLogger(c.opts.Logger)
	return conf
}

// settle finishes what a crash left between a snapshot of the leader and the
// removal of the log that it replaced: raft's log takes no holes.
func (r *run) settle(f findings) error {
	if !f.superseded {
		return nil
	}
	first, err1 := r.stores.Log.FirstIndex()
	last, err2 := r.stores.Log.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return r.stores.Log.DeleteRange(first, last)
}

// stopTimeout bounds how long raft may take to end; a write that hangs in the
// kernel cannot be ended.
const stopTimeout = 10 * time.Second

// stop ends raft and closes its stores. Others hear nothing of it from now on.
func (r *run) stop() error {
	r.end()
	r.clear.close()
	r.wire.Finish()
	r.fsm.stop()
	r.guard.Close()
	r.raft.DeregisterObserver(r.observer)
	done := make(chan error, 1)
	go func() {
		r.wg.Wait()
		r.answerAll()
		err := r.raft.Shutdown().Error()
		done <- errors.Join(err, r.stores.close())
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(stopTimeout):
		return fmt.Errorf("raft of generation %s does not end: a write in %s hangs", r.generation, r.stores.Where)
	}
}

// answerAll has raft answer those who wait for it: it forgets some of them when it
// is shut down while their commands are on the way to the ledger. The barrier
// cannot be written any more, at which a leader steps down.
func (r *run) answerAll() {
	_ = r.raft.Barrier(stopTimeout).Error()
	for deadline := time.Now().Add(stopTimeout / 2); r.waiting.Load() > 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
}

// await is f.Error, but no longer than ctx. then, if any, is called once f is decided.
func (r *run) await(ctx context.Context, f raft.Future, then func()) error {
	r.waiting.Add(1)
	done := make(chan error, 1)
	go func() {
		defer r.waiting.Add(-1)
		err := f.Error()
		if then != nil {
			then()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// abandon closes what start opened before it failed.
func (r *run) abandon() error {
	r.end()
	var errs []error
	if r.guard != nil {
		r.guard.Close()
	}
	if r.wire != nil {
		errs = append(errs, r.wire.Close())
	}
	return errors.Join(append(errs, r.stores.close())...)
}

// watch turns raft's observations into news, and keeps what depends on who leads.
func (r *run) watch(c *Consensus) {
	events := make(chan raft.Observation, 16)
	r.observer = raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState, raft.PeerObservation:
			return true
		default:
			return false
		}
	})
	r.raft.RegisterObserver(r.observer)
	if c.opts.Reserve != nil {
		r.wg.Go(func() { r.keepReserve(c) })
	}
	r.wg.Go(r.herald)
	r.wg.Go(func() {
		tick := time.NewTicker(c.opts.Timing.Heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-events:
				c.news.tell()
			case <-tick.C:
			case <-r.life.Done():
				return
			}
			r.look(c)
		}
	})
}

// look is what watch does at each event, and once in a while.
func (r *run) look(c *Consensus) {
	r.contact.see(r.quorate())
	if r.leads() && c.opts.Clear != nil {
		r.clear.begin(r, c.opts.Clear)
	} else {
		r.clear.drop()
	}
	if r.wire.Voteless.Load() && r.caughtUp(c.opts.Node) {
		if err := r.stable.SetUint64([]byte(keyVoteless), 0); err != nil {
			return // being closed
		}
		r.wire.Voteless.Store(false)
		c.opts.Logger.Info("this node has caught up after its ledger was set aside: it may vote again")
	}
}

// keepReserve makes the reserve again once there is room.
func (r *run) keepReserve(c *Consensus) {
	tick := time.NewTicker(c.opts.Timing.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.life.Done():
			return
		}
		if c.opts.Reserve.Held() || r.guard.Trouble() != nil {
			continue
		}
		if err := c.opts.Reserve.Renew(); err == nil {
			c.opts.Logger.Info("the state disk has room again: its reserve is back", zap.Int64("bytes", c.opts.Reserve.Size()))
		}
	}
}

// caughtUp says whether the cluster knows that this node has no vote, and this
// node all that the leader told was confirmed.
func (r *run) caughtUp(self guest.NodeID) bool {
	commit := r.wire.Commit.Load()
	if commit == 0 || r.raft.AppliedIndex() < commit || r.raft.CommitIndex() < commit {
		return false
	}
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	for _, s := range f.Configuration().Servers {
		if s.ID == raft.ServerID(self) {
			return s.Suffrage != raft.Voter
		}
	}
	return false
}

// leader is who leads as far as this node knows; "" for none, or while it is mute:
// raft hangs in a write then and does not notice that others have elected.
func (r *run) leader() guest.NodeID {
	if r.wire.Muted() {
		return ""
	}
	_, id := r.raft.LeaderWithID()
	return guest.NodeID(id)
}

func (r *run) leads() bool { return r.raft.State() == raft.Leader && !r.wire.Muted() }

func (r *run) quorate() bool { return r.leader() != "" && r.fsm.err() == nil }

// contact measures for how long this node has been quorate without a break.
type contact struct {
	now func() time.Duration
	gap time.Duration // longer than that between two looks is a break: the machine slept

	mu      sync.Mutex
	quorate bool
	since   time.Duration
	seen    time.Duration
}

func (c *contact) see(quorate bool) { //nolint:revive // a fact, not a choice of what to do
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if quorate && (!c.quorate || now-c.seen > c.gap) {
		c.since = now
	}
	c.quorate, c.seen = quorate, now
}

// lasts is for how long; 0: not quorate.
func (c *contact) lasts(quorate bool) time.Duration { //nolint:revive // a fact, not a choice of what to do
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if !quorate || !c.quorate || now-c.seen > c.gap {
		return 0
	}
	return now - c.since
}
