package consensus

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// leavePatience is for how long a node whose removal was asked for gets no vote:
// longer than whoever asked tries.
const leavePatience = 30 * time.Second

// leaving are the nodes that somebody asked this leader to remove.
type leaving struct {
	mu    sync.Mutex
	until map[guest.NodeID]time.Duration // by the clock since boot
}

// Leaving are the nodes that somebody asked this leader to remove: as long as they
// vote they cannot be.
func (c *Consensus) Leaving() map[guest.NodeID]bool {
	c.departing.mu.Lock()
	defer c.departing.mu.Unlock()
	out := map[guest.NodeID]bool{}
	for id, until := range c.departing.until {
		if c.opts.Boottime() < until {
			out[id] = true
		} else {
			delete(c.departing.until, id)
		}
	}
	return out
}

// mayLeave puts off a command that removes a member for as long as it votes. Once
// that is on the ledger nobody talks to the node any more: what counts on its vote
// would never be confirmed, the change that takes the vote included.
func (c *Consensus) mayLeave(r *run, op ledger.Op) error {
	o, ok := op.(ledger.RemoveMember)
	if !ok {
		return nil
	}
	c.departing.mu.Lock()
	if c.departing.until == nil {
		c.departing.until = map[guest.NodeID]time.Duration{}
	}
	c.departing.until[o.ID] = c.opts.Boottime() + leavePatience
	c.departing.mu.Unlock()
	f := r.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return fmt.Errorf("%w: read raft's configuration: %w", ErrNotLeader, err)
	}
	for _, s := range f.Configuration().Servers {
		if s.ID == raft.ServerID(o.ID) && s.Suffrage == raft.Voter {
			return fmt.Errorf("%w: the vote of node %s has to go first", ErrNotLeader, o.ID.Short())
		}
	}
	return nil
}
