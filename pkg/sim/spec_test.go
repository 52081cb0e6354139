package sim_test

import (
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/sim"
)

func web(config string, owner guest.NodeID, term uint64) guest.Guest {
	return guest.Guest{ID: 100, Type: guest.VM, Name: "web", Config: config, Owner: owner, Term: guest.Term{N: term, Generation: "g"}}
}

// at is an entry between two moments.
func at(call, ret int64, e sim.Entry) sim.Entry {
	e.Guest, e.Call, e.Return = 100, call, ret
	if e.Verdict == "" {
		e.Verdict = sim.Done
	}
	return e
}

func read(g guest.Guest) sim.Entry { return sim.Entry{Read: sim.Shown{Exists: true, Guest: g}} }

func set(seen, to guest.Guest) sim.Entry {
	return sim.Entry{Op: ledger.SetGuest{Guest: to}, SeenGuest: seen}
}

func move(g guest.Guest, to guest.NodeID) sim.Entry {
	return sim.Entry{Op: ledger.ChangeOwner{ID: 100, Owner: g.Owner, Term: g.Term, To: to}}
}

func TestLinearizable(t *testing.T) {
	add := at(1, 2, sim.Entry{Op: ledger.AddGuest{Guest: web("", "a", 0)}})
	first, edited := web("", "a", 1), web("memory: 1", "a", 1)
	refused := func(e sim.Entry) sim.Entry { e.Verdict = sim.Refused; return e }
	for _, tc := range []struct {
		name    string
		history []sim.Entry
		want    porcupine.CheckResult
	}{
		{"what was done is read", []sim.Entry{add, at(3, 4, set(first, edited)), at(5, 6, read(edited))}, porcupine.Ok},
		{"a stale read", []sim.Entry{add, at(3, 4, set(first, edited)), at(5, 6, read(first))}, porcupine.Illegal},
		{"a read beside the change may show either", []sim.Entry{add, at(3, 6, set(first, edited)), at(4, 5, read(first))}, porcupine.Ok},
		{"a lost update", []sim.Entry{add, at(3, 4, set(first, edited)), at(5, 6, set(first, web("memory: 2", "a", 1)))}, porcupine.Illegal},
		{"one of two edits is refused", []sim.Entry{add, at(3, 6, set(first, edited)), at(4, 5, refused(set(first, web("memory: 2", "a", 1))))}, porcupine.Ok},
		{"refused without a reason", []sim.Entry{add, at(3, 4, read(first)), at(5, 6, refused(set(first, edited)))}, porcupine.Illegal},
		{"moved twice by one term", []sim.Entry{add, at(3, 4, move(first, "b")), at(5, 6, move(first, "c"))}, porcupine.Illegal},
		{"moved on by the next term", []sim.Entry{add, at(3, 4, move(first, "b")), at(5, 6, move(web("", "b", 2), "c"))}, porcupine.Ok},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := sim.Linearizable(tc.history); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
