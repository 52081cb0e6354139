package ledger_test

import (
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// A leader that was cut off with a change of owner that nobody confirmed is forced;
// the others, who know nothing of it, give the guest to another node. Both are the
// guest's next owner, and must not be so in the same term.
func TestFork_WhatWasUnconfirmedGetsTermsOfItsOwn(t *testing.T) {
	cut, others := running(t), running(t)
	cut.must(ledger.AddGuest{Guest: vm(101, 1)})
	others.must(ledger.AddGuest{Guest: vm(101, 1)})
	known := cut.m.View()
	cut.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)})
	others.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(3)})
	const forked = "fedcba9876543210"
	err := cut.m.Fork(ledger.Fork{Generation: forked, Parent: generation, Index: cut.at, Node: nodeID(1), By: "operator@n1"}, known)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cut.m.View().Guests[100].Term, (guest.Term{N: 2, Generation: forked}); got != want {
		t.Errorf("term of the unconfirmed owner %s, want %s", got, want)
	}
	if got := others.m.View().Guests[100].Term; got != term(2) {
		t.Errorf("term of the confirmed owner %s", got)
	}
	if got := cut.m.View().Guests[101].Term; got != term(1) {
		t.Errorf("the term of a guest that stayed where it was changed to %s", got)
	}
}

// The node that is forced has heard of what the others did instead, and has in its
// own log what they never confirmed.
func TestFork_WhatTheOthersConfirmedInsteadKeepsItsTerm(t *testing.T) {
	cut, others := running(t), running(t)
	cut.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)})
	others.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(3)})
	const forked = "fedcba9876543210"
	err := cut.m.Fork(ledger.Fork{Generation: forked, Parent: generation, Index: cut.at, Node: nodeID(1), By: "operator@n1"}, others.m.View())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cut.m.View().Guests[100].Term, (guest.Term{N: 2, Generation: forked}); got != want {
		t.Errorf("two owners in one term: that of the unconfirmed one is %s, want %s", got, want)
	}
}
