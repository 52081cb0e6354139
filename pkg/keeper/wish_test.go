package keeper_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
)

// systemd tries by itself, too, where a unit says Restart=, until it grows tired of it.
func TestWish_OutlivesSystemdsOwnTries(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		g := moved(100, n1, 6)
		g.Boot.On = false
		w.has(g, rules.RoleOwner, term(6))
		u := w.units[unitOf(100)]
		w.set(func() { w.trouble["start"] = errors.New("no bridge") })
		w.run()
		if err := w.k.StartAgain(t.Context(), 100); err == nil {
			t.Error("it is started")
		}
		w.set(func() { u.running, u.passing = true, true })
		w.wait(40 * time.Second)
		w.set(func() { u.running, u.passing, u.failed = false, false, true; clear(w.trouble) })
		w.did()
		w.wait(10 * time.Minute)
		w.want("start vm@100.service")
	})
}

func TestWish_EndsWithTheUnitThatWasToBeStarted(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		g := moved(100, n1, 6)
		g.Boot.On = false
		w.has(g, rules.RoleOwner, term(6))
		w.set(func() { w.trouble["start"] = errors.New("no bridge") })
		w.run()
		if err := w.k.StartAgain(t.Context(), 100); err == nil {
			t.Error("it is started")
		}
		name := func(unit string) {
			w.agree(func(s *ledger.State) { g := s.Guests[100]; g.Unit = unit; s.Guests[100] = g })
			w.wait(10 * time.Minute)
		}
		name("")
		w.did()
		w.set(func() { clear(w.trouble) })
		name(unitOf(100))
		w.want()
	})
}

// What an operator stops before it is known who is to be started since the boot stays stopped.
func TestBoot_StoppedBeforeThereWasAMajority(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 1, 0), rules.RoleOwner, term(5))
		w.has(onboot(101, 2, 0), rules.RoleOwner, term(5))
		w.set(func() { w.quorate = false })
		w.run()
		w.wait(time.Minute)
		if err := w.k.Stop(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		w.did()
		for range 2 { // Restarts of the daemon.
			w.stop()
			w.run()
			w.wait(time.Minute)
		}
		w.set(func() { w.quorate = true })
		w.wait(time.Minute)
		w.want("start vm@101.service")
	})
}

func TestBoot_TakenOffAGuestWhileTheMachineWasOff(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 1, 0), rules.RoleOwner, term(5))
		stale := w.View()
		w.agree(func(s *ledger.State) { g := s.Guests[100]; g.Boot = guest.Boot{}; s.Guests[100] = g })
		w.set(func() { w.agreed, w.view = w.view, stale })
		w.run()
		w.wait(10 * time.Minute)
		w.want()
	})
}

// A guest that only the newest ledger has here keeps its place before others.
func TestBoot_KeepsTheOrderOfTheNewestLedger(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 1, 0), rules.RoleOwner, term(5))
		w.has(onboot(101, 2, 0), rules.RoleOwner, term(5))
		w.trouble["start"] = errors.New("there is no memory")
		w.run()
		w.wait(10 * time.Second)
		w.stop()
		w.did()
		fresh := w.View()
		w.agree(func(s *ledger.State) {
			g := s.Guests[100]
			g.Owner, g.Term = n2, term(4)
			s.Guests[100] = g
			s.Index = fresh.Index - 1
		})
		w.set(func() { clear(w.trouble); w.agreed = fresh; w.units[unitOf(100)].takes = 20 * time.Second })
		w.run()
		w.wait(2 * time.Minute)
		w.want("start vm@100.service", "start vm@101.service")
	})
}
