package keeper_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
)

const (
	n1 guest.NodeID = "11111111111111111111111111111111"
	n2 guest.NodeID = "22222222222222222222222222222222"
)

const generation = "0123456789abcdef"

func term(n uint64) guest.Term { return guest.Term{N: n, Generation: generation} }

func unitOf(id guest.ID) string { return "vm@" + id.String() + ".service" }

// world is a machine and what it knows, with a keeper on it.
type world struct {
	t *testing.T
	k *keeper.Keeper
	// The rest is guarded.
	mu   sync.Mutex
	view *ledger.State
	// agreed is what a majority has and this node does not know yet; nil: nothing.
	agreed   *ledger.State
	quorate  bool
	confirms int
	// readied counts how often volumes were made usable, or seen to be.
	readied int
	units   map[string]*unit
	disks   map[guest.ID][]rules.Volume
	files   map[guest.ID]string
	store   map[string][]byte
	done    []string
	// trouble fails what it names: "start", "stop", "promote", "retire", "look", "guard".
	trouble map[string]error
	boot    string
	begun   time.Time
	stop    func()
	logs    *observer.ObservedLogs
}

type unit struct {
	running, passing, failed, enabled bool
	since                             time.Time
	// takes is how long a start takes; guard is who is asked.
	takes time.Duration
	guard guest.ID
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, quorate: true, units: map[string]*unit{}, disks: map[guest.ID][]rules.Volume{}, files: map[guest.ID]string{},
		store: map[string][]byte{}, trouble: map[string]error{}, boot: "boot-1", begun: time.Now().Add(-time.Hour),
		view: &ledger.State{
			Cluster: "c", Generation: generation, Index: 1, Guests: map[guest.ID]guest.Guest{},
			Members: map[guest.NodeID]ledger.Member{n1: {ID: n1, Name: "n1"}, n2: {ID: n2, Name: "n2"}},
		},
	}
	return w
}

// run starts the daemon's part of it; it ends with the test, or with w.stop.
func (w *world) run() {
	w.t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	k, err := keeper.New(keeper.Options{
		Self: n1, Units: w, Disks: w, Mover: w, Ledger: w, Store: kept{w}, Files: files{w}, BootID: w.boot,
		Boottime: func() time.Duration { return time.Since(w.begun) }, Logger: zap.New(core),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.k, w.logs = k, logs
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); k.Run(ctx) }()
	w.stop = func() { cancel(); <-ended }
	synctest.Wait()
}

// agree changes the ledger.
func (w *world) agree(change func(s *ledger.State)) {
	w.mu.Lock()
	next := *w.view
	next.Index++
	next.Guests = maps.Clone(w.view.Guests)
	if next.Guests == nil {
		next.Guests = map[guest.ID]guest.Guest{}
	}
	change(&next)
	w.view = &next
	w.mu.Unlock()
	if w.k != nil {
		w.k.Learn()
	}
}

// has puts a guest on the ledger with its volume here as said.
func (w *world) has(g guest.Guest, role string, at guest.Term) {
	g.Volumes = []guest.Volume{{Storage: "s", Name: "d" + g.ID.String()}}
	if g.Unit == "" {
		g.Unit = unitOf(g.ID)
	}
	w.mu.Lock()
	w.disks[g.ID] = []rules.Volume{{Volume: g.Volumes[0], Marked: role != "", Role: role, Term: at, ReadOnly: role == "replica"}}
	if w.units[g.Unit] == nil {
		w.units[g.Unit] = &unit{}
	}
	w.mu.Unlock()
	w.agree(func(s *ledger.State) { s.Guests[g.ID] = g })
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) unit(id guest.ID) unit {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *w.units[unitOf(id)]
}

// did is what was done since the last time.
func (w *world) did() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.done
	w.done = nil
	return out
}

func (w *world) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) View() *ledger.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

var errNoMajority = errors.New("not quorate: 1 of 2 votes, 2 needed")

func (w *world) Confirm(ctx context.Context) (*ledger.State, error) {
	w.mu.Lock()
	w.confirms++
	ok := w.quorate
	w.mu.Unlock()
	if !ok {
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
		return nil, errNoMajority
	}
	time.Sleep(10 * time.Millisecond)
	w.set(func() {
		if w.agreed != nil {
			w.view, w.agreed = w.agreed, nil
		}
	})
	return w.View(), nil
}

func (w *world) State(_ context.Context, name string) (keeper.UnitState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.trouble["state"]; err != nil {
		return keeper.UnitState{}, err
	}
	u := w.units[name]
	if u == nil {
		return keeper.UnitState{Absent: true}, nil
	}
	return keeper.UnitState{Running: u.running, Passing: u.passing, Failed: u.failed, Since: u.since, Enabled: u.enabled}, nil
}

func (w *world) Start(ctx context.Context, name string) error {
	w.mu.Lock()
	u := w.units[name]
	u.running, u.passing = true, true // activating
	takes, guard, trouble := u.takes, u.guard, w.trouble["start"]
	w.mu.Unlock()
	refused := error(nil)
	if guard != 0 {
		refused = w.k.MayStart(ctx, guard)
	}
	w.set(func() { u.passing = false })
	if refused == nil && takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := errors.Join(refused, trouble); err != nil {
		u.running, u.failed = false, refused == nil
		w.done = append(w.done, "failed "+name)
		return err
	}
	u.running, u.failed, u.since = true, false, time.Now()
	w.done = append(w.done, "start "+name)
	return nil
}

func (w *world) Stop(_ context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.trouble["stop"]; err != nil {
		return err
	}
	w.units[name].running = false
	w.done = append(w.done, "stop "+name)
	return nil
}

func (w *world) Guard(_ context.Context, name string, id guest.ID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.units[name].guard = id
	return w.trouble["guard"]
}

func (w *world) Unguard(_ context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.units[name].guard = 0
	return nil
}

func (w *world) Look(_ context.Context, _ string, g guest.Guest) ([]rules.Volume, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.disks[g.ID]), w.trouble["look"]
}

func (w *world) mark(g guest.Guest, v rules.Volume) {
	v.Volume, v.Marked = g.Volumes[0], true
	w.disks[g.ID] = []rules.Volume{v}
}

func (w *world) Promote(_ context.Context, _ string, g guest.Guest) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.readied++
	if d := w.disks[g.ID][0]; d.Role == rules.RoleOwner && d.Term == g.Term && !d.ReadOnly {
		return nil, nil
	}
	w.done = append(w.done, "promote "+g.ID.String())
	if err := w.trouble["promote"]; err != nil {
		return nil, err
	}
	w.mark(g, rules.Volume{Role: rules.RoleOwner, Term: g.Term})
	return nil, nil
}

func (w *world) Retire(_ context.Context, view *ledger.State, g guest.Guest) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = append(w.done, "retire "+g.ID.String())
	if w.units[g.Unit].running || view.Guests[g.ID].Owner == n1 {
		w.t.Error("a guest is retired that runs, or is this node's")
	}
	w.mark(g, rules.Volume{Role: "replica", Term: g.Term, ReadOnly: true})
	return nil, nil
}

type kept struct{ w *world }

func (k kept) Read(name string, v any) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	b, ok := k.w.store[name]
	if !ok {
		return fs.ErrNotExist
	}
	return json.Unmarshal(b, v)
}

func (k kept) Write(name string, v any) error {
	b, err := json.Marshal(v)
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.w.store[name] = b
	return errors.Join(err, k.w.trouble["write"])
}

type files struct{ w *world }

func (f files) Put(id guest.ID, content string) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.files[id] = content
	if content == "" {
		delete(f.w.files, id)
	}
	return nil
}
