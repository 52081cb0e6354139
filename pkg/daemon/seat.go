package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/member/rules"
	"github.com/tandemd/tandem/pkg/peer"
)

// seat is this node's part in the agreement, and its way to the other members,
// for pkg/member.
type seat struct{ c *cluster }

var (
	_ member.Seat  = seat{}
	_ member.Peers = seat{}
)

// Claim is what this node can say of itself.
func (s seat) Claim() rules.Claim {
	p := s.c.cons.Progress()
	return rules.Claim{
		Node: s.c.d.id.Node, Cluster: s.c.d.book.Current().Cluster, Generation: p.Generation, Lineage: s.c.lineage(p.Generation),
		Index: p.Applied, LastCommand: p.LastCommand, LastCommandTerm: p.LastCommandTerm,
		Leader: p.Leader, Quorate: p.QuorateFor > 0, QuorateFor: p.QuorateFor,
		Term: p.Term, LastIndex: p.LastIndex, Boots: s.c.boots.Load(), SetAside: p.SetAside,
	}
}

// lineage is that of the generation which raft runs; nil while that is not known.
func (c *cluster) lineage(generation string) []ledger.Fork {
	// The book is asked first: it does not copy.
	for _, known := range []func() *ledger.State{c.d.book.Current, c.cons.View} {
		if s := known(); s.Generation == generation {
			return s.Lineage
		}
	}
	return nil
}

// Refuse has commands refused here.
func (s seat) Refuse(reason error) { s.c.cons.Refuse(reason) }

// Yield takes this node into another generation.
func (s seat) Yield(ctx context.Context, to *ledger.State) error {
	return s.c.goTo(to, func() error { return s.c.cons.Switch(ctx, to.Generation) })
}

// Ask asks a member for its claim; one that refuses this node's key is asked as a
// stranger would, who may have been removed.
func (s seat) Ask(ctx context.Context, node guest.NodeID) (rules.Answer, error) {
	var out rules.Answer
	err := s.c.d.peer.Call(ctx, node, member.PathClaim, struct{}{}, &out)
	if !errors.Is(err, peer.ErrRefused) {
		return out, err
	}
	addr, fingerprint, err := s.c.d.book.Locate(node)
	if err != nil {
		return out, err
	}
	err = s.c.d.peer.JoinCall(ctx, peer.Target{Address: addr, Fingerprint: fingerprint}, member.PathClaim, struct{}{}, &out)
	return out, err
}

// Ledger fetches what a member knows of the ledger.
func (s seat) Ledger(ctx context.Context, node guest.NodeID) (*ledger.State, error) {
	var out ledger.State
	err := s.c.d.peer.Call(ctx, node, pathLedger, struct{}{}, &out)
	return &out, err
}

// answer is what this node says on PathClaim.
func (c *cluster) answer(ctx context.Context) (rules.Answer, error) {
	from := member.Caller{Node: peer.Caller(ctx), Fingerprint: peer.CallerFingerprint(ctx)}
	if c.admitted.Load() {
		return c.convener.Answer(from)
	}
	return member.GateAnswer(c.d.book.Current(), c.memory, from)
}

// goTo takes this node into another generation by change, which calls entered.
// Until it is over nothing else writes cluster.json, so that after a crash the
// node is in one of the two.
func (c *cluster) goTo(to *ledger.State, change func() error) error {
	c.files.Lock()
	defer c.files.Unlock()
	c.entering = to
	defer func() { c.entering = nil }()
	if err := change(); err != nil {
		return err
	}
	if now := c.cons.View(); now.Founded() && now.Generation == to.Generation {
		to = now
	}
	if err := c.d.book.Switch(to); err != nil {
		return err
	}
	c.admitted.Store(true)
	return nil
}

// entered keeps which generation this node is in, before raft runs there.
func (c *cluster) entered(generation string) error {
	for _, s := range []*ledger.State{c.entering, c.d.book.Current()} {
		if s != nil && s.Generation == generation {
			c.saved = s
			return c.d.state.saveCluster(s)
		}
	}
	return fmt.Errorf("generation %s is not known here", generation)
}

// Expected makes this node quorate by itself, where that is right.
func (c *cluster) Expected(ctx context.Context, votes int, by string) (warnings []string, err error) {
	s := c.d.book.Current()
	facts := rules.ExpectedFacts{
		State: s, Answers: c.convener.Survey(ctx), Ours: c.convener.Claim(), Removed: c.convener.Status().Removed,
	}
	if facts.Voters, err = c.Voters(); err != nil { // It waits at its gate, or its log is broken.
		facts.Voters = nil
	}
	if err := rules.CheckExpected(votes, facts); err != nil {
		return nil, err
	}
	fork := member.NewFork(s, c.d.id.Node, by, c.d.now())
	to := *s
	to.Generation, to.Lineage, to.Forced = fork.Generation, append(slices.Clone(s.Lineage), fork), true
	if err := c.goTo(&to, func() error { return c.cons.Fork(ctx, fork, s) }); err != nil {
		return nil, err
	}
	c.gate.Override()
	c.log.Warn("quorum was forced on this node", zap.String("by", by), zap.String("generation", fork.Generation), zap.String("parent", fork.Parent))
	ctx, cancel := context.WithTimeout(ctx, 2*proposeTimeout)
	defer cancel()
	if err := c.cons.Confirm(ctx); err != nil {
		return nil, fmt.Errorf("generation %s was forked, but this node does not lead it yet: %w", rules.Short(fork.Generation), err)
	}
	c.d.book.Learn(c.cons.View())
	return rules.ExpectedWarnings(facts), nil
}

// Yield gives this node's generation up for another, because an operator says so.
func (c *cluster) Yield(ctx context.Context, generation string) error {
	return c.convener.Yield(ctx, generation)
}

// Voters are the nodes that vote, as this node knows.
func (c *cluster) Voters() (map[guest.NodeID]bool, error) { return council{c.cons}.Suffrage() }

// trouble is what keeps this node from following the ledger or from writing it down.
func (c *cluster) trouble() error {
	if err := c.cons.Err(); err != nil {
		return fmt.Errorf("it takes no part in the agreement: %w", err)
	}
	return c.cons.Trouble()
}

// HandOver has the leader let another voter lead, before it is taken off the list.
func (c *cluster) HandOver(ctx context.Context, leader guest.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*proposeTimeout)
	defer cancel()
	if err := c.d.peer.Call(ctx, leader, pathHandOver, struct{}{}, nil); err != nil {
		return err
	}
	for now := c.cons.Leader(); now == "" || now == leader; now = c.cons.Leader() {
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("no other node leads yet: %w", context.Cause(ctx))
		}
	}
	return nil
}

// admit starts raft once others have said that this node's disk is up to date.
func (c *cluster) admit(ctx context.Context) {
	err := c.pass(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.log.Error("this node takes no part in the agreement", zap.Error(err), zap.String("hint", advice.Of(err)))
	default:
		c.admitted.Store(true)
	}
}

func (c *cluster) pass(ctx context.Context) error {
	verdict, err := c.gate.Wait(ctx)
	if err != nil {
		return err
	}
	if verdict.Kind != rules.GateSetAside {
		return c.cons.Start()
	}
	c.log.Warn("this node's copy of the ledger is set aside", zap.String("reason", verdict.Reason))
	if verdict.Boots != 0 {
		c.boots.Store(verdict.Boots)
		c.d.troubles.note(c.d.state.path(bootFile), c.d.state.setBoot(verdict.Boots)) // A start to come is set aside again at worst.
	}
	return c.cons.SetAside(ctx)
}

// newGate looks how far this node's raft had come. A room that cannot be read lets
// the node wait until its operator did something about it.
func (c *cluster) newGate(known *ledger.State) (*member.Gate, error) {
	own := rules.Own{Boots: c.boots.Load(), Generation: known.Generation}
	mark, err := consensus.Look(c.rooms, known.Generation)
	own.Term, own.LastIndex = mark.Term, mark.LastIndex
	return member.NewGate(member.GateOptions{
		Self: c.d.id.Node, Own: own, State: known, Ask: seat{c}.Ask, Logger: c.log.Named("member"),
	}), err
}

func (c *cluster) newConvener() *member.Convener {
	return member.NewConvener(member.ConvenerOptions{
		Self: c.d.id.Node, Fingerprint: c.d.id.Fingerprint, Book: c.d.book, Seat: seat{c}, Peers: seat{c}, Memory: c.memory,
		Logger: c.log.Named("member"), Now: c.d.now, Boottime: consensus.Boottime, BootID: bootID(),
	})
}

// bootID names this boot of the machine; empty where the kernel does not tell.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
