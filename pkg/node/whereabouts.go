package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Whereabouts is what a node gossips of a guest that it owns.
type Whereabouts struct {
	Term string `json:"term"`
	// UnitWord is of the unit that runs it; State is empty where it has none.
	UnitWord
}

const guestKey = "guest/"

// Announcement is what this node gossips, by key: each guest that it owns by
// the ledger as it knows it.
func Announcement(s *ledger.State, self guest.NodeID) map[string][]byte {
	out := map[string][]byte{}
	for id, g := range s.Guests {
		if g.Owner != self {
			continue
		}
		b, err := json.Marshal(Whereabouts{Term: g.Term.String()})
		if err != nil {
			continue // cannot happen: it is a string
		}
		out[guestKey+id.String()] = b
	}
	return out
}

// Word is what another node says by gossip.
type Word struct {
	// Generation of its ledger, and the index that it has reached.
	Generation string
	Applied    uint64
	// Entries are what it announces, by key.
	Entries map[string][]byte
}

// Stranger is an address that gossips what is not for this cluster as it is now.
type Stranger struct {
	Address string
	// Cluster is the ID of the cluster that it gossips for; empty: this one, with a
	// key that is not in use.
	Cluster string
	// First and Last are when that was heard.
	First, Last time.Time
}

// Gap tells since when one side has not had what the other had then.
type Gap struct {
	// Index is what the other side had reached then.
	Index uint64
	Since time.Time
}

// Pace follows how nodes keep up with the ledger: for each node of the same
// generation that is behind this one, and for each that this one is behind. A node
// that follows a busy ledger at a small distance has a gap that is never old. A Pace
// is never changed; See makes the next.
type Pace struct {
	behind, ahead map[guest.NodeID]Gap
}

// See takes in how far this node's ledger and those of others are now.
func (p Pace) See(s *ledger.State, heard map[guest.NodeID]Word, now time.Time) Pace {
	next := Pace{behind: map[guest.NodeID]Gap{}, ahead: map[guest.NodeID]Gap{}}
	for node, w := range heard {
		if w.Generation != s.Generation {
			continue
		}
		if g, ok := gapOf(p.behind[node], s.Changed, w.Applied, now); ok {
			next.behind[node] = g
		}
		if g, ok := gapOf(p.ahead[node], w.Applied, s.Index, now); ok {
			next.ahead[node] = g
		}
	}
	return next
}

// gapOf is the gap of one who has reached at, while the other has reached goal.
func gapOf(old Gap, goal, at uint64, now time.Time) (Gap, bool) {
	switch {
	case at >= goal:
		return Gap{}, false
	case at < old.Index:
		return old, true
	default:
		return Gap{Index: goal, Since: now}, true
	}
}

// patience is how long a node may be behind before its word is taken at its word.
const patience = 10 * time.Second

func (g Gap) old(now time.Time) bool { return !g.Since.IsZero() && now.Sub(g.Since) >= patience }

// Disagreements compares what nodes gossip with the ledger, in sentences for the
// operator that say what is wrong and what to do. A node that is merely behind is
// given 10 s to catch up, and one that is ahead is believed: then it is this node
// that has to.
func Disagreements(s *ledger.State, heard map[guest.NodeID]Word, p Pace, now time.Time) []string {
	var out []string
	for _, node := range slices.SortedFunc(maps.Keys(heard), func(a, b guest.NodeID) int { return cmp.Compare(s.NameOf(a), s.NameOf(b)) }) {
		w, name := heard[node], s.NameOf(node)
		wrong := claims(s, node, w)
		switch behind, ahead := p.behind[node], p.ahead[node]; {
		case w.Generation != "" && w.Generation != s.Generation:
			out = append(out, fmt.Sprintf("node %s follows another generation of the ledger (%.16q, here %q): the cluster was forced apart, and until one side yields "+
				"its owners and this side's may differ; compare `tandem cluster status` on both", name, w.Generation, s.Generation))
			out = append(out, few(wrong)...)
		case ahead.Since.IsZero() && behind.Since.IsZero():
			out = append(out, few(wrong)...)
		case ahead.old(now):
			out = append(out, fmt.Sprintf("this node has been behind node %s for %s: its ledger stands at index %d, there it is %d; "+
				"what is shown here may be old; look at its log, and whether it reaches the leader", name, age(ahead, now), s.Index, w.Applied))
		case behind.old(now):
			out = append(out, fmt.Sprintf("node %s has been behind for %s: its ledger stands at index %d, here it is %d; "+
				"look at its log, and whether it reaches the leader", name, age(behind, now), w.Applied, s.Index))
			out = append(out, few(wrong)...)
		}
	}
	return out
}

func age(g Gap, now time.Time) time.Duration { return now.Sub(g.Since).Truncate(time.Second) }

// claim is what a node says of a guest that the ledger does not say.
type claim struct {
	id   guest.ID
	text string
}

// runsHere is a node's word that it runs a guest that another owns.
func runsHere(s *ledger.State, node guest.NodeID, key string) (c claim, ok bool) {
	rest, ours := strings.CutPrefix(key, runsKey)
	id, err := guest.ParseID(rest)
	g, known := s.Guests[id]
	if !ours || err != nil || !known || g.Owner == node {
		return c, false
	}
	return claim{id, fmt.Sprintf("guest %s runs on %s although it is %s's at term %s: %s stops it by itself; if it does not, "+
		"stop %s there", id, s.NameOf(node), s.NameOf(g.Owner), g.Term, s.NameOf(node), g.Unit)}, true
}

// claims are what a node says of guests that the ledger does not say.
func claims(s *ledger.State, node guest.NodeID, w Word) []string {
	var found []claim
	name := s.NameOf(node)
	for key, value := range w.Entries {
		if c, runs := runsHere(s, node, key); runs {
			found = append(found, c)
			continue
		}
		rest, ours := strings.CutPrefix(key, guestKey)
		id, err := guest.ParseID(rest)
		var said Whereabouts
		if !ours || err != nil || json.Unmarshal(value, &said) != nil {
			continue // of a later version
		}
		if _, err := guest.ParseTerm(said.Term); err != nil {
			said.Term = "?"
		}
		g, known := s.Guests[id]
		switch {
		case !known:
			found = append(found, claim{id, fmt.Sprintf("node %s says that it owns guest %s, which the ledger does not know: "+
				"make sure that the guest does not run there, then restart tandemd on it", name, id)})
		case g.Owner != node:
			found = append(found, claim{id, fmt.Sprintf("node %s says that it owns guest %s at term %s, but the ledger gives it to %s at term %s: "+
				"make sure that the guest does not run on %s, then restart tandemd there", name, id, said.Term, s.NameOf(g.Owner), g.Term, name)})
		case g.Term.String() != said.Term:
			found = append(found, claim{id, fmt.Sprintf("node %s says that it owns guest %s at term %s, but the ledger says term %s: "+
				"restart tandemd there", name, id, said.Term, g.Term)})
		}
	}
	slices.SortFunc(found, func(a, b claim) int { return cmp.Compare(a.id, b.id) })
	var out []string
	for _, c := range found {
		out = append(out, c.text)
	}
	return out
}

// mostClaims is how many sentences about one node are shown.
const mostClaims = 10

func few(sentences []string) []string {
	if len(sentences) <= mostClaims {
		return sentences
	}
	return append(slices.Clip(sentences[:mostClaims]), fmt.Sprintf("… and %d more guests like that", len(sentences)-mostClaims))
}

// How long a stranger must have been heard, so that packets which were under way
// while a key was changed do not count; and how long it is told of.
const (
	strangerAfter  = 10 * time.Second
	strangerLasted = 5 * time.Minute
)

// Strange tells of addresses that gossip what is not for this cluster, in sentences
// for the operator.
func Strange(s *ledger.State, strangers []Stranger, now time.Time) []string {
	var out []string
	for _, x := range strangers {
		if x.Last.Sub(x.First) < strangerAfter || now.Sub(x.Last) > strangerLasted {
			continue
		}
		who := x.Address
		for _, m := range s.MemberList() {
			if host, _, err := net.SplitHostPort(m.Gossip); err == nil && host == x.Address {
				who = fmt.Sprintf("node %s (%s)", m.Name, x.Address)
				break
			}
		}
		if x.Cluster != "" {
			out = append(out, fmt.Sprintf("%s gossips to this node for another cluster (%.8s, this one is %.8s): "+
				"an address was given to nodes of two clusters; correct `gossip` in the configuration of one of them", who, x.Cluster, s.Cluster))
			continue
		}
		out = append(out, fmt.Sprintf("%s gossips with a key that this cluster no longer uses: it was removed, or has missed the change of the key; "+
			"stop tandemd there, or look why it does not reach the peer port of the members", who))
	}
	slices.Sort(out)
	return out
}
