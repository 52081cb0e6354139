package keeper

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
)

// The states of a guest on a node.
const (
	StateRunning = "running"
	StateStopped = "stopped"
	StateFailed  = "failed"
	// StateUnknown: systemd does not tell.
	StateUnknown = "unknown"
)

// Condition is how a guest fares on this node.
type Condition struct {
	Unit string
	// Own says that this node owns it, at Term. Usable says that its volumes here are
	// the owner's of that term, and writable.
	Own    bool
	Term   guest.Term
	Usable bool
	// State is empty for a guest without a unit.
	State string
	// Since is when it entered the state; zero: not since the machine has booted.
	Since time.Time
	// Trouble is what is not as it should be, or empty: a sentence; Advice what to do about it.
	Trouble, Advice string
	// Enabled says that systemd starts the unit by itself at boot, which it should not.
	Enabled bool
}

// Conditions are those of all guests that this node owns, or that run here, or with
// which something is not as it should be.
func (k *Keeper) Conditions() map[guest.ID]Condition {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[guest.ID]Condition{}
	for id, e := range k.entries {
		if c := e.cond; c.Own || c.State == StateRunning || c.Trouble != "" || c.Enabled {
			out[id] = c
		}
	}
	return out
}

// State is how one guest fares here; zero where nothing is known of it.
func (k *Keeper) State(id guest.ID) Condition {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[id]; e != nil {
		return e.cond
	}
	return Condition{}
}

// Look is State, but for a guest of this node's own the state of its unit is as systemd
// tells it now.
func (k *Keeper) Look(ctx context.Context, id guest.ID) Condition {
	g, known := k.o.Ledger.View().Guests[id]
	if !known || g.Owner != k.o.Self {
		return k.State(id)
	}
	unit, read := k.unitOf(ctx, g)
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entry(id)
	seen := e.cond.Own && e.cond.Unit == g.Unit
	c := Condition{Unit: g.Unit, Own: true, Term: g.Term} // Its worker has yet to look.
	if seen {
		c = e.cond
	}
	c.unitIs(unit, read)
	if seen {
		k.show(e, c)
	}
	return c
}

// unitIs takes in how the unit fares.
func (c *Condition) unitIs(unit UnitState, read rules.Unit) {
	c.Since, c.Enabled = unit.Since, unit.Enabled
	switch {
	case !read.Named:
		c.State = ""
	case read.Unknown != "":
		c.State, c.Since = StateUnknown, time.Time{}
	case unit.Running:
		c.State = StateRunning
	case unit.Failed:
		c.State = StateFailed
	default:
		c.State = StateStopped
	}
}

// Await returns how one guest fares here once enough says so, or ctx has ended.
func (k *Keeper) Await(ctx context.Context, id guest.ID, enough func(Condition) bool) Condition {
	for {
		k.mu.Lock()
		e := k.entry(id)
		c, news := e.cond, e.shown
		k.mu.Unlock()
		if enough(c) {
			return c
		}
		select {
		case <-news:
		case <-ctx.Done():
			return c
		}
	}
}

// Running are the guests that run here, and since when.
func (k *Keeper) Running() map[guest.ID]time.Time {
	out := map[guest.ID]time.Time{}
	for id, c := range k.Conditions() {
		if c.State == StateRunning {
			out[id] = c.Since
		}
	}
	return out
}

// Troubles are sentences on the guests with which something is not as it should be.
func (k *Keeper) Troubles() []string {
	var out []string
	all := k.Conditions()
	for _, id := range slices.Sorted(maps.Keys(all)) {
		c := all[id]
		if c.Trouble != "" {
			text := c.Trouble
			if c.Advice != "" {
				text += " (" + c.Advice + ")"
			}
			out = append(out, text)
		}
		if c.Enabled {
			out = append(out, fmt.Sprintf("guest %s: its unit %s is enabled, so systemd starts it at boot before anybody knows whose it is: systemctl disable %s", id, c.Unit, c.Unit))
		}
	}
	return out
}

// observe shows how a guest is before its next step.
func (k *Keeper) observe(e *entry, f facts, step rules.Step) {
	c := Condition{Unit: f.Guest.Unit, Own: f.Guest.Owner == k.o.Self, Term: f.Guest.Term, Usable: f.Usable()}
	c.unitIs(f.unit, f.Unit)
	k.mu.Lock()
	defer k.mu.Unlock()
	if step.Do != rules.Nothing {
		c.Trouble, c.Advice = e.cond.Trouble, e.cond.Advice // until the step has done something about it
	}
	k.show(e, c)
}

// trouble shows what is in the way of a guest, and logs it once.
func (k *Keeper) trouble(e *entry, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := e.cond
	c.Trouble, c.Advice = err.Error(), advice.Of(err)
	k.show(e, c)
}

// show changes what is told of a guest; the caller holds the lock.
func (k *Keeper) show(e *entry, c Condition) {
	was := e.cond
	if c == was {
		return
	}
	e.cond = c
	close(e.shown)
	e.shown = make(chan struct{})
	switch {
	case c.Trouble != "" && c.Trouble != was.Trouble:
		k.log.Error("a guest is not as it should be", zap.Stringer("guest", e.id), zap.String("error", c.Trouble), zap.String("hint", c.Advice))
	case c.Trouble == "" && was.Trouble != "":
		k.log.Info("a guest is as it should be again", zap.Stringer("guest", e.id))
	}
	if c.Enabled && !was.Enabled {
		k.log.Warn("a guest's unit is enabled: systemd starts it at boot before anybody knows whose it is",
			zap.Stringer("guest", e.id), zap.String("unit", c.Unit), zap.String("hint", "systemctl disable "+c.Unit))
	}
	tell(k.changed)
}
