package movesim_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/zfs"
)

// settleWithin is how long a cluster may take until all is well, without help. It is
// the back-offs of several steps, one after the other.
const settleWithin = 20 * time.Minute

// halts notes that an operator has stopped a guest, or has tried to.
func (j *judge) halts(id guest.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.halted[id] = true
}

// satisfied: the guest was started as an operator wants.
func (j *judge) satisfied(id guest.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.halted, id)
}

// due are guests that an operator has stopped: he starts them in the end.
func (j *judge) due() []guest.ID {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Sorted(maps.Keys(j.halted))
}

// heal ends the faults.
func (w *world) heal() {
	w.say("faults end")
	w.mu.Lock()
	w.calm, w.loss, w.doubt, w.reap = true, 0, 0, nil
	w.mu.Unlock()
	for _, m := range w.machines {
		m.pool.Heal()
	}
	w.judge.mu.Lock()
	w.judge.quiet = true
	w.judge.mu.Unlock()
}

// settle waits until all is as it should be.
func (w *world) settle() {
	begun := time.Now()
	why := "it was not looked"
	for time.Since(begun) < settleWithin && len(w.judge.trouble()) == 0 {
		pause(w.life, 5*time.Second)
		for _, id := range w.judge.due() {
			w.starts(id)
		}
		if why = w.unsettled(); why == "" {
			break
		}
	}
	w.settled = time.Since(begun)
	if why != "" && len(w.judge.trouble()) == 0 {
		w.judge.blame("%s after the last fault: %s", settleWithin, why)
	}
	w.judge.keeps()
}

// unsettled is what is not as it should be, or empty.
func (w *world) unsettled() string {
	for _, m := range w.machines {
		p := m.running()
		if p == nil {
			return string(m.name) + " does not serve"
		}
		if a := p.mover.Active(); len(a) > 0 {
			return fmt.Sprintf("%s moves guest %s, in phase %s: %s", m.name, a[0].Guest, a[0].Phase, a[0].Trouble)
		}
	}
	view := w.agreed.view()
	for _, g := range view.GuestList() {
		owner := w.machine(g.Owner)
		w.judge.mu.Lock()
		runs, lines := maps.Clone(w.judge.runs[g.ID]), maps.Clone(w.judge.lines[g.ID])
		w.judge.mu.Unlock()
		if g.Unit != "" && (len(runs) != 1 || !runs[owner.n]) {
			cond := owner.running().keeper.State(g.ID)
			return fmt.Sprintf("guest %s is %s's, and runs on %v: %s %s", g.ID, owner.name, runs, cond.State, cond.Trouble)
		}
		var targets []guest.NodeID
		for _, j := range view.JobsOf(g.ID) {
			targets = append(targets, j.Target)
		}
		for _, v := range g.Volumes {
			for _, m := range w.machines {
				if why := w.misfit(m, v, g.Owner, lines[v]); why != "" {
					return fmt.Sprintf("guest %s: %s on %s %s (jobs to %v)", g.ID, v.Name, m.name, why, targets)
				}
			}
			for _, t := range targets {
				if got, _ := w.machine(t).read("tank/g/" + v.Name); !maps.Equal(got, lines[v]) {
					return fmt.Sprintf("guest %s: the replica of %s on %s has %s, want %s", g.ID, v.Name, w.machine(t).name, got, lines[v])
				}
			}
		}
	}
	return ""
}

// misfit is what a machine's volume has that it should not, or empty.
func (w *world) misfit(m *machine, v guest.Volume, owner guest.NodeID, want content) string {
	list, err := m.pool.List(w.life, "tank/g/"+v.Name)
	if err != nil {
		return err.Error()
	}
	d := list[0]
	switch role := d.Props[zfs.PropRole]; {
	case m.id == owner:
		if got, _ := m.read(d.Name); !maps.Equal(got, want) {
			return fmt.Sprintf("has %s, want %s", got, want)
		}
		if role != zfs.RoleOwner || d.ReadOnly {
			return fmt.Sprintf("has role %q, read-only %v", role, d.ReadOnly)
		}
	case d.Exists() && role != "" && (role != zfs.RoleReplica || !d.ReadOnly || d.Mounted):
		return fmt.Sprintf("has role %q, read-only %v, mounted %v", role, d.ReadOnly, d.Mounted)
	case d.Exists() && role != "" && (d.Props[zfs.PropSealed] != "" || !manifest.Demote(manifest.Kind(d.Type), d.Own()).None()):
		return fmt.Sprintf("has something of an owner's still: sealed %q, %v", d.Props[zfs.PropSealed], d.Own())
	}
	return ""
}
