package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
)

// errOther ends what is being done for a guest because somebody wants something else.
var errOther = errors.New("it was ended by another command")

// take waits for a guest's turn; what is being done for it is ended, if end is set.
func (k *Keeper) take(ctx context.Context, id guest.ID, end error) (e *entry, release func(), err error) {
	k.mu.Lock()
	e = k.entry(id)
	if end != nil {
		e.end(end)
	}
	k.mu.Unlock()
	select {
	case e.turn <- struct{}{}:
		return e, func() { <-e.turn }, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("guest %s: something else is being done with it: %w", id, context.Cause(ctx))
	}
}

// Start starts a guest of this node, after a majority has confirmed that it is, and
// returns when its unit has started. A *Refusal says why it does not.
func (k *Keeper) Start(ctx context.Context, id guest.ID) error {
	if err := k.mine(id, "started"); err != nil {
		return err
	}
	e, release, err := k.take(ctx, id, nil)
	if err != nil {
		return err
	}
	defer release()
	if err := k.unpaused(e, "started"); err != nil {
		return err
	}
	// The answer is that of this moment, also where a round asked a moment ago.
	if err := k.assure(ctx, id); err != nil {
		return &Refusal{Text: fmt.Sprintf("guest %s is not started", id), Err: err}
	}
	if err := k.mine(id, "started"); err != nil {
		return err
	}
	ctx, done := k.begin(ctx, e)
	defer done()
	if err := k.pursue(ctx, e, true); err != nil {
		return &Refusal{Text: "not started", Err: err}
	}
	return nil
}

// StartAgain starts a guest that was stopped for a move which came to nothing. Unlike with
// Start it is Tandem that wants it: where it fails it is tried again, later and later, as
// with a guest that has come to this node, until it runs or an operator stops it.
func (k *Keeper) StartAgain(ctx context.Context, id guest.ID) error {
	noted := k.want(ctx, id)
	err := k.Start(ctx, id)
	switch {
	case err == nil:
		return nil
	case noted != nil:
		return fmt.Errorf("%w; it is not tried again: %w", err, noted)
	default:
		return fmt.Errorf("%w; it is tried again until it runs, or is stopped by `tandem guest stop`", err)
	}
}

// want notes that a guest is to be started.
func (k *Keeper) want(ctx context.Context, id guest.ID) error {
	e, release, err := k.take(ctx, id, nil)
	if err != nil {
		return err
	}
	defer release()
	k.readNote(e)
	n := e.note
	n.Start = true
	return k.keep(e, n)
}

// Due says whether a guest is to be started here by itself and has not been yet: its
// machine has booted, or the guest has come to this node.
func (k *Keeper) Due(ctx context.Context, id guest.ID) (bool, error) {
	e, release, err := k.take(ctx, id, nil)
	if err != nil {
		return false, err
	}
	defer release()
	k.readNote(e)
	k.mu.Lock()
	defer k.mu.Unlock()
	t, in := k.row.tries[id]
	return e.note.Start || in && !t.Gone, nil
}

func (k *Keeper) unpaused(e *entry, what string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.paused == "" {
		return nil
	}
	return &Refusal{Text: fmt.Sprintf("guest %s is not %s: %s", e.id, what, e.paused)}
}

// mine refuses for guests that this node does not own, and for those without a unit.
func (k *Keeper) mine(id guest.ID, what string) error {
	view := k.o.Ledger.View()
	g, known := view.Guests[id]
	switch {
	case !known:
		return &Refusal{Text: fmt.Sprintf("guest %s does not exist", id), Advice: "`tandem guest list` shows all"}
	case g.Owner != k.o.Self:
		return &Refusal{
			Text:   fmt.Sprintf("guest %s is %s's at term %s, it is not %s here", id, view.NameOf(g.Owner), g.Term, what),
			Advice: "`tandem guest migrate` brings it here; if its node is lost, `tandem guest recover`",
		}
	case g.Unit == "":
		return &Refusal{
			Text:   fmt.Sprintf("guest %s has no systemd unit, it is not %s by Tandem", id, what),
			Advice: fmt.Sprintf("name the service that runs it, like `tandem guest set %s --unit tandem-%s@%s.service`", id, g.Type, id),
		}
	default:
		return nil
	}
}

// Stop stops a guest's unit on this node, and waits until that is done. It stays
// stopped until it is started, or moves, or the machine boots.
func (k *Keeper) Stop(ctx context.Context, id guest.ID) error {
	if err := k.mine(id, "stopped"); err != nil {
		return err
	}
	e, release, err := k.take(ctx, id, errOther)
	if err != nil {
		return err
	}
	defer release()
	if err := k.unpaused(e, "stopped"); err != nil {
		return err
	}
	defer k.Kick(id) // show it as it is then
	g := k.o.Ledger.View().Guests[id]
	k.readNote(e)
	n := e.note
	n.Start = false
	if err := k.keep(e, n); err != nil {
		return err
	}
	k.tried(id, found)
	k.log.Info("stopping a guest, as an operator wants", zap.Stringer("guest", id), zap.String("unit", g.Unit))
	if err := k.o.Units.Stop(ctx, g.Unit); err != nil {
		return fmt.Errorf("guest %s: stop %s: %w", id, g.Unit, err)
	}
	return nil
}

// MayStart says whether the guest may be started here now; the *Refusal says why
// not. It asks a majority unless that was done just now, and looks at the volumes.
// systemd asks it before each start of the guest's unit.
func (k *Keeper) MayStart(ctx context.Context, id guest.ID) error {
	if err := k.assure(ctx, id); err != nil {
		return &Refusal{Text: fmt.Sprintf("guest %s may not be started now", id), Err: err}
	}
	view, g, known, sure := k.newest(id)
	if !known {
		return &Refusal{Text: fmt.Sprintf("guest %s does not exist", id)}
	}
	k.mu.Lock()
	paused := k.entry(id).paused
	k.mu.Unlock()
	f := rules.Facts{Self: k.o.Self, Guest: g, Owner: view.NameOf(g.Owner), Confirmed: sure, Paused: paused, Disks: k.look(ctx, view, g)}
	if why := rules.MayStart(f); why != "" {
		return &Refusal{
			Text:   fmt.Sprintf("guest %s may not be started here: %s", id, why),
			Advice: fmt.Sprintf("start guests with `tandem guest start %s`, which tells more", id),
		}
	}
	return nil
}

// Pause keeps the keeper off a guest while it moves, until resume is called: it ends
// and waits for what is being done. What may not run is stopped all the same. Meanwhile
// MayStart refuses: resume comes before a start.
func (k *Keeper) Pause(ctx context.Context, id guest.ID) (resume func(), err error) {
	k.mu.Lock()
	e := k.entry(id)
	if e.paused != "" {
		k.mu.Unlock()
		return nil, &Refusal{Text: fmt.Sprintf("guest %s: %s", id, e.paused)}
	}
	e.paused = "it is moving to another node"
	e.end(errOther)
	k.mu.Unlock()
	resume = sync.OnceFunc(func() {
		k.mu.Lock()
		e.paused = ""
		e.given = k.o.Boottime()
		k.mu.Unlock()
		k.Kick(id)
	})
	_, release, err := k.take(ctx, id, nil)
	if err != nil {
		resume()
		return nil, err
	}
	release()
	return resume, nil
}
