package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// Guests is what runs on this node.
type Guests interface {
	// Pause keeps everybody else from starting, promoting and retiring the guest; it
	// waits for what is being done. After resume the guest is looked at at once.
	Pause(ctx context.Context, id guest.ID) (resume func(), err error)
	// Running says whether the guest's unit runs, in any state but stopped, or is about
	// to be started, as after a boot: then it is to run on the target too.
	Running(ctx context.Context, g guest.Guest) (bool, error)
	// Stop stops it and makes sure of that.
	Stop(ctx context.Context, g guest.Guest) error
	// Start starts a guest of this node's own again, by a confirmed ledger. The error says
	// why it does not run, and whether that is tried again without the Mover.
	Start(ctx context.Context, id guest.ID) error
}

// Volumes are those of this node.
type Volumes interface {
	// Seal makes them read-only and makes sure that nobody has them open.
	Seal(ctx context.Context, cluster string, g guest.Guest) error
	// Unseal makes them writable and mounts them, those of a guest of this node's own by a
	// confirmed ledger. It takes the guest's lock. Done again it changes nothing.
	Unseal(ctx context.Context, cluster string, g guest.Guest) error
	// Discard removes the copy that is left here of a guest that was moved away.
	Discard(ctx context.Context, id guest.ID) error
}

// Handover is the syncs of one migration; replicate.Handover.
type Handover interface {
	Sync(ctx context.Context, t replicate.Transfer) (replicate.Result, error)
	Prove(ctx context.Context, point string) (map[guest.Volume]uint64, error)
	Close()
}

// Ledger is the agreed state.
type Ledger interface {
	View() *ledger.State
	// Confirm returns once View has all that was confirmed before the call.
	Confirm(ctx context.Context) error
	// Propose carries out a command. Its error is a *RefusedError, ErrUnsent, or else
	// says that the outcome is not known.
	Propose(ctx context.Context, c ledger.Command) error
}

// ErrUnsent means that the command was not sent by this call.
var ErrUnsent = errors.New("not sent")

// RefusedError says that the ledger refused the command: nothing was changed.
type RefusedError struct{ Reason string }

// Error is the ledger's reason.
func (e *RefusedError) Error() string { return e.Reason }

// Landing is what the target tells of a guest that was moved to it.
type Landing struct {
	// Ready says that it has taken the volumes into use.
	Ready bool `json:"ready"`
	// Running says that the guest runs, for as long as Ago by a clock of the target's that
	// is never set.
	Running bool          `json:"running"`
	Ago     time.Duration `json:"ago"`
	// Trouble is why it does not.
	Trouble string `json:"trouble,omitempty"`
}

// Files keep the records, one for each guest. Read of an absent one is fs.ErrNotExist.
type Files interface {
	Read(id guest.ID) (Record, error)
	Write(r Record) error
	// All are the guests of which there is a file, be it broken.
	All() ([]guest.ID, error)
	// SetAside moves a broken one out of the way.
	SetAside(id guest.ID) error
}

// Options are what a Mover works with; all are required but where it says so.
type Options struct {
	Self    guest.NodeID
	Ledger  Ledger
	Guests  Guests
	Volumes Volumes
	Files   Files
	// Handover opens the syncs to a node.
	Handover func(ctx context.Context, id guest.ID, to guest.NodeID) (Handover, error)
	// Lock takes the guest's lock, under which its points are made and cleaned.
	Lock func(ctx context.Context, id guest.ID) (release func(), err error)
	// Check looks whether a guest can be moved: the error says why not.
	Check func(ctx context.Context, g guest.Guest, r Record) error
	// Landing asks the target how it fares.
	Landing func(ctx context.Context, r Record) (Landing, error)
	// Ended is told of each migration that has ended, before anybody sees the end, and
	// again after a restart. May be nil.
	Ended func(r Record)
	// NewID makes the ID of a command.
	NewID  func() string
	Logger *zap.Logger
	Now    func() time.Time
	// Retry is between two tries of what has to succeed in the end; default 5 s.
	Retry time.Duration
	// AwaitFor is how long the start on the target is waited for, anew after a restart; default 30 minutes.
	AwaitFor time.Duration
}

// Mover carries out the migrations of guests that this node owns.
type Mover struct {
	o Options

	mu sync.Mutex
	// moves are those that go on, and the last one of each guest.
	moves map[guest.ID]*move
	// broken are the files that cannot be read; their guests are held.
	broken map[guest.ID]error
	life   context.Context //nolint:containedctx // Run's, for moves that begin later
	wg     sync.WaitGroup
}

// New makes a Mover that knows nothing yet.
func New(o Options) *Mover {
	if o.Retry == 0 {
		o.Retry = 5 * time.Second
	}
	if o.AwaitFor == 0 {
		o.AwaitFor = 30 * time.Minute
	}
	if o.Ended == nil {
		o.Ended = func(Record) {}
	}
	return &Mover{o: o, moves: map[guest.ID]*move{}, broken: map[guest.ID]error{}}
}

// Load reads what was written down before a restart, and holds the guests whose
// owner change may have been sent: before Load nobody may start a guest.
func (m *Mover) Load(ctx context.Context) error {
	ids, err := m.o.Files.All()
	if err != nil {
		return fmt.Errorf("the records of migrations: %w", err)
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, m.load(ctx, id))
	}
	return errors.Join(errs...)
}

func (m *Mover) load(ctx context.Context, id guest.ID) error {
	r, err := m.o.Files.Read(id)
	if err == nil && (r.Guest != id || r.Version != Version || !slices.Contains(Phases(), r.Phase)) {
		err = fmt.Errorf("the record of the migration of guest %s does not fit", id)
	}
	if err != nil {
		m.broken[id] = err
	}
	x := m.newMove(r)
	x.record.Guest = id
	if err != nil || r.Phase == Sent {
		resume, perr := m.o.Guests.Pause(ctx, id)
		if perr != nil {
			return fmt.Errorf("hold guest %s, whose migration is in doubt: %w", id, perr)
		}
		x.resume = resume
		if x.unlock, perr = m.lock(ctx, id); perr != nil {
			return fmt.Errorf("hold guest %s, whose migration is in doubt: %w", id, perr)
		}
	}
	m.moves[id] = x
	if err == nil && r.Over() {
		m.o.Ended(r) // It may have been killed in between.
	}
	return nil
}

// Run goes on with what was loaded, until ctx ends and every move that goes on has
// been left as its record says.
func (m *Mover) Run(ctx context.Context) {
	m.mu.Lock()
	m.life = ctx
	for id, x := range m.moves {
		if m.broken[id] == nil && !x.record.Over() {
			m.goOn(x, Resumed{}) //nolint:contextcheck // it has ctx as its life
		}
	}
	m.mu.Unlock()
	<-ctx.Done()
	m.wg.Wait()
}

// goOn starts a move's goroutine. The caller holds the lock.
func (m *Mover) goOn(x *move, first Event) {
	ctx := m.life
	m.wg.Go(func() { x.run(ctx, first) })
}

// rewrite writes a record of a move down once more, unless a later one has its place.
func (m *Mover) rewrite(x *move, r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.moves[r.Guest] != x {
		return nil
	}
	return m.o.Files.Write(r)
}

// Request asks for a migration.
type Request struct {
	Guest        guest.ID
	To           guest.NodeID
	NoStart      bool
	DeleteSource bool
	By           string
}

// Start begins one, and returns it as it is then.
func (m *Mover) Start(q Request) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life == nil || m.life.Err() != nil {
		return Record{}, fault.Retry("", "this node is starting or stopping")
	}
	if err := m.broken[q.Guest]; err != nil {
		return Record{}, m.brokenError(q.Guest, err)
	}
	if x := m.moves[q.Guest]; x != nil && !x.Record().Over() {
		return Record{}, m.goesOn(x.Record())
	}
	view := m.o.Ledger.View()
	g, ok := view.Guests[q.Guest]
	switch {
	case !ok:
		return Record{}, fault.Never("", "there is no guest %s", q.Guest)
	case g.Owner != m.o.Self:
		return Record{}, fault.Never("", "guest %s is on %s, not on this node", g.ID, view.NameOf(g.Owner))
	case g.Owner == q.To:
		return Record{}, fault.Never("", "guest %s is on %s already", g.ID, view.NameOf(g.Owner))
	}
	now := m.o.Now()
	r := Record{
		Version: Version, ID: m.o.NewID(), Guest: g.ID, From: m.o.Self, To: q.To, Term: g.Term,
		NoStart: q.NoStart, DeleteSource: q.DeleteSource, By: q.By, Begun: now, Since: now, Phase: Prepared,
	}
	if err := m.o.Files.Write(r); err != nil {
		return Record{}, fmt.Errorf("the migration cannot be written down, so it does not begin: %w", err)
	}
	x := m.newMove(r)
	m.moves[g.ID] = x
	m.goOn(x, Began{})
	return r, nil
}

// goesOn refuses another migration of a guest that is being moved.
func (m *Mover) goesOn(r Record) error {
	to, hint := m.o.Ledger.View().NameOf(r.To), "`tandem guest show "+r.Guest.String()+"` tells how far it is"
	if r.Phase == Back {
		return fault.Never(hint, "a migration of guest %s to %s is being undone", r.Guest, to)
	}
	if r.Phase != Confirmed {
		hint += "; `tandem guest migrate " + r.Guest.String() + " --cancel` ends it"
	}
	return fault.Never(hint, "guest %s is being moved already, to %s: phase %s", r.Guest, to, r.Phase)
}

func (m *Mover) brokenError(id guest.ID, err error) error {
	return fault.Never("`tandem guest migrate "+id.String()+" --cancel` makes sure that the guest stays here, and starts it if it starts at boot",
		"the record of a migration of guest %s cannot be read, so that it may be in doubt: %v", id, err)
}

// Cancel wants a migration undone. It does not wait for that. Where the record is
// broken it makes sure that the guest stays here.
func (m *Mover) Cancel(ctx context.Context, id guest.ID) error {
	m.mu.Lock()
	x, broken := m.moves[id], m.broken[id]
	m.mu.Unlock()
	if broken != nil {
		return m.mend(ctx, id, x)
	}
	if x == nil || x.Record().Over() {
		return fault.Never("", "guest %s is not being moved", id)
	}
	r := x.Record()
	if r.Phase == Confirmed {
		return fault.Never("move it back once it runs there", "guest %s is on %s already: it is too late to cancel", id, m.o.Ledger.View().NameOf(r.To))
	}
	x.cancel()
	return nil
}

// mend takes a record that cannot be read for one in doubt that was cancelled.
func (m *Mover) mend(ctx context.Context, id guest.ID, x *move) error {
	// An owner change that is still under way has the guest's term as it is now, or an older one.
	if err := m.o.Ledger.Confirm(ctx); err != nil {
		return fmt.Errorf("whose guest %s is cannot be confirmed: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life == nil || m.broken[id] == nil {
		return fault.Retry("", "this node is starting, or the migration of guest %s is being cancelled already", id)
	}
	if err := m.o.Files.SetAside(id); err != nil {
		return fmt.Errorf("set the broken record aside: %w", err)
	}
	g, ok := m.o.Ledger.View().Guests[id]
	now := m.o.Now()
	x.mu.Lock()
	x.record = Record{
		Version: Version, ID: m.o.NewID(), Guest: id, From: m.o.Self, Term: g.Term, Begun: now, Since: now, Phase: Sent,
		Touched: true, Ran: ok && g.Boot.On, Cancelled: true, Retain: m.o.NewID(), Doubt: now,
	}
	x.mu.Unlock()
	delete(m.broken, id)
	m.goOn(x, Resumed{}) //nolint:contextcheck // it lives as long as the daemon, not as the caller
	return nil
}

// View is a migration as it is now.
type View struct {
	Record
	Progress replicate.Progress
	// Lines are what was said so far.
	Lines []Line
	// Broken is why the record cannot be read; the guest is held then.
	Broken error
}

// Line is something that was said.
type Line struct {
	Time time.Time
	Text string
}

// Look is the migration of a guest that goes on, or the last one that this node did.
func (m *Mover) Look(id guest.ID) (View, bool) {
	m.mu.Lock()
	x, broken := m.moves[id], m.broken[id]
	m.mu.Unlock()
	if x == nil {
		return View{}, false
	}
	v := x.view()
	v.Broken = broken
	return v, true
}

// Active are the migrations that go on, and the records that are broken, by guest.
func (m *Mover) Active() []View {
	m.mu.Lock()
	ids := slices.Sorted(maps.Keys(m.moves))
	m.mu.Unlock()
	var out []View
	for _, id := range ids {
		if v, ok := m.Look(id); ok && (v.Broken != nil || !v.Over()) {
			out = append(out, v)
		}
	}
	return out
}
