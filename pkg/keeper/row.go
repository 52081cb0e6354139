package keeper

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
)

// bootNote is the file that says which guests are still to be started in this run
// of the machine.
const bootNote = "keeper-boot"

// row is the guests that are to be started since the machine has booted. It outlives
// the daemon, so that its restart is no boot. The keeper's lock guards it.
type row struct {
	store Store
	log   *zap.Logger
	kept  keptRow
	boot  string
	tries map[guest.ID]rules.Try
	// since is the first view that a majority confirmed since the daemon has started; nil: none yet. What is older tells of
	// no guest that it left.
	since *ledger.State
	// none says that nothing is started by itself: which run of the machine this is cannot be told.
	none bool
}

type keptRow struct {
	Boot string     `json:"boot"`
	Due  []guest.ID `json:"due"`
	// Early is the run of the machine in which no majority has told yet who is to be started, and Gone are guests that have
	// left the row already: an operator stopped them.
	Early string     `json:"early,omitempty"`
	Gone  []guest.ID `json:"gone,omitempty"`
}

func (r *row) open(o Options) {
	r.store, r.log, r.boot, r.tries = o.Store, o.Logger, o.BootID, map[guest.ID]rules.Try{}
	if o.BootID == "" {
		r.none = true
		o.Logger.Error("guests are not started by themselves: the kernel does not tell which boot this is")
		return
	}
	err := o.Store.Read(bootNote, &r.kept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.none = true // It may say that all is started; that is not overwritten.
		o.Logger.Error("guests are not started by themselves: what is to be started cannot be read", zap.Error(err))
		return
	}
	if r.kept.Boot != o.BootID {
		if r.kept.Early == o.BootID {
			for _, id := range r.kept.Gone {
				r.tries[id] = rules.Try{Gone: true}
			}
		}
		r.kept = keptRow{}
	}
	for _, id := range r.kept.Due {
		r.tries[id] = rules.Try{}
	}
}

// listed says that it is known, by a confirmed read, which guests are in the row.
func (r *row) listed() bool { return r.none || r.kept.Boot != "" }

// settled says that no confirmed read is needed to know who is in the row.
func (r *row) settled() bool { return r.listed() && (len(r.tries) == 0 || r.since != nil) }

// left says that a guest which is not this node's by the view, or not started at boot, is to leave the row.
func (r *row) left(view *ledger.State) bool {
	return r.since != nil && view.Generation == r.since.Generation && view.Index >= r.since.Index
}

// listBoot gets a confirmed read, if the machine has booted and there was none yet, or the daemon has started and there are guests
// left to start.
func (k *Keeper) listBoot(ctx context.Context) {
	tick := time.NewTicker(confirmAgain)
	defer tick.Stop()
	for {
		k.mu.Lock()
		settled := k.row.settled()
		k.mu.Unlock()
		if settled {
			return
		}
		if err := k.confirm(ctx, 0); err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// list takes note of a confirmed view: by the first one of this boot it writes down who is to be started.
func (k *Keeper) list(view *ledger.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.row.since == nil || k.row.since.Generation != view.Generation {
		k.row.since = view
		for _, e := range k.entries {
			e.due = false // Whose turn it is may be another's by this view.
		}
		tell(k.news)
	}
	if k.row.listed() {
		return
	}
	k.row.fill(view, k.o.Self)
	k.row.kept.Boot = k.o.BootID
	k.row.keep()
	tell(k.news)
}

// fill puts this node's guests into the row that are started at boot.
func (r *row) fill(view *ledger.State, self guest.NodeID) {
	for id, g := range view.Guests {
		if _, in := r.tries[id]; !in && g.Owner == self && g.Boot.On && g.Unit != "" {
			r.tries[id] = rules.Try{}
		}
	}
}

// keep writes down who is left.
func (r *row) keep() {
	if r.none {
		return
	}
	next := keptRow{Boot: r.kept.Boot}
	if !r.listed() {
		next.Early = r.boot
	}
	for _, id := range slices.Sorted(maps.Keys(r.tries)) {
		switch {
		case !r.tries[id].Gone && r.listed():
			next.Due = append(next.Due, id)
		case r.tries[id].Gone && !r.listed():
			next.Gone = append(next.Gone, id)
		}
	}
	r.kept = next
	if err := r.store.Write(bootNote, r.kept); err != nil {
		r.log.Error("what is still to be started cannot be written down: a restart of tandemd may start a guest again that was stopped", zap.Error(err))
	}
}

// gone takes a guest out of the row.
func (r *row) gone(id guest.ID) {
	if t, in := r.tries[id]; in && !t.Gone {
		t.Gone = true
		r.tries[id] = t
		r.keep()
	}
}

// turns pokes the guests whose turn it is, and says after what time to look again.
func (k *Keeper) turns() time.Duration {
	view := k.o.Ledger.View()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.row.listed() {
		k.row.fill(view, k.o.Self) // as far as is known; so that status says what they wait for
	}
	tries := map[guest.ID]rules.Try{}
	for id, t := range k.row.tries {
		g, known := view.Guests[id]
		switch {
		case known && g.Owner == k.o.Self && g.Boot.On:
			t.Boot = g.Boot
			k.row.tries[id], tries[id] = t, t
		case k.row.left(view):
			k.row.gone(id)
		}
	}
	due, wake := rules.Turn(tries, k.o.Boottime())
	for _, e := range k.entries {
		e.due = false
	}
	for _, id := range due {
		e := k.entry(id)
		e.due = true
		if k.row.tries[id].Begun == 0 {
			k.poke(e)
		}
	}
	if wake == 0 {
		return 0
	}
	return max(wake-k.o.Boottime(), time.Millisecond)
}

// tried notes how the start of a guest in the row goes.
func (k *Keeper) tried(id guest.ID, change func(t *rules.Try, now time.Duration)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, in := k.row.tries[id]
	if !in || t.Gone {
		return
	}
	before := t
	change(&t, max(k.o.Boottime(), 1))
	if t == before {
		return
	}
	k.row.tries[id] = t
	if t.Gone {
		k.row.keep()
	}
	tell(k.news)
}

func begun(t *rules.Try, now time.Duration) {
	if t.Begun == 0 {
		t.Begun = now
	}
}

// failed: its first try had an outcome, those after it in the row go on; it is tried again.
func failed(t *rules.Try, now time.Duration) {
	begun(t, now)
	if t.Ended == 0 {
		t.Ended = now
	}
}

// started: it runs since just now; found: it ran already, or somebody stopped it.
func started(t *rules.Try, now time.Duration) {
	begun(t, now)
	t.Ended, t.Gone = now, true
}

func found(t *rules.Try, _ time.Duration) { t.Gone = true }
