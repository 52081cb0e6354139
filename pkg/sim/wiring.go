package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/sim/simnet"
)

// The calls between nodes.
type (
	askApply  struct{ command []byte }
	askLedger struct{}
	askClaim  struct{}
	askJoin   struct{ request member.JoinRequest }
)

var errStarting = errors.New("this node is starting")

// knows says whether a node is on the member list that this one trusts.
func (p *process) knows(node guest.NodeID) bool {
	_, ok := p.book.NodeByFingerprint(fingerprintOf(node))
	return ok
}

// serve answers calls of members.
func (p *process) serve(ctx context.Context, from guest.NodeID, request any) (any, error) {
	switch r := request.(type) {
	case askClaim:
		return p.answer(member.Caller{Node: from, Fingerprint: fingerprintOf(from)})
	case askApply:
		cons := p.consensus()
		if cons == nil {
			return nil, fmt.Errorf("%w: %w", consensus.ErrNotLeader, errStarting)
		}
		return cons.ApplyHere(ctx, r.command)
	case askLedger:
		return p.book.Current(), nil
	default:
		return nil, fmt.Errorf("there is no call %T", request)
	}
}

// serveStranger answers calls that anybody may make.
func (p *process) serveStranger(ctx context.Context, from guest.NodeID, request any) (any, error) {
	switch r := request.(type) {
	case askClaim:
		return p.answer(member.Caller{Fingerprint: fingerprintOf(from)})
	case askJoin:
		cons := p.consensus()
		if cons == nil {
			return nil, errStarting
		}
		issuer := member.Issuer{
			Redeem:  func(string, string) error { return nil },
			Propose: p.ownPropose,
			View:    cons.View,
			Refused: func(string, error) {},
		}
		return issuer.Admit(ctx, fingerprintOf(from), r.request)
	default:
		return nil, fmt.Errorf("there is no call %T", request)
	}
}

func (p *process) answer(from member.Caller) (any, error) {
	p.mu.Lock()
	convener, memory := p.convener, p.memory
	p.mu.Unlock()
	switch {
	case convener == nil:
		return nil, errStarting
	case p.admitted.Load():
		return convener.Answer(from)
	default:
		return member.GateAnswer(p.book.Current(), memory, from)
	}
}

// peers are the other members, for the convener and the gate.
type peers struct{ *process }

// Ask asks a member for its claim, as a stranger where it does not know this node.
func (p peers) Ask(ctx context.Context, node guest.NodeID) (member.Answer, error) {
	v, err := p.host.Call(ctx, node, askClaim{})
	if errors.Is(err, simnet.ErrStranger) {
		v, err = p.host.CallStranger(ctx, node, askClaim{})
	}
	a, _ := v.(member.Answer)
	return a, err
}

// Ledger fetches what a member knows of the ledger.
func (p peers) Ledger(ctx context.Context, node guest.NodeID) (*ledger.State, error) {
	v, err := p.host.Call(ctx, node, askLedger{})
	if err != nil {
		return nil, err
	}
	s, _ := v.(*ledger.State)
	return s, nil
}

// seat is this node's part in the agreement, for the convener.
type seat struct{ *process }

// Claim is what this node says of itself.
func (s seat) Claim() member.Claim {
	at := s.cons.Progress()
	c := member.Claim{
		Node: s.id, Cluster: s.book.Current().Cluster, Generation: at.Generation, Index: at.Applied, LastCommand: at.LastCommand,
		LastCommandTerm: at.LastCommandTerm, Leader: at.Leader, Quorate: at.QuorateFor > 0, QuorateFor: at.QuorateFor,
		Term: at.Term, LastIndex: at.LastIndex, Boots: s.boots.Load(), SetAside: at.SetAside,
	}
	// Before raft applied anything, the book may know the lineage.
	for _, known := range []*ledger.State{s.cons.View(), s.book.Current()} {
		if known.Generation == at.Generation {
			c.Lineage = known.Lineage
			break
		}
	}
	return c
}

// Refuse has commands refused here.
func (s seat) Refuse(reason error) { s.cons.Refuse(reason) }

// Yield goes over to another generation.
func (s seat) Yield(ctx context.Context, to *ledger.State) error {
	return s.goTo(ctx, to, func() error { return s.cons.Switch(ctx, to.Generation) })
}

// goTo takes this node into another generation by change, which calls entered.
func (p *process) goTo(ctx context.Context, to *ledger.State, change func() error) error {
	return p.changing(ctx, func() error {
		p.entering = to
		defer func() { p.entering = nil }()
		if err := change(); err != nil {
			return err
		}
		if now := p.cons.View(); now.Founded() && now.Generation == to.Generation {
			to = now
		}
		if err := p.book.Switch(to); err != nil {
			return err
		}
		p.admitted.Store(true)
		return nil
	})
}

// entered keeps which generation this node is in, before raft runs there.
func (p *process) entered(generation string) error {
	if !p.alive() {
		return errDaemonEnded
	}
	for _, s := range []*ledger.State{p.entering, p.book.Current()} {
		if s != nil && s.Generation == generation {
			p.kept = s
			return p.m.Write(fileLedger, s)
		}
	}
	return fmt.Errorf("generation %s is not known here", generation)
}

// changing lets one change of the generation, or of what is kept of it, happen at
// a time.
func (p *process) changing(ctx context.Context, change func() error) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.turn }()
	return change()
}

// forward hands a command to the leader.
func (p *process) forward(ctx context.Context, leader guest.NodeID, command []byte) (ledger.Outcome, error) {
	v, err := p.host.Call(ctx, leader, askApply{command})
	if errors.Is(err, simnet.ErrUnreachable) || errors.Is(err, simnet.ErrStranger) {
		err = fmt.Errorf("%w: %w", consensus.ErrNotLeader, err)
	}
	out, _ := v.(ledger.Outcome)
	return out, err
}

// metGeneration is told by gossip in which generation another node is.
func (p *process) metGeneration(generation string) {
	if cons := p.consensus(); cons != nil && generation != cons.Generation() {
		p.convener.News()
	}
}

// word is what gossip tells others of this node.
func (p *process) word() sighting {
	cons := p.consensus()
	if cons == nil {
		return sighting{}
	}
	at := cons.Progress()
	return sighting{generation: at.Generation, applied: at.Applied, setAside: at.SetAside}
}

// sightings is what gossip tells the steward.
func (p *process) sightings() map[guest.NodeID]member.Sighting {
	out := map[guest.NodeID]member.Sighting{}
	for id, s := range p.seen() {
		out[id] = member.Sighting{Alive: s.alive, Since: s.since, Generation: s.generation, Applied: s.applied, SetAside: s.setAside}
	}
	return out
}

// council is raft's configuration for the steward.
type council struct{ *consensus.Consensus }

// Suffrage tells of each server whether it votes.
func (c council) Suffrage() (map[guest.NodeID]bool, error) {
	servers, err := c.Servers()
	if err != nil {
		return nil, err
	}
	out := map[guest.NodeID]bool{}
	for _, s := range servers {
		out[s.Node] = s.Voter
	}
	return out, nil
}

// handOverTimeout bounds a change of the leader.
const handOverTimeout = 10 * time.Second

// Change carries out one change.
func (c council) Change(ch member.Change) error {
	switch ch.Kind {
	case member.NoChange:
		return nil
	case member.AddFollower:
		return c.AddNonvoter(ch.Node)
	case member.Promote:
		return c.Promote(ch.Node)
	case member.Demote:
		return c.Demote(ch.Node)
	case member.Drop:
		return c.Remove(ch.Node)
	case member.HandOver:
		ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
		defer cancel()
		return c.TransferLeadership(ctx)
	default:
		return fmt.Errorf("change %q of the voters is not known", ch.Kind)
	}
}

// proposeTimeout bounds how long a command looks for a leader and waits for it.
const proposeTimeout = 10 * time.Second

// ownPropose puts a command of the daemon itself on the ledger.
func (p *process) ownPropose(ctx context.Context, op ledger.Op) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := p.cons.Propose(ctx, ledger.Command{By: short(p.id), At: p.m.wall().Unix(), Op: op})
	return err
}
