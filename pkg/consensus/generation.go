package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus/guard"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Generation is the one in which this node is.
func (c *Consensus) Generation() string {
	return *c.generation.Load()
}

// Switch goes over to another generation: its stores are made where there are
// none. Where that fails this node is in the old one again.
func (c *Consensus) Switch(ctx context.Context, generation string) error {
	if r := c.current.Load(); r != nil && r.generation == generation {
		return nil
	}
	return c.changeTo(ctx, generation, "go over to generation "+generation, func() error { return nil })
}

// SetAside puts the stores of the generation aside, because others remember more
// than they hold, and starts anew with empty ones: the leader fills them. Until
// this node has caught up as a follower without a vote it does not vote.
func (c *Consensus) SetAside(ctx context.Context) error {
	generation := c.Generation()
	return c.changeTo(ctx, generation, "set this node's copy of the ledger aside", func() error {
		if again, err := c.isEmptied(generation); again || err != nil {
			return err
		}
		if err := c.opts.Rooms.SetAside(generation); err != nil {
			return err
		}
		c.emptied = generation
		return nil
	})
}

// isEmptied says whether the stores took the place of others already, and were not
// filled since: there is nothing in them to be kept.
func (c *Consensus) isEmptied(generation string) (bool, error) {
	s, err := c.opts.Rooms.Open(generation)
	if _, broken := errors.AsType[*RoomError](err); broken {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mark, err := s.Stable.GetUint64([]byte(keyVoteless))
	if err != nil && err.Error() == "not found" {
		err = nil
	}
	return mark != 0, errors.Join(err, s.close())
}

// Fork makes the generation that f names from this node's ledger, its unconfirmed
// end included, with this node as the only voter, and goes over to it. f.Index and
// f.Term are filled in; known is the newest ledger that this node knows to be
// confirmed, from any source. The old generation's stores are only read. Where it
// fails this node is in the old one again.
func (c *Consensus) Fork(ctx context.Context, f ledger.Fork, known *ledger.State) error {
	parent := c.Generation()
	return c.changeTo(ctx, f.Generation, "fork generation "+f.Generation, func() error {
		old, err := c.opts.Rooms.Open(parent)
		if err != nil {
			return err
		}
		if err := errors.Join(c.copyTo(f, known, old), old.close()); err != nil {
			return err
		}
		return c.opts.Rooms.Settle(f.Generation)
	})
}

// anew starts the raft that runs once more, on what it has written.
func (c *Consensus) anew(r *run) {
	if c.current.Load() != r {
		return
	}
	what := "start raft anew after a snapshot that its log had overtaken"
	if err := c.changeTo(r.life, r.generation, what, func() error { return nil }); err != nil && r.life.Err() == nil {
		c.opts.Logger.Error("raft could not be started anew", zap.Error(err))
	}
}

// changeTo stops the raft that runs, does the work between, and starts that of the
// generation. On any failure the old one runs again.
func (c *Consensus) changeTo(ctx context.Context, generation, what string, between func() error) error {
	c.change <- struct{}{}
	defer func() { <-c.change }()
	if c.closed {
		return fmt.Errorf("%s: %w", what, ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	old, ran := c.Generation(), false
	failed := func(err error) error {
		err = fmt.Errorf("%s: %w", what, err)
		if !ran {
			return err
		}
		return c.back(old, err)
	}
	if r := c.current.Swap(nil); r != nil {
		ran = true
		c.news.tell()
		if err := r.stop(); err != nil {
			return failed(err)
		}
	}
	if err := between(); err != nil {
		return failed(err)
	}
	if c.opts.Entered != nil && generation != old {
		if err := c.opts.Entered(generation); err != nil {
			return failed(err)
		}
	}
	r, err := c.start(generation)
	if err != nil {
		if c.opts.Entered != nil && generation != old {
			err = errors.Join(err, c.opts.Entered(old))
		}
		return failed(err)
	}
	c.enter(r)
	c.opts.Logger.Info("in another generation of the ledger", zap.String("generation", generation), zap.String("before", old))
	return nil
}

// back starts the old generation again after a change failed with err.
func (c *Consensus) back(old string, err error) error {
	r, again := c.start(old)
	if again != nil {
		err = errors.Join(err, fmt.Errorf("go back to generation %s: %w", old, again))
		c.stopped.Store(&err)
		c.news.tell()
		c.wg.Go(func() { c.keepGoingBack(old) })
		return err
	}
	c.enter(r)
	return err
}

// backAgain is how long a node that could not go back waits for its next try: a
// write that hung lets go of the old stores at some time.
const backAgain = 5 * time.Second

// keepGoingBack tries to start the old generation until something runs.
func (c *Consensus) keepGoingBack(old string) {
	for {
		select {
		case <-time.After(backAgain):
		case <-c.life.Done():
			return
		}
		c.change <- struct{}{}
		done := c.closed || c.current.Load() != nil
		if !done {
			if r, err := c.start(old); err == nil {
				c.enter(r)
				done = true
			}
		}
		<-c.change
		if done {
			return
		}
	}
}

// copyTo writes what the old stores hold into a draft of the new generation, as
// one snapshot: raft's own RecoverCluster, which reads the old log and snapshots
// and writes the new ones.
func (c *Consensus) copyTo(f ledger.Fork, known *ledger.State, old Stores) error {
	found, err := inspect(old)
	if err != nil {
		return err
	}
	if found.empty {
		return errors.New("this node has no ledger to go on with")
	}
	f.Index, f.Term = found.last.Index, found.last.Term
	draft, err := c.opts.Rooms.Draft(f.Generation)
	if err != nil {
		return err
	}
	logs := raft.LogStore(readOnly{old.Log})
	if found.superseded {
		logs = raft.NewInmemStore()
	}
	_, nowhere := raft.NewInmemTransport(raft.ServerAddress(c.opts.Node))
	machine := &forker{fsm: newFSM(newNews()), fork: f, known: known}
	err = raft.RecoverCluster(c.config(), machine, logs, old.Stable, redirected{old.Snapshots, draft.Snapshots}, nowhere, c.alone())
	if err == nil {
		err = draft.Stable.SetUint64([]byte(guard.KeyTerm), found.term)
	}
	return errors.Join(err, draft.close())
}

// forker is the ledger while it is copied.
type forker struct {
	*fsm
	fork  ledger.Fork
	known *ledger.State
}

// Snapshot gives the ledger of the new generation.
func (f *forker) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := f.machine.Fork(f.fork, f.known); err != nil {
		return nil, err
	}
	return f.fsm.Snapshot()
}

// readOnly is a log from which nothing is removed.
type readOnly struct{ raft.LogStore }

// DeleteRange leaves everything as it is.
func (readOnly) DeleteRange(uint64, uint64) error { return nil }

// redirected reads the snapshots of one store and writes to another.
type redirected struct {
	raft.SnapshotStore
	to raft.SnapshotStore
}

// Create implements raft.SnapshotStore.
func (r redirected) Create(version raft.SnapshotVersion, index, term uint64, servers raft.Configuration, //nolint:revive // raft's interface
	serversIndex uint64, trans raft.Transport,
) (raft.SnapshotSink, error) {
	return r.to.Create(version, index, term, servers, serversIndex, trans)
}

// Mark is where a generation's stores end, before raft runs on them.
type Mark struct {
	Term, LastIndex uint64
}

// Look reads where a generation's stores end, for those who must know before Open.
// The error is a *RoomError where the stores cannot be believed.
func Look(rooms Rooms, generation string) (Mark, error) {
	s, err := rooms.Open(generation)
	if err != nil {
		return Mark{}, err
	}
	found, err := inspect(s)
	if err = errors.Join(err, s.close()); err != nil {
		return Mark{}, err
	}
	return Mark{Term: found.term, LastIndex: found.last.Index}, nil
}
