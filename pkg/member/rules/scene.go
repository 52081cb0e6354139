package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Scene is what a node knows when it decides.
type Scene struct {
	Self    guest.NodeID
	Ours    Claim
	Answers map[guest.NodeID]Answer
	// Leader is the last one that this node followed in its generation, Known the
	// index of the newest state of its ledger that it has from any source.
	Leader guest.NodeID
	Known  uint64
}

// Decision is what a node does after it asked.
type Decision struct {
	Verdict Verdict
	// Goes: this node goes over to Verdict.Winner now.
	Goes bool
	// ByPerson: an operator chose so, whatever the verdict would be.
	ByPerson bool
	// Removed is set where this node is no member any more.
	Removed *Removal
}

// Claims are those of the members of this cluster that answered.
func (s Scene) Claims() []Claim {
	var out []Claim
	for _, node := range slices.Sorted(maps.Keys(s.Answers)) {
		if c := s.Answers[node].Claim; c.Generation != "" && c.Cluster == s.Ours.Cluster {
			out = append(out, c)
		}
	}
	return out
}

// Restless says whether there is anything to settle.
func (s Scene) Restless() bool {
	if slices.ContainsFunc(s.Claims(), func(c Claim) bool { return c.Generation != s.Ours.Generation }) {
		return true
	}
	for _, a := range s.Answers {
		if a.Removed != nil {
			return true
		}
	}
	return false
}

// Decide says what to do. Who follows a leader leaves the decision to it, and
// goes where that one went.
func (s Scene) Decide() Decision {
	d := Decision{Verdict: Decide(s.Ours, s.Claims()...)}
	leader := s.Answers[s.Leader].Claim
	follows := s.Leader != s.Self && leader.Cluster == s.Ours.Cluster && leader.Generation != s.Ours.Generation &&
		slices.Contains(leader.Left, s.Ours.Generation)
	if follows {
		d.Verdict = Verdict{Kind: Yield, Winner: leader.Generation, Reason: fmt.Sprintf(
			"generation %s yields: node %s, which led it, has gone over to generation %s", Short(s.Ours.Generation), s.Leader.Short(), Short(leader.Generation))}
	}
	if d.Removed = s.removal(d.Verdict); d.Removed != nil {
		return d
	}
	decides := follows || !s.Ours.Quorate || s.Ours.Leader == s.Self
	d.Goes = decides && d.Verdict.Kind == Yield
	return d
}

// removal is the word of a member that this node was taken off the list. It
// counts where it comes from this node's generation, or from one that wins over it.
func (s Scene) removal(v Verdict) *Removal {
	if s.Ours.Quorate {
		return nil
	}
	for _, node := range slices.Sorted(maps.Keys(s.Answers)) {
		r := s.Answers[node].Removed
		if r != nil && (r.Generation == s.Ours.Generation && r.Index >= s.Known || v.Kind == Yield && r.Generation == v.Winner) {
			return r
		}
	}
	return nil
}

// MayAct is nil where a leader may take its first command.
func (s Scene) MayAct() error {
	const soon = "try again in some seconds"
	if s.Ours.Yielding != "" {
		return Refuse(soon, "generation %s is being given up for generation %s", Short(s.Ours.Generation), Short(s.Ours.Yielding))
	}
	if l := s.Answers[s.Leader].Claim; l.Generation == s.Ours.Generation && l.Yielding != "" {
		return Refuse(soon, "node %s, which led before, is giving up generation %s", l.Node.Short(), Short(l.Generation))
	}
	v := s.Decide().Verdict
	switch {
	case v.Winner == s.Ours.Generation, slices.Contains(v.Contenders, s.Ours.Generation):
		return nil
	case v.Kind == Alarm:
		return Refuse("see `tandem cluster status`", "%s", v.Reason)
	default:
		return Refuse(soon, "%s", v.Reason)
	}
}

// In are the nodes of a generation, those that know most of it first.
func (s Scene) In(generation string) []guest.NodeID {
	nodes := slices.DeleteFunc(slices.Sorted(maps.Keys(s.Answers)), func(n guest.NodeID) bool {
		return s.Answers[n].Claim.Generation != generation || s.Answers[n].Claim.Cluster != s.Ours.Cluster
	})
	rank := func(n guest.NodeID) int {
		switch c := s.Answers[n].Claim; {
		case c.Leader == n:
			return 0
		case c.Quorate:
			return 1
		default:
			return 2
		}
	}
	slices.SortStableFunc(nodes, func(a, b guest.NodeID) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(s.Answers[b].Claim.Index, s.Answers[a].Claim.Index))
	})
	return nodes
}

// Choose finds the generation that an operator means.
func (s Scene) Choose(generation string, names *ledger.State) (string, error) {
	found := map[string][]string{}
	for _, c := range s.Claims() {
		if c.Generation != s.Ours.Generation && c.root() == s.Ours.root() {
			found[c.Generation] = append(found[c.Generation], names.NameOf(c.Node))
		}
	}
	var all, fit []string
	for _, g := range slices.Sorted(maps.Keys(found)) {
		all = append(all, fmt.Sprintf("%s (on %s)", Short(g), list(found[g])))
		if strings.HasPrefix(g, generation) {
			fit = append(fit, g)
		}
	}
	switch {
	case len(found) == 0:
		return "", Refuse("see with `tandem cluster status` who answers",
			"no member that answers is in another generation than this node (%s): there is nothing to yield to", Short(s.Ours.Generation))
	case len(fit) == 0:
		return "", Refuse("the others are "+list(all), "no member that answers is in generation %q", generation)
	case len(fit) > 1:
		return "", Refuse("name one with `tandem cluster yield GENERATION`", "this node could yield to several generations: %s", list(all))
	case s.Ours.Quorate && s.Ours.Leader != s.Self:
		return "", Refuse("run it on "+names.NameOf(s.Ours.Leader), "this node follows %s, which takes the whole generation along when it yields", names.NameOf(s.Ours.Leader))
	default:
		return fit[0], nil
	}
}
