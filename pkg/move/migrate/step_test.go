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

func node(n string) guest.NodeID { return guest.NodeID(strings.Repeat("0", 31) + n) }

func termN(n uint64) guest.Term { return guest.Term{N: n, Generation: "0123456789abcdef"} }

func disk() guest.Volume { return guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-0"} }

func begun() migrate.Record {
	return migrate.Record{Version: migrate.Version, ID: "m", Guest: 100, From: node("1"), To: node("2"), Term: termN(1), Phase: migrate.Prepared}
}

// events are one of each kind, with each of its shapes that matter.
func events() []migrate.Event {
	return []migrate.Event{
		migrate.Began{},
		migrate.Resumed{},
		migrate.Cancel{Retain: "r"},
		migrate.Failed{Reason: "x"},
		migrate.Checked{},
		migrate.Synced{Round: migrate.Round{Took: time.Second}},
		migrate.Synced{Round: migrate.Round{Took: time.Hour}},
		migrate.Held{Ran: true},
		migrate.Held{},
		migrate.Halted{},
		migrate.Closed{},
		migrate.Shipped{Point: "p"},
		migrate.Proven{GUIDs: map[guest.Volume]uint64{disk(): 7}, Command: "c"},
		migrate.Done{},
		migrate.Retained{},
		migrate.Unsent{Reason: "x"},
		migrate.Unknown{Reason: "x"},
		migrate.Refused{Now: migrate.Ours},
		migrate.Refused{Now: migrate.Theirs},
		migrate.Refused{Now: migrate.Others},
		migrate.Arrived{Started: true},
		migrate.Restored{},
		migrate.Gone{Reason: "x"},
	}
}

// at is a record that has come as far as the phase on the usual way, and what is done there.
func at(t *testing.T, phase migrate.Phase) (migrate.Record, migrate.Effect) {
	t.Helper()
	now := time.Unix(1_800_000_000, 0)
	r, effect := migrate.Step(begun(), migrate.Began{}, now)
	if phase == migrate.Prepared {
		return r, effect
	}
	way := []migrate.Event{
		migrate.Checked{},
		migrate.Synced{Round: migrate.Round{Took: time.Second}},
		migrate.Held{Ran: true},
		migrate.Halted{},
		migrate.Closed{},
		migrate.Shipped{Point: "p"},
		migrate.Proven{GUIDs: map[guest.Volume]uint64{disk(): 7}, Command: "c"},
		migrate.Done{},
		migrate.Arrived{Started: true},
	}
	if phase == migrate.Back {
		r, effect = at(t, migrate.Sealed)
		way = []migrate.Event{migrate.Failed{Reason: "x"}}
	}
	for _, ev := range way {
		if r.Phase == phase {
			break
		}
		r, effect = migrate.Step(r, ev, now)
	}
	if r.Phase != phase {
		t.Fatalf("the way ends at %s, not at %s", r.Phase, phase)
	}
	return r, effect
}

func TestStep_EveryPhaseTakesEveryEvent(t *testing.T) {
	order := migrate.Phases()
	for _, phase := range order {
		for _, ev := range events() {
			t.Run(fmt.Sprintf("%s %T%+v", phase, ev, ev), func(t *testing.T) {
				r, _ := at(t, phase)
				next, effect := migrate.Step(r, ev, time.Unix(1_800_000_001, 0))
				early := slices.Index(order, phase) < slices.Index(order, migrate.Sent)
				switch ev.(type) {
				case migrate.Failed, migrate.Resumed:
					if early && r.Touched && (next.Phase != migrate.Back || effect != migrate.DoUndo) {
						t.Errorf("before the owner change was sent it went to %s, %q", next.Phase, effect)
					}
					if early && !r.Touched && next.Outcome != migrate.Undone {
						t.Errorf("nothing was done yet, and it is %s", next.Phase)
					}
				case migrate.Cancel:
					if effect != migrate.DoNothing {
						t.Errorf("a cancel interrupts nothing by itself: %q", effect)
					}
				default:
				}
				if next.Phase == migrate.Ended && effect != migrate.DoNothing {
					t.Errorf("it is over and does %q", effect)
				}
				if effect == migrate.DoPropose && (next.Phase != migrate.Sent || next.Command == "" || len(next.GUIDs) == 0) {
					t.Errorf("an owner change is proposed that is not written down: %+v", next)
				}
				if effect == migrate.DoRetain && (next.Phase != migrate.Sent || next.Retain == "" || !next.Cancelled) {
					t.Errorf("a cancel is proposed that is not written down: %+v", next)
				}
				if phase == migrate.Confirmed && next.Phase == migrate.Back || phase == migrate.Ended && next.Phase != migrate.Ended {
					t.Errorf("from %s it went to %s", phase, next.Phase)
				}
				if phase == migrate.Sent && next.Phase == migrate.Sent && effect == migrate.DoNothing {
					if _, cancel := ev.(migrate.Cancel); !cancel && effectful(ev) {
						t.Errorf("in doubt nothing is done about it after %T", ev)
					}
				}
			})
		}
	}
}

// effectful events are what the effects of the phase sent, and a restart, come to.
func effectful(ev migrate.Event) bool {
	switch ev.(type) {
	case migrate.Done, migrate.Retained, migrate.Unsent, migrate.Unknown, migrate.Refused, migrate.Failed, migrate.Resumed, migrate.Gone:
		return true
	default:
		return false
	}
}

func TestStep_SyncsAreRepeatedWhileThatHelps(t *testing.T) {
	for name, tc := range map[string]struct {
		took []time.Duration
		want int // syncs until the guest is stopped
	}{
		"small at once":         {[]time.Duration{time.Second}, 1},
		"shrinks":               {[]time.Duration{time.Hour, 10 * time.Minute, time.Minute, 3 * time.Second}, 4},
		"does not shrink":       {[]time.Duration{time.Hour, time.Minute, time.Minute}, 3},
		"shrinks for very long": {[]time.Duration{1 << 40, 1 << 39, 1 << 38, 1 << 37, 1 << 36, 1 << 35, 1 << 34, 1 << 33, 1 << 32}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := at(t, migrate.Presync)
			got := 0
			for _, d := range tc.took {
				var effect migrate.Effect
				r, effect = migrate.Step(r, migrate.Synced{Round: migrate.Round{Took: d}}, time.Unix(0, 0))
				got++
				if effect == migrate.DoHold {
					break
				}
			}
			if got != tc.want {
				t.Errorf("the guest is stopped after %d syncs, want %d", got, tc.want)
			}
		})
	}
}

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

	runsA, runsB, sealed bool
	dataA, dataB         int // what was written, and what the target has
	pointData            int
	faults               bool
}

func (w *world) guest() guest.Guest {
	return guest.Guest{ID: 100, Owner: w.owner, Term: termN(w.term), Beginning: w.begun}
}

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
		b := w.record.Beginning()
		b.From, b.Term = w.owner, termN(w.term)
		w.owner, w.term, w.begun = w.memory.To, w.term+1, b
	default:
		w.term++
	}
}

// feed takes an event in as the Mover does: on disk before it is acted on.
func (w *world) feed(ev migrate.Event) {
	now := time.Unix(1_800_000_000, 0)
	r := w.memory
	if w.wish {
		w.wish = false
		r, _ = migrate.Step(r, migrate.Cancel{Retain: "retain-" + fmt.Sprint(len(w.tried)+len(w.flight))}, now)
	}
	w.memory, w.effect = migrate.Step(r, ev, now)
	w.record = w.memory
	if w.memory.Phase != migrate.Sent && (w.memory.Phase == migrate.Back || w.memory.Phase == migrate.Confirmed || w.memory.Over()) {
		w.held = false
	}
}

func (w *world) crash() {
	w.memory, w.wish, w.sent = w.record, false, w.record.Phase == migrate.Sent
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
		fault = rapid.SampledFrom([]string{"", "", "", "fails", "crash before", "crash after"}).Draw(w.T, "fault")
	}
	switch fault {
	case "crash before":
		w.crash()
		return
	case "fails":
		if w.effect != migrate.DoPropose && w.effect != migrate.DoRetain {
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

func (w *world) act(lost bool) migrate.Event {
	switch w.effect {
	case migrate.DoCheck:
		return migrate.Checked{}
	case migrate.DoSync:
		w.dataB = w.dataA
		return migrate.Synced{Round: migrate.Round{Took: time.Second}}
	case migrate.DoHold:
		w.held = true
		return migrate.Held{Ran: w.runsA}
	case migrate.DoStop:
		w.runsA = false
		return migrate.Halted{}
	case migrate.DoSeal:
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
		if !w.runsB && !w.memory.Beginning().Stopped {
			return migrate.Failed{Reason: "not yet"}
		}
		return migrate.Arrived{Started: w.runsB}
	case migrate.DoUndo:
		if w.memory.StandingOf(w.guest(), true) != migrate.Ours {
			return migrate.Gone{Reason: "gone"}
		}
		w.sealed = false
		w.runsA = w.runsA || w.memory.Ran
		return migrate.Restored{}
	case migrate.DoNothing:
	}
	return nil
}

func (w *world) propose(id string, lost bool) migrate.Event {
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
		return migrate.Refused{Reason: "refused", Now: w.memory.StandingOf(w.guest(), true)}
	case strings.HasPrefix(id, "retain"):
		return migrate.Retained{}
	default:
		return migrate.Done{}
	}
}

// keepers are what both nodes do by themselves with what the ledger says.
func (w *world) keepers() {
	if w.owner == node("2") && !w.begun.Stopped && !w.runsB {
		if w.runsB = true; w.pointData != w.dataA || w.dataB != w.dataA {
			w.Fatalf("the target starts with %d of %d writes", w.dataB, w.dataA)
		}
	}
	if w.owner == node("1") && !w.held && w.record.Phase == migrate.Back {
		w.sealed = false // A guest of its own whose volumes are read-only.
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

func TestStep_NeverTwoNeverLostAlwaysEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t, owner: node("1"), term: 1, tried: map[string]bool{}, runsA: rapid.Bool().Draw(t, "runs"), faults: true, dataA: 1}
		ran := w.runsA
		w.memory = begun()
		w.record = w.memory
		w.feed(migrate.Began{})
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				w.wish = true
			case 1:
				w.crash()
			case 2:
				if n := len(w.flight); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "which")
					w.commit(w.flight[i])
					w.flight = slices.Delete(w.flight, i, i+1)
				}
			case 3:
				if w.runsA && !w.sealed {
					w.dataA++
				}
			case 4:
				w.keepers()
			default:
				w.perform()
			}
			w.check()
		}
		w.faults = false
		for range 40 {
			if w.memory.Over() {
				break
			}
			w.perform()
			w.keepers()
			w.check()
		}
		for _, id := range w.flight { // What was under way all the time arrives at last.
			w.commit(id)
			w.keepers()
			w.check()
		}
		switch {
		case !w.memory.Over():
			t.Fatalf("it does not end: %+v", w.memory)
		case ran && !w.runsA && !w.runsB:
			t.Fatalf("the guest runs nowhere: %+v", w.memory)
		case !ran && (w.runsA || w.runsB):
			t.Fatalf("the guest was started: %+v", w.memory)
		case (w.memory.Outcome == migrate.Moved) != (w.owner == node("2")):
			t.Fatalf("outcome %s, owner %s", w.memory.Outcome, w.owner)
		}
	})
}
