package rules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// ExpectedFacts are what `tandem cluster expected` is decided on.
type ExpectedFacts struct {
	// State is the ledger here, Ours this node's claim, Answers those of the
	// members that answered when they were asked just now.
	State   *ledger.State
	Ours    Claim
	Answers map[guest.NodeID]Claim
	// Voters are the nodes that vote by raft's configuration here; where that is
	// empty any member counts.
	Voters map[guest.NodeID]bool
	// Removed is set where this node was taken off the list.
	Removed *Removal
}

// votes is how many votes are seen now: this node, which gets one, and the voters
// that answer from its generation.
func (f ExpectedFacts) votes() int {
	n := 1
	for node, c := range f.Answers {
		if c.Generation == f.Ours.Generation && (f.Voters[node] || len(f.Voters) == 0) {
			n++
		}
	}
	return n
}

// CheckExpected says why quorum cannot be forced on this node by expecting n
// votes; nil: it can. It never is while there is a majority, or another way.
func CheckExpected(n int, f ExpectedFacts) error {
	votes, all := f.votes(), max(1, Voters(len(f.State.Members)))
	switch {
	case n < 1:
		return Refuse("see the votes with `tandem cluster status`", "expected %d: must be 1 or more", n)
	case f.Removed != nil:
		return Refuse(f.Removed.Hint(), "%s", f.Removed.Reason())
	case f.Ours.Yielding != "":
		return Refuse("wait for it: see `tandem cluster status`", "this node is going over to generation %s", Short(f.Ours.Yielding))
	case f.Ours.Quorate:
		return Refuse("there is nothing to force", "this node is quorate: the number of votes follows the member list by itself")
	}
	if err := f.otherWay(n); err != nil {
		return err
	}
	switch {
	case n < votes:
		return Refuse(fmt.Sprintf("the least that can be expected now is %d", votes), "expected %d: %d votes are seen now", n, votes)
	case n > all:
		return Refuse(fmt.Sprintf("expect the %d that are seen now", votes), "expected %d: the cluster has %d votes in all", n, all)
	case votes < n/2+1:
		return Refuse(fmt.Sprintf("expect at most %d, or bring members back", 2*votes-1),
			"expected %d: %d votes are needed then, %d seen now: this node would still not be quorate", n, n/2+1, votes)
	default:
		return nil
	}
}

// otherWay finds a member that answers and makes forcing this node wrong.
func (f ExpectedFacts) otherWay(n int) error {
	for _, node := range slices.Sorted(maps.Keys(f.Answers)) {
		c, name := f.Answers[node], f.State.NameOf(node)
		if c.Cluster != f.Ours.Cluster {
			continue
		}
		if c.Generation == f.Ours.Generation {
			switch {
			case c.Quorate:
				return Refuse("see with `tandem cluster status` on "+name+" how far it is; look at the network between the nodes",
					"member %s answers and is quorate: this node will be too when it has caught up", name)
			case position{c.LastCommandTerm, c.LastCommand}.beyond(position{f.Ours.LastCommandTerm, f.Ours.LastCommand}):
				return Refuse(fmt.Sprintf("run `tandem cluster expected %d` on %s", n, name),
					"member %s answers and has more of the ledger (index %d, here %d), which would be lost", name, c.LastCommand, f.Ours.LastCommand)
			}
			continue
		}
		switch v := Decide(f.Ours, c); {
		case v.Kind == Yield:
			return Refuse("this node joins it by itself in some seconds: see `tandem cluster status`; if not, `tandem cluster yield` does",
				"member %s answers and is in generation %s, to which this one yields: %s", name, Short(c.Generation), v.Reason)
		case v.Kind == Alarm:
			return Refuse("decide between them first: `tandem cluster yield` on a node of the one to give up", "member %s answers: %s", name, v.Reason)
		case slices.ContainsFunc(c.Lineage, func(k ledger.Fork) bool { return k.Parent == f.Ours.Generation }):
			return Refuse("`tandem cluster yield` takes this node there; or wait until that generation yields to this one",
				"member %s answers and is in generation %s, which was forced already: join that one", name, Short(c.Generation))
		}
	}
	return nil
}

// ExpectedWarnings is what the operator has to know before quorum is forced.
func ExpectedWarnings(f ExpectedFacts) []string {
	var silent []string
	for _, m := range f.State.MemberList() {
		if _, ok := f.Answers[m.ID]; !ok && m.ID != f.Ours.Node {
			silent = append(silent, string(m.Name))
		}
	}
	var out []string
	if len(silent) > 0 {
		out = append(out, fmt.Sprintf("%s must be off or cut from their guests: if they are quorate among themselves, "+
			"two clusters work on the same guests, and this node yields to them when they meet", list(silent)))
	}
	if f.State.Forced {
		out = append(out, "the cluster runs on forced quorum already")
	}
	return append(out, "what was confirmed elsewhere and has not reached this node is not part of the new generation",
		"until enough members follow again, joining and removing nodes and adding guests need --force, and no change of [storages] is taken over")
}
