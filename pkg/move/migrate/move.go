package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
)

// move is one migration that goes on: its goroutine performs the effects, one after
// the other.
type move struct {
	m *Mover

	// What follows belongs to the goroutine, once it runs.
	resume   func()
	unlock   func()
	handover Handover
	// stopBegun is when the stop began, and sentAt when the owner change was sent for the
	// first time; zero after a restart. Only the time between them counts, not the clock.
	stopBegun, sentAt time.Time
	// awaited is since when the target has been asked how the guest fares, in this life.
	awaited time.Time
	// sent: the owner change may have been sent before.
	sent bool

	mu       sync.Mutex
	record   Record
	progress replicate.Progress
	lines    []Line
	// wish is set when somebody wants it back, and not yet in the record.
	wish bool
	// news ends what may be ended, and pauses, on a cancel.
	news context.CancelCauseFunc
}

func (m *Mover) newMove(r Record) *move { return &move{m: m, record: r} }

// maxLines bounds what is kept of what was said.
const maxLines = 500

// Record is how far it is.
func (x *move) Record() Record {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.record
}

func (x *move) view() View {
	x.mu.Lock()
	defer x.mu.Unlock()
	return View{Record: x.record, Progress: x.progress, Lines: slices.Clip(x.lines)}
}

var errCancelled = errors.New("the migration was cancelled")

// cancel makes the wish known to the goroutine.
func (x *move) cancel() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wish = true
	if x.news != nil {
		x.news(errCancelled)
	}
}

func (x *move) say(format string, args ...any) {
	text := x.m.o.Ledger.View().Named(fmt.Sprintf(format, args...))
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.lines) < maxLines {
		x.lines = append(x.lines, Line{Time: x.m.o.Now(), Text: text})
	}
}

// run goes from event to event until the end, or the daemon's.
func (x *move) run(ctx context.Context, first Event) {
	x.sent = x.record.Phase == Sent
	defer x.letGo()
	for ev := first; ; {
		effect, err := x.advance(ev)
		if effect == DoNothing && err != nil {
			x.letGo()
			x.keepWriting(ctx, err)
		}
		if effect == DoNothing || ctx.Err() != nil {
			return
		}
		ev = x.perform(ctx, effect)
		if ctx.Err() != nil {
			return // The record says what follows.
		}
	}
}

// advance takes an event in, and writes down what follows before it is done. The error
// says that this is not on disk.
func (x *move) advance(ev Event) (Effect, error) {
	x.mu.Lock()
	before, wish := x.record, x.wish
	x.wish = false
	x.mu.Unlock()
	now, at := x.m.o.Now(), before
	if wish {
		at, _ = Step(at, Cancel{Retain: x.m.o.NewID()}, now)
	}
	next, effect := Step(at, ev, now)
	err := x.m.o.Files.Write(next)
	if err != nil {
		reason := fmt.Sprintf("the migration cannot be written down: %v", err)
		next, effect = Step(at, Unwritten{Event: ev, Reason: reason, Retain: x.m.o.NewID()}, now)
		err = x.m.o.Files.Write(next) // The less there is to do again after a restart the better.
	}
	if next.Over() && !before.Over() {
		x.m.o.Ended(next)
	}
	x.mu.Lock()
	x.record, x.progress = next, replicate.Progress{}
	x.mu.Unlock()
	x.tell(before, next)
	return effect, err
}

// keepWriting tries until the end is on disk: a restart, days later, would undo what was
// over, and start a guest that an operator has stopped since. A later migration of the guest
// has its own record in that place.
func (x *move) keepWriting(ctx context.Context, err error) {
	r := x.Record()
	log := x.m.o.Logger.With(zap.Stringer("guest", r.Guest), zap.String("migration", r.ID))
	log.Warn("the end of the migration cannot be written down, which is tried again", zap.Error(err))
	for err != nil && x.sleep(ctx) == nil {
		err = x.m.rewrite(x, r)
	}
	if err == nil {
		log.Info("the end of the migration is written down")
	}
}

// tell says what changed, to who watches and to the log.
func (x *move) tell(before, next Record) {
	log := x.m.o.Logger.With(zap.Stringer("guest", next.Guest), zap.String("migration", next.ID))
	if next.Phase != before.Phase {
		log.Info("migration: "+string(next.Phase), zap.String("to", string(next.To)), zap.String("reason", next.Reason))
	}
	switch {
	case next.Phase == Ended && before.Phase != Ended:
		x.say("%s", x.ending(next))
	case next.Phase != before.Phase && next.Phase == Back:
		x.say("phase back: %s; the guest stays on %s", next.Reason, x.name(next.From))
	case next.Phase != before.Phase:
		x.say("phase %s", next.Phase)
	}
	if next.Trouble != "" && next.Trouble != before.Trouble {
		x.say("%s", next.Trouble)
		log.Warn("migration does not go on", zap.String("phase", string(next.Phase)), zap.String("trouble", next.Trouble))
	}
}

// name is a node's, for people.
func (x *move) name(id guest.NodeID) string { return x.m.o.Ledger.View().NameOf(id) }

// ending is how it ended, in a sentence without its end.
func (x *move) ending(r Record) string {
	switch r.Outcome {
	case Moved:
		text := fmt.Sprintf("guest %s is on %s", r.Guest, x.name(r.To))
		if r.Downtime != nil {
			text += fmt.Sprintf(", downtime %s", r.Downtime.Round(time.Millisecond))
		}
		return text
	case Undone:
		return fmt.Sprintf("guest %s stays on %s, nothing has changed: %s", r.Guest, x.name(r.From), r.Reason)
	case Superseded:
		return fmt.Sprintf("the migration of guest %s is over: %s", r.Guest, r.Reason)
	}
	return string(r.Outcome)
}

// letGo gives back what is held of the guest. One that is in doubt stays held until
// the daemon ends.
func (x *move) letGo() {
	if r := x.Record(); r.Phase == Sent {
		return
	}
	x.release()
}

func (x *move) release() {
	x.leave()
	if x.resume != nil {
		x.resume()
		x.resume = nil
	}
}

// leave ends the syncs, and gives back the lock that the last one has. The guest stays held.
func (x *move) leave() {
	if x.handover != nil {
		x.handover.Close()
		x.handover = nil
	}
	if x.unlock != nil {
		x.unlock()
		x.unlock = nil
	}
}

// cancellable is a context that ends with a cancel.
func (x *move) cancellable(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.news = cancel
	if x.wish {
		cancel(errCancelled)
	}
	return ctx, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.news = nil
		cancel(nil)
	}
}

// pause is between two tries; a cancel ends it.
func (x *move) pause(ctx context.Context) {
	ctx, done := x.cancellable(ctx)
	defer done()
	_ = x.sleep(ctx)
}

// sleep is until the next try; the error is the context's.
func (x *move) sleep(ctx context.Context) error {
	t := time.NewTimer(x.m.o.Retry)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (x *move) wanted() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.wish
}

// perform does one effect.
func (x *move) perform(ctx context.Context, effect Effect) Event {
	r := x.Record()
	if r.Trouble != "" {
		x.pause(ctx)
		if r.Phase == Sent && x.wanted() {
			return Unknown{Reason: r.Trouble} // The cancel is sent in place of the owner change.
		}
	}
	switch effect {
	case DoPropose, DoRetain:
		return x.command(ctx, r, effect)
	case DoAwait:
		return x.await(ctx, r)
	case DoUndo:
		return x.undo(ctx, r)
	case DoNothing, DoCheck, DoSync, DoHold, DoStop, DoSeal, DoShip, DoProve:
	}
	view := x.m.o.Ledger.View()
	g, ok := view.Guests[r.Guest]
	switch {
	case !ok || g.Owner != r.From:
		return Gone{Reason: fmt.Sprintf("guest %s is not on %s any more", r.Guest, view.NameOf(r.From))}
	case g.Term != r.Term:
		return Failed{Reason: fmt.Sprintf("guest %s got a new term, %s", r.Guest, g.Term)}
	}
	ev, err := x.work(ctx, r, view, effect)
	if err != nil {
		return Failed{Reason: view.Named(err.Error())}
	}
	return ev
}

// work is the effects before the owner change.
func (x *move) work(ctx context.Context, r Record, view *ledger.State, effect Effect) (Event, error) {
	o, g := &x.m.o, view.Guests[r.Guest]
	switch effect {
	case DoCheck:
		ctx, done := x.cancellable(ctx)
		defer done()
		return Checked{}, o.Check(ctx, g, r)
	case DoSync:
		_, round, err := x.sync(ctx, r, false)
		return Synced{Round: round}, err
	case DoHold:
		return x.hold(ctx, g)
	case DoStop:
		x.stopBegun = time.Now()
		return Halted{}, o.Guests.Stop(ctx, g)
	case DoSeal:
		return Closed{}, o.Volumes.Seal(ctx, view.Cluster, g)
	case DoShip:
		var err error
		if x.unlock, err = x.m.lock(ctx, r.Guest); err != nil {
			return nil, err
		}
		res, round, err := x.sync(ctx, r, true)
		return Shipped{Point: res.Point, Round: round}, err
	case DoProve:
		guids, err := x.handover.Prove(ctx, r.Point)
		if err == nil && len(guids) != len(g.Volumes) {
			err = fmt.Errorf("guest %s has other volumes than were brought", g.ID)
		}
		return Proven{GUIDs: guids, Command: o.NewID()}, err
	case DoNothing, DoPropose, DoRetain, DoAwait, DoUndo:
	}
	return nil, fmt.Errorf("effect %q is not known", effect)
}

// lockWait is how long another sync of the guest may take with its snapshot.
const lockWait = time.Minute

// lock keeps other syncs from taking and cleaning points, from the last sync to the end.
func (m *Mover) lock(ctx context.Context, id guest.ID) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	return m.o.Lock(ctx, id)
}

// sync does one sync, which a cancel ends.
func (x *move) sync(ctx context.Context, r Record, last bool) (replicate.Result, Round, error) {
	ctx, done := x.cancellable(ctx)
	defer done()
	if x.handover == nil {
		h, err := x.m.o.Handover(ctx, r.Guest, r.To)
		if err != nil {
			return replicate.Result{}, Round{}, err
		}
		x.handover = h
	}
	begun := time.Now()
	res, err := x.handover.Sync(ctx, replicate.Transfer{
		Locked: last,
		Progress: func(p replicate.Progress) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.progress = p
		},
		Log: func(line string) { x.say("%s", line) },
	})
	round := Round{Bytes: res.Bytes, Took: time.Since(begun)}
	if err == nil {
		x.say("sync %d: %s, %d bytes in %s", len(r.Rounds)+1, res.Kind, res.Bytes, round.Took.Round(time.Millisecond))
	}
	return res, round, err
}

// hold keeps everybody else off the guest, from now to the end.
func (x *move) hold(ctx context.Context, g guest.Guest) (Event, error) {
	resume, err := x.m.o.Guests.Pause(ctx, g.ID)
	if err != nil {
		return nil, err
	}
	x.resume = resume
	ran, err := x.m.o.Guests.Running(ctx, g)
	return Held{Ran: ran}, err
}
