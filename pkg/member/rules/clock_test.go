package rules_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

func TestAges_WallClocksAreBelievedOnlyWhereThereIsNothingBetter(t *testing.T) {
	made := time.Unix(1_800_000_000, 0)
	fork := []ledger.Fork{{Generation: "X", Parent: "A", Node: nodeID(1), At: made.Unix()}}
	const boot = 1000 * time.Hour
	for _, tc := range []struct {
		name string
		self int
		wall time.Duration // off by, when it is asked
		want time.Duration // an hour after the fork
	}{
		{"the forced node", 1, 0, time.Hour},
		{"the forced node, its clock jumped ahead by years", 1, 20_000 * time.Hour, time.Hour},
		{"the forced node, its clock jumped back by years", 1, -20_000 * time.Hour, time.Hour},
		{"a node that came later", 2, 0, time.Hour},
		{"a node that came later, its clock is years behind", 2, -20_000 * time.Hour, 30 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := rules.NewAges(nodeID(tc.self), nil)
			a.Of(nil, made, boot) // before the fork
			if tc.self == 1 {
				a.Of(fork, made, boot)
			} else {
				a.Of(fork, made.Add(30*time.Minute+tc.wall), boot+30*time.Minute)
			}
			got := a.Of(fork, made.Add(time.Hour+tc.wall), boot+time.Hour)
			if d := cmp.Diff([]time.Duration{tc.want}, got); d != "" {
				t.Error(d)
			}
			again := rules.NewAges(nodeID(tc.self), a.Seen(fork)) // the daemon, not the machine, was restarted
			if d := cmp.Diff([]time.Duration{tc.want + time.Hour}, again.Of(fork, made.Add(2*time.Hour+tc.wall), boot+2*time.Hour)); d != "" {
				t.Error("after a restart:", d)
			}
		})
	}
}

func TestOutliving_IsJudgedOnceAndEndsWithTheQuorum(t *testing.T) {
	quorate := func(d time.Duration) rules.Claim {
		c := in("A", 2)
		c.Quorate, c.QuorateFor = d > 0, d
		return c
	}
	young, old := in("AX", 1), in("AYZ", 3)
	young.Ages[0], old.Ages[0], old.Ages[1] = time.Hour, 3*time.Hour, time.Minute
	var o rules.Outliving
	look := func(d time.Duration, others ...rules.Claim) []string {
		o.Look(quorate(d), others)
		return o.Forks()
	}
	if got := look(2*time.Hour, young, old); !slices.Equal(got, []string{"X"}) {
		t.Errorf("quorate for 2 h, forks 1 h and 3 h old: outlived %v", got)
	}
	young.Ages[0] = 9 * time.Hour
	if got := look(2*time.Hour, young); !slices.Equal(got, []string{"X"}) {
		t.Errorf("a judged fork is judged again: %v", got)
	}
	if got := look(0, young); got != nil {
		t.Errorf("not quorate any more, and still: %v", got)
	}
	if got := look(time.Second, young); got != nil {
		t.Errorf("quorate again for a second: %v", got)
	}
}

// Whatever two nodes believe of clocks and ages, only the parent's word counts,
// so that they cannot part over a message's way.
func TestOutliving_TheForkDoesNotJudge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fork := in("AX", 1, command(acted))
		fork.Quorate, fork.QuorateFor = true, time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "quorate for"))
		parent := in("A", 2)
		parent.Quorate, parent.QuorateFor = true, time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "parent quorate for"))
		var o rules.Outliving
		o.Look(fork, []rules.Claim{parent})
		if len(o.Forks()) > 0 {
			t.Fatalf("a fork outlived %v", o.Forks())
		}
		o.Look(parent, []rules.Claim{fork})
		if got, want := len(o.Forks()) == 1, parent.QuorateFor > fork.Ages[0]; got != want {
			t.Fatalf("outlived: %v, want %v", got, want)
		}
	})
}
