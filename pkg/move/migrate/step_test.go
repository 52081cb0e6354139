package migrate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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
		migrate.Refused{Now: migrate.Ours, Spent: true},
		migrate.Arrived{Started: true},
		migrate.Restored{},
		migrate.Restored{Warnings: []string{"w"}},
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

// Whatever cannot be written down: the guest is let run again only where no restart, whatever it finds on disk, has the
// owner change carried out.
func TestStep_EveryPhaseTakesThatItCannotBeWrittenDown(t *testing.T) {
	order := migrate.Phases()
	sent := slices.Index(order, migrate.Sent)
	for _, phase := range order {
		for _, ev := range events() {
			t.Run(fmt.Sprintf("%s %T%+v", phase, ev, ev), func(t *testing.T) {
				r, _ := at(t, phase)
				now := time.Unix(1_800_000_001, 0)
				meant, _ := migrate.Step(r, ev, now)
				next, effect := migrate.Step(r, migrate.Unwritten{Event: ev, Reason: "x", Retain: "r"}, now)
				maySay := phase == migrate.Sent || meant.Phase == migrate.Sent
				refused, isRefused := ev.(migrate.Refused)
				_, retained := ev.(migrate.Retained)
				never := retained || isRefused && refused.Spent
				switch {
				case effect == migrate.DoPropose && phase != migrate.Sent:
					t.Error("an owner change is proposed that is not on disk")
				case maySay && !never && (next.Phase == migrate.Back || next.Outcome == migrate.Undone):
					t.Errorf("it went to %s, and the disk may say that the change was sent", next.Phase)
				case maySay && never && next.Phase == migrate.Sent && meant.Phase != migrate.Sent:
					t.Errorf("the ledger refuses the change for ever, and it went to %s", next.Phase)
				case effect == migrate.DoRetain && (next.Retain == "" || !next.Cancelled || next.Trouble == ""):
					t.Errorf("the cancel is sent by %+v", next)
				case slices.Index(order, next.Phase) < sent && effect != migrate.DoNothing:
					t.Errorf("it goes on to %s with %q", next.Phase, effect)
				}
			})
		}
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
