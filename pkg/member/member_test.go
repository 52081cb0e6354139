package member_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
)

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

func state(index uint64, members ...int) *ledger.State {
	s := &ledger.State{
		Format: ledger.Format, Cluster: "c", Generation: "g", Index: index,
		Members: map[guest.NodeID]ledger.Member{}, Gossip: []ledger.GossipKey{{Number: 1}},
	}
	for _, n := range members {
		s.Members[nodeID(n)] = ledger.Member{ID: nodeID(n), Fingerprint: fmt.Sprint("key", n), Peer: fmt.Sprintf("127.0.0.%d:7947", n)}
	}
	return s
}

func TestBook_TheHighestIndexHolds(t *testing.T) {
	b := member.NewBook(state(5, 1, 2))
	if b.Learn(state(4, 1)) || b.Learn(state(5, 1)) {
		t.Error("an older list was taken")
	}
	other := state(9, 1, 3)
	other.Generation = "h"
	if b.Learn(other) {
		t.Error("the list of another generation was taken")
	}
	if _, ok := b.NodeByFingerprint("key3"); ok {
		t.Error("an unknown key was trusted")
	}
	select {
	case <-b.Missed():
	default:
		t.Error("meeting an unknown key asked for no newer list")
	}
	if !b.Learn(state(6, 1, 3)) {
		t.Error("a newer list was not taken")
	}
	select {
	case <-b.Changed():
	default:
		t.Error("nobody was told of the newer list")
	}
	if id, ok := b.NodeByFingerprint("key3"); !ok || id != nodeID(3) {
		t.Errorf("key3 = %v, %v", id, ok)
	}
	if _, ok := b.NodeByFingerprint("key2"); ok {
		t.Error("a key that left the list is still trusted")
	}
}

func TestNextChange(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	voter := func(n int) member.Standing {
		return member.Standing{Node: nodeID(n), Listed: true, Follows: true, Votes: true, ReadySince: ago(time.Hour)}
	}
	follower := func(n int, ready time.Duration) member.Standing {
		return member.Standing{Node: nodeID(n), Listed: true, Follows: true, ReadySince: ago(ready)}
	}
	dead := func(s member.Standing, d time.Duration) member.Standing {
		s.ReadySince, s.DeadSince = time.Time{}, ago(d)
		return s
	}
	for _, tc := range []struct {
		name string
		in   []member.Standing
		want member.Change
	}{
		{"alone", []member.Standing{voter(1)}, member.Change{}},
		{"joined", []member.Standing{voter(1), {Node: nodeID(2), Listed: true}}, member.Change{Kind: member.AddFollower, Node: nodeID(2)}},
		{"not long enough", []member.Standing{voter(1), follower(2, 9*time.Second)}, member.Change{}},
		{"caught up", []member.Standing{voter(1), follower(2, 10*time.Second)}, member.Change{Kind: member.Promote, Node: nodeID(2)}},
		{"a fourth only follows", []member.Standing{voter(1), voter(2), voter(3), follower(4, time.Hour)}, member.Change{}},
		{"a voter dead for a while", []member.Standing{voter(1), dead(voter(2), 9*time.Minute), voter(3), follower(4, time.Hour)}, member.Change{}},
		{"a voter dead for long", []member.Standing{voter(1), dead(voter(2), 10*time.Minute), voter(3), follower(4, time.Hour)}, member.Change{Kind: member.Promote, Node: nodeID(4)}},
		{"then it loses its vote", []member.Standing{voter(1), dead(voter(2), 10*time.Minute), voter(3), voter(4)}, member.Change{Kind: member.Demote, Node: nodeID(2)}},
		{"nobody to replace it", []member.Standing{voter(1), dead(voter(2), time.Hour), voter(3)}, member.Change{}},
		{"taken off the list", []member.Standing{voter(1), {Node: nodeID(2), Follows: true, Votes: true}}, member.Change{Kind: member.Drop, Node: nodeID(2)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, member.NextChange(tc.in, now)); d != "" {
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
		var all []member.Standing
		fit, before := 0, 0
		for n := range rapid.IntRange(1, 9).Draw(t, "members") {
			s := member.Standing{Node: nodeID(n), Listed: true}
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
			c := member.NextChange(all, now)
			if c.Kind == member.NoChange {
				votes := 0
				for _, s := range all {
					if s.Votes {
						votes++
					}
				}
				if want := min(member.Voters(len(all)), fit); votes < want || votes < min(before, member.Voters(len(all))) {
					t.Fatalf("%d voters, want %d: %+v", votes, want, all)
				}
				return
			}
			for i := range all {
				if all[i].Node == c.Node {
					all[i].Follows = c.Kind != member.Drop
					all[i].Votes = c.Kind == member.Promote
				}
			}
		}
		t.Fatal("the changes never end")
	})
}

func TestIssuer_BurnsTheTokenFirst(t *testing.T) {
	var calls []string
	i := member.Issuer{
		Redeem: func(string, string) error { calls = append(calls, "redeem"); return nil },
		Propose: func(context.Context, ledger.Op) error {
			calls = append(calls, "propose")
			return errors.New("the name n2 is taken")
		},
		View:    func() *ledger.State { return state(1, 1) },
		Refused: func(string, error) { calls = append(calls, "refused") },
	}
	_, err := i.Admit(t.Context(), "key2", member.JoinRequest{Member: ledger.Member{ID: nodeID(2), Name: "n2"}})
	if err == nil || !strings.Contains(err.Error(), "the name n2 is taken") {
		t.Errorf("got %v", err)
	}
	if d := cmp.Diff([]string{"redeem", "propose"}, calls); d != "" {
		t.Error(d)
	}
	calls = nil
	i.Redeem = func(string, string) error { return errors.New("used at 10:00 by n9") }
	if _, err := i.Admit(t.Context(), "key2", member.JoinRequest{}); !errors.Is(err, member.ErrNoEntry) || strings.Contains(err.Error(), "n9") {
		t.Errorf("a stranger was told: %v", err)
	}
	if d := cmp.Diff([]string{"refused"}, calls); d != "" {
		t.Error(d)
	}
}

func TestJoinReply_Check(t *testing.T) {
	self := ledger.Member{ID: nodeID(2), Fingerprint: "key2"}
	if err := (member.JoinReply{Ledger: state(3, 1, 2)}).Check(self); err != nil {
		t.Error(err)
	}
	newer := state(3, 1, 2)
	newer.Format++
	for name, r := range map[string]member.JoinReply{
		"empty": {}, "not listed": {Ledger: state(3, 1)}, "format": {Ledger: newer},
	} {
		if r.Check(self) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
