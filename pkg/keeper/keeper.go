// Package keeper sees to it that on a node runs what may run there: the guests that
// the node owns, by the ledger, on volumes that are the owner's of that very term.
//
// It starts guests after a boot, takes over what the ledger gives to this node, and
// fences and retires what the ledger has given to another. Each guest has a worker
// of its own, so that a unit or a pool that hangs holds up no other guest. What to
// do is decided by pkg/keeper/rules; systemd, ZFS, the ledger and files are reached
// through small interfaces that pkg/daemon fills. It does not move guests (pkg/move
// does), and a guest that crashes is systemd's business.
package keeper

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
)

// UnitState is the state of a systemd unit.
type UnitState struct {
	// Running is true from the beginning of a start to the end of a stop. Passing is true of it while a start waits for the
	// answer of a condition, which may be no, or for its time after a failure, and while a stop is going on.
	Running, Passing bool
	// Failed says that it ended by a failure.
	Failed bool
	// Absent says that systemd does not have it.
	Absent bool
	// Since is when it entered its state; zero: not since the machine has booted.
	Since time.Time
	// Enabled says that systemd starts it by itself at boot.
	Enabled bool
}

// Units runs systemd units; pkg/unit.
type Units interface {
	State(ctx context.Context, unit string) (UnitState, error)
	// Start and Stop wait until it is done; Stop has verified it.
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	// Guard has systemd ask MayStart before each start of the unit; Unguard ends that.
	Guard(ctx context.Context, unit string, id guest.ID) error
	Unguard(ctx context.Context, unit string) error
}

// Disks looks at the volumes of a guest on this node.
type Disks interface {
	Look(ctx context.Context, cluster string, g guest.Guest) ([]rules.Volume, error)
}

// Mover changes whose data a guest's volumes here are; pkg/move. Its results are
// sentences for people.
type Mover interface {
	// Promote makes them the owner's, of the guest's term, and ready to be used. Done
	// again it changes nothing.
	Promote(ctx context.Context, cluster string, g guest.Guest) (told []string, err error)
	// Retire makes them follow the owner that the view tells; nothing runs on them.
	Retire(ctx context.Context, view *ledger.State, g guest.Guest) (told []string, err error)
}

// Ledger is what the cluster agreed on.
type Ledger interface {
	// View is the newest that is known here; it does no I/O.
	View() *ledger.State
	// Confirm asks a majority, and returns a view of all that was agreed before the
	// call. The error says why that cannot be had.
	Confirm(ctx context.Context) (*ledger.State, error)
}

// Store keeps small files by name; Read of an absent one is fs.ErrNotExist.
type Store interface {
	Read(name string, v any) error
	Write(name string, v any) error
}

// Files are the configuration files of the guests that run here.
type Files interface {
	// Put replaces a guest's; empty: it goes.
	Put(id guest.ID, content string) error
}

// Options are what a keeper works with; all are required.
type Options struct {
	Self   guest.NodeID
	Units  Units
	Disks  Disks
	Mover  Mover
	Ledger Ledger
	Store  Store
	Files  Files
	// BootID names this run of the machine; empty: not known, nothing is started by itself.
	BootID string
	// Boottime is CLOCK_BOOTTIME.
	Boottime func() time.Duration
	Logger   *zap.Logger
}

const (
	// lookEvery is how often all is compared with the ledger without news.
	lookEvery = 30 * time.Second
	// confirmedFor is for how long a confirmed read holds.
	confirmedFor = 10 * time.Second
	// confirmTimeout is how long a majority is asked for.
	confirmTimeout = 10 * time.Second
	// confirmAgain is when it is asked again.
	confirmAgain = 5 * time.Second
	// trustDisks is for how long what was read from the volumes holds where nothing is to be done.
	trustDisks = 10 * time.Minute
)

// Keeper is that of one node. New builds it, Run works. Start, Stop, MayStart, Pause
// and Kick may be called at any time, before Run too.
type Keeper struct {
	o       Options
	log     *zap.Logger
	changed chan struct{}
	news    chan struct{}

	asking confirmation

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // Run's, for the workers; nil before
	entries map[guest.ID]*entry
	row     row
	wg      sync.WaitGroup
}

// New builds one that has looked at nothing yet.
func New(o Options) (*Keeper, error) {
	if o.Units == nil || o.Disks == nil || o.Mover == nil || o.Ledger == nil || o.Store == nil || o.Files == nil || o.Boottime == nil || o.Logger == nil {
		return nil, errors.New("keeper: an option is missing")
	}
	k := &Keeper{
		o: o, log: o.Logger, changed: make(chan struct{}, 1), news: make(chan struct{}, 1), entries: map[guest.ID]*entry{},
	}
	k.row.open(o)
	return k, nil
}

// Changed gets a token when something that Conditions tells has changed.
func (k *Keeper) Changed() <-chan struct{} { return k.changed }

// Learn says that the ledger may have changed.
func (k *Keeper) Learn() { tell(k.news) }

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// Run works until ctx ends and no worker is left.
func (k *Keeper) Run(ctx context.Context) {
	k.mu.Lock()
	k.ctx = ctx
	k.mu.Unlock()
	defer k.rest()
	k.wg.Go(func() { k.listBoot(ctx) })
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	turn := time.NewTimer(0)
	defer turn.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.news:
			k.follow()
		case <-tick.C:
			k.follow()
			k.lookAtAll()
		case <-turn.C:
			k.follow()
		}
		if wake := k.turns(); wake > 0 {
			turn.Reset(wake)
		}
	}
}

// rest waits for the workers; none is begun any more.
func (k *Keeper) rest() {
	k.mu.Lock()
	k.ctx = nil
	k.mu.Unlock()
	k.wg.Wait()
}

// follow pokes the workers of the guests that the ledger has changed.
func (k *Keeper) follow() {
	view := k.o.Ledger.View()
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, g := range view.Guests {
		e := k.entry(id)
		if e.seen != nil && same(*e.seen, g) {
			continue
		}
		if e.seen != nil && (e.seen.Owner != g.Owner || e.seen.Term != g.Term) {
			e.end(errChanged)
		}
		e.seen = &g
		e.fails, e.notBefore = 0, 0
		k.poke(e)
	}
	for id, e := range k.entries {
		if _, known := view.Guests[id]; !known && e.seen != nil {
			unit := e.seen.Unit
			e.seen = nil
			e.end(errChanged)
			k.row.gone(id)
			k.show(e, Condition{})
			k.release(e, unit)
		}
	}
}

// release has systemd no longer ask before it starts the unit of a guest that is in
// Tandem's care no more; what runs goes on, and its configuration file stays. The
// caller holds the lock.
func (k *Keeper) release(e *entry, unit string) {
	ctx := k.ctx
	if unit == "" || ctx == nil || ctx.Err() != nil {
		return
	}
	k.wg.Go(func() {
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-e.turn }()
		e.guarded, e.config = "", nil
		if err := k.o.Units.Unguard(ctx, unit); err != nil {
			k.log.Warn("systemd still asks before it starts the unit of a guest that was removed", zap.Stringer("guest", e.id), zap.String("unit", unit), zap.Error(err))
		}
	})
}

// errChanged ends what was being done for a guest that is another's meanwhile.
var errChanged = errors.New("the guest was given to another node, or removed, meanwhile")

// same says that nothing has changed in a guest that concerns its keeper.
func same(a, b guest.Guest) bool {
	return a.Owner == b.Owner && a.Term == b.Term && a.Unit == b.Unit && a.Config == b.Config && a.Boot == b.Boot && sameVolumes(a, b)
}

func sameVolumes(a, b guest.Guest) bool {
	if len(a.Volumes) != len(b.Volumes) {
		return false
	}
	for i := range a.Volumes {
		if a.Volumes[i] != b.Volumes[i] {
			return false
		}
	}
	return true
}

func (k *Keeper) lookAtAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.entries {
		if e.seen != nil {
			k.poke(e)
		}
	}
}

// Kick has a guest looked at now, whatever failed before.
func (k *Keeper) Kick(id guest.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entry(id)
	e.fails, e.notBefore, e.disks = 0, 0, nil
	k.poke(e)
}

// entry is that of a guest; the caller holds the lock.
func (k *Keeper) entry(id guest.ID) *entry {
	e := k.entries[id]
	if e == nil {
		e = &entry{id: id, turn: make(chan struct{}, 1), poked: make(chan struct{}, 1), shown: make(chan struct{})}
		k.entries[id] = e
	}
	return e
}

// poke has a guest's worker look; the caller holds the lock.
func (k *Keeper) poke(e *entry) {
	if k.ctx == nil || k.ctx.Err() != nil {
		return // Run looks at all
	}
	if e.busy {
		tell(e.poked)
		return
	}
	e.busy = true
	ctx := k.ctx
	k.wg.Go(func() { k.work(ctx, e) })
}
