package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
)

// entry is what a keeper knows of a guest.
type entry struct {
	id guest.ID
	// turn holds a value while somebody works on the guest.
	turn  chan struct{}
	poked chan struct{}

	// The keeper's lock guards these.
	busy   bool // it has a worker
	due    bool // its turn in the row has come
	seen   *guest.Guest
	paused string
	// given is when the guest was last given back by who moved it, by CLOCK_BOOTTIME.
	given time.Duration
	cond  Condition
	// shown is closed when cond changes, and then another.
	shown chan struct{}
	// fails is how often in a row its step has failed; notBefore is when it is tried again, by CLOCK_BOOTTIME.
	fails     int
	notBefore time.Duration
	// cancel ends what is being done now; nil: nothing is.
	cancel context.CancelCauseFunc
	// disks are its volumes as they were read last; nil: they have to be read.
	disks *looked

	// These belong to who has the turn.
	note    rules.Note
	noted   bool   // note is as on disk
	guarded string // the unit that asks MayStart
	// config is what its configuration file holds, "" where it is gone; nil: not known.
	config *string
	// ready is the guest whose volumes were made usable by the steps that are being taken
	// now; nil: they were not.
	ready *guest.Guest
}

// looked is what was read from the volumes of a guest, and for which guest.
type looked struct {
	guest guest.Guest
	disks rules.Disks
	at    time.Duration
}

// end ends what is being done for the guest; the caller holds the keeper's lock.
func (e *entry) end(why error) {
	e.disks = nil
	if e.cancel != nil {
		e.cancel(why)
	}
}

// work does all that there is to do for a guest.
func (k *Keeper) work(ctx context.Context, e *entry) {
	for ctx.Err() == nil {
		wait := k.round(ctx, e)
		if wait <= 0 && k.rests(e) {
			return
		}
		again := time.NewTimer(max(wait, 0))
		select {
		case <-e.poked:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
	}
}

// rests ends a worker, unless its guest has been poked meanwhile.
func (k *Keeper) rests(e *entry) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(e.poked) > 0 {
		return false
	}
	e.busy = false
	return true
}

// round takes the turn and goes on until nothing is left to do, or something is in
// the way; then it says after what time to try again.
func (k *Keeper) round(ctx context.Context, e *entry) time.Duration {
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	defer func() { <-e.turn }()
	ctx, done := k.begin(ctx, e)
	defer done()
	err := k.pursue(ctx, e, false)
	if err == nil || ctx.Err() != nil {
		return 0
	}
	var f *failure
	if !errors.As(err, &f) {
		return 0
	}
	return f.again
}

// begin has what is being done for a guest end when somebody calls its cancel.
func (k *Keeper) begin(ctx context.Context, e *entry) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	e.cancel = cancel
	return ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		e.cancel = nil
		cancel(nil)
	}
}

// failure is a step that did not succeed, or that has to wait.
type failure struct {
	do    rules.Do
	again time.Duration
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// mostSteps is how many steps a guest takes in a row: from a replica whose unit runs
// to a guest that runs are six.
const mostSteps = 12

// facts are what is known of a guest now.
type facts struct {
	rules.Facts
	view *ledger.State
	unit UnitState
}

// pursue does step after step. wanted says that an operator wants the guest started:
// then what failed before does not matter, and it is an error when it does not run in the end.
func (k *Keeper) pursue(ctx context.Context, e *entry, wanted bool) error { //nolint:revive // flag-parameter: it is a fact
	fresh := wanted
	e.ready = nil
	for range mostSteps {
		f, known, err := k.gather(ctx, e, fresh)
		if !known || err != nil {
			return err
		}
		f.Due = f.Due || wanted
		if f.Unit.Runs() {
			k.tried(e.id, found)
		}
		step := rules.Decide(f.Facts)
		if step.Do == rules.Nothing {
			if wanted && !f.Unit.Running {
				return fmt.Errorf("guest %s: %s", e.id, step.Why)
			}
			return k.settle(ctx, e, f, step)
		}
		k.observe(e, f, step)
		k.guardEarly(ctx, e, f, step)
		if step.Do == rules.Tell {
			return k.stuck(e, f, step)
		}
		if wait := k.early(e); wait > 0 && !wanted {
			return &failure{step.Do, wait, errors.New("it is tried again later")}
		}
		if err := k.act(ctx, e, f, step); err != nil {
			return k.failed(ctx, e, f, step, err)
		}
		fresh = true
	}
	err := fmt.Errorf("guest %s: it takes more steps than there can be; see the log", e.id)
	return &failure{rules.Tell, lookEvery, err}
}

// stuck tells what is in the way of a guest, where nothing can be done about it now.
func (k *Keeper) stuck(e *entry, f facts, step rules.Step) error {
	if f.Due {
		k.tried(e.id, failed)
	}
	err := fmt.Errorf("guest %s: %s", e.id, step.Why)
	k.trouble(e, err)
	return &failure{step.Do, confirmAgain, err}
}

// early is how long nothing is to be tried because it has failed just now.
func (k *Keeper) early(e *entry) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return e.notBefore - k.o.Boottime()
}

// failed takes note of a step that failed; it is tried again later and later.
func (k *Keeper) failed(ctx context.Context, e *entry, f facts, step rules.Step, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if step.Do == rules.Confirm {
		// The row does not go on: none of those after it would fare better.
		k.trouble(e, err)
		return &failure{step.Do, confirmAgain, err}
	}
	if f.Due {
		k.tried(e.id, failed)
	}
	k.mu.Lock()
	e.fails++
	wait := rules.Backoff(step.Do, e.fails)
	e.notBefore = k.o.Boottime() + wait
	e.disks = nil
	k.mu.Unlock()
	k.trouble(e, err)
	return &failure{step.Do, wait, err}
}

// gather finds out how things are. The volumes are read where something is to be
// done, and else seldom: thousands of guests are looked at all the time.
func (k *Keeper) gather(ctx context.Context, e *entry, fresh bool) (facts, bool, error) { //nolint:revive // flag-parameter: it is a fact
	view, g, known, sure := k.newest(e.id)
	if !known {
		return facts{}, false, nil
	}
	k.readNote(e)
	k.mu.Lock()
	paused, due, last := e.paused, e.due, e.disks
	k.mu.Unlock()
	f := facts{view: view, Facts: rules.Facts{
		Self: k.o.Self, Guest: g, Owner: view.NameOf(g.Owner), Confirmed: sure, Paused: paused, Note: e.note, Due: due && g.Boot.On,
	}}
	f.unit, f.Unit = k.unitOf(ctx, g)
	if ctx.Err() != nil {
		return f, true, context.Cause(ctx)
	}
	if !fresh && !due && !e.note.Start && last != nil && same(last.guest, g) && k.o.Boottime()-last.at < trustDisks {
		f.Disks = last.disks
		return f, true, nil
	}
	f.Disks = k.look(ctx, view, g)
	if ctx.Err() != nil {
		return f, true, context.Cause(ctx)
	}
	if f.Disks.Unknown == "" {
		k.mu.Lock()
		e.disks = &looked{g, f.Disks, k.o.Boottime()}
		k.mu.Unlock()
	}
	return f, true, nil
}

func (k *Keeper) look(ctx context.Context, view *ledger.State, g guest.Guest) rules.Disks {
	volumes, err := k.o.Disks.Look(ctx, view.Cluster, g)
	if err != nil {
		return rules.Disks{Unknown: err.Error()}
	}
	return rules.Disks{Volumes: volumes}
}

func (k *Keeper) unitOf(ctx context.Context, g guest.Guest) (UnitState, rules.Unit) {
	if g.Unit == "" {
		return UnitState{}, rules.Unit{}
	}
	s, err := k.o.Units.State(ctx, g.Unit)
	if err != nil {
		return s, rules.Unit{Named: true, Unknown: err.Error()}
	}
	return s, rules.Unit{Named: true, Running: s.Running, Passing: s.Passing}
}
