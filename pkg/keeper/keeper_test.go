package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
)

// within runs a test in a bubble, in which time passes when nothing else happens.
func within(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(t, w)
		if w.stop != nil {
			w.stop()
		}
	})
}

func (w *world) want(did ...string) {
	w.t.Helper()
	if d := cmp.Diff(did, w.did()); d != "" {
		w.t.Errorf("what was done (-want +got):\n%s", d)
	}
}

func onboot(id guest.ID, order, delay int) guest.Guest {
	return guest.Guest{ID: id, Type: guest.VM, Owner: n1, Term: term(5), Boot: guest.Boot{On: true, Order: order, Delay: delay}}
}

func TestBoot_StartsInOrderOnce(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 2, 0), rules.RoleOwner, term(5))
		w.has(onboot(101, 1, 60), rules.RoleOwner, term(5))
		w.has(onboot(102, 0, 0), rules.RoleOwner, term(5))
		off := onboot(103, 0, 0)
		off.Boot.On = false
		w.has(off, rules.RoleOwner, term(5))
		other := onboot(104, 1, 0)
		other.Owner = n2
		w.has(other, "replica", term(5))
		w.run()
		w.wait(30 * time.Second)
		w.want("start vm@101.service")
		w.wait(40 * time.Second)
		w.want("start vm@100.service", "start vm@102.service")
		if w.confirms > 10 {
			t.Errorf("a majority was asked %d times", w.confirms)
		}
		// What an operator stops stays stopped, over a restart of the daemon too.
		if err := w.k.Stop(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		w.stop()
		w.run()
		w.wait(time.Hour)
		w.want("stop vm@100.service")
		w.stop()
		// The machine boots.
		w.boot = "boot-2"
		for _, u := range w.units {
			*u = unit{}
		}
		w.run()
		w.wait(2 * time.Minute)
		w.want("start vm@101.service", "start vm@100.service", "start vm@102.service")
	})
}

// Who waits for a guest is told as soon as its volumes are this node's, and as it runs.
func TestAwait_TellsAsSoonAsItIsSo(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		g := onboot(100, 0, 0)
		g.Boot.On = false
		g.Owner = n2
		w.has(g, "replica", term(5))
		w.run()
		begun := time.Now()
		got := make(chan keeper.Condition, 2)
		await := func(enough func(keeper.Condition) bool) {
			go func() { got <- w.k.Await(t.Context(), 100, enough) }()
			synctest.Wait()
		}
		await(func(c keeper.Condition) bool { return c.Own && c.Usable && c.Term == term(6) })
		await(func(c keeper.Condition) bool { return c.Own && c.State == keeper.StateRunning })
		w.set(func() { w.units[unitOf(100)].takes = 20 * time.Second })
		w.agree(func(s *ledger.State) {
			g := s.Guests[100]
			g.Owner, g.Term, g.Beginning = n1, term(6), &guest.Beginning{How: guest.ByMigration, From: n2, Term: term(5)}
			s.Guests[100] = g
		})
		if c := <-got; c.State == keeper.StateRunning || time.Since(begun) > time.Second {
			t.Errorf("after %s its volumes are this node's: %+v", time.Since(begun), c)
		}
		if c := <-got; c.State != keeper.StateRunning || time.Since(begun) > 21*time.Second {
			t.Errorf("after %s it runs: %+v", time.Since(begun), c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if c := w.k.Await(ctx, 999, func(keeper.Condition) bool { return false }); c != (keeper.Condition{}) || time.Since(begun) < time.Minute {
			t.Errorf("a guest that nobody knows: %+v after %s", c, time.Since(begun))
		}
	})
}

// Where the unit is changed all the same, the former one is not forgotten while it runs.
func TestGuard_AFormerUnitThatRunsIsTold(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 0, 0), rules.RoleOwner, term(5))
		w.units["new.service"] = &unit{}
		w.run()
		w.wait(time.Minute)
		w.want("start vm@100.service")
		w.agree(func(s *ledger.State) {
			g := s.Guests[100]
			g.Unit = "new.service"
			s.Guests[100] = g
		})
		w.wait(time.Minute)
		c := w.k.State(100)
		if !strings.Contains(c.Trouble, "vm@100.service, still runs") || !strings.Contains(c.Advice, "systemctl stop vm@100.service") {
			t.Errorf("it shows %+v", c)
		}
		if err := w.k.Start(t.Context(), 100); err == nil || !strings.Contains(err.Error(), "still runs") {
			t.Errorf("a second one is started: %v", err)
		}
		w.want()
		w.set(func() { w.units[unitOf(100)].running = false })
		w.wait(time.Minute)
		if c := w.k.State(100); c.Trouble != "" || w.unit(100).guard != 0 {
			t.Errorf("once it has ended: %+v, and %d is asked", c, w.unit(100).guard)
		}
	})
}

func TestBoot_WaitsForAMajority(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.quorate = false
		w.has(onboot(100, 0, 0), rules.RoleOwner, term(5))
		w.run()
		w.wait(10 * time.Minute)
		w.want()
		c := w.k.State(100)
		if c.State != keeper.StateStopped || !strings.Contains(c.Trouble, "not quorate: 1 of 2 votes, 2 needed") {
			t.Errorf("it shows %+v", c)
		}
		if n := w.logs.FilterMessage("a guest is not as it should be").Len(); n != 1 {
			t.Errorf("the journal says so %d times", n)
		}
		// Nor may anybody start it past the keeper.
		if got := w.unit(100).guard; got != 100 {
			t.Errorf("systemd asks for guest %d before it starts the unit, want 100", got)
		}
		if err := w.Start(t.Context(), "vm@100.service"); err == nil {
			t.Error("an operator has started it")
		}
		w.wait(time.Minute)
		// That somebody has tried is no reason not to start it when it may run.
		w.set(func() { w.quorate = true })
		w.wait(30 * time.Second)
		w.want("failed vm@100.service", "start vm@100.service")
		if c := w.k.State(100); c.Trouble != "" || c.State != keeper.StateRunning {
			t.Errorf("it shows %+v", c)
		}
	})
}

// What is known here says that the guest is this node's; the majority knows better.
func TestBoot_StaleKnowledgeStartsNothing(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 0, 0), rules.RoleOwner, term(5))
		stale := w.View()
		g := stale.Guests[100]
		g.Owner, g.Term = n2, term(6)
		w.agree(func(s *ledger.State) { s.Guests[100] = g })
		fresh := w.View()
		w.view = stale
		w.k = nil
		w.run()
		// The view follows what Confirm returned, as the daemon's book does.
		w.set(func() { w.view = fresh })
		w.wait(time.Minute)
		w.want("retire 100")
	})
}

// A daemon that was restarted before all was started knows at first only what it had kept of the ledger.
func TestBoot_StaleKnowledgeForgetsNoGuest(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 1, 0), rules.RoleOwner, term(5))
		w.has(onboot(101, 2, 0), rules.RoleOwner, term(5))
		w.trouble["start"] = errors.New("there is no memory")
		w.run()
		w.wait(time.Minute)
		w.stop()
		w.did()
		fresh := w.View()
		w.agree(func(s *ledger.State) {
			g := s.Guests[100]
			g.Owner, g.Term = n2, term(4)
			s.Guests[100] = g
			s.Index = fresh.Index - 1
			delete(s.Guests, 101)
		})
		w.set(func() { clear(w.trouble); w.agreed, w.quorate = fresh, false })
		w.run()
		w.wait(10 * time.Minute)
		w.want()
		w.set(func() { w.quorate = true })
		w.wait(time.Minute)
		w.want("start vm@100.service", "start vm@101.service")
	})
}

func TestBoot_OneThatHangsOrFailsHoldsUpNoOther(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 1, 0), rules.RoleOwner, term(5))
		w.has(onboot(101, 2, 0), rules.RoleOwner, term(5))
		w.units[unitOf(100)].takes = 24 * time.Hour
		w.run()
		w.wait(time.Minute)
		w.want()
		w.wait(2 * time.Minute)
		w.want("start vm@101.service")
		// Its volumes cannot be read: that is told, and the others go on.
		w.stop()
		w.boot = "boot-2"
		for _, u := range w.units {
			*u = unit{}
		}
		w.trouble["start"] = errors.New("no such bridge")
		w.run()
		w.wait(time.Second)
		w.want("failed vm@100.service", "failed vm@101.service")
		if c := w.k.State(100); !strings.Contains(c.Trouble, "no such bridge") {
			t.Errorf("it shows %+v", c)
		}
		w.wait(2 * time.Hour)
		if n := len(w.did()); n < 20 || n > 80 {
			t.Errorf("it was tried %d times in 2 hours", n)
		}
		// An operator ends that.
		for _, id := range []guest.ID{100, 101} {
			if err := w.k.Stop(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		w.did()
		w.wait(time.Hour)
		w.want()
	})
}

func moved(id guest.ID, to guest.NodeID, n uint64) guest.Guest {
	return guest.Guest{
		ID: id, Type: guest.VM, Owner: to, Term: term(n), Config: "cores=2\n",
		Beginning: &guest.Beginning{How: guest.ByMigration, From: n2, Term: term(n - 1)},
	}
}

func TestTakeOver_StartsOnceAndOnlyOnce(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(moved(100, n1, 6), "replica", term(5))
		w.trouble["promote"] = errors.New("a receive has not ended")
		w.run()
		w.wait(20 * time.Second)
		if did := w.did(); len(did) < 3 || did[0] != "promote 100" {
			t.Errorf("did %v", did)
		}
		if c := w.k.State(100); !strings.Contains(c.Trouble, "a receive has not ended") {
			t.Errorf("it shows %+v", c)
		}
		w.stop() // in the middle of it
		w.set(func() { delete(w.trouble, "promote"); w.readied = 0 })
		w.run()
		w.wait(time.Second)
		w.want("promote 100", "start vm@100.service")
		if w.readied != 1 {
			t.Errorf("its volumes were made ready %d times: each time the guest is down longer", w.readied)
		}
		if w.files[100] != "cores=2\n" {
			t.Errorf("the configuration file holds %q", w.files[100])
		}
		// Somebody stops it with systemctl: that is how it stays.
		w.set(func() { w.units[unitOf(100)].running = false })
		w.wait(time.Hour)
		w.stop()
		w.run()
		w.wait(time.Hour)
		w.want()
	})
}

func TestTakeOver_NoStartWhereTheMoveSaysSo(t *testing.T) {
	within(t, func(_ *testing.T, w *world) {
		g := moved(100, n1, 6)
		g.Beginning.Stopped = true
		w.has(g, "replica", term(5))
		w.run()
		w.wait(time.Hour)
		w.want("promote 100")
	})
}

// Its machine died after the data was taken over and before the guest was started.
func TestTakeOver_GoesOnAfterACrashBeforeTheStart(t *testing.T) {
	within(t, func(_ *testing.T, w *world) {
		w.has(moved(100, n1, 6), "replica", term(5))
		w.trouble["start"] = errors.New("killed")
		w.run()
		w.wait(time.Second)
		w.stop()
		w.did()
		w.set(func() { delete(w.trouble, "start") })
		w.boot = "boot-2"
		w.run()
		w.wait(time.Minute)
		w.want("start vm@100.service")
	})
}

func TestFence_AStaleOwner(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 0, 0), rules.RoleOwner, term(5))
		w.run()
		w.wait(time.Second)
		w.want("start vm@100.service")
		// The majority is gone, and the news of the new owner comes by the list of members.
		w.set(func() { w.quorate = false })
		w.wait(20 * time.Second)
		w.set(func() { w.trouble["stop"] = errors.New("a process in state D") })
		g := w.View().Guests[100]
		g.Owner, g.Term = n2, term(6)
		w.agree(func(s *ledger.State) { s.Guests[100] = g })
		w.wait(time.Minute)
		w.want()
		if c := w.k.State(100); c.Own || c.State != keeper.StateRunning || !strings.Contains(c.Trouble, "n2's at term") || !strings.Contains(c.Trouble, "state D") {
			t.Errorf("it shows %+v", c)
		}
		if _, runs := w.k.Running()[100]; !runs {
			t.Error("it is not told that it runs here")
		}
		w.set(func() { delete(w.trouble, "stop") })
		w.wait(time.Minute)
		w.want("stop vm@100.service") // and nothing is set aside before that is confirmed
		if c := w.k.State(100); !strings.Contains(c.Trouble, "not quorate") {
			t.Errorf("it shows %+v", c)
		}
		w.set(func() { w.quorate = true })
		w.wait(time.Minute)
		w.want("retire 100")
		if len(w.k.Troubles()) != 0 || len(w.k.Conditions()) != 0 {
			t.Errorf("it still shows %v", w.k.Conditions())
		}
		if _, there := w.files[100]; there {
			t.Error("the configuration file is still there")
		}
	})
}

// A restored node knows less than its own disks: that stops nothing.
func TestFence_NotByKnowledgeOlderThanTheDisks(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.quorate = false
		g := onboot(100, 0, 0)
		g.Owner = n2
		w.has(g, rules.RoleOwner, term(9))
		w.set(func() { w.units[unitOf(100)].running = true })
		w.run()
		w.wait(10 * time.Minute)
		w.want()
		if c := w.k.State(100); !strings.Contains(c.Trouble, "cannot be confirmed") {
			t.Errorf("it shows %+v", c)
		}
	})
}

func TestRemoved_GoesOnRunningAndIsNoLongerAskedFor(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		g := onboot(100, 0, 0)
		g.Config = "cores=2\n"
		w.has(g, rules.RoleOwner, term(5))
		w.run()
		w.wait(time.Second)
		w.want("start vm@100.service")
		w.agree(func(s *ledger.State) { delete(s.Guests, 100) })
		w.wait(time.Minute)
		w.want()
		if u := w.unit(100); !u.running || u.guard != 0 {
			t.Errorf("its unit is %+v", u)
		}
		if len(w.k.Conditions()) != 0 || w.files[100] == "" {
			t.Errorf("it shows %v, and its configuration file is %q", w.k.Conditions(), w.files[100])
		}
	})
}

// A start that hangs is ended when the guest is given away.
func TestFence_EndsAStartThatHangs(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 0, 0), rules.RoleOwner, term(5))
		w.units[unitOf(100)].takes = 24 * time.Hour
		w.run()
		w.wait(time.Minute)
		g := w.View().Guests[100]
		g.Owner, g.Term = n2, term(6)
		w.agree(func(s *ledger.State) { s.Guests[100] = g })
		w.wait(time.Second)
		w.want("stop vm@100.service", "retire 100")
	})
}

func TestStart(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		mine := onboot(100, 0, 0)
		mine.Boot.On = false
		w.has(mine, "", guest.Term{})
		other := mine
		other.ID, other.Owner = 101, n2
		w.has(other, "replica", term(5))
		bare := mine
		bare.ID = 102
		w.has(bare, "", guest.Term{})
		w.agree(func(s *ledger.State) { g := s.Guests[102]; g.Unit = ""; s.Guests[102] = g })
		w.run()
		refused := func(id guest.ID, says string) {
			t.Helper()
			var r *keeper.Refusal
			if err := w.k.Start(t.Context(), id); !errors.As(err, &r) || !strings.Contains(err.Error(), says) {
				t.Errorf("guest %s: got %v, want a refusal that says %q", id, err, says)
			}
		}
		refused(101, "guest 101 is n2's at term 5-"+generation)
		refused(102, "has no systemd unit")
		refused(999, "does not exist")
		w.set(func() { w.quorate = false })
		w.wait(time.Minute)
		refused(100, "not quorate")
		w.set(func() { w.quorate, w.trouble["start"] = true, errors.New("no such bridge") })
		refused(100, "no such bridge")
		w.want("promote 100", "failed vm@100.service")
		w.set(func() { delete(w.trouble, "start") })
		if err := w.k.Start(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		if err := w.k.Start(t.Context(), 100); err != nil {
			t.Errorf("it runs already: %v", err)
		}
		w.want("start vm@100.service")
		if w.unit(100).guard != 100 || w.unit(101).guard != 101 {
			t.Error("a unit does not ask whether it may start")
		}
		// It crashes: that is systemd's business.
		w.set(func() { w.units[unitOf(100)].running, w.units[unitOf(100)].failed = false, true })
		w.wait(time.Hour)
		w.want()
		if c := w.k.State(100); c.State != keeper.StateFailed {
			t.Errorf("it shows %+v", c)
		}
	})
}

// What a majority confirmed a moment ago is older than the guest.
func TestStart_AGuestOfAMomentAgo(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.run()
		w.wait(time.Second)
		w.has(guest.Guest{ID: 100, Owner: n1, Term: term(5)}, "", guest.Term{})
		if err := w.k.Start(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		w.want("promote 100", "start vm@100.service")
	})
}

func TestMayStart(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(guest.Guest{ID: 100, Owner: n1, Term: term(5)}, rules.RoleOwner, term(5))
		w.has(guest.Guest{ID: 101, Owner: n2, Term: term(5)}, "replica", term(5))
		w.has(guest.Guest{ID: 102, Owner: n1, Term: term(5)}, rules.RoleOwner, term(4))
		w.run()
		w.set(func() { w.trouble["promote"] = errors.New("not now") })
		for id, says := range map[guest.ID]string{100: "", 101: "it is n2's", 102: "not marked as the owner's of term 5", 999: "does not exist"} {
			err := w.k.MayStart(t.Context(), id)
			if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
				t.Errorf("guest %s: %v, want %q", id, err, says)
			}
		}
		w.set(func() { w.quorate = false })
		if err := w.k.MayStart(t.Context(), 100); err != nil {
			t.Errorf("a confirmed read of a moment ago does not count: %v", err)
		}
		w.wait(15 * time.Second)
		if err := w.k.MayStart(t.Context(), 100); err == nil || !strings.Contains(err.Error(), "not quorate") {
			t.Errorf("a read of 15 s ago counts: %v", err)
		}
	})
}

// Who moves a guest before its turn after a boot has come moves one that is to run.
func TestDue_UntilItRunsOrAnOperatorStopsIt(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 1, 60), rules.RoleOwner, term(5))
		w.has(onboot(101, 2, 0), rules.RoleOwner, term(5))
		off := onboot(102, 0, 0)
		off.Boot.On = false
		w.has(off, rules.RoleOwner, term(5))
		w.has(moved(103, n1, 6), "replica", term(5)) // It has come here, and does not start.
		w.units[unitOf(103)].takes = 24 * time.Hour
		w.run()
		w.wait(20 * time.Second)
		for _, paused := range []bool{false, true} {
			for id, want := range map[guest.ID]bool{100: false, 101: true, 102: false, 103: paused} {
				if id == 103 && !paused {
					continue // It is being started all the time.
				}
				if paused {
					if _, err := w.k.Pause(t.Context(), id); err != nil {
						t.Fatal(err)
					}
				}
				if got, err := w.k.Due(t.Context(), id); got != want || err != nil {
					t.Errorf("guest %s, paused %v: due %v, %v", id, paused, got, err)
				}
			}
		}
	})
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 1, 60), rules.RoleOwner, term(5))
		w.has(onboot(101, 2, 0), rules.RoleOwner, term(5))
		w.run()
		w.wait(20 * time.Second)
		if err := w.k.Stop(t.Context(), 101); err != nil {
			t.Fatal(err)
		}
		if got, err := w.k.Due(t.Context(), 101); got || err != nil {
			t.Errorf("a guest that an operator has stopped is due: %v", err)
		}
	})
}

// A guest that was stopped for a move is wanted by Tandem itself, over restarts too, until it runs or an operator stops it.
func TestStartAgain_GoesOnUntilItRunsOrAnOperatorStopsIt(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		g := moved(100, n1, 6)
		g.Boot.On = false
		w.has(g, rules.RoleOwner, term(6))
		w.run()
		w.wait(time.Second)
		fails := func() {
			t.Helper()
			w.set(func() { w.units[unitOf(100)].running, w.trouble["start"] = false, errors.New("there is no memory") })
			err := w.k.StartAgain(t.Context(), 100)
			if err == nil || !strings.Contains(err.Error(), "there is no memory; it is tried again") {
				t.Errorf("got %v", err)
			}
		}
		fails()
		w.wait(10 * time.Minute)
		if tries := len(w.did()); tries < 3 || tries > 12 {
			t.Errorf("it was tried %d times in 10 minutes", tries)
		}
		if due, err := w.k.Due(t.Context(), 100); !due || err != nil {
			t.Errorf("a move does not know that it is to run: %v", err)
		}
		w.stop()
		w.set(func() { clear(w.trouble) })
		w.run()
		w.wait(time.Minute)
		w.want("start vm@100.service")

		fails()
		if err := w.k.Stop(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		w.did()
		w.set(func() { clear(w.trouble) })
		w.wait(time.Hour)
		w.want()

		// What cannot be noted is done all the same.
		w.set(func() { w.trouble["write"] = errors.New("its disk is read-only") })
		if err := w.k.StartAgain(t.Context(), 100); err != nil && !w.unit(100).running {
			t.Error(err)
		}
	})
}

// The daemon may have been killed while it stopped a guest, which systemd then goes on with.
func TestStartAgain_WaitsForTheEndOfAStop(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		g := moved(100, n1, 6)
		g.Boot.On = false
		w.has(g, rules.RoleOwner, term(6))
		u := w.units[unitOf(100)]
		w.set(func() { u.running, u.passing, w.trouble["start"] = true, true, errors.New("it is being stopped") })
		w.run()
		if err := w.k.StartAgain(t.Context(), 100); err == nil || !strings.Contains(err.Error(), "it is being stopped; it is tried again") {
			t.Errorf("got %v", err)
		}
		w.did()
		w.set(func() { u.running, u.passing = false, false; clear(w.trouble) })
		w.wait(time.Minute)
		w.want("start vm@100.service")
	})
}

func TestPause_HoldsTheKeeperOff(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 0, 0), rules.RoleOwner, term(5))
		w.units[unitOf(100)].takes = 24 * time.Hour
		w.run()
		w.wait(time.Minute)
		resume, err := w.k.Pause(t.Context(), 100) // ends the start that hangs
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.k.Pause(t.Context(), 100); err == nil {
			t.Error("it was paused twice")
		}
		for what, err := range map[string]error{"start": w.k.Start(t.Context(), 100), "may start": w.k.MayStart(t.Context(), 100), "stop": w.k.Stop(t.Context(), 100)} {
			if err == nil || !strings.Contains(err.Error(), "moving") {
				t.Errorf("%s while it moves: %v", what, err)
			}
		}
		w.set(func() { *w.units[unitOf(100)] = unit{} })
		g := moved(100, n2, 6)
		g.Volumes, g.Unit = w.View().Guests[100].Volumes, unitOf(100)
		w.agree(func(s *ledger.State) { s.Guests[100] = g })
		w.wait(time.Minute)
		w.want()
		resume()
		w.wait(time.Second)
		w.want("retire 100")
	})
}

// A read of before a guest moved says nothing of it afterwards, however young it is: the
// node that gave it away may not know yet that it did.
func TestPause_WhatWasConfirmedBeforeDoesNotCount(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(onboot(100, 0, 0), rules.RoleOwner, term(5))
		w.run()
		w.wait(time.Second)
		w.want("start vm@100.service")
		resume, err := w.k.Pause(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		w.set(func() {
			w.units[unitOf(100)].running = false
			g := w.view.Guests[100]
			g.Owner, g.Term = n2, term(6)
			next := *w.view
			next.Index++
			next.Guests = map[guest.ID]guest.Guest{100: g}
			w.agreed = &next // not applied here yet
		})
		resume()
		if err := w.k.MayStart(t.Context(), 100); err == nil {
			t.Error("it may start by what was confirmed before it moved")
		}
		if err := w.k.Start(t.Context(), 100); err == nil {
			t.Error("it was started by what was confirmed before it moved")
		}
		w.wait(time.Minute)
		w.want("retire 100")
	})
}

func TestUnits_EnabledAndUnknownAreTold(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		t.Helper()
		w.has(guest.Guest{ID: 100, Owner: n1, Term: term(5)}, rules.RoleOwner, term(5))
		w.units[unitOf(100)].enabled = true
		w.run()
		if told := fmt.Sprint(w.k.Troubles()); !strings.Contains(told, "systemctl disable vm@100.service") {
			t.Errorf("told: %s", told)
		}
		w.set(func() { w.trouble["state"] = errors.New("no bus") })
		w.wait(time.Minute)
		if c := w.k.State(100); c.State != keeper.StateUnknown {
			t.Errorf("it shows %+v", c)
		}
	})
}
