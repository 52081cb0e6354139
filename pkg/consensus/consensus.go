// Package consensus keeps the ledger the same on every node: hashicorp/raft
// around pkg/ledger, with its usual stores, used as the library is meant to be.
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
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
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
	return t
}

// Options say what to run; all but Timing are required.
type Options struct {
	Node      guest.NodeID
	Stores    Stores
	Transport raft.Transport
	// Forward hands an encoded command to the leader over the peer connection
	// and returns what the leader's ApplyHere returned.
	Forward func(ctx context.Context, leader guest.NodeID, command []byte) (ledger.Outcome, error)
	Logger  *zap.Logger
	Timing  Timing
}

// Consensus is this node's part in the agreement.
type Consensus struct {
	opts  Options
	raft  *raft.Raft
	fsm   *fsm
	proxy *watch
}

// Open starts raft on the stores. It neither founds nor joins a cluster: an
// empty node waits until a leader calls.
func Open(o Options) (*Consensus, error) {
	if err := o.Node.Validate(); err != nil {
		return nil, err
	}
	t := o.Timing.withDefaults()
	f := newFSM()
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(o.Node)
	conf.HeartbeatTimeout, conf.ElectionTimeout = t.Heartbeat, t.Heartbeat
	conf.LeaderLeaseTimeout, conf.CommitTimeout = t.Lease, t.Commit
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.Logger = raftLogger(o.Logger)
	r, err := raft.NewRaft(conf, f, o.Stores.Log, o.Stores.Stable, o.Stores.Snapshots, o.Transport)
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	c := &Consensus{opts: o, raft: r, fsm: f}
	c.proxy = watchLeader(r, f.notify)
	return c, nil
}

// Close stops raft and closes its stores.
func (c *Consensus) Close() error {
	c.proxy.close(c.raft)
	err := c.raft.Shutdown().Error()
	if c.opts.Stores.close != nil {
		err = errors.Join(err, c.opts.Stores.close())
	}
	return err
}

// Found makes this node the only voter of a new cluster. The stores must be empty.
func (c *Consensus) Found(ctx context.Context) error {
	conf := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(c.opts.Node), Address: raft.ServerAddress(c.opts.Node),
	}}}
	if err := c.raft.BootstrapCluster(conf).Error(); err != nil {
		return fmt.Errorf("found a cluster: %w", err)
	}
	for c.raft.State() != raft.Leader {
		if err := c.wait(ctx); err != nil {
			return fmt.Errorf("found a cluster: become its leader: %w", err)
		}
	}
	return nil
}

// wait returns at the next change of leadership or ledger.
func (c *Consensus) wait(ctx context.Context) error {
	select {
	case <-c.fsm.next():
		return nil
	case <-time.After(50 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// View is the ledger as this node has applied it; it never changes.
func (c *Consensus) View() *ledger.State { return c.fsm.view() }

// History is the last changes of the ledger, oldest first.
func (c *Consensus) History() []ledger.Change { return c.fsm.history() }

// Changed gets a token after the ledger or the leader changed; many changes may
// share one.
func (c *Consensus) Changed() <-chan struct{} { return c.fsm.changed }

// Err tells why this node stopped following the ledger; nil while it follows.
func (c *Consensus) Err() error { return c.fsm.err() }

// Leader is the node that leads as far as this one knows; "" for none.
func (c *Consensus) Leader() guest.NodeID {
	_, id := c.raft.LeaderWithID()
	return guest.NodeID(id)
}

// IsLeader says whether this node leads.
func (c *Consensus) IsLeader() bool { return c.raft.State() == raft.Leader }

// Quorate says whether this node is in contact with a leader that a majority of
// the voters follows: raft's leaders step down without one, and followers forget
// a leader that is silent.
func (c *Consensus) Quorate() bool { return c.Leader() != "" && c.Err() == nil }

// Server is one entry of raft's configuration.
type Server struct {
	Node  guest.NodeID
	Voter bool
}

// Servers is raft's configuration as this node knows it.
func (c *Consensus) Servers() ([]Server, error) {
	f := c.raft.GetConfiguration()
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
	return c.raft.AddNonvoter(raft.ServerID(node), raft.ServerAddress(node), 0, changeTimeout).Error()
}

// Promote gives a node a vote. Only the leader can.
func (c *Consensus) Promote(node guest.NodeID) error {
	return c.raft.AddVoter(raft.ServerID(node), raft.ServerAddress(node), 0, changeTimeout).Error()
}

// Demote takes a node's vote. Only the leader can.
func (c *Consensus) Demote(node guest.NodeID) error {
	return c.raft.DemoteVoter(raft.ServerID(node), 0, changeTimeout).Error()
}

// Remove ends a node's following. Only the leader can.
func (c *Consensus) Remove(node guest.NodeID) error {
	return c.raft.RemoveServer(raft.ServerID(node), 0, changeTimeout).Error()
}

// WaitApplied returns once this node has applied the ledger up to index.
func (c *Consensus) WaitApplied(ctx context.Context, index uint64) error {
	for {
		next := c.fsm.next()
		if err := c.Err(); err != nil {
			return err
		}
		if c.fsm.view().Index >= index {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("ledger index %d is not here yet: %w", index, context.Cause(ctx))
		}
	}
}

// watch turns raft's observations of leadership into notifications.
type watch struct {
	observer *raft.Observer
	done     chan struct{}
	wg       sync.WaitGroup
}

func watchLeader(r *raft.Raft, notify func()) *watch {
	ch := make(chan raft.Observation, 16)
	w := &watch{done: make(chan struct{})}
	w.observer = raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState, raft.PeerObservation:
			return true
		default:
			return false
		}
	})
	r.RegisterObserver(w.observer)
	w.wg.Go(func() {
		for {
			select {
			case <-ch:
				notify()
			case <-w.done:
				return
			}
		}
	})
	return w
}

func (w *watch) close(r *raft.Raft) {
	r.DeregisterObserver(w.observer)
	close(w.done)
	w.wg.Wait()
}
