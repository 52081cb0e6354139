package rules_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

func TestNextRotation(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	keys := func(numbers ...int) *ledger.State {
		s := members(3)
		s.Gossip = nil
		for _, n := range numbers {
			s.Gossip = append(s.Gossip, ledger.GossipKey{Number: n})
		}
		return s
	}
	rotate := func(s *ledger.State) *ledger.State { s.Rotate = true; return s }
	after := func(d time.Duration, all bool) rules.KeyProgress {
		return rules.KeyProgress{Since: now.Add(-d), All: all}
	}
	for _, tc := range []struct {
		name string
		s    *ledger.State
		p    rules.KeyProgress
		want rules.Rotation
	}{
		{"nothing to do", keys(1), after(time.Hour, true), rules.Rotation{}},
		{"a member was removed", rotate(keys(1)), after(0, false), rules.Rotation{Kind: rules.Install, Number: 2}},
		{"installed, one is behind", rotate(keys(1, 2)), after(59*time.Second, false), rules.Rotation{}},
		{"installed, all have it", rotate(keys(1, 2)), after(time.Second, true), rules.Rotation{Kind: rules.Use, Number: 2}},
		{"installed, one is behind for a minute", rotate(keys(1, 2)), after(60*time.Second, false), rules.Rotation{Kind: rules.Use, Number: 2}},
		{"used, not long", rotate(keys(2, 1)), after(29*time.Second, true), rules.Rotation{}},
		{"used, one is behind", rotate(keys(2, 1)), after(time.Hour, false), rules.Rotation{}},
		{"used", rotate(keys(2, 1)), after(30*time.Second, true), rules.Rotation{Kind: rules.Forget, Number: 1}},
		{"a change that began is ended", keys(2, 1), after(30*time.Second, true), rules.Rotation{Kind: rules.Forget, Number: 1}},
		{"another removal meanwhile", rotate(keys(2)), after(0, true), rules.Rotation{Kind: rules.Install, Number: 3}},
		{"no key at all", keys(), after(0, true), rules.Rotation{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, rules.NextRotation(tc.s, tc.p, now)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestNextFormat(t *testing.T) {
	for _, tc := range []struct {
		name        string
		now, leader int
		members     []int
		want        int
	}{
		{"all know the next", 3, 4, []int{4, 4, 4}, 4},
		{"one at a time", 3, 6, []int{5, 6, 6}, 4},
		{"one is older", 3, 4, []int{4, 3, 4}, 3},
		{"one has not told", 3, 4, []int{4, 0, 4}, 3},
		{"the leader is older", 3, 3, []int{4, 4, 4}, 3},
	} {
		s := members(len(tc.members))
		s.Format = tc.now
		for i, f := range tc.members {
			m := s.Members[nodeID(i+1)]
			m.Format = f
			s.Members[m.ID] = m
		}
		if got := rules.NextFormat(s, tc.leader); got != tc.want {
			t.Errorf("%s: format %d, want %d", tc.name, got, tc.want)
		}
	}
}
