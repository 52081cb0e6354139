package rules_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/member/rules"
)

func TestNextChange(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	voter := func(n int) rules.Standing {
		return rules.Standing{Node: nodeID(n), Listed: true, Follows: true, Votes: true, ReadySince: ago(time.Hour)}
	}
	follower := func(n int, ready time.Duration) rules.Standing {
		return rules.Standing{Node: nodeID(n), Listed: true, Follows: true, ReadySince: ago(ready)}
	}
	dead := func(s rules.Standing, d time.Duration) rules.Standing {
		s.ReadySince, s.DeadSince = time.Time{}, ago(d)
		return s
	}
	with := func(s rules.Standing, f func(*rules.Standing)) rules.Standing { f(&s); return s }
	leads := func(s *rules.Standing) { s.Leads = true }
	strange := func(s *rules.Standing) { s.Strange = true }
	setAside := func(s *rules.Standing) { s.SetAside = true }
	leaving := func(s *rules.Standing) { s.Leaving = true }
	for _, tc := range []struct {
		name string
		in   []rules.Standing
		want rules.Change
	}{
		{"alone", []rules.Standing{voter(1)}, rules.Change{}},
		{"joined", []rules.Standing{voter(1), {Node: nodeID(2), Listed: true}}, rules.Change{Kind: rules.AddFollower, Node: nodeID(2)}},
		{"not long enough", []rules.Standing{voter(1), follower(2, 9*time.Second)}, rules.Change{}},
		{"caught up", []rules.Standing{voter(1), follower(2, 10*time.Second)}, rules.Change{Kind: rules.Promote, Node: nodeID(2)}},
		{"a fourth only follows", []rules.Standing{voter(1), voter(2), voter(3), follower(4, time.Hour)}, rules.Change{}},
		{"a voter dead for a while", []rules.Standing{voter(1), dead(voter(2), 9*time.Minute), voter(3), follower(4, time.Hour)}, rules.Change{}},
		{"a voter dead for long", []rules.Standing{voter(1), dead(voter(2), 10*time.Minute), voter(3), follower(4, time.Hour)}, rules.Change{Kind: rules.Promote, Node: nodeID(4)}},
		{"then it loses its vote", []rules.Standing{voter(1), dead(voter(2), 10*time.Minute), voter(3), voter(4)}, rules.Change{Kind: rules.Demote, Node: nodeID(2)}},
		{"nobody to replace it", []rules.Standing{voter(1), dead(voter(2), time.Hour), voter(3)}, rules.Change{}},
		{"taken off the list", []rules.Standing{voter(1), {Node: nodeID(2), Follows: true, Votes: true}}, rules.Change{Kind: rules.Drop, Node: nodeID(2)}},
		{"a live member does not know it yet", []rules.Standing{voter(1), with(follower(2, time.Hour), strange)}, rules.Change{}},
		{"a witness is as good as any", []rules.Standing{voter(1), voter(2), dead(voter(3), time.Hour), follower(4, time.Hour), follower(5, time.Hour)}, rules.Change{Kind: rules.Promote, Node: nodeID(4)}},
		{"the leader was taken off the list", []rules.Standing{with(rules.Standing{Node: nodeID(1), Follows: true, Votes: true}, leads), voter(2), voter(3)}, rules.Change{Kind: rules.HandOver, Node: nodeID(1)}},
		{"nobody can take over from it", []rules.Standing{with(rules.Standing{Node: nodeID(1), Follows: true, Votes: true}, leads), dead(voter(2), time.Hour)}, rules.Change{}},
		{"one too many after a removal", []rules.Standing{with(voter(1), leads), voter(2), voter(3), voter(4)}, rules.Change{Kind: rules.Demote, Node: nodeID(4)}},
		{"the dead one goes, not the last", []rules.Standing{with(voter(1), leads), dead(voter(2), time.Minute), voter(3), voter(4)}, rules.Change{Kind: rules.Demote, Node: nodeID(2)}},
		{"the leader is the last to lose its vote", []rules.Standing{voter(1), voter(2), voter(3), with(voter(4), leads)}, rules.Change{Kind: rules.Demote, Node: nodeID(3)}},
		{"an old disk loses its vote", []rules.Standing{with(voter(1), leads), voter(2), with(voter(3), setAside)}, rules.Change{Kind: rules.Demote, Node: nodeID(3)}},
		{"an old disk gets no vote", []rules.Standing{with(voter(1), leads), voter(2), with(follower(3, time.Hour), setAside)}, rules.Change{}},
		{"until it has caught up", []rules.Standing{with(voter(1), leads), voter(2), follower(3, time.Hour)}, rules.Change{Kind: rules.Promote, Node: nodeID(3)}},
		{"to be removed, another takes its place first", []rules.Standing{with(voter(1), leads), with(voter(2), leaving), voter(3), follower(4, time.Hour)}, rules.Change{Kind: rules.Promote, Node: nodeID(4)}},
		{"to be removed, another has its place", []rules.Standing{with(voter(1), leads), with(voter(2), leaving), voter(3), voter(4)}, rules.Change{Kind: rules.Demote, Node: nodeID(2)}},
		{"to be removed, nobody takes its place", []rules.Standing{with(voter(1), leads), with(voter(2), leaving), voter(3), follower(4, time.Second)}, rules.Change{Kind: rules.Demote, Node: nodeID(2)}},
		{"to be removed of three", []rules.Standing{with(voter(1), leads), with(voter(2), leaving), voter(3)}, rules.Change{Kind: rules.Demote, Node: nodeID(2)}},
		{"to be removed, and dead, of two", []rules.Standing{with(voter(1), leads), with(dead(voter(2), time.Second), leaving)}, rules.Change{Kind: rules.Demote, Node: nodeID(2)}},
		{"to be removed, and another one is dead", []rules.Standing{with(voter(1), leads), with(voter(2), leaving), dead(voter(3), time.Second)}, rules.Change{}},
		{"to be removed, and another one has lost its disk", []rules.Standing{with(voter(1), leads), with(voter(2), leaving), with(follower(3, time.Hour), func(s *rules.Standing) { s.Votes, s.ReadySince = true, time.Time{} })}, rules.Change{}},
		{"to be removed, it gets no vote again", []rules.Standing{with(voter(1), leads), with(follower(2, time.Hour), leaving)}, rules.Change{}},
		{"the leader is to be removed", []rules.Standing{with(with(voter(1), leads), leaving), voter(2), voter(3)}, rules.Change{Kind: rules.HandOver, Node: nodeID(1)}},
		{"listed, but never seen by raft", []rules.Standing{with(voter(1), leads), dead(rules.Standing{Node: nodeID(2), Listed: true}, time.Hour)}, rules.Change{Kind: rules.AddFollower, Node: nodeID(2)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, rules.NextChange(tc.in, now)); d != "" {
				t.Error(d)
			}
		})
	}
}

// Carrying out changes until none is due ends, with the number of voters that
// the table asks for where enough are fit, and never with fewer than before.
func TestNextChange_Settles(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		var all []rules.Standing
		fit, before := 0, 0
		for n := range rapid.IntRange(1, 9).Draw(t, "members") {
			s := rules.Standing{Node: nodeID(n), Listed: true}
			s.Follows = rapid.Bool().Draw(t, "follows")
			s.Votes = s.Follows && rapid.Bool().Draw(t, "votes")
			if rapid.Bool().Draw(t, "fit") {
				s.ReadySince = now.Add(-time.Hour)
			} else {
				s.DeadSince = now.Add(-time.Hour)
			}
			if s.Votes {
				before++
			}
			if s.Votes || !s.ReadySince.IsZero() {
				fit++
			}
			all = append(all, s)
		}
		for range 100 {
			c := rules.NextChange(all, now)
			if c.Kind == rules.NoChange {
				votes := 0
				for _, s := range all {
					if s.Votes {
						votes++
					}
				}
				if want := min(rules.Voters(len(all)), fit); votes < want || votes < min(before, rules.Voters(len(all))) {
					t.Fatalf("%d voters, want %d: %+v", votes, want, all)
				}
				return
			}
			for i := range all {
				if all[i].Node == c.Node {
					all[i].Follows = c.Kind != rules.Drop
					all[i].Votes = c.Kind == rules.Promote
				}
			}
		}
		t.Fatal("the changes never end")
	})
}

// histories are told as "what happens: the change that is due then, or -".
func TestNextChange_Histories(t *testing.T) {
	for _, tc := range []struct {
		name    string
		voters  int // the cluster begins with so many, of which the first leads
		history []string
		want    string
	}{
		{"grows to seven", 1, []string{"join 2", "join 3", "join 4", "join 5", "join 6", "join 7"}, "v v v v v v v"},
		{"the fourth waits for the fifth", 3, []string{"join 4"}, "v v v f"},
		{"and has a vote then", 3, []string{"join 4", "join 5"}, "v v v v v"},
		{"shrinks with the list", 5, []string{"leave 5"}, "v v v f -"},
		{"from seven to four", 7, []string{"leave 2", "leave 3", "leave 4"}, "v - - - v v f"},
		{"a dead voter is replaced", 3, []string{"join 4", "die 2"}, "v f v v"},
		{"its return changes nothing", 3, []string{"join 4", "die 2", "return 2"}, "v f v v"},
		{"without a spare one it keeps its vote", 3, []string{"die 2"}, "v v v"},
		{"two die, one spare", 3, []string{"join 4", "die 2", "die 3"}, "v f v v"},
		{"a dead one of two is removed", 2, []string{"die 2", "leave 2"}, "v -"},
		{"the leader leaves", 3, []string{"leave 1"}, "- v v"},
		{"a witness in place of a dead node", 2, []string{"join 3", "die 2", "join 4"}, "v f v v"},
		{"an old disk comes back", 3, []string{"restore 3"}, "v v f"},
		{"and catches up", 3, []string{"restore 3", "catch up 3"}, "v v v"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCouncil(tc.voters)
			for _, event := range tc.history {
				c.happens(t, event)
			}
			if d := cmp.Diff(tc.want, c.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

// council carries out changes and watches that they are safe.
type council struct {
	all []rules.Standing
	now time.Time
}

func newCouncil(voters int) *council {
	c := &council{now: time.Unix(1_800_000_000, 0)}
	for n := range voters {
		c.all = append(c.all, rules.Standing{Node: nodeID(n + 1), Listed: true, Follows: true, Votes: true, Leads: n == 0, ReadySince: c.now})
	}
	return c
}

func (c *council) happens(t *testing.T, event string) {
	t.Helper()
	cut := strings.LastIndex(event, " ")
	n := int(event[cut+1] - '0')
	if event[:cut] == "join" {
		c.all = append(c.all, rules.Standing{Node: nodeID(n), Listed: true, ReadySince: c.now})
	}
	s := &c.all[n-1]
	switch event[:cut] {
	case "leave":
		s.Listed = false
	case "die":
		s.DeadSince, s.ReadySince = c.now, time.Time{}
	case "return":
		s.DeadSince, s.ReadySince = time.Time{}, c.now
	case "restore":
		s.SetAside = true
	case "catch up":
		s.SetAside, s.ReadySince = false, c.now
	}
	for range 50 {
		c.now = c.now.Add(time.Minute)
		c.carryOut(t)
	}
}

func (c *council) carryOut(t *testing.T) {
	t.Helper()
	change := rules.NextChange(c.all, c.now)
	for i := range c.all {
		s := &c.all[i]
		if s.Node != change.Node {
			continue
		}
		switch change.Kind {
		case rules.AddFollower:
			s.Follows = true
		case rules.Promote:
			s.Votes = true
		case rules.Demote:
			s.Votes = false
		case rules.Drop:
			s.Follows, s.Votes = false, false
		case rules.HandOver:
			s.Leads = false
			c.elect()
		case rules.NoChange:
		}
		if s.Leads && !s.Votes {
			t.Fatalf("%s: the leader has no vote any more", change.Kind)
		}
	}
	votes, alive := 0, 0
	for _, s := range c.all {
		if s.Votes {
			votes++
			if s.DeadSince.IsZero() {
				alive++
			}
		}
	}
	if change.Kind != rules.NoChange && alive < votes/2+1 {
		t.Fatalf("%s of %s leaves %d of %d votes alive", change.Kind, change.Node, alive, votes)
	}
}

func (c *council) elect() {
	for i := range c.all {
		if s := &c.all[i]; s.Votes && s.Listed && s.DeadSince.IsZero() {
			s.Leads = true
			return
		}
	}
}

// String is one letter a node: v votes, f follows, - neither.
func (c *council) String() string {
	var out []string
	for _, s := range c.all {
		switch {
		case s.Votes:
			out = append(out, "v")
		case s.Follows:
			out = append(out, "f")
		default:
			out = append(out, "-")
		}
	}
	return strings.Join(out, " ")
}

func TestComplete(t *testing.T) {
	c := newCouncil(1)
	c.all = append(c.all, rules.Standing{Node: nodeID(2), Listed: true}, rules.Standing{Node: nodeID(3), Listed: true})
	if rules.Complete(c.all) {
		t.Error("one of three votes, and forced quorum ends")
	}
	for i := range c.all {
		c.all[i].Follows, c.all[i].Votes = true, true
	}
	if !rules.Complete(c.all) {
		t.Error("three of three vote, and forced quorum goes on")
	}
	c.all[1].DeadSince, c.all[2].DeadSince = c.now, c.now
	if rules.Complete(c.all) {
		t.Error("one of three voters is alive, and forced quorum ends")
	}
}
