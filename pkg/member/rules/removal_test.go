package rules_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

func set(nodes ...int) map[guest.NodeID]bool {
	out := map[guest.NodeID]bool{}
	for _, n := range nodes {
		out[nodeID(n)] = true
	}
	return out
}

// housed is a cluster of n members with guest 100 on n1, replicated to n3.
func housed(n int) *ledger.State {
	s := members(n)
	v, _ := guest.ParseVolume("local-zfs:vm-100-disk-0")
	s.Guests[100] = guest.Guest{ID: 100, Owner: nodeID(1), Volumes: []guest.Volume{v}}
	j := guest.JobID{Guest: 100}
	s.Jobs[j] = guest.Job{ID: j, Target: nodeID(3)}
	return s
}

func TestPlanRemoval_Refuses(t *testing.T) {
	all := rules.RemovalFacts{Quorate: true, Leader: nodeID(2), Alive: set(1, 2, 3), Voters: set(1, 2, 3)}
	forced := housed(3)
	forced.Forced = true
	for _, tc := range []struct {
		name       string
		s          *ledger.State
		node       guest.NodeName
		f          func(*rules.RemovalFacts)
		want, hint string
	}{
		{"unknown", housed(3), "n9", nil, "node n9 is not a member", "the members are n1, n2, n3"},
		{"the last one", members(1), "n1", nil, "n1 is the last member", "stop tandemd"},
		{"no majority", housed(3), "n2", func(f *rules.RemovalFacts) { f.Quorate = false }, "this node is not quorate", "tandem cluster expected"},
		{"it owns guests", housed(3), "n1", nil, "n1 owns guests: 100", "move them"},
		{"a dead one owns guests", housed(3), "n1", func(f *rules.RemovalFacts) { f.Alive = set(2, 3) }, "n1 owns guests: 100", "recover them"},
		{"on forced quorum", forced, "n2", nil, "runs on forced quorum", "--force"},
		{"the majority would be gone", housed(3), "n2", func(f *rules.RemovalFacts) { f.Alive = set(1, 2) }, "without n2 1 of 2 votes would be alive, and 2 needed", "remove first what is dead: n3"},
		{"the last living voter", housed(4), "n2", func(f *rules.RemovalFacts) { f.Voters, f.Alive = set(2), set(2, 4) }, "n2 is the last voter that is alive", "another voter"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := all
			if tc.f != nil {
				tc.f(&f)
			}
			p := rules.PlanRemoval(tc.s, tc.node, f)
			if p.Refusal == nil {
				t.Fatalf("planned: %+v", p)
			}
			checkRefusal(t, p.Refusal, tc.want, tc.hint)
			if len(p.Steps) > 0 {
				t.Errorf("refused, and yet: %q", p.Steps)
			}
		})
	}
}

func TestPlanRemoval_TellsWhatIsDoneAndLeft(t *testing.T) {
	p := rules.PlanRemoval(housed(3), "n3", rules.RemovalFacts{Quorate: true, Leader: nodeID(3), Alive: set(1, 2), Voters: set(1, 2, 3)})
	want := rules.RemovalPlan{
		Steps: []string{
			"n3 leads: another voter takes over first",
			"drop job 100-0, which replicates guest 100 to n3",
			"take n3 off the member list: its key is refused from then on",
			"change the gossip key, which it knows",
			"n3 loses its vote: of 2 members 2 vote",
		},
		Leaves: []string{
			"on n3: the replica of guest 100 (local-zfs:vm-100-disk-0), read-only; Tandem forgets it there",
			"on n3: its key, its state folder and its volumes, with which it can join again by a new token",
		},
		HandOver: true,
		Op:       ledger.RemoveMember{ID: nodeID(3), DropJobs: true},
	}
	if d := cmp.Diff(want, p); d != "" {
		t.Error(d)
	}
}

func TestPlanRemoval_ADeadNodeOfTwoWhileForced(t *testing.T) {
	s := members(2)
	s.Forced = true
	p := rules.PlanRemoval(s, "n2", rules.RemovalFacts{Quorate: true, Leader: nodeID(1), Alive: set(1), Voters: set(1), Force: true})
	if p.Refusal != nil || !p.Op.Force || !strings.Contains(strings.Join(p.Leaves, "\n"), "removed on forced quorum") {
		t.Errorf("got %+v", p)
	}
}
