package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// Seat is this node's part in the agreement, as the Convener needs it.
type Seat interface {
	// Claim is what this node can say of itself by the facts: all but Ages,
	// Outlived, Left and Yielding, which the Convener adds. It is cheap, and
	// does not call the Convener.
	Claim() rules.Claim
	// Refuse has commands refused here, for that reason, until Refuse(nil); it
	// returns when none is on its way to the log any more.
	Refuse(reason error)
	// Yield takes this node into the generation of the state: the book, raft,
	// the key of gossip. The old folder stays.
	Yield(ctx context.Context, to *ledger.State) error
}

// Peers are the other members.
type Peers interface {
	// Ask calls PathClaim; where the node refuses this node's key, on the join exchange.
	Ask(ctx context.Context, node guest.NodeID) (rules.Answer, error)
	// Ledger fetches the ledger as raft has applied it there.
	Ledger(ctx context.Context, node guest.NodeID) (*ledger.State, error)
}

// ConvenerOptions say what a Convener works with; all are required.
type ConvenerOptions struct {
	Self        guest.NodeID
	Fingerprint string
	Book        *Book
	Seat        Seat
	Peers       Peers
	Memory      *Memory
	Logger      *zap.Logger
	// Now is the wall clock, Boottime the clock that runs on in sleep and is never
	// set, BootID names the boot to which it belongs.
	Now      func() time.Time
	Boottime func() time.Duration
	BootID   string
}

// Convener meets the other members: it compares generations and goes over to the
// one that stays, so that there is one truth again after quorum was forced.
type Convener struct {
	o    ConvenerOptions
	news chan struct{}
	// turn is held while a decision is being made and carried out.
	turn chan struct{}

	mu       sync.Mutex
	ages     *rules.Ages
	outlives rules.Outliving
	yielding string
	left     []string
	leader   guest.NodeID // the last other one of this generation; this node itself once it was cleared
	of       string       // the generation to which leader belongs
	ever     map[guest.NodeID]bool
	heard    map[guest.NodeID]rules.Claim
	patient  bool   // the wait after the start is over
	restless bool   // the last look found something to settle
	next     int    // whose turn it is to be asked while all is calm
	trouble  string // why this node cannot go over
	troubled time.Time
	status   Status
}

// Status is what the cluster's status shows of generations.
type Status struct {
	// Alarm is what needs a person; empty: nothing.
	Alarm string
	// Yielding is the generation to which this node is going over.
	Yielding string
	// Removed is set where this node was taken off the list.
	Removed *rules.Removal
	// Others are the other generations that were met, with the nodes in them.
	Others map[string][]guest.NodeID
	// Reason tells what the last meeting came to; empty: there was none.
	Reason string
}

// NewConvener makes a Convener.
func NewConvener(o ConvenerOptions) *Convener {
	return &Convener{
		o: o, news: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		ages: rules.NewAges(o.Self, o.Memory.forks(o.BootID)),
		ever: map[guest.NodeID]bool{}, heard: map[guest.NodeID]rules.Claim{}, restless: true,
	}
}

const (
	// lookEvery is how often other members are asked.
	lookEvery = 2 * time.Second
	// askedWhenCalm is how many of them, in turn, while there is nothing to settle:
	// gossip tells at once of another generation.
	askedWhenCalm = 4
	// retryAfter is how long after a failure this node tries again to go over.
	retryAfter = 5 * time.Second
	// bootPatience is how long the first leader after a start waits for members
	// that were not heard yet.
	bootPatience = 15 * time.Second
	// patiencePeriod is the pause after which it asks again.
	patiencePeriod = time.Second
)

// Run looks until ctx ends.
func (c *Convener) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		c.look(ctx)
		members := c.o.Book.Current().Members
		c.o.Memory.Only(func(n guest.NodeID) bool { _, ok := members[n]; return ok })
		c.o.Memory.Keep(c.o.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.news:
			c.mu.Lock()
			c.restless = true
			c.mu.Unlock()
		}
	}
}

// News says that a node of another generation was seen; it never blocks.
func (c *Convener) News() {
	select {
	case c.news <- struct{}{}:
	default: // one is waiting already
	}
}

// Claim is what this node tells others now.
func (c *Convener) Claim() rules.Claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claim()
}

func (c *Convener) claim() rules.Claim {
	out := c.o.Seat.Claim()
	out.Ages = c.ages.Of(out.Lineage, c.o.Now(), c.o.Boottime())
	c.o.Memory.keepForks(c.o.BootID, c.ages.Seen(out.Lineage))
	c.outlives.Look(out, nil)
	out.Outlived, out.Left, out.Yielding = c.outlives.Forks(), slices.Clone(c.left), c.yielding
	if out.Leader != "" && out.Leader != c.o.Self || c.of != out.Generation {
		c.leader, c.of = out.Leader, out.Generation
	}
	return out
}

// Answer is what to say on PathClaim; a stranger gets an error.
func (c *Convener) Answer(from Caller) (rules.Answer, error) {
	a, err := answerTo(c.o.Book.Current(), c.o.Memory, from)
	if err == nil {
		a.Claim = c.Claim()
	}
	return a, err
}

// Status is how it stands; it shares nothing with the Convener.
func (c *Convener) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Yielding, s.Others = c.yielding, maps.Clone(c.status.Others)
	return s
}

// Heard is the claim of each member that answered when it was asked last.
func (c *Convener) Heard() map[guest.NodeID]rules.Claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.heard)
}

// Survey asks all members now and returns the claims of those that answered.
func (c *Convener) Survey(ctx context.Context) map[guest.NodeID]rules.Claim {
	out := map[guest.NodeID]rules.Claim{}
	for node, a := range c.ask(ctx, c.members()).Answers {
		if a.Claim.Generation != "" {
			out[node] = a.Claim
		}
	}
	return out
}

// round is what came of asking.
type round struct {
	rules.Scene
	silent []guest.NodeID
}

// members are all others on the list.
func (c *Convener) members() []guest.NodeID {
	all := slices.Sorted(maps.Keys(c.o.Book.Current().Members))
	return slices.DeleteFunc(all, func(n guest.NodeID) bool { return n == c.o.Self })
}

// whom says which members to ask on a tick.
func (c *Convener) whom() []guest.NodeID {
	all := c.members()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.restless || len(all) <= askedWhenCalm {
		return all
	}
	var some []guest.NodeID
	for range askedWhenCalm {
		some = append(some, all[c.next%len(all)])
		c.next++
	}
	return some
}

func (c *Convener) ask(ctx context.Context, nodes []guest.NodeID) round {
	before := c.Claim()
	answers := askAll(ctx, nodes, c.o.Peers.Ask)
	c.mu.Lock()
	defer c.mu.Unlock()
	r := round{Scene: rules.Scene{Self: c.o.Self, Answers: answers}}
	var claims []rules.Claim
	for _, node := range nodes {
		a, ok := answers[node]
		if ok && a.Claim.Node != node {
			a.Claim = rules.Claim{} // at its gate, or it is not what it says
			answers[node] = a
		}
		if a.Claim.Generation == "" {
			delete(c.heard, node)
			r.silent = append(r.silent, node)
			continue
		}
		c.ever[node], c.heard[node] = true, a.Claim
		c.o.Memory.Heard(a.Claim)
		claims = append(claims, a.Claim)
	}
	r.Ours = c.claim()
	if before.Generation == r.Ours.Generation && r.Ours.Quorate {
		// Its quorum as it was before the others told their forks' ages: rather too short than too long.
		c.outlives.Look(before, claims)
	}
	r.Ours.Outlived = c.outlives.Forks()
	r.Leader = c.leader
	if known := c.o.Book.Current(); known.Generation == r.Ours.Generation {
		r.Known = known.Index
	}
	return r
}

// look asks, decides and acts on it once.
func (c *Convener) look(ctx context.Context) {
	if !c.take(ctx) {
		return
	}
	defer c.give()
	some := c.whom()
	r := c.ask(ctx, some)
	if r.Restless() && len(some) < len(c.members()) {
		r = c.ask(ctx, c.members()) // the whole picture
	}
	d := r.Decide()
	c.note(r, d)
	if !d.Goes || ctx.Err() != nil || c.resting() {
		return
	}
	switch err := c.goOver(ctx, d); {
	case err == nil:
	case errors.Is(err, errChanged):
		c.o.Logger.Info("this node stays in its generation for now", zap.Error(err))
	default:
		c.failed(d, err)
	}
}

// resting says whether the last failure to go over is too fresh to try again.
func (c *Convener) resting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble != "" && time.Since(c.troubled) < retryAfter
}

// failed keeps why this node could not go over, for the status.
func (c *Convener) failed(d rules.Decision, err error) {
	text := fmt.Sprintf("%s; but this node cannot go over: %v", d.Verdict.Reason, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.troubled = time.Now()
	if c.trouble != text {
		c.o.Logger.Error("this node cannot go over to the other generation", zap.String("generation", d.Verdict.Winner), zap.Error(err))
	}
	c.trouble, c.status.Alarm = text, text
}

// take waits for the turn to decide.
func (c *Convener) take(ctx context.Context) bool {
	select {
	case c.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Convener) give() { <-c.turn }

// note keeps for the status what a look came to, and logs what is new.
func (c *Convener) note(r round, d rules.Decision) {
	s := Status{Removed: d.Removed, Others: map[string][]guest.NodeID{}, Reason: d.Verdict.Reason}
	if d.Verdict.Kind == rules.Alarm {
		s.Alarm = d.Verdict.Reason
	}
	for _, node := range slices.Sorted(maps.Keys(r.Answers)) {
		if g := r.Answers[node].Claim.Generation; g != "" && g != r.Ours.Generation {
			s.Others[g] = append(s.Others[g], node)
		}
	}
	c.mu.Lock()
	if !d.Goes {
		c.trouble = ""
	}
	s.Alarm = cmp.Or(s.Alarm, c.trouble)
	old := c.status
	c.status, c.restless = s, r.Restless() || !r.Ours.Quorate
	c.mu.Unlock()
	if s.Removed != nil && old.Removed == nil {
		c.o.Logger.Error(s.Removed.Reason(), zap.String("hint", s.Removed.Hint()))
	}
	if s.Alarm != old.Alarm && d.Verdict.Kind == rules.Alarm {
		c.o.Logger.Error("generations of this cluster are in conflict", zap.String("reason", s.Alarm))
	}
	if s.Reason != old.Reason && s.Reason != "" && s.Alarm == "" {
		c.o.Logger.Info("met another generation of this cluster", zap.String("reason", s.Reason))
	}
}

// Cleared returns nil once this node may act as leader: all members that answer
// were asked, and no other generation wins over this one. The first time after
// the start it waits up to 15 s for members that were not heard yet.
func (c *Convener) Cleared(ctx context.Context) error {
	begun := time.Now()
	for {
		r := c.ask(ctx, c.members())
		if err := r.MayAct(); err != nil {
			c.News() // go over without delay
			return err
		}
		if !c.waitsFor(r.silent, time.Since(begun)) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.leader = c.o.Self // from its first command on it follows no former leader
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(patiencePeriod):
		}
	}
}

func (c *Convener) waitsFor(silent []guest.NodeID, waited time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	unheard := slices.ContainsFunc(silent, func(n guest.NodeID) bool { return !c.ever[n] })
	if waited >= bootPatience || !unheard {
		c.patient = c.patient || waited >= bootPatience
		return false
	}
	return !c.patient
}

// errChanged ends a decision that the second look does not confirm.
var errChanged = errors.New("the second look came to another end")
