// Package consensus keeps the ledger the same on every node: hashicorp/raft
// around pkg/ledger, with its usual stores, used as the library is meant to be.
//
// The ledger has generations: a node that is forced to go on without a majority
// forks one. Consensus holds which generation's raft runs on this node and can
// switch; its users keep one *Consensus for life.
//
// It is not the ledger (pkg/ledger decides what a command does), not the network
// (the transport is given), and does not choose the voters (pkg/member does).
// pkg/daemon opens it; pkg/node, pkg/member and pkg/api's backend use it.
//
// Raft's server ID and server address are both the node's ID; the transport
// resolves it when it dials, so that a changed address needs no change of raft's
// configuration.
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
	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
)

// Timing tunes raft; zero fields take the defaults, which suit small clusters on
// busy machines.
type Timing struct {
	// Heartbeat is how long a follower waits for its leader before it stands for election.
	Heartbeat time.Duration
	// Lease is how long a leader goes on without hearing from a majority.
	Lease time.Duration
	// Commit is the longest time until an idle follower learns what was committed.
	Commit time.Duration
	// Stuck is how long a write to the state disk may take before this node falls
	// silent, so that others can lead.
	Stuck time.Duration
	// Snapshot is how many entries the log grows by until it is replaced by a
	// snapshot, and Trailing how many stay then for followers; 0: as raft does it,
	// 8192 and 10240.
	Snapshot, Trailing uint64
	// Look is how often the length of the log is looked at; 0: as raft does it, 2 minutes.
	Look time.Duration
}

func (t Timing) withDefaults() Timing {
	if t.Heartbeat == 0 {
		t.Heartbeat = 4 * time.Second
	}
	if t.Lease == 0 {
		t.Lease = t.Heartbeat * 3 / 4
	}
	if t.Commit == 0 {
		t.Commit = 200 * time.Millisecond
	}
	if t.Stuck == 0 {
		t.Stuck = 5 * time.Second
	}
	return t
}

// Options say what to run; all are required where nothing else is said.
type Options struct {
	Node guest.NodeID
	// Generation is the one to start with.
	Generation string
	Rooms      Rooms
	// Forward hands what ApplyHere takes to the leader over the peer connection,
	// and returns what the leader's ApplyHere returned.
	Forward func(ctx context.Context, leader guest.NodeID, command []byte) (ledger.Outcome, error)
	// Clear is asked by a leader before its first command, once in each leadership,
	// again after an error, which means that it must not act (yet). ctx ends with
	// the leadership. nil: cleared at once.
	Clear func(ctx context.Context) error
	// Hold has Open start no raft; Start does, once it is known that it may.
	Hold bool
	// Entered keeps on disk which generation this node is in; Fork and Switch call it
	// before raft runs there. nil: nothing to keep.
	Entered func(generation string) error
	// Reserve is given up when the state disk is full; nil: none.
	Reserve *statefile.Reserve
	// Boottime is CLOCK_BOOTTIME, which it is where this is nil.
	Boottime func() time.Duration
	Logger   *zap.Logger
	Timing   Timing
}

func (o Options) withDefaults() Options {
	o.Timing = o.Timing.withDefaults()
	if o.Boottime == nil {
		o.Boottime = Boottime
	}
	return o
}

// Boottime is CLOCK_BOOTTIME: it runs on in sleep and is never set.
func Boottime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // never fails
	return time.Duration(t.Nano())
}

// Consensus is this node's part in the agreement.
type Consensus struct {
	opts      Options
	news      *news
	intake    intake
	departing leaving

	// current is the generation's raft that runs; nil while it is being changed.
	current atomic.Pointer[run]
	// shown is the ledger to show: the current one's, or the last one's.
	shown atomic.Pointer[fsm]

	// generation is the current one's, or that of the last one.
	generation atomic.Pointer[string]

	// change is held by those who change current. It is no mutex: who holds it waits
	// for raft to end.
	change chan struct{}
	closed bool
	// emptied is the generation whose stores were set aside: new ones do not vote.
	emptied string

	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup
	// stopped tells why no raft runs, where that is not just a moment.
	stopped atomic.Pointer[error]
}

// ErrClosed means that Close was called.
var ErrClosed = errors.New("the ledger is closed")

// errSwitching is part of what callers get while no raft runs.
var errSwitching = errors.New("this node is changing to another generation of the cluster")

// Open starts raft on the stores of the generation. It neither founds nor joins a
// cluster: an empty node waits until a leader calls. The error is a *RoomError
// where the stores cannot be believed.
func Open(o Options) (*Consensus, error) {
	if err := o.Node.Validate(); err != nil {
		return nil, err
	}
	c := &Consensus{opts: o.withDefaults(), news: newNews(), change: make(chan struct{}, 1)}
	c.life, c.end = context.WithCancel(context.Background())
	if o.Hold {
		c.generation.Store(&o.Generation)
		c.shown.Store(newFSM(c.news))
		return c, nil
	}
	r, err := c.start(o.Generation)
	if err != nil {
		return nil, err
	}
	c.enter(r)
	return c, nil
}

// Start starts raft where Open held it back, unless it runs meanwhile. Where that
// fails Err tells why from then on; Fork, Switch and SetAside may help.
func (c *Consensus) Start() error {
	c.change <- struct{}{}
	defer func() { <-c.change }()
	switch {
	case c.closed:
		return ErrClosed
	case c.current.Load() != nil:
		return nil
	}
	r, err := c.start(c.Generation())
	if err != nil {
		c.stopped.Store(&err)
		c.news.tell()
		return err
	}
	c.enter(r)
	return nil
}

// enter makes r the one that runs; the caller holds change or is alone.
func (c *Consensus) enter(r *run) {
	c.generation.Store(&r.generation)
	c.shown.Store(r.fsm)
	c.stopped.Store(nil)
	c.current.Store(r)
	c.news.tell()
}

// Close stops raft and closes its stores.
func (c *Consensus) Close() error {
	defer c.wg.Wait()
	c.end()
	c.change <- struct{}{}
	defer func() { <-c.change }()
	c.closed = true
	c.stopped.Store(&ErrClosed)
	r := c.current.Swap(nil)
	c.news.tell()
	if r == nil {
		return nil
	}
	return r.stop()
}

// running is the raft that runs, or why there is none.
func (c *Consensus) running() (*run, error) {
	if r := c.current.Load(); r != nil {
		return r, nil
	}
	if err := c.stopped.Load(); err != nil {
		return nil, *err
	}
	return nil, errSwitching
}

// Found makes this node the only voter of a new cluster. The stores must be empty.
func (c *Consensus) Found(ctx context.Context) error {
	r, err := c.running()
	if err != nil {
		return fmt.Errorf("found a cluster: %w", err)
	}
	if err := r.raft.BootstrapCluster(c.alone()).Error(); err != nil {
		return fmt.Errorf("found a cluster: %w", err)
	}
	for !r.leads() {
		select {
		case <-c.news.next():
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("found a cluster: become its leader: %w", context.Cause(ctx))
		}
	}
	return nil
}

// alone is the configuration with this node as the only voter.
func (c *Consensus) alone() raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(c.opts.Node), Address: raft.ServerAddress(c.opts.Node),
	}}}
}

// View is the ledger as this node has applied it; it never changes.
func (c *Consensus) View() *ledger.State { return c.shown.Load().view() }

// History is the last changes of the ledger, oldest first.
func (c *Consensus) History() []ledger.Change { return c.shown.Load().history() }

// Changed gets a token after the ledger, the leader or the generation changed;
// many changes may share one.
func (c *Consensus) Changed() <-chan struct{} { return c.news.changed }

// Err tells why this node does not follow the ledger; nil while it does, and for
// the moment in which it changes its generation.
func (c *Consensus) Err() error {
	if err := c.stopped.Load(); err != nil {
		return *err
	}
	return c.shown.Load().err()
}

// Leader is the node that leads as far as this one knows; "" for none.
func (c *Consensus) Leader() guest.NodeID {
	if r, err := c.running(); err == nil {
		return r.leader()
	}
	return ""
}

// IsLeader says whether this node leads.
func (c *Consensus) IsLeader() bool {
	r, err := c.running()
	return err == nil && r.leads()
}

// Quorate says whether this node is in contact with a leader that a majority of
// the voters follows: raft's leaders step down without one, and followers forget
// a leader that is silent.
func (c *Consensus) Quorate() bool {
	r, err := c.running()
	return err == nil && r.quorate()
}

// Server is one entry of raft's configuration.
type Server struct {
	Node  guest.NodeID
	Voter bool
}

// Servers is raft's configuration as this node knows it.
func (c *Consensus) Servers() ([]Server, error) {
	r, err := c.running()
	if err != nil {
		return nil, fmt.Errorf("read raft's configuration: %w", err)
	}
	f := r.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("read raft's configuration: %w", err)
	}
	var out []Server
	for _, s := range f.Configuration().Servers {
		out = append(out, Server{Node: guest.NodeID(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	return out, nil
}

// changeTimeout bounds one change of raft's configuration.
const changeTimeout = 10 * time.Second

// AddNonvoter lets a node follow the ledger. Only the leader can.
func (c *Consensus) AddNonvoter(node guest.NodeID) error {
	return c.configure(func(r *raft.Raft) raft.Future {
		return r.AddNonvoter(raft.ServerID(node), raft.ServerAddress(node), 0, changeTimeout)
	})
}

// Promote gives a node a vote. Only the leader can.
func (c *Consensus) Promote(node guest.NodeID) error {
	return c.configure(func(r *raft.Raft) raft.Future {
		return r.AddVoter(raft.ServerID(node), raft.ServerAddress(node), 0, changeTimeout)
	})
}

// Demote takes a node's vote. Only the leader can.
func (c *Consensus) Demote(node guest.NodeID) error {
	return c.configure(func(r *raft.Raft) raft.Future { return r.DemoteVoter(raft.ServerID(node), 0, changeTimeout) })
}

// Remove ends a node's following. Only the leader can.
func (c *Consensus) Remove(node guest.NodeID) error {
	return c.configure(func(r *raft.Raft) raft.Future { return r.RemoveServer(raft.ServerID(node), 0, changeTimeout) })
}

func (c *Consensus) configure(change func(*raft.Raft) raft.Future) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*changeTimeout)
	defer cancel()
	return c.order(ctx, change)
}

// TransferLeadership hands the leadership to the voter that is furthest, before
// this leader is removed or demoted.
func (c *Consensus) TransferLeadership(ctx context.Context) error {
	return c.order(ctx, func(r *raft.Raft) raft.Future { return r.LeadershipTransfer() })
}

// order gives raft an order that only leaders can carry out.
func (c *Consensus) order(ctx context.Context, give func(*raft.Raft) raft.Future) error {
	r, err := c.running()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	case !r.leads():
		return ErrNotLeader
	}
	if err := r.await(ctx, give(r.raft), nil); err != nil {
		if errors.Is(err, raft.ErrNotLeader) {
			return fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		return err
	}
	return nil
}
