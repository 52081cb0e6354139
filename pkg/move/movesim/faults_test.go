package movesim_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/move/recovery"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/fault"
)

// suffer lets things go wrong, and operators work, for as long as that.
func (w *world) suffer(length time.Duration) {
	gap := 2*time.Second + w.upTo(10*time.Second, "gap")
	kinds := []func(){
		w.migrates, w.migrates, w.migrates, w.migrates, w.migratesTwice, w.recovers, w.recovers, w.recoversTwice, w.stops, w.adds,
		w.kills, w.kills, w.cuts, w.blackout, w.trap, w.trap, w.trap, w.trap, w.isolates, w.parts, w.loses, w.doubts, w.doubts, w.refuses, w.lag,
	}
	w.wg.Go(w.shuffles)
	looks := 0
	for time.Since(w.begun) < length && len(w.judge.trouble()) == 0 {
		if !pause(w.life, w.upTo(2*gap, "next")) {
			return
		}
		kinds[w.draw("kind").IntN(len(kinds))]()
		if looks++; looks%8 == 0 {
			w.judge.keeps()
		}
	}
}

func (w *world) any(what string) *machine { return w.machines[w.draw(what).IntN(len(w.machines))] }

// other is a machine that is not this one.
func (w *world) other(m *machine, what string) *machine {
	return w.machines[(m.n-1+1+w.draw(what).IntN(len(w.machines)-1))%len(w.machines)]
}

// guest is one that runs.
func (w *world) guest(what string) guest.Guest {
	list := slices.DeleteFunc(w.agreed.view().GuestList(), func(g guest.Guest) bool { return g.Unit == "" })
	return list[w.draw(what).IntN(len(list))]
}

// shuffles migrates the idle guest all the time.
func (w *world) shuffles() {
	for pause(w.life, w.upTo(40*time.Second, "shuffles")) && !w.isCalm() {
		g := w.agreed.view().Guests[idle]
		w.moves(g, w.other(w.machine(g.Owner), "shuffles to"))
	}
}

// within runs what an operator asks of a daemon, for a minute at most.
func (w *world) within(p *process, do func(ctx context.Context)) {
	w.wg.Go(func() {
		ctx, cancel := context.WithTimeout(w.life, time.Minute)
		defer cancel()
		ctx, end := p.meet(ctx)
		defer end()
		do(ctx)
	})
}

func (w *world) moves(g guest.Guest, to *machine) {
	p := w.machine(g.Owner).running()
	if p == nil {
		return
	}
	_, err := p.mover.Start(migrate.Request{Guest: g.ID, To: to.id, By: "operator"})
	w.say("operator: migrate guest %s from %s to %s: %v", g.ID, p.m.name, to.name, err)
	if err == nil && w.chance(0.2, "cancels") {
		w.within(p, func(ctx context.Context) {
			pause(ctx, w.upTo(15*time.Second, "cancel"))
			w.say("operator: cancel the migration of guest %s: %v", g.ID, p.mover.Cancel(ctx, g.ID))
		})
	}
}

func (w *world) migrates() {
	g := w.guest("migrates")
	w.moves(g, w.other(w.machine(g.Owner), "to"))
}

func (w *world) migratesTwice() {
	g := w.guest("migrates")
	to := w.other(w.machine(g.Owner), "to")
	w.moves(g, to)
	w.moves(g, w.other(to, "to"))
}

func (w *world) recovers() { w.recover(w.guest("recovers"), 1) }

func (w *world) recoversTwice() { w.recover(w.guest("recovers"), 2) }

// recover has operators turn the owner of a guest off, and recover its guest; the
// owner stays off until nothing that they asked for is under way any more.
func (w *world) recover(g guest.Guest, operators int) {
	owner := w.machine(g.Owner)
	w.mu.Lock()
	owner.fenced++
	owner.off()
	w.mu.Unlock()
	w.say("operator: %s is turned off, to recover guest %s", owner.name, g.ID)
	w.wg.Go(func() {
		pause(w.life, 2*time.Second+w.upTo(5*time.Second, "fenced"))
		asked := make(chan struct{}, operators)
		x := w.other(owner, "recovers on")
		for range operators {
			p := x.running()
			x = w.machines[x.n%len(w.machines)]
			if x == owner {
				x = w.machines[x.n%len(w.machines)]
			}
			if p == nil {
				asked <- struct{}{}
				continue
			}
			w.within(p, func(ctx context.Context) {
				defer func() { asked <- struct{}{} }()
				w.say("operator on %s: recover guest %s: %v", p.m.name, g.ID, p.recover(ctx, g))
			})
		}
		for range operators {
			<-asked
		}
		for again := true; again && w.life.Err() == nil; again = w.agreed.fly(0) > 0 {
			pause(w.life, time.Second)
		}
		w.say("operator: %s may be turned on again", owner.name)
		w.mu.Lock()
		defer w.mu.Unlock()
		owner.fenced--
	})
}

// recover plans as the daemon does, and asks for the owner change.
func (p *process) recover(ctx context.Context, shown guest.Guest) error {
	w := p.m.w
	view := council{p}.View()
	g := view.Guests[shown.ID]
	if g.Owner != shown.Owner || g.Term != shown.Term {
		return fmt.Errorf("it is on %s by now", view.NameOf(g.Owner))
	}
	f := recovery.Facts{
		Self: p.m.id, Guest: g, Members: view.Members, Alive: map[guest.NodeID]bool{}, Quorate: w.quorate(p.m),
		Words: map[guest.NodeID]recovery.Word{},
	}
	for _, m := range w.machines {
		w.mu.Lock()
		f.Alive[m.id] = w.alive(p.m, m)
		w.mu.Unlock()
		if m.id == g.Owner {
			continue
		}
		var word recovery.Word
		var err error
		q := moveQuestion{Guest: g.ID, Index: view.Index}
		if m == p.m {
			word, err = p.points(ctx, m.id, q)
		} else {
			err = link{p}.Call(ctx, m.id, pathPoints, q, &word)
		}
		if err != nil {
			word = recovery.Word{Silent: err.Error()}
		}
		f.Words[m.id] = word
	}
	plan := recovery.Make(f)
	if plan.Refusal != nil {
		return plan.Refusal
	}
	return council{p}.Propose(ctx, ledger.Command{ID: w.agreed.newID(), By: "operator", Op: plan.Change()})
}

// stops has a guest stopped for a while.
func (w *world) stops() {
	g := w.guest("stops")
	p := w.machine(g.Owner).running()
	if p == nil {
		return
	}
	w.judge.halts(g.ID)
	w.within(p, func(ctx context.Context) {
		w.say("operator: stop guest %s: %v", g.ID, p.keeper.Stop(ctx, g.ID))
	})
	w.wg.Go(func() {
		pause(w.life, w.upTo(40*time.Second, "stopped for"))
		w.starts(g.ID)
	})
}

// starts asks for a start where the guest is.
func (w *world) starts(id guest.ID) {
	p := w.machine(w.agreed.view().Guests[id].Owner).running()
	if p == nil {
		return
	}
	w.within(p, func(ctx context.Context) {
		err := p.keeper.Start(ctx, id)
		w.say("operator: start guest %s on %s: %v", id, p.m.name, err)
		if err == nil {
			w.judge.satisfied(id)
		}
	})
}

// adds gives the virtual machine one more disk.
func (w *world) adds() {
	g := w.agreed.view().Guests[100]
	p := w.machine(g.Owner).running()
	if p == nil || len(g.Volumes) >= 4 {
		return
	}
	w.mu.Lock()
	w.disks++
	v := guest.Volume{Storage: "local-zfs", Name: fmt.Sprintf("vm-100-disk-%d", w.disks)}
	w.mu.Unlock()
	p.m.create(v)
	old := council{p}.View().Guests[100]
	next := old
	next.Volumes = append(slices.Clone(old.Volumes), v)
	w.within(p, func(ctx context.Context) {
		err := council{p}.Propose(ctx, ledger.Command{ID: w.agreed.newID(), By: "operator", Op: ledger.SetGuest{Guest: next, Digest: ledger.Digest(old)}})
		w.say("operator: add %s on %s: %v", v, p.m.name, err)
	})
}

func (w *world) kills() { w.any("kills").ends(killed, 0) }

func (w *world) cuts() { w.any("cuts").ends(powerCut, 0) }

func (w *world) blackout() {
	for _, m := range w.machines {
		m.ends(powerCut, 0)
	}
}

// trap ends a machine at one of its next moments.
func (w *world) trap() {
	m, how := w.any("trap"), []end{killed, powerCut}[w.draw("trap how").IntN(2)]
	left := 1 + w.draw("trap when").IntN(150)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reap = func(at *machine, _ string) (end, []*machine) {
		if at != m {
			return "", nil
		}
		if left--; left > 0 {
			return "", nil
		}
		w.reap = nil
		return how, []*machine{m}
	}
}

func (w *world) isolates() {
	m, d := w.any("isolates"), w.upTo(time.Minute, "isolated for")
	w.say("%s is cut off for %s", m.name, d)
	for _, other := range w.machines {
		if other != m {
			w.part(m.n, other.n, d)
		}
	}
}

func (w *world) parts() {
	m := w.any("parts")
	other, d := w.other(m, "parts from"), w.upTo(time.Minute, "parted for")
	w.say("%s and %s do not hear each other for %s", m.name, other.name, d)
	w.part(m.n, other.n, d)
}

func (w *world) loses() {
	w.say("messages get lost")
	w.mu.Lock()
	w.loss = 0.25
	w.mu.Unlock()
	w.wg.Go(func() {
		pause(w.life, w.upTo(20*time.Second, "loses"))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.loss = 0
	})
}

func (w *world) doubts() {
	w.say("answers of the ledger get lost")
	w.mu.Lock()
	w.doubt = 0.6
	w.mu.Unlock()
	w.wg.Go(func() {
		pause(w.life, 10*time.Second+w.upTo(30*time.Second, "doubts"))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.doubt = 0
	})
}

// lag lets a machine hear late of what others agree on.
func (w *world) lag() {
	m, d := w.any("lags"), w.upTo(time.Minute, "lags for")
	w.say("%s lags for %s", m.name, d)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lags[m.n] = time.Now().Add(d)
}

// refuses has an operation of a pool fail once, before or after its effect.
func (w *world) refuses() {
	m := w.any("refuses")
	ops := []string{"SetProps", "Inherit", "Rename", "Clone", "Promote", "Mount", "Unmount", "Change", "Send", "List", "AbortReceive"}
	op := ops[w.draw("refused").IntN(len(ops))]
	f := zfstest.Fault{Op: op, Times: 1, After: w.chance(0.5, "refused after"), Err: fault.Fail(op, "tank/g", "cannot do it: dataset is busy")}
	if w.chance(0.3, "stream cut") {
		f = zfstest.Fault{Op: "Receive", Times: 1, Cut: 1 + w.draw("cut after").Int64N(20000)}
	}
	w.say("%s: %s will fail, after %v, cut %d", m.name, f.Op, f.After, f.Cut)
	m.pool.Inject(f)
}

// off turns a machine off, whether its daemon lives or not. The caller holds the
// world's lock, and has it fenced.
func (m *machine) off() {
	if m.daemon != nil && !m.daemon.dead {
		m.dies(powerCut, time.Second)
		return
	}
	m.boot++
	m.powerOff()
	m.units.Reboot()
	m.pool.PowerCut()
}
