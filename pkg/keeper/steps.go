package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
)

func noteName(id guest.ID) string { return "keeper-" + id.String() }

func (k *Keeper) readNote(e *entry) {
	if e.noted {
		return
	}
	err := k.o.Store.Read(noteName(e.id), &e.note)
	if err != nil {
		e.note = rules.Note{}
	}
	e.noted = err == nil || errors.Is(err, fs.ErrNotExist) // else it is read again: what it says is not overwritten
}

// keep writes a note down, unless it is there already.
func (k *Keeper) keep(e *entry, n rules.Note) error {
	if e.noted && n == e.note {
		return nil
	}
	if !e.noted {
		return fmt.Errorf("guest %s: what was noted of it cannot be read, and is not overwritten", e.id)
	}
	if err := k.o.Store.Write(noteName(e.id), n); err != nil {
		return fmt.Errorf("guest %s: take note of it: %w", e.id, err)
	}
	e.note = n
	return nil
}

// settle is for a guest about which nothing is to be done: its configuration file
// and its unit's drop-in are put in order, by the way.
func (k *Keeper) settle(ctx context.Context, e *entry, f facts, step rules.Step) error {
	if f.Paused == "" {
		if err := errors.Join(k.configure(e, f), k.guard(ctx, e, f)); err != nil && ctx.Err() == nil {
			k.observe(e, f, rules.Step{Do: rules.Tell})
			k.trouble(e, err)
			return &failure{rules.Tell, lookEvery, err}
		}
	}
	k.observe(e, f, step)
	k.mu.Lock()
	defer k.mu.Unlock()
	e.fails, e.notBefore = 0, 0
	return nil
}

// configure has the guest's configuration file be as the ledger has it, or be gone
// where the guest is another's.
func (k *Keeper) configure(e *entry, f facts) error {
	want := ""
	if f.Guest.Owner == k.o.Self {
		want = f.Guest.Config
	}
	if e.config != nil && *e.config == want {
		return nil
	}
	if err := k.o.Files.Put(e.id, want); err != nil {
		return fmt.Errorf("guest %s: its configuration file: %w", e.id, err)
	}
	e.config = &want
	return nil
}

// guard has systemd ask this node before it starts the unit.
func (k *Keeper) guard(ctx context.Context, e *entry, f facts) error {
	if e.guarded == f.Guest.Unit {
		return nil
	}
	if e.guarded != "" { // It has another unit now, or none.
		if err := k.replaced(ctx, e, f); err != nil {
			return err
		}
		if err := k.o.Units.Unguard(ctx, e.guarded); err != nil {
			return err
		}
		e.guarded = ""
	}
	if !f.Unit.Named || f.unit.Absent && f.Guest.Owner != k.o.Self {
		return nil
	}
	if err := k.o.Units.Guard(ctx, f.Guest.Unit, e.id); err != nil {
		return fmt.Errorf("guest %s: have systemd ask before it starts %s: %w", e.id, f.Guest.Unit, err)
	}
	e.guarded = f.Guest.Unit
	return nil
}

// guardEarly guards a guest of which it may take long until more is done: there may be no majority, and systemd would start the
// unit for whoever asks. What is in the way of that is told when it is in the way of a start.
func (k *Keeper) guardEarly(ctx context.Context, e *entry, f facts, step rules.Step) {
	if f.Paused != "" || step.Do != rules.Tell && step.Do != rules.Confirm {
		return
	}
	if err := k.guard(ctx, e, f); err != nil {
		k.log.Debug("a guest's unit does not ask yet", zap.Stringer("guest", e.id), zap.Error(err))
	}
}

// replaced refuses as long as the unit runs that the guest had before: it has the guest's
// volumes open, and nobody else would know of it.
func (k *Keeper) replaced(ctx context.Context, e *entry, f facts) error {
	s, err := k.o.Units.State(ctx, e.guarded)
	if err != nil {
		return fmt.Errorf("guest %s: whether its former unit %s still runs cannot be told: %w", e.id, e.guarded, err)
	}
	if !s.Running {
		return nil
	}
	return &Refusal{
		Text:   fmt.Sprintf("guest %s: its unit is %s now, and the former one, %s, still runs", e.id, cmp.Or(f.Guest.Unit, "none"), e.guarded),
		Advice: fmt.Sprintf("`systemctl stop %s` on this node, then `tandem guest start %s`", e.guarded, e.id),
	}
}

// act does a step.
func (k *Keeper) act(ctx context.Context, e *entry, f facts, step rules.Step) error {
	k.log.Debug("a guest's next step", zap.Stringer("guest", e.id), zap.String("step", string(step.Do)), zap.String("reason", step.Why))
	switch step.Do {
	case rules.Nothing, rules.Tell:
		return nil
	case rules.Confirm:
		if err := k.assure(ctx, e.id); err != nil {
			return fmt.Errorf("guest %s: %s, and that cannot be confirmed: %w", e.id, step.Why, err)
		}
		return nil
	case rules.Adopt:
		return k.keep(e, rules.Adopted(f.Facts))
	case rules.TakeOver:
		return k.takeOver(ctx, e, f, step)
	case rules.Start:
		return k.start(ctx, e, f, step)
	case rules.Stop:
		return k.fence(ctx, e, f, step)
	case rules.Retire:
		return k.retire(ctx, e, f, step)
	}
	return fmt.Errorf("guest %s: %q is no step", e.id, step.Do)
}

func (k *Keeper) takeOver(ctx context.Context, e *entry, f facts, step rules.Step) error {
	// What is begun is written down first: after a crash here it is gone on with.
	if err := k.keep(e, rules.Taken(f.Facts)); err != nil {
		return err
	}
	k.log.Info("taking a guest over", zap.Stringer("guest", e.id), zap.Stringer("term", f.Guest.Term), zap.String("reason", step.Why))
	told, err := k.o.Mover.Promote(ctx, f.view.Cluster, f.Guest)
	if err != nil {
		return fmt.Errorf("guest %s: take its volumes over: %w", e.id, err)
	}
	e.ready = &f.Guest
	k.log.Info("a guest is taken over", zap.Stringer("guest", e.id), zap.Stringer("term", f.Guest.Term), zap.Strings("told", told))
	return nil
}

func (k *Keeper) start(ctx context.Context, e *entry, f facts, step rules.Step) error {
	k.tried(e.id, begun)
	if err := errors.Join(k.configure(e, f), k.guard(ctx, e, f)); err != nil {
		return err
	}
	// Mounted, and with device nodes: what carries the right marks need not be that after a boot. Where it was taken over
	// just now it is, and every second counts that the guest does not run.
	if e.ready == nil || !same(*e.ready, f.Guest) {
		if _, err := k.o.Mover.Promote(ctx, f.view.Cluster, f.Guest); err != nil {
			return fmt.Errorf("guest %s: make its volumes ready: %w", e.id, err)
		}
	}
	if _, _, _, sure := k.newest(e.id); !sure {
		return nil // it took longer than the confirmation holds: ask again
	}
	k.log.Info("starting a guest", zap.Stringer("guest", e.id), zap.String("unit", f.Guest.Unit), zap.String("reason", step.Why))
	if err := k.o.Units.Start(ctx, f.Guest.Unit); err != nil {
		return fmt.Errorf("guest %s: start %s: %w", e.id, f.Guest.Unit, err)
	}
	n := e.note
	n.Start = false
	k.tried(e.id, started)
	k.log.Info("a guest is started", zap.Stringer("guest", e.id), zap.String("unit", f.Guest.Unit))
	return k.keep(e, n)
}

// fence stops what may not run here.
func (k *Keeper) fence(ctx context.Context, e *entry, f facts, step rules.Step) error {
	k.log.Error("a guest is fenced: its unit is stopped", zap.Stringer("guest", e.id), zap.String("unit", f.Guest.Unit), zap.String("reason", step.Why))
	if err := k.o.Units.Stop(ctx, f.Guest.Unit); err != nil {
		return fmt.Errorf("guest %s runs here although %s, and cannot be stopped: %w", e.id, step.Why, err)
	}
	k.log.Warn("a guest's unit was stopped, because it may not run here", zap.Stringer("guest", e.id), zap.String("unit", f.Guest.Unit))
	return nil
}

func (k *Keeper) retire(ctx context.Context, e *entry, f facts, step rules.Step) error {
	view, ok := k.confirmed(k.given(e.id))
	if !ok {
		return nil // ask again
	}
	told, err := k.o.Mover.Retire(ctx, view, f.Guest)
	if err != nil {
		return fmt.Errorf("guest %s: %s, but: %w", e.id, step.Why, err)
	}
	k.log.Warn("a guest's volumes here are brought in line with its owner's", zap.Stringer("guest", e.id), zap.String("owner", f.Owner), zap.Strings("told", told))
	return nil
}
