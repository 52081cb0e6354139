package member

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Council is raft's configuration as the leader can change it.
type Council interface {
	IsLeader() bool
	View() *ledger.State
	// Suffrage tells of each server in raft's configuration whether it votes.
	Suffrage() (map[guest.NodeID]bool, error)
	Change(c Change) error
}

// Sighting is what gossip tells of a member.
type Sighting struct {
	Alive bool
	// Since is when it entered that state, as this node saw it.
	Since time.Time
	// Applied is how far it has applied the ledger.
	Applied uint64
}

// Steward keeps raft's configuration in step with the member list while this
// node leads.
type Steward struct {
	Self    guest.NodeID
	Council Council
	Sight   func() map[guest.NodeID]Sighting
	Logger  *zap.Logger

	ready map[guest.NodeID]time.Time
}

// stewardPeriod is how often the steward looks.
const stewardPeriod = time.Second

// Run works until ctx ends.
func (s *Steward) Run(ctx context.Context) {
	tick := time.NewTicker(stewardPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.step(time.Now())
		}
	}
}

func (s *Steward) step(now time.Time) {
	if !s.Council.IsLeader() {
		s.ready = nil
		return
	}
	suffrage, err := s.Council.Suffrage()
	if err != nil {
		s.Logger.Warn("cannot read the voters", zap.Error(err))
		return
	}
	c := NextChange(s.standings(suffrage, now), now)
	if c.Kind == NoChange {
		return
	}
	name := s.Council.View().NameOf(c.Node)
	if err := s.Council.Change(c); err != nil {
		s.Logger.Warn("cannot change the voters", zap.String("node", name), zap.String("change", string(c.Kind)), zap.Error(err))
		return
	}
	s.Logger.Info("voters changed", zap.String("node", name), zap.String("change", string(c.Kind)))
}

func (s *Steward) standings(suffrage map[guest.NodeID]bool, now time.Time) []Standing {
	view, sight := s.Council.View(), s.Sight()
	ready := map[guest.NodeID]time.Time{}
	var out []Standing
	for id := range view.Members {
		st := Standing{Node: id, Listed: true}
		st.Votes, st.Follows = suffrage[id]
		seen := sight[id]
		switch {
		case id == s.Self:
			st.ReadySince = now.Add(-settleTime)
		case seen.Alive && seen.Applied+1 >= s.lastChange(view):
			st.ReadySince = now
			if since, ok := s.ready[id]; ok {
				st.ReadySince = since
			}
			ready[id] = st.ReadySince
		case !seen.Alive:
			st.DeadSince = seen.Since
		}
		out = append(out, st)
	}
	for id, votes := range suffrage {
		if _, ok := view.Members[id]; !ok {
			out = append(out, Standing{Node: id, Follows: true, Votes: votes})
		}
	}
	s.ready = ready
	return out
}

// lastChange is how far a follower must have applied the ledger to count as
// caught up: within a hundred commands of the leader.
func (s *Steward) lastChange(view *ledger.State) uint64 {
	const slack = 100
	return max(view.Index, slack) - slack
}
