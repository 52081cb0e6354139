package member

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// GateOptions say what a Gate works with; all are required.
type GateOptions struct {
	Self guest.NodeID
	Own  rules.Own
	// State is the newest ledger known here.
	State  *ledger.State
	Ask    func(ctx context.Context, node guest.NodeID) (rules.Answer, error)
	Logger *zap.Logger
}

// Gate holds a node back from raft until others have said that its disk is not
// an older one.
type Gate struct {
	o    GateOptions
	open chan struct{}
	once sync.Once

	mu      sync.Mutex
	waiting string
}

// NewGate makes the gate of one start of the daemon.
func NewGate(o GateOptions) *Gate { return &Gate{o: o, open: make(chan struct{})} }

// Override ends the wait: a person forces this node.
func (g *Gate) Override() { g.once.Do(func() { close(g.open) }) }

// Waiting tells why the node waits; empty: it does not.
func (g *Gate) Waiting() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

const (
	// gatePeriod is the pause after which the silent members are asked again: short,
	// since this node takes part in nothing until they answer.
	gatePeriod = 250 * time.Millisecond
	// forcedPatience is how long a node on forced quorum, of which it may be the
	// only voter, waits for others.
	forcedPatience = 15 * time.Second
)

// Wait returns once it is known what to do with the raft folder; never GateWait.
func (g *Gate) Wait(ctx context.Context) (rules.GateVerdict, error) {
	defer g.say("")
	var impatient <-chan time.Time
	if g.o.State.Forced {
		timer := time.NewTimer(forcedPatience)
		defer timer.Stop()
		impatient = timer.C
	}
	members := slices.DeleteFunc(slices.Sorted(maps.Keys(g.o.State.Members)), func(n guest.NodeID) bool { return n == g.o.Self })
	need := min(rules.Voters(len(g.o.State.Members))/2, len(members))
	remembered := map[guest.NodeID]rules.Record{}
	for {
		silent := slices.DeleteFunc(slices.Clone(members), func(n guest.NodeID) bool { _, ok := remembered[n]; return ok })
		for node, a := range askAll(ctx, silent, g.o.Ask) {
			remembered[node] = a.Remembered
		}
		var names []string
		for _, n := range silent {
			if _, ok := remembered[n]; !ok {
				names = append(names, g.o.State.NameOf(n))
			}
		}
		v := rules.Admission(g.o.Own, remembered, need, names)
		if v.Kind != rules.GateWait {
			v.Reason = g.o.State.Named(v.Reason)
			return v, nil
		}
		g.say(v.Reason)
		select {
		case <-ctx.Done():
			return v, context.Cause(ctx)
		case <-g.open:
			return rules.GateVerdict{Kind: rules.GateStart, Reason: "quorum is forced on this node"}, nil
		case <-impatient:
			return rules.GateVerdict{Kind: rules.GateStart, Reason: "the cluster runs on forced quorum, and no other member answers"}, nil
		case <-time.After(gatePeriod):
		}
	}
}

func (g *Gate) say(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if reason != "" && g.waiting == "" {
		g.o.Logger.Info("raft is not started yet", zap.String("reason", reason))
	}
	g.waiting = reason
}

// GateAnswer is what a node answers on PathClaim while it waits itself: nodes
// that start at the same time let each other pass.
func GateAnswer(s *ledger.State, m *Memory, c Caller) (rules.Answer, error) { return answerTo(s, m, c) }

// askTimeout bounds one question to one member.
const askTimeout = 1500 * time.Millisecond

// askAll asks nodes side by side and returns who answered.
func askAll(ctx context.Context, nodes []guest.NodeID, ask func(context.Context, guest.NodeID) (rules.Answer, error)) map[guest.NodeID]rules.Answer {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[guest.NodeID]rules.Answer{}
	for _, node := range nodes {
		wg.Go(func() {
			a, err := ask(ctx, node)
			if err != nil {
				return // silent is all that a failed question tells
			}
			mu.Lock()
			defer mu.Unlock()
			out[node] = a
		})
	}
	wg.Wait()
	return out
}
