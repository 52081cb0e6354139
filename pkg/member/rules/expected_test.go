package rules_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

func members(n int) *ledger.State {
	s := &ledger.State{
		Format: ledger.Format, Cluster: "c", Generation: "A", Index: 90, Members: map[guest.NodeID]ledger.Member{},
		Guests: map[guest.ID]guest.Guest{}, Jobs: map[guest.JobID]guest.Job{}, Gossip: []ledger.GossipKey{{Number: 1}},
	}
	for i := 1; i <= n; i++ {
		s.Members[nodeID(i)] = ledger.Member{ID: nodeID(i), Name: guest.NodeName("n" + string(rune('0'+i))), Format: ledger.Format}
	}
	return s
}

func quorate(c *rules.Claim) { c.Quorate = true }

func TestCheckExpected(t *testing.T) {
	for _, tc := range []struct {
		name    string
		n, of   int
		ours    rules.Claim
		answers []rules.Claim
		voters  []int
		want    string // part of the refusal; "": forced
		hint    string
	}{
		{"the survivor of three", 1, 3, in("A", 1), nil, nil, "", ""},
		{"the survivor of two", 1, 2, in("A", 1), nil, nil, "", ""},
		{"two of five, either number", 2, 5, in("A", 1), []rules.Claim{in("A", 2)}, nil, "", ""},
		{"two of five", 3, 5, in("A", 1), []rules.Claim{in("A", 2)}, nil, "", ""},
		{"quorate", 1, 3, in("A", 1, quorate), nil, nil, "this node is quorate", "nothing to force"},
		{"nothing", 0, 3, in("A", 1), nil, nil, "must be 1 or more", ""},
		{"below the votes seen", 1, 5, in("A", 1), []rules.Claim{in("A", 2)}, nil, "expected 1: 2 votes are seen now", "the least that can be expected now is 2"},
		{"a follower that answers has no vote", 1, 4, in("A", 1), []rules.Claim{in("A", 4)}, []int{1, 2, 3}, "", ""},
		{"not enough", 2, 3, in("A", 1), nil, nil, "expected 2: 2 votes are needed then, 1 seen now: this node would still not be quorate", "expect at most 1"},
		{"not enough of five", 4, 5, in("A", 1), []rules.Claim{in("A", 2)}, nil, "3 votes are needed then, 2 seen now", "expect at most 3"},
		{"more than there are", 9, 3, in("A", 1), nil, nil, "the cluster has 3 votes in all", "expect the 1"},
		{"another member is quorate", 1, 3, in("A", 1), []rules.Claim{in("A", 2, quorate)}, nil, "member n2 answers and is quorate", "network"},
		{"another member knows more", 1, 3, in("A", 1), []rules.Claim{in("A", 2, command(95))}, nil, "member n2 answers and has more of the ledger (index 95, here 90)", "run `tandem cluster expected 1` on n2"},
		{"somebody was forced already", 1, 3, in("A", 1), []rules.Claim{in("AX", 2, command(acted))}, nil, "member n2 answers and is in generation X, to which this one yields", "joins it by itself"},
		{"somebody was forced in vain", 1, 3, in("A", 1, command(acted)), []rules.Claim{in("AX", 2)}, nil, "which was forced already: join that one", "cluster yield"},
		{"a conflict comes first", 1, 3, in("A", 1, command(acted)), []rules.Claim{in("AX", 2, command(acted))}, nil, "have all changed since they parted", "cluster yield"},
		{"the parent is back, and yields", 1, 3, in("AX", 1, command(acted)), []rules.Claim{in("A", 2)}, nil, "", ""},
		{"already going over", 1, 3, in("A", 1, yielding), nil, nil, "this node is going over", "wait"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := rules.ExpectedFacts{State: members(tc.of), Ours: tc.ours, Answers: map[guest.NodeID]rules.Claim{}, Voters: map[guest.NodeID]bool{}}
			for _, a := range tc.answers {
				f.Answers[a.Node] = a
			}
			for _, v := range tc.voters {
				f.Voters[nodeID(v)] = true
			}
			checkRefusal(t, rules.CheckExpected(tc.n, f), tc.want, tc.hint)
		})
	}
}

// checkRefusal wants an error with those words and that hint; "": no error.
func checkRefusal(t *testing.T, err error, want, hint string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	var r *rules.Refusal
	if !errors.As(err, &r) || !strings.Contains(r.Error(), want) || !strings.Contains(r.Hint(), hint) || r.Hint() == "" {
		t.Errorf("got %v (%+v), want %q with hint %q", err, r, want, hint)
	}
}

func TestCheckExpected_NotForARemovedNode(t *testing.T) {
	gone := &rules.Removal{Removal: ledger.Removal{Name: "n1", By: "root@n2", At: 1_800_000_000}}
	err := rules.CheckExpected(1, rules.ExpectedFacts{State: members(3), Ours: in("A", 1), Removed: gone})
	checkRefusal(t, err, "this node (n1) was removed from the cluster on 2027-01-15T08:00:00Z by root@n2", "keeps its ID and its volumes")
}

func TestExpectedWarnings_NamesWhoMustBeOff(t *testing.T) {
	got := rules.ExpectedWarnings(rules.ExpectedFacts{State: members(3), Ours: in("A", 1), Answers: map[guest.NodeID]rules.Claim{nodeID(2): in("A", 2)}})
	if len(got) != 3 || !strings.HasPrefix(got[0], "n3 must be off") {
		t.Errorf("got %q", got)
	}
}
