package migrate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/move/migrate"
)

// world is two nodes, a ledger that takes commands at any time after they were sent,
// or never, and a migration between them.
type world struct {
	*rapid.T
	record migrate.Record // on disk
	effect migrate.Effect
	memory migrate.Record
	wish   bool // a cancel that the machine has not seen
	sent   bool // this process may have sent the owner change

	owner  guest.NodeID
	term   uint64
	begun  *guest.Beginning
	tried  map[string]bool // outcomes of commands: done or refused
	flight []string        // sent, and not yet on the log
	held   bool
	ids    int

	// unit is unset for a guest without one: whoever runs it starts and stops it as he likes.
	unit                 bool
	runsA, runsB, sealed bool
	due                  bool // A's keeper is to start it
	dataA, dataB         int  // what was written, and what the target has
	pointData            int
	faults               bool
	dead                 bool // A's disk takes no writes
}

func (w *world) guest() guest.Guest {
	return guest.Guest{ID: 100, Owner: w.owner, Term: termN(w.term), Beginning: w.begun}
}

func (w *world) draw(what string, of ...string) string {
	return rapid.SampledFrom(of).Draw(w.T, what)
}

func (w *world) maybe(what string) bool { return w.faults && rapid.Bool().Draw(w.T, what) }

// commit puts a command on the log.
func (w *world) commit(id string) {
	if _, known := w.tried[id]; known {
		return
	}
	held := w.owner == w.memory.From && w.term == w.memory.Term.N
	w.tried[id] = held
	switch {
	case !held:
	case strings.HasPrefix(id, "change"):
		b := w.memory.Beginning()
		b.From, b.Term = w.owner, termN(w.term)
		w.owner, w.term, w.begun = w.memory.To, w.term+1, b
		if w.pointData != w.dataA {
			w.Fatalf("the target gets the guest with %d of %d writes", w.pointData, w.dataA)
		}
	default:
		w.term++
	}
}

// write puts a record on A's disk. One that fails may be there all the same.
func (w *world) write(r migrate.Record) bool {
	fate := "there"
	switch {
	case w.dead:
		fate = w.draw("write", "fails", "fails", "fails", "fails and is there")
	case w.faults:
		fate = w.draw("write", "there", "there", "there", "there", "there", "fails", "fails and is there")
	}
	if fate != "fails" {
		w.record = r
	}
	return fate == "there"
}

// feed takes an event in as the Mover does: on disk before it is acted on.
func (w *world) feed(ev migrate.Event) {
	now := time.Unix(1_800_000_000, 0)
	r := w.memory
	w.ids++
	retain := fmt.Sprintf("retain-%d", w.ids)
	if w.wish {
		w.wish = false
		r, _ = migrate.Step(r, migrate.Cancel{Retain: retain}, now)
	}
	w.memory, w.effect = migrate.Step(r, ev, now)
	if !w.write(w.memory) {
		w.memory, w.effect = migrate.Step(r, migrate.Unwritten{Event: ev, Reason: "unwritten", Retain: retain}, now)
		w.write(w.memory)
	}
	if w.memory.Over() {
		w.held = false
	}
}

func (w *world) crash() {
	w.memory, w.wish, w.sent, w.effect = w.record, false, w.record.Phase == migrate.Sent, migrate.DoNothing
	w.held = w.record.Phase == migrate.Sent
	if !w.memory.Over() {
		w.feed(migrate.Resumed{})
	}
}

// perform does what is to be done, with what luck there is.
func (w *world) perform() {
	if w.effect == migrate.DoNothing {
		return
	}
	fault := ""
	if w.faults {
		fault = w.draw("fault", "", "", "", "fails", "crash before", "crash after")
	}
	switch fault {
	case "crash before":
		w.crash()
		return
	case "fails":
		if w.effect != migrate.DoPropose && w.effect != migrate.DoRetain {
			w.half()
			w.feed(migrate.Failed{Reason: "fault"})
			return
		}
	}
	ev := w.act(fault == "fails")
	if fault == "crash after" {
		w.crash()
		return
	}
	w.feed(ev)
}

// half is what an effect that fails may have done all the same.
func (w *world) half() {
	if w.effect == migrate.DoStop && w.unit && w.maybe("it has stopped") {
		w.runsA = false
	}
	if w.effect == migrate.DoSeal && !w.runsA && w.maybe("it is sealed") {
		w.sealed = true
	}
	if w.effect == migrate.DoUndo && w.memory.StandingOf(w.guest(), true) == migrate.Ours && w.maybe("it is not sealed any more") {
		w.sealed = false
	}
}

func (w *world) act(lost bool) migrate.Event {
	switch w.effect {
	case migrate.DoCheck:
		if w.sealed {
			return migrate.Failed{Reason: "its volumes are read-only"}
		}
		return migrate.Checked{}
	case migrate.DoSync:
		w.dataB = w.dataA
		return migrate.Synced{Round: migrate.Round{Took: time.Second}}
	case migrate.DoHold:
		w.held = true
		return migrate.Held{Ran: w.unit && (w.runsA || w.due)}
	case migrate.DoStop:
		w.runsA = w.runsA && !w.unit
		return migrate.Halted{}
	case migrate.DoSeal:
		if w.runsA { // Only a guest without a unit can.
			return migrate.Failed{Reason: "its volumes are in use"}
		}
		w.sealed = true
		return migrate.Closed{}
	case migrate.DoShip:
		w.dataB, w.pointData = w.dataA, w.dataA
		return migrate.Shipped{Point: "p"}
	case migrate.DoProve:
		return migrate.Proven{GUIDs: map[guest.Volume]uint64{disk(): 7}, Command: "change"}
	case migrate.DoPropose:
		return w.propose(w.memory.Command, lost)
	case migrate.DoRetain:
		return w.propose(w.memory.Retain, lost)
	case migrate.DoAwait:
		w.held = false
		if !w.runsB && !w.memory.Beginning().Stopped {
			return migrate.Failed{Reason: "not yet"}
		}
		return migrate.Arrived{Started: w.runsB}
	case migrate.DoUndo:
		return w.undo()
	case migrate.DoNothing:
	}
	return nil
}

func (w *world) undo() migrate.Event {
	if w.memory.StandingOf(w.guest(), true) != migrate.Ours {
		w.held = false
		return migrate.Gone{Reason: "gone"}
	}
	w.sealed, w.held = false, false
	if !w.unit || !w.memory.Ran {
		return migrate.Restored{}
	}
	if w.maybe("its unit does not start") {
		w.due = !w.runsA
		return migrate.Restored{Warnings: []string{"it does not start"}}
	}
	w.runsA, w.due = true, false
	return migrate.Restored{}
}

func (w *world) propose(id string, lost bool) migrate.Event { //nolint:revive // flag-parameter: a fact of this try
	first := !w.sent
	w.sent = true
	if lost {
		if first && rapid.Bool().Draw(w.T, "never sent") {
			return migrate.Unsent{Reason: "x"}
		}
		if rapid.Bool().Draw(w.T, "under way") {
			w.flight = append(w.flight, id)
		}
		return migrate.Unknown{Reason: "x"}
	}
	w.commit(id)
	switch {
	case !w.tried[id]:
		return migrate.Refused{
			Reason: "refused", Now: w.memory.StandingOf(w.guest(), true), Spent: termN(w.term) != w.memory.Term,
		}
	case strings.HasPrefix(id, "retain"):
		return migrate.Retained{}
	default:
		return migrate.Done{}
	}
}

// keepers are what both nodes do by themselves with what the ledger says. What is sealed
// they leave so, unless the guest is to be started.
func (w *world) keepers() {
	if w.owner == node("2") && !w.begun.Stopped && !w.runsB {
		if w.runsB = true; w.dataB != w.dataA {
			w.Fatalf("the target starts with %d of %d writes", w.dataB, w.dataA)
		}
	}
	if w.owner == node("1") && !w.held && w.due {
		w.sealed, w.runsA, w.due = false, true, false
	}
}

// outside is what somebody does with a guest that has no unit, as long as it has its disks.
func (w *world) outside() {
	if !w.unit && w.owner == node("1") && !w.sealed {
		w.runsA = !w.runsA
	}
}

func (w *world) check() {
	if w.runsA && w.runsB {
		w.Fatal("the guest runs on both")
	}
	if w.runsA && w.owner != node("1") {
		w.Fatal("the guest runs where it is not owned")
	}
	if w.runsA && w.sealed {
		w.Fatal("the guest runs with sealed volumes")
	}
}

// happens is one thing of all that may, at any time.
func (w *world) happens() {
	switch rapid.IntRange(0, 17).Draw(w.T, "what") {
	case 0:
		w.wish = true
	case 1:
		w.crash()
	case 2:
		if n := len(w.flight); n > 0 {
			i := rapid.IntRange(0, n-1).Draw(w.T, "which")
			w.commit(w.flight[i])
			w.flight = slices.Delete(w.flight, i, i+1)
		}
	case 3:
		if w.runsA && !w.sealed {
			w.dataA++
		}
	case 4:
		w.keepers()
	case 5:
		w.outside()
	case 6:
		w.dead = rapid.Bool().Draw(w.T, "dead")
	default:
		w.perform()
	}
}

// finishes lets it end, without faults.
func (w *world) finishes() {
	for range 40 {
		if w.memory.Over() {
			break
		}
		w.perform()
		w.keepers()
		w.check()
	}
	w.keepers()
	w.check()
	if !w.memory.Over() {
		w.Fatalf("it does not end: %+v", w.memory)
	}
}

func TestStep_NeverTwoNeverLostAlwaysEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			T: t, owner: node("1"), term: 1, tried: map[string]bool{}, dataA: 1,
			unit: rapid.Bool().Draw(t, "unit"), runsA: rapid.Bool().Draw(t, "runs"),
		}
		ran := w.runsA
		w.memory = begun()
		w.record = w.memory // Else there is no migration.
		w.feed(migrate.Began{})
		for range rapid.IntRange(0, 8).Draw(t, "goes well") { // Else it seldom comes far.
			w.perform()
			w.check()
		}
		w.faults, w.dead = true, rapid.Bool().Draw(t, "dead")
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			w.happens()
			w.check()
		}
		w.faults = false
		w.finishes() // Also where the disk takes no writes.
		w.dead = false
		// A restart finds what the disk has, and nothing of it is done to a guest that has gone on since.
		if rapid.Bool().Draw(t, "restart") {
			w.crash()
			w.finishes()
		}
		for _, id := range w.flight { // What was under way all the time arrives at last.
			w.commit(id)
			w.keepers()
			w.check()
		}
		switch {
		case w.held || w.sealed && w.owner == node("1"):
			t.Fatalf("it has ended; held %v, sealed %v: %+v", w.held, w.sealed, w.memory)
		case (w.memory.Outcome == migrate.Moved) != (w.owner == node("2")):
			t.Fatalf("outcome %s, owner %s", w.memory.Outcome, w.owner)
		case !w.unit:
		case ran && !w.runsA && !w.runsB:
			t.Fatalf("the guest runs nowhere: %+v", w.memory)
		case !ran && (w.runsA || w.runsB):
			t.Fatalf("the guest was started: %+v", w.memory)
		}
	})
}
