package member_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

func TestBook_AnotherGenerationComesByASwitchOnly(t *testing.T) {
	b := member.NewBook(state(9, 1, 2))
	other := state(4, 1, 3)
	other.Generation = "h"
	if b.Learn(other) {
		t.Error("learnt from another generation")
	}
	if err := b.Switch(other); err != nil {
		t.Error(err)
	}
	if _, ok := b.NodeByFingerprint("key3"); !ok || b.Current().Generation != "h" {
		t.Error("the switch changed nothing")
	}
	if b.Learn(state(10, 1, 2)) {
		t.Error("learnt from the generation that was left")
	}
	strange := state(20, 1)
	strange.Cluster = "d"
	if err := b.Switch(strange); err == nil || b.Learn(strange) {
		t.Error("another cluster was taken")
	}
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

func TestNewFork(t *testing.T) {
	s, at := state(90, 1, 2, 3), time.Unix(1_800_000_000, 0)
	a, b := member.NewFork(s, nodeID(1), "root@n1", at), member.NewFork(s, nodeID(1), "root@n1", at)
	if a.Generation == b.Generation || len(a.Generation) != guest.GenerationLen {
		t.Errorf("generations %s and %s", a.Generation, b.Generation)
	}
	b.Generation = a.Generation
	want := ledger.Fork{Generation: a.Generation, Parent: "g", Node: nodeID(1), By: "root@n1", At: at.Unix()}
	if d := cmp.Diff(want, a); d != "" {
		t.Error(d)
	}
}

// told is an error of which a part is for the one who asks.
type told struct{ error }

func (told) Public() string { return "it has expired" }

func TestIssuer_TellsWhoHasTheSecretWhatIsWrongWithTheToken(t *testing.T) {
	i := member.Issuer{
		Redeem:  func(string, string) error { return fmt.Errorf("token 1: %w", told{errors.New("expired, and more")}) },
		Refused: func(string, error) {},
	}
	_, err := i.Admit(t.Context(), "key2", member.JoinRequest{})
	if !errors.Is(err, member.ErrNoEntry) || !strings.Contains(err.Error(), "it has expired") || strings.Contains(err.Error(), "and more") {
		t.Errorf("got %v", err)
	}
}
