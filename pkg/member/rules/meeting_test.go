package rules_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

// in is the claim of a node of generation path[len(path)-1], whose ancestors are
// the others; all forks are at index 100 unless said otherwise.
func in(path string, node int, more ...func(*rules.Claim)) rules.Claim {
	c := rules.Claim{Node: nodeID(node), Cluster: "c", Generation: path[len(path)-1:], LastCommand: 90, LastIndex: 100}
	for i := 1; i < len(path); i++ {
		c.Lineage = append(c.Lineage, ledger.Fork{Generation: path[i : i+1], Parent: path[i-1 : i], Index: 100})
		c.Ages = append(c.Ages, time.Hour)
	}
	for _, f := range more {
		f(&c)
	}
	return c
}

func command(index uint64) func(*rules.Claim) {
	return func(c *rules.Claim) { c.LastCommand = index }
}

func termed(term, index uint64) func(*rules.Claim) {
	return func(c *rules.Claim) { c.LastCommandTerm, c.LastCommand = term, index }
}

func forkedAt(term, index uint64) func(*rules.Claim) {
	return func(c *rules.Claim) {
		f := &c.Lineage[len(c.Lineage)-1]
		f.Term, f.Index = term, index
	}
}

func outlived(forks ...string) func(*rules.Claim) {
	return func(c *rules.Claim) { c.Outlived = forks }
}

func yielding(c *rules.Claim) { c.Yielding = "?" }

const acted = 101

func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		name   string
		claims []rules.Claim
		winner string // "": alarm
		says   string // part of the reason that a yielding or alarmed node gives
	}{
		{"one generation", []rules.Claim{in("A", 1), in("A", 2)}, "A", ""},
		{
			"two dead nodes return, the forced one has worked",
			[]rules.Claim{in("A", 2), in("A", 3), in("AX", 1, command(acted))},
			"X",
			"generation A yields: it has acted on nothing since they parted at ledger index 100, and generation X has",
		},
		{
			"they saw each other first and acted",
			[]rules.Claim{in("A", 2, command(acted)), in("A", 3), in("AX", 1, command(acted))},
			"",
			"generations A and X of this cluster have all changed since they parted",
		},
		{
			"a forced node comes back to a healthy majority that was idle",
			[]rules.Claim{in("A", 2, outlived("X")), in("A", 3), in("AX", 1, command(acted))},
			"A",
			"generation X yields: generation A, from which it was forked, has been quorate without a break since before that",
		},
		{"a forced node comes back to a healthy majority that worked", []rules.Claim{in("A", 2, outlived("X"), command(acted)), in("AX", 1, command(acted))}, "A", "yields"},
		{"the same, and a follower knows it", []rules.Claim{in("A", 2), in("A", 3, outlived("X")), in("AX", 1, command(acted))}, "A", "yields"},
		{"only the parent acted", []rules.Claim{in("A", 2, command(acted)), in("AX", 1)}, "A", "generation X yields: it has acted on nothing"},
		{"none acted", []rules.Claim{in("A", 2), in("A", 3), in("AX", 1)}, "X", "generation A yields: none has acted since the fork, and generation X is what a person asked for"},
		{"two forced at the same time", []rules.Claim{in("AX", 1), in("AY", 2)}, "Y", "generation X yields: none has acted since they parted, and its ID is smaller"},
		{"the same, one acted", []rules.Claim{in("AX", 1, command(acted)), in("AY", 2)}, "X", "generation Y yields: it has acted on nothing"},
		{"the same, both acted", []rules.Claim{in("AX", 1, command(acted)), in("AY", 2, command(acted))}, "", "generations X and Y"},
		{"the same, with the third in the parent", []rules.Claim{in("A", 3), in("AX", 1), in("AY", 2)}, "Y", "yields"},
		{"a bystander waits for a person", []rules.Claim{in("A", 3), in("AX", 1, command(acted)), in("AY", 2, command(acted))}, "", "generations X and Y"},
		{"a fork of a fork", []rules.Claim{in("A", 3), in("AX", 2), in("AXY", 1, command(acted))}, "Y", "acted on nothing"},
		{"outlived with all its forks", []rules.Claim{in("A", 3, outlived("X")), in("AXY", 1, command(acted))}, "A", "generation Y yields"},
		{"outlived by a fork that itself yields", []rules.Claim{in("AX", 3, outlived("Y")), in("AXY", 1, command(acted)), in("A", 2, outlived("X"))}, "A", "yields"},
		{
			"the majority confirmed other commands at the same indexes, in a later term",
			[]rules.Claim{in("A", 2, termed(5, 98)), in("AX", 1, termed(4, 100), forkedAt(4, 100))},
			"A", "generation X yields: it has acted on nothing",
		},
		{
			"commands of an earlier term are part of the fork",
			[]rules.Claim{in("A", 2, termed(3, 98)), in("AX", 1, termed(4, 100), forkedAt(4, 100))},
			"X", "generation A yields",
		},
		{
			"forked later, with what was confirmed between",
			[]rules.Claim{in("AX", 2, command(60), forkedAt(0, 60)), in("AY", 1, command(50), forkedAt(0, 50))},
			"X", "generation Y yields: it has acted on nothing since they parted at ledger index 50",
		},
		{"another cluster", []rules.Claim{in("A", 1), {Node: nodeID(2), Cluster: "d", Generation: "B", LastCommand: 1000}}, "A", ""},
		{"a claim that contradicts itself", []rules.Claim{in("A", 1), in("AX", 2, command(acted), func(c *rules.Claim) { c.Generation = "Z" })}, "A", ""},
		{"a cluster that never was ours", []rules.Claim{in("A", 1), in("BX", 2, command(acted))}, "A", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i, ours := range tc.claims {
				others := slices.Concat(tc.claims[:i], tc.claims[i+1:])
				if ours.Cluster != "c" || ours.Generation == "Z" || ours.Lineage != nil && ours.Lineage[0].Parent == "B" {
					continue
				}
				v := rules.Decide(ours, others...)
				want := rules.Yield
				switch tc.winner {
				case "":
					want = rules.Alarm
				case ours.Generation:
					want = rules.Stay
				}
				if v.Kind != want || v.Winner != tc.winner {
					t.Errorf("node in %s: got %s to %q, want %s to %q", ours.Generation, v.Kind, v.Winner, want, tc.winner)
				}
				if v.Kind != rules.Stay && !strings.Contains(v.Reason, tc.says) {
					t.Errorf("node in %s says: %s", ours.Generation, v.Reason)
				}
			}
		})
	}
}

func TestDecide_ASideThatYieldsIsNotJoined(t *testing.T) {
	v := rules.Decide(in("A", 2), in("AX", 1, command(acted), yielding))
	if v.Kind != rules.Stay || v.Winner != "X" {
		t.Errorf("got %+v", v)
	}
	if err := (rules.Scene{Self: nodeID(2), Ours: in("A", 2), Answers: map[guest.NodeID]rules.Answer{
		nodeID(1): {Claim: in("AX", 1, command(acted), yielding)},
	}}).MayAct(); err == nil {
		t.Error("a leader may act although another generation would win")
	}
}

// world draws generations of one cluster with what their nodes did.
func world(t *rapid.T, most int) []rules.Claim {
	paths := []string{"A"}
	for range rapid.IntRange(1, most-1).Draw(t, "forks") {
		parent := rapid.SampledFrom(paths).Draw(t, "parent")
		paths = append(paths, parent+string(rune('A'+len(paths))))
	}
	index := map[string]uint64{}
	var out []rules.Claim
	for n, path := range paths {
		id := path[len(path)-1:]
		index[id] = rapid.Uint64Range(50, 60).Draw(t, "fork index")
		if n > 0 && rapid.IntRange(0, 3).Draw(t, "heard") == 0 {
			continue // nobody of it answers
		}
		c := in(path, n+1, command(rapid.Uint64Range(40, 70).Draw(t, "last command")))
		for i := range c.Lineage {
			c.Lineage[i].Index = index[c.Lineage[i].Generation]
		}
		c.Quorate = rapid.Bool().Draw(t, "quorate")
		for _, other := range paths {
			if i := strings.Index(other, id); c.Quorate && i >= 0 && i+1 < len(other) && rapid.Bool().Draw(t, "outlived") {
				c.Outlived = append(c.Outlived, other[i+1:i+2])
			}
		}
		out = append(out, c)
	}
	return out
}

// Whoever decides comes to the same end: all of the winner's generation stay, all
// others yield to it; or all alarm. So never do two sides yield to each other, and
// never do two stay without an alarm.
func TestDecide_AllComeToTheSameEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		claims := rapid.Permutation(world(t, 5)).Draw(t, "order")
		var first rules.Verdict
		for i, ours := range claims {
			v := rules.Decide(ours, slices.Concat(claims[:i], claims[i+1:])...)
			if i == 0 {
				first = v
			}
			switch {
			case v.Winner != first.Winner || !slices.Equal(v.Contenders, first.Contenders):
				t.Fatalf("%s: %+v, but %s: %+v", ours.Generation, v, claims[0].Generation, first)
			case v.Kind == rules.Alarm != (len(v.Contenders) > 1) || v.Kind == rules.Alarm && v.Winner != "":
				t.Fatalf("an alarm is for two and more that acted: %+v", v)
			case v.Kind == rules.Stay && v.Winner != ours.Generation, v.Kind == rules.Yield && v.Winner == ours.Generation:
				t.Fatalf("%s: %+v", ours.Generation, v)
			case v.Kind != rules.Stay && v.Reason == "":
				t.Fatalf("%s: no reason in %+v", ours.Generation, v)
			}
		}
	})
}

// When those that yield have gone over, nothing more is to be decided; and two
// generations decide between themselves as they did with a third that lost.
func TestDecide_Settles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		claims := world(t, 4)
		var left []rules.Claim
		for i, ours := range claims {
			if v := rules.Decide(ours, slices.Concat(claims[:i], claims[i+1:])...); v.Kind != rules.Yield {
				left = append(left, ours)
			}
		}
		if len(left) == 0 {
			t.Fatal("all yielded")
		}
		before, after := rules.Decide(claims[0], claims[1:]...), rules.Decide(left[0], left[1:]...)
		if before.Winner != after.Winner {
			t.Fatalf("%+v, then %+v", before, after)
		}
	})
}

// A fork never wins over a generation that was quorate since before it, and what
// acted never yields to what did not, except so.
func TestDecide_NothingAcknowledgedIsGivenUpLightly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		claims := world(t, 2)
		if len(claims) != 2 {
			return
		}
		parent, fork := claims[0], claims[1]
		v := rules.Decide(fork, parent)
		parted := fork.Lineage[0].Index
		parentActed, forkActed := parent.LastCommand > parted, fork.LastCommand > parted
		switch {
		case len(parent.Outlived) > 0:
			if v.Winner != "A" {
				t.Fatalf("%+v", v)
			}
		case parentActed != forkActed:
			if want := map[bool]string{true: "A", false: "B"}[parentActed]; v.Winner != want {
				t.Fatalf("%+v, want %s", v, want)
			}
		case parentActed && v.Kind != rules.Alarm:
			t.Fatalf("%+v", v)
		}
	})
}
