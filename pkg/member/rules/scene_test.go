package rules_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

func leads(c *rules.Claim) { c.Quorate, c.Leader = true, c.Node }

func follows(leader int) func(*rules.Claim) {
	return func(c *rules.Claim) { c.Quorate, c.Leader = true, nodeID(leader) }
}

func left(generations ...string) func(*rules.Claim) {
	return func(c *rules.Claim) { c.Left = generations }
}

func scene(leader int, ours rules.Claim, others ...rules.Claim) rules.Scene {
	s := rules.Scene{Self: ours.Node, Ours: ours, Answers: map[guest.NodeID]rules.Answer{}, Leader: nodeID(leader), Known: ours.LastCommand}
	for _, c := range others {
		s.Answers[c.Node] = rules.Answer{Claim: c}
	}
	return s
}

func TestScene_WhoDecides(t *testing.T) {
	forced := in("AX", 1, command(acted))
	for _, tc := range []struct {
		name string
		s    rules.Scene
		goes bool
		to   string
	}{
		{"a node that is not quorate", scene(0, in("A", 2), forced), true, "X"},
		{"a leader", scene(2, in("A", 2, leads), in("A", 3, follows(2)), forced), true, "X"},
		{"a follower leaves it to its leader", scene(2, in("A", 3, follows(2)), in("A", 2, leads), forced), false, "X"},
		{"and follows it", scene(2, in("A", 3, follows(2)), in("AX", 2, left("A")), forced), true, "X"},
		{"even when both had acted and a person chose", scene(2, in("A", 3, command(acted)), in("AX", 2, left("A")), forced), true, "X"},
		{"not one that was never its leader", scene(0, in("A", 3, command(acted)), in("AX", 2, left("A")), forced), false, ""},
		{"not one that was forced itself", scene(1, in("A", 3, command(acted)), forced), false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := tc.s.Decide()
			if d.Goes != tc.goes || d.Verdict.Winner != tc.to {
				t.Errorf("got %+v", d)
			}
		})
	}
}

func TestScene_MayAct(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    rules.Scene
		want string
	}{
		{"nobody else", scene(0, in("A", 2, leads)), ""},
		{"the others yield", scene(0, in("AX", 1, leads, command(acted)), in("A", 2)), ""},
		{"both acted before they met", scene(0, in("A", 2, leads, command(acted)), in("AX", 1, command(acted))), ""},
		{"the other wins", scene(0, in("A", 2, leads), in("AX", 1, command(acted))), "generation A yields"},
		{"two others are in conflict", scene(0, in("A", 3, leads), in("AX", 1, command(acted)), in("AY", 2, command(acted))), "have all changed"},
		{"going over", scene(0, in("A", 2, leads, yielding)), "is being given up"},
		{"the leader before is going over", scene(1, in("A", 2, leads), in("A", 1, yielding)), "node 00000000, which led before, is giving up"},
		{"the leader before has gone over", scene(1, in("A", 2, leads, command(acted)), in("AX", 1, command(acted), left("A"))), "which led it, has gone over"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.want == "" {
				if err := tc.s.MayAct(); err != nil {
					t.Error(err)
				}
				return
			}
			checkRefusal(t, tc.s.MayAct(), tc.want, "")
		})
	}
}

func TestScene_Removed(t *testing.T) {
	told := func(s rules.Scene, by int, generation string, index uint64) rules.Scene {
		a := s.Answers[nodeID(by)]
		a.Removed = &rules.Removal{Generation: generation, Index: index, Removal: ledger.Removal{Node: s.Self, Name: "n3", By: "root@n1"}}
		s.Answers[nodeID(by)] = a
		return s
	}
	for _, tc := range []struct {
		name string
		s    rules.Scene
		want bool
	}{
		{"by its own generation", told(scene(1, in("A", 3), in("A", 1, leads)), 1, "A", 95), true},
		{"it has seen it itself", told(scene(1, in("A", 3), in("A", 1, leads)), 1, "A", 90), true},
		{"it came back since", told(scene(1, in("A", 3), in("A", 1)), 1, "A", 80), false},
		{"it is quorate", told(scene(1, in("A", 3, follows(2)), in("A", 1)), 1, "A", 95), false},
		{"by a generation that wins", told(scene(2, in("A", 3), in("AX", 1, command(acted))), 1, "X", 120), true},
		{"by a generation that yields", told(scene(2, in("A", 3, command(acted)), in("AX", 1)), 1, "X", 120), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := tc.s.Decide()
			if (d.Removed != nil) != tc.want || d.Removed != nil && d.Goes {
				t.Errorf("got %+v", d)
			}
		})
	}
}

func TestScene_Choose(t *testing.T) {
	names := members(3)
	conflict := scene(0, in("A", 3), in("AX", 1, command(acted)), in("AY", 2, command(acted)))
	if _, err := scene(0, in("A", 3), in("A", 1)).Choose("", names); err == nil || !strings.Contains(err.Error(), "nothing to yield to") {
		t.Errorf("got %v", err)
	}
	_, err := conflict.Choose("", names)
	checkRefusal(t, err, "this node could yield to several generations: X (on n1), Y (on n2)", "name one")
	_, err = conflict.Choose("Z", names)
	checkRefusal(t, err, `no member that answers is in generation "Z"`, "X (on n1), Y (on n2)")
	if to, err := conflict.Choose("Y", names); to != "Y" || err != nil {
		t.Errorf("got %q, %v", to, err)
	}
	_, err = scene(2, in("A", 3, follows(2)), in("A", 2, leads), in("AX", 1, command(acted))).Choose("X", names)
	checkRefusal(t, err, "this node follows n2, which takes the whole generation along", "run it on n2")
}

func TestScene_FetchesWhereMostIsKnown(t *testing.T) {
	at := func(index uint64) func(*rules.Claim) { return func(c *rules.Claim) { c.Index = index } }
	s := scene(0, in("A", 5), in("AX", 1, at(120)), in("AX", 2, leads, at(110)), in("AX", 3, follows(2), at(100)), in("AX", 4, follows(2), at(105)), in("A", 6))
	var got []byte
	for _, n := range s.In("X") {
		got = append(got, n[len(n)-1])
	}
	if string(got) != "2431" {
		t.Errorf("asked in the order %s", got)
	}
}

func TestRemoval_TellsTheWayBack(t *testing.T) {
	r := rules.Removal{Removal: ledger.Removal{Name: "n3", By: "root@n1", At: time.Unix(1_800_000_000, 0).Unix(), Forced: true}}
	for _, want := range []string{"n3", "2027-01-15T08:00:00Z", "root@n1", "on forced quorum"} {
		if !strings.Contains(r.Reason(), want) {
			t.Errorf("%q lacks %q", r.Reason(), want)
		}
	}
	if !strings.Contains(r.Hint(), "tandem cluster token") || !strings.Contains(r.Hint(), "tandem cluster join ADDRESS TOKEN") {
		t.Errorf("hint %q", r.Hint())
	}
}
