package member

import (
	"context"
	"crypto/rand"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// Council is raft's configuration as the leader can change it.
type Council interface {
	IsLeader() bool
	View() *ledger.State
	// Suffrage tells of each server in raft's configuration whether it votes.
	Suffrage() (map[guest.NodeID]bool, error)
	// Leaving are the nodes that are to be removed once they have no vote.
	Leaving() map[guest.NodeID]bool
	// Change carries out one change and returns when it is confirmed.
	Change(c rules.Change) error
}

// Sighting is what gossip tells of a member.
type Sighting struct {
	Alive bool
	// Since is when it entered that state, as this node saw it.
	Since time.Time
	// Generation is the one it is in, empty where it has not told; Applied is how far raft has applied the ledger there.
	Generation string
	Applied    uint64
	// SetAside: see Claim.
	SetAside bool
}

// Steward keeps raft's configuration in step with the member list while this
// node leads, and gives the commands that nobody asks for: the change of the
// gossip key, the end of forced quorum, a newer format of the ledger.
type Steward struct {
	Self    guest.NodeID
	Council Council
	Sight   func() map[guest.NodeID]Sighting
	// Propose puts a command on the ledger.
	Propose func(ctx context.Context, op ledger.Op) error
	Logger  *zap.Logger
	// Wake, where it is set, has the steward look at once.
	Wake <-chan struct{}

	ready map[guest.NodeID]time.Time
	// absent is since when the leader has missed members that gossip never saw.
	absent map[guest.NodeID]time.Time
	// joined is how far the ledger had come when a member was first seen on it.
	joined map[guest.NodeID]uint64
	keys   phase
	// pause: after a failure nothing is tried until then.
	pause time.Time
}

// phase is a step of the change of the gossip key, as this leader saw it begin.
type phase struct {
	used, keys int
	since      time.Time
	index      uint64
}

const (
	// stewardPeriod is how often the steward looks.
	stewardPeriod = time.Second
	// stewardPause is how long it leaves things alone after a failure.
	stewardPause = 5 * time.Second
)

// Run works until ctx ends.
func (s *Steward) Run(ctx context.Context) {
	tick := time.NewTicker(stewardPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.Wake:
		}
		s.step(ctx, time.Now())
	}
}

// step does the one thing that is due, if any.
func (s *Steward) step(ctx context.Context, now time.Time) {
	if !s.Council.IsLeader() {
		s.ready, s.absent, s.joined, s.keys, s.pause = nil, nil, nil, phase{}, time.Time{}
		return
	}
	suffrage, err := s.Council.Suffrage()
	if err != nil {
		s.Logger.Warn("cannot read the voters", zap.Error(err))
		return
	}
	view, sight := s.Council.View(), s.Sight()
	all := s.standings(view, sight, suffrage, now)
	progress := s.rotating(view, sight, now)
	if now.Before(s.pause) {
		return
	}
	if c := rules.NextChange(all, now); c.Kind != rules.NoChange {
		s.change(view, c, now)
		return
	}
	if op := nextCommand(view, all, progress, now); op != nil {
		s.propose(ctx, op, now)
	}
}

func (s *Steward) change(view *ledger.State, c rules.Change, now time.Time) {
	name := view.NameOf(c.Node)
	if err := s.Council.Change(c); err != nil {
		s.pause = now.Add(stewardPause)
		s.Logger.Warn("cannot change the voters", zap.String("node", name), zap.String("change", string(c.Kind)), zap.Error(err))
		return
	}
	s.Logger.Info("voters changed", zap.String("node", name), zap.String("change", string(c.Kind)))
}

func (s *Steward) propose(ctx context.Context, op ledger.Op, now time.Time) {
	if err := s.Propose(ctx, op); err != nil {
		s.pause = now.Add(stewardPause)
		s.Logger.Warn("a command of the leader's own was not done", zap.Error(err))
	}
}

// nextCommand is the command that is due; nil: none.
func nextCommand(view *ledger.State, all []rules.Standing, p rules.KeyProgress, now time.Time) ledger.Op {
	switch r := rules.NextRotation(view, p, now); r.Kind {
	case rules.Install:
		key := make([]byte, ledger.GossipKeyLen)
		_, _ = rand.Read(key) // never fails
		return ledger.InstallKey{Key: ledger.GossipKey{Number: r.Number, Key: key}}
	case rules.Use:
		return ledger.UseKey{Number: r.Number}
	case rules.Forget:
		return ledger.DropKey{Number: r.Number}
	case rules.NoRotation:
	}
	if view.Forced && rules.Complete(all) {
		return ledger.EndForced{Generation: view.Generation}
	}
	if next := rules.NextFormat(view, ledger.Format); next > view.Format {
		return ledger.RaiseFormat{Format: next}
	}
	return nil
}

// rotating tells how far the change of the gossip key has come.
func (s *Steward) rotating(view *ledger.State, sight map[guest.NodeID]Sighting, now time.Time) rules.KeyProgress {
	if len(view.Gossip) == 0 {
		return rules.KeyProgress{}
	}
	if p := s.keys; p.used != view.Gossip[0].Number || p.keys != len(view.Gossip) {
		s.keys = phase{used: view.Gossip[0].Number, keys: len(view.Gossip), since: now, index: view.Index}
	}
	return rules.KeyProgress{Since: s.keys.since, All: s.applied(view, sight, s.keys.index)}
}

// applied says whether every live member of this generation has applied the
// ledger up to index.
func (s *Steward) applied(view *ledger.State, sight map[guest.NodeID]Sighting, index uint64) bool {
	for id := range view.Members {
		if seen := sight[id]; id != s.Self && seen.follows(view) && seen.Applied < index {
			return false
		}
	}
	return true
}

// follows: it is alive, and applies this ledger.
func (s Sighting) follows(view *ledger.State) bool {
	return s.Alive && (s.Generation == view.Generation || s.Generation == "")
}

func (s *Steward) standings(view *ledger.State, sight map[guest.NodeID]Sighting, suffrage map[guest.NodeID]bool, now time.Time) []rules.Standing {
	ready, absent, joined := map[guest.NodeID]time.Time{}, map[guest.NodeID]time.Time{}, map[guest.NodeID]uint64{}
	leaving := s.Council.Leaving()
	var out []rules.Standing
	for id := range view.Members {
		joined[id] = view.Index
		if at, ok := s.joined[id]; ok {
			joined[id] = at
		}
		st := rules.Standing{Node: id, Listed: true, Leads: id == s.Self, Leaving: leaving[id]}
		st.Votes, st.Follows = suffrage[id]
		st.Strange = !st.Votes && !s.applied(view, sight, joined[id])
		seen := sight[id]
		switch {
		case id == s.Self:
			st.ReadySince = now.Add(-rules.SettleTime)
		case seen.follows(view) && seen.Applied+1 >= s.lastChange(view):
			ready[id] = since(s.ready, id, now)
			st.ReadySince = ready[id]
		case !seen.Alive && seen.Since.IsZero():
			absent[id] = since(s.absent, id, now)
			st.DeadSince = absent[id]
		case !seen.Alive:
			st.DeadSince = seen.Since
		}
		st.SetAside = seen.SetAside && id != s.Self
		out = append(out, st)
	}
	for id, votes := range suffrage {
		if _, ok := view.Members[id]; !ok {
			out = append(out, rules.Standing{Node: id, Follows: true, Votes: votes, Leads: id == s.Self})
		}
	}
	s.ready, s.absent, s.joined = ready, absent, joined
	return out
}

// since is the time that is remembered for a node, or now.
func since(m map[guest.NodeID]time.Time, id guest.NodeID, now time.Time) time.Time {
	if at, ok := m[id]; ok {
		return at
	}
	return now
}

// lastChange is how far a follower must have applied the ledger to count as
// caught up: within a hundred commands of the leader.
func (s *Steward) lastChange(view *ledger.State) uint64 {
	const slack = 100
	return max(view.Index, slack) - slack
}
