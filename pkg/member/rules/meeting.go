package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Claim is what a node tells others of the generation that it is in.
type Claim struct {
	Node       guest.NodeID `json:"node"`
	Cluster    string       `json:"cluster"`
	Generation string       `json:"generation"`
	// Lineage is that of the generation, Ages how long ago each of its forks was
	// made: by the boot-time clock where this boot saw it, else by the wall clock.
	Lineage []ledger.Fork   `json:"lineage,omitempty"`
	Ages    []time.Duration `json:"ages,omitempty"`
	// Index is how far raft has applied the ledger here.
	Index uint64 `json:"index"`
	// LastCommand is where the last command other than an ask stands in the log,
	// confirmed or not, LastCommandTerm raft's term of that entry; 0: not known.
	LastCommand     uint64 `json:"last_command"`
	LastCommandTerm uint64 `json:"last_command_term,omitempty"`
	// Leader is whom this node follows, itself where it leads; empty for none.
	Leader guest.NodeID `json:"leader,omitempty"`
	// QuorateFor is for how long it has been Quorate without a break.
	Quorate    bool          `json:"quorate,omitempty"`
	QuorateFor time.Duration `json:"quorate_for,omitempty"`
	// Term and LastIndex are raft's, Boots counts the starts of the daemon.
	Term      uint64 `json:"term"`
	LastIndex uint64 `json:"last_index"`
	Boots     uint64 `json:"boots"`
	// SetAside: its raft folder was set aside, and it has not caught up since.
	SetAside bool `json:"set_aside,omitempty"`
	// Outlived names the forks of this node's generation that are younger than
	// its quorum, as the node saw when it first heard of them.
	Outlived []string `json:"outlived,omitempty"`
	// Left names the generations that this node left by yielding, since its daemon started.
	Left []string `json:"left,omitempty"`
	// Yielding is the generation that it is going over to.
	Yielding string `json:"yielding,omitempty"`
}

// root is the generation in which the cluster was founded; empty where the claim
// contradicts itself, or its node does not know yet.
func (c Claim) root() string {
	if len(c.Lineage) == 0 {
		return c.Generation
	}
	for i, f := range c.Lineage[1:] {
		if f.Parent != c.Lineage[i].Generation {
			return ""
		}
	}
	if c.Lineage[len(c.Lineage)-1].Generation != c.Generation {
		return ""
	}
	return c.Lineage[0].Parent
}

// VerdictKind says what a node does about other generations.
type VerdictKind string

// The kinds of verdicts.
const (
	// Stay: there is no other generation, or it yields.
	Stay VerdictKind = "stay"
	// Yield: this node goes over to Verdict.Winner.
	Yield VerdictKind = "yield"
	// Alarm: nobody yields until a person decides.
	Alarm VerdictKind = "alarm"
)

// Verdict is what follows from a meeting of generations.
type Verdict struct {
	Kind VerdictKind
	// Winner is the generation that stays; empty with Alarm.
	Winner string
	// Contenders are the generations between which a person has to choose.
	Contenders []string
	// Reason is for the operator; empty where no other generation was met.
	Reason string
}

// Decide says what the node with the claim ours does after it has heard others.
//
// It is a function of the set of generations alone, so that all who hear the same
// claims come to the same end, however many generations meet:
//   - a fork yields to the generation it was made from, where that one has been
//     quorate without a break since before the fork, whatever either has done: its
//     majority never needed the fork, and nothing of it stops;
//   - else the only one that acted since they parted stays;
//   - if none acted, a parent yields to its fork, which was a person's wish, and of
//     two forks the one with the smaller ID yields;
//   - if several acted nobody yields, and all alarm.
//
// To have acted is to have a command behind the point at which they parted,
// confirmed or not.
func Decide(ours Claim, others ...Claim) Verdict {
	sides := sidesOf(append([]Claim{ours}, others...))
	if len(sides) == 1 {
		return Verdict{Kind: Stay, Winner: ours.Generation}
	}
	m := meeting{reasons: map[string]string{}}
	stay := m.settle(0, sides)
	if len(stay) > 1 {
		return m.conflict(stay)
	}
	winner := stay[0]
	v := Verdict{Kind: Yield, Winner: winner.generation, Reason: m.reasons[ours.Generation]}
	switch {
	case winner.generation == ours.Generation:
		v.Kind, v.Reason = Stay, m.allReasons()
	case winner.yielding:
		v.Kind = Stay
		v.Reason = fmt.Sprintf("generation %s is going over to another one, so this node stays", Short(winner.generation))
	}
	return v
}

// side is all that is known of one generation.
type side struct {
	generation string
	lineage    []ledger.Fork
	last       position
	outlived   map[string]bool
	yielding   bool
}

// position is a place in raft's log.
type position struct{ term, index uint64 }

// beyond orders by term first, as raft does: a majority that wrote other
// commands at the same indexes than a cut-off leader did so in a later term.
func (p position) beyond(q position) bool {
	if p.term != 0 && q.term != 0 && p.term != q.term {
		return p.term > q.term
	}
	return p.index > q.index
}

func sidesOf(claims []Claim) []*side {
	byID := map[string]*side{}
	for _, c := range claims {
		if c.Cluster != claims[0].Cluster || c.root() == "" || c.root() != claims[0].root() {
			continue
		}
		s, ok := byID[c.Generation]
		if !ok {
			s = &side{generation: c.Generation, lineage: c.Lineage, outlived: map[string]bool{}}
			byID[c.Generation] = s
		}
		if p := (position{c.LastCommandTerm, c.LastCommand}); p.beyond(s.last) {
			s.last = p
		}
		s.yielding = s.yielding || c.Yielding != ""
		for _, fork := range c.Outlived {
			s.outlived[fork] = true
		}
	}
	return slices.SortedFunc(maps.Values(byID), func(a, b *side) int { return cmp.Compare(a.generation, b.generation) })
}

// meeting collects why each generation that yields does so.
type meeting struct{ reasons map[string]string }

// settle finds who stays of sides that share the first depth forks of their
// lineages: one, or those that conflict. It goes from the youngest forks to the
// oldest, as a knock-out does.
func (m *meeting) settle(depth int, sides []*side) []*side {
	var base *side
	groups := map[string][]*side{}
	for _, s := range sides {
		if len(s.lineage) <= depth {
			base = s
			continue
		}
		fork := s.lineage[depth].Generation
		groups[fork] = append(groups[fork], s)
	}
	var in []party
	if base != nil {
		in = append(in, party{stay: []*side{base}})
	}
	for _, fork := range slices.Sorted(maps.Keys(groups)) {
		g := groups[fork]
		if base != nil && base.outlived[fork] {
			m.out(g, "generation %s, from which it was forked, has been quorate without a break since before that", Short(base.generation))
			continue
		}
		in = append(in, party{fork: &g[0].lineage[depth], stay: m.settle(depth+1, g)})
	}
	return m.pick(in)
}

// party is a branch of the tree of generations, or the generation from which
// the branches part, which has no fork.
type party struct {
	fork *ledger.Fork
	stay []*side
}

// acted says whether the branch has done anything since the branches parted.
func (p party) acted(parted position) bool {
	return slices.ContainsFunc(p.stay, func(s *side) bool { return s.last.beyond(parted) })
}

func (m *meeting) pick(in []party) []*side {
	if len(in) == 1 {
		return in[0].stay
	}
	parted := firstFork(in)
	var acted []party
	for _, p := range in {
		if p.acted(parted) {
			acted = append(acted, p)
		}
	}
	var stay []*side
	switch len(acted) {
	case 0:
		// The parent sorts first, and the forks by their IDs.
		best := in[len(in)-1]
		for _, p := range in[:len(in)-1] {
			if p.fork == nil {
				m.out(p.stay, "none has acted since the fork, and generation %s is what a person asked for", nameOf(best))
			} else {
				m.out(p.stay, "none has acted since they parted, and its ID is smaller than that of generation %s", nameOf(best))
			}
		}
		return best.stay
	default:
		for _, p := range in {
			if p.acted(parted) {
				stay = append(stay, p.stay...)
				continue
			}
			m.out(p.stay, "it has acted on nothing since they parted at ledger index %d, and generation %s has", parted.index, nameOf(acted[0]))
		}
		return stay
	}
}

// firstFork is the oldest point at which one of the branches parted.
func firstFork(in []party) position {
	var first *ledger.Fork
	for _, p := range in {
		if p.fork != nil && (first == nil || position{first.Term, first.Index}.beyond(position{p.fork.Term, p.fork.Index})) {
			first = p.fork
		}
	}
	return position{first.Term, first.Index}
}

func nameOf(p party) string { return Short(p.stay[0].generation) }

// Short is as much of a generation's ID as people are shown.
func Short(generation string) string { return generation[:min(8, len(generation))] }

func (m *meeting) out(sides []*side, format string, args ...any) {
	for _, s := range sides {
		if _, told := m.reasons[s.generation]; !told {
			m.reasons[s.generation] = fmt.Sprintf("generation %s yields: ", Short(s.generation)) + fmt.Sprintf(format, args...)
		}
	}
}

func (m *meeting) allReasons() string {
	var all []string
	for _, g := range slices.Sorted(maps.Keys(m.reasons)) {
		all = append(all, m.reasons[g])
	}
	return strings.Join(all, "; ")
}

func (m *meeting) conflict(stay []*side) Verdict {
	v := Verdict{Kind: Alarm}
	var names []string
	for _, s := range stay {
		v.Contenders = append(v.Contenders, s.generation)
		names = append(names, Short(s.generation))
	}
	slices.Sort(v.Contenders)
	slices.Sort(names)
	v.Reason = fmt.Sprintf("generations %s of this cluster have all changed since they parted, so none yields by itself: "+
		"run `tandem cluster yield` on a node of each one to give up", strings.Join(names, " and "))
	return v
}
