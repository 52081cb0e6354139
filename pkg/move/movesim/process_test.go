package movesim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/keeper/host"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/move/retire"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/local"
)

// process is one life of a machine's daemon: the engines as pkg/daemon joins them.
type process struct {
	m      *machine
	boot   int             // of the machine
	ctx    context.Context //nolint:containedctx // its life
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	news   chan struct{}

	// The world's lock guards these.
	dead, ready bool
	view        *ledger.State
	// learnt is when it last heard of a new term of a guest.
	learnt map[guest.ID]time.Time
	// senders are who sends into which dataset.
	senders map[string][]*sender

	locks    *local.Locks
	source   *replicate.Source
	target   *replicate.Target
	promoter *promote.Promoter
	retirer  *retire.Retirer
	keeper   *keeper.Keeper
	mover    *migrate.Mover
}

// newProcess is one that knows what its machine has on disk. The caller holds the
// world's lock.
func newProcess(m *machine) *process {
	p := &process{m: m, boot: m.boot, news: make(chan struct{}, 1), learnt: map[guest.ID]time.Time{}, senders: map[string][]*sender{}}
	p.ctx, p.cancel = context.WithCancelCause(m.w.life)
	p.view = m.w.agreed.first
	if b, ok := m.files["cluster"]; ok {
		var s ledger.State
		must(m.w.t, json.Unmarshal(b, &s))
		p.view = &s
	}
	return p
}

// build makes the engines, in the daemon's order: what may be in doubt is held before
// anything is started.
func (p *process) build() error {
	m := p.m
	dir := m.w.t.TempDir() // With a process its locks go.
	p.locks = local.NewLocks(dir)
	o := replicate.Options{
		Node: m.id, Name: m.name, Storages: map[string]string{"local-zfs": "tank/g"}, ZFS: m.pool, Ledger: council{p}, Store: store{m},
		LockDir: dir, Locks: p.locks, Together: local.NewTogether(m.pool), Pins: local.NewPins(), Now: time.Now,
		Identities: local.NewIdentities(store{m}),
		Quorate:    func() time.Duration { return time.Since(m.w.begun) }, CallTimeout: 30 * time.Second,
	}
	var err error
	join := func(e error) { err = errors.Join(err, e) }
	var e error
	p.source, e = replicate.NewSource(o, link{p})
	join(e)
	p.target, e = replicate.NewTarget(o)
	join(e)
	p.promoter, e = promote.New(o, p.target)
	join(e)
	p.retirer, e = retire.New(o)
	join(e)
	log := zap.NewNop()
	p.keeper, e = keeper.New(keeper.Options{
		Self: m.id, Units: units{p}, Disks: host.Volumes{Storages: o.Storages, List: o.Together.List}, Mover: engines{p},
		Ledger: council{p}, Store: store{m}, Files: confFiles{m}, BootID: fmt.Sprintf("boot-%d", p.boot),
		Boottime: func() time.Duration { return time.Since(m.w.begun) + time.Hour }, Logger: log,
	})
	join(e)
	if err != nil {
		return err
	}
	p.mover = migrate.New(migrate.Options{
		Self: m.id, Ledger: moverLedger{council{p}}, Guests: moveGuests{p}, Volumes: moveVolumes{p}, Files: moveFiles{m},
		Handover: func(ctx context.Context, id guest.ID, to guest.NodeID) (migrate.Handover, error) {
			return p.source.Handover(ctx, id, to)
		},
		Lock:  func(ctx context.Context, id guest.ID) (func(), error) { return p.locks.Lock(ctx, local.GuestLock(id)) },
		Check: p.checkMove, Landing: p.askLanding, NewID: m.w.agreed.newID, Logger: log, Now: time.Now,
	})
	return p.mover.Load(p.ctx)
}

// touch is a moment of this life: it may be its last, or be over.
func (p *process) touch(what string) error {
	p.m.w.mu.Lock()
	dead := p.dead
	p.m.w.mu.Unlock()
	if dead {
		return fmt.Errorf("%w at %s", errKilled, what)
	}
	return p.m.touch(what)
}

// run starts the loops.
func (p *process) run() {
	w := p.m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.dead {
		return
	}
	p.ready = true
	p.wg.Go(func() { p.keeper.Run(p.ctx) })
	p.wg.Go(func() { p.mover.Run(p.ctx) })
	p.wg.Go(p.follow)
	p.wg.Go(p.replicate)
}

// replicate runs the jobs of the guests that this node owns, now and then.
func (p *process) replicate() {
	w := p.m.w
	for pause(p.ctx, time.Second+w.upTo(12*time.Second, "sync "+string(p.m.name))) {
		view := council{p}.View()
		var wg sync.WaitGroup
		for _, g := range view.GuestList() {
			for _, j := range view.JobsOf(g.ID) {
				if g.Owner != p.m.id || j.Removing || w.chance(0.3, "no sync") && !w.isCalm() {
					continue
				}
				wg.Go(func() {
					if _, err := p.source.Run(p.ctx, replicate.Task{Job: j.ID}); err != nil && p.ctx.Err() == nil {
						w.say("%s: job %s to %s: %v", p.m.name, j.ID, view.NameOf(j.Target), err)
					}
				})
			}
		}
		wg.Wait()
	}
}

func (w *world) isCalm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calm
}

// store is the machine's small files: what is written is on the disk.
type store struct{ m *machine }

// Read reads one.
func (s store) Read(name string, v any) error {
	s.m.w.mu.Lock()
	b, ok := s.m.files[name]
	s.m.w.mu.Unlock()
	if !ok {
		return fs.ErrNotExist
	}
	return json.Unmarshal(b, v)
}

// Write replaces one: it has the old content, or the new.
func (s store) Write(name string, v any) error { return s.write(name, name, v) }

func (s store) write(what, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := s.m.touch("write " + what); err != nil {
		return err
	}
	s.m.w.mu.Lock()
	s.m.files[name] = b
	s.m.w.mu.Unlock()
	return s.m.touch("written " + what)
}

// moveFiles are the records of migrations.
type moveFiles struct{ m *machine }

// Read reads one.
func (f moveFiles) Read(id guest.ID) (r migrate.Record, err error) {
	err = store(f).Read("move-"+id.String(), &r)
	return r, err
}

// Write replaces one.
func (f moveFiles) Write(r migrate.Record) error {
	f.m.w.say("%s: guest %s: migration to %s: %s %s %s", f.m.name, r.Guest, f.m.w.machine(r.To).name, r.Phase, r.Trouble, r.Reason)
	return store(f).write(fmt.Sprintf("move-%s %s", r.Guest, r.Phase), "move-"+r.Guest.String(), r)
}

// All are the guests that have one.
func (f moveFiles) All() (out []guest.ID, err error) {
	f.m.w.mu.Lock()
	defer f.m.w.mu.Unlock()
	for name := range f.m.files {
		if text, ok := strings.CutPrefix(name, "move-"); ok {
			id, err := guest.ParseID(text)
			if err != nil {
				return nil, err
			}
			out = append(out, id)
		}
	}
	return out, nil
}

// SetAside is for broken ones, and there is none.
func (moveFiles) SetAside(guest.ID) error { return errors.New("no record is broken") }

// confFiles are the guests' configuration files.
type confFiles struct{ m *machine }

// Put replaces one.
func (f confFiles) Put(id guest.ID, _ string) error { return f.m.touch("conf " + id.String()) }

// units is systemd: what it has begun it ends, whether the daemon lives or not.
type units struct{ *process }

// State is how a unit fares.
func (u units) State(ctx context.Context, name string) (keeper.UnitState, error) {
	if err := u.touch(""); err != nil {
		return keeper.UnitState{}, err
	}
	s, err := u.m.units.State(ctx, name)
	if err != nil {
		return keeper.UnitState{}, err
	}
	return keeper.UnitState{Running: s.Running(), Passing: s.Passing(), Failed: s.Active == "failed", Absent: s.Load != "loaded", Since: s.Since, Enabled: s.Enabled}, nil
}

// Start starts one.
func (u units) Start(ctx context.Context, name string) error {
	return u.job(ctx, "start "+name, name, u.m.units.Start)
}

// Stop stops one.
func (u units) Stop(ctx context.Context, name string) error {
	return u.job(ctx, "stop "+name, name, u.m.units.Stop)
}

func (u units) job(ctx context.Context, what, name string, do func(context.Context, string) error) error { //nolint:contextcheck // what systemd has begun it ends
	if err := u.touch(what); err != nil {
		return err
	}
	u.m.w.mu.Lock()
	power := u.m.power
	u.m.w.mu.Unlock()
	done := make(chan error, 1)
	u.m.w.wg.Go(func() { done <- do(power, name) })
	select {
	case err := <-done:
		u.m.w.say("%s: %s: %v", u.m.name, what, err)
		return errors.Join(err, u.touch("after "+what))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Guard has the unit ask before it starts.
func (u units) Guard(ctx context.Context, name string, id guest.ID) error {
	return errors.Join(u.touch("guard "+name), u.m.units.Guard(ctx, name, id))
}

// Unguard ends that.
func (u units) Unguard(ctx context.Context, name string) error { return u.m.units.Unguard(ctx, name) }

// engines make a guest's volumes here the owner's, or take them out of use.
type engines struct{ *process }

// Promote makes them the owner's.
func (e engines) Promote(ctx context.Context, cluster string, g guest.Guest) (told []string, err error) {
	out, err := e.promoter.Promote(ctx, cluster, g)
	e.m.w.say("%s: guest %s: promoted at term %d: %v %v %v", e.m.name, g.ID, g.Term.N, out.Volumes, out.Aside, err)
	return out.Warnings, err
}

// Retire makes them follow the owner.
func (e engines) Retire(ctx context.Context, view *ledger.State, g guest.Guest) (told []string, err error) {
	out, err := e.retirer.Retire(ctx, view, g)
	e.m.w.say("%s: guest %s: retired at term %d: %v %v", e.m.name, g.ID, g.Term.N, out.Volumes, err)
	return out.Warnings, err
}

// moveGuests is what runs here, for migrations.
type moveGuests struct{ *process }

// Pause keeps the keeper off a guest.
func (g moveGuests) Pause(ctx context.Context, id guest.ID) (func(), error) {
	return g.keeper.Pause(ctx, id)
}

// Running asks systemd, and the keeper.
func (g moveGuests) Running(ctx context.Context, x guest.Guest) (bool, error) {
	if x.Unit == "" {
		return false, nil
	}
	s, err := units(g).State(ctx, x.Unit)
	if err != nil || s.Running {
		return s.Running, err
	}
	return g.keeper.Due(ctx, x.ID)
}

// Stop stops the unit.
func (g moveGuests) Stop(ctx context.Context, x guest.Guest) error {
	if x.Unit == "" {
		return nil
	}
	return units(g).Stop(ctx, x.Unit)
}

// Start is the keeper's.
func (g moveGuests) Start(ctx context.Context, id guest.ID) error {
	return g.keeper.StartAgain(ctx, id)
}

// moveVolumes are the volumes here.
type moveVolumes struct{ *process }

// Seal makes them read-only.
func (v moveVolumes) Seal(ctx context.Context, cluster string, g guest.Guest) error {
	return v.retirer.Seal(ctx, cluster, g)
}

// Unseal makes them usable again.
func (v moveVolumes) Unseal(ctx context.Context, cluster string, g guest.Guest) error {
	_, err := engines(v).Promote(ctx, cluster, g)
	v.keeper.Kick(g.ID) //nolint:contextcheck // it has the keeper's life
	return err
}

// Discard is not asked for.
func (moveVolumes) Discard(context.Context, guest.ID) error { return errors.New("nobody asked for it") }
