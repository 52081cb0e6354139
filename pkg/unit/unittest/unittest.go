// Package unittest is a systemd in memory: services with start and stop times, ones
// that fail, hang, crash or leave processes behind, frozen ones, and guards.
//
// It keeps the contract of pkg/unit (unittest/contract), so that tests of whole
// daemons run without systemd. Its time is that of package time, also in the bubble of
// testing/synctest.
package unittest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit"
)

// Spec is how a service behaves.
type Spec struct {
	// Starts and Stops are how long it takes to.
	Starts, Stops time.Duration
	// StopTimeout is after how long a stop is forced; default 90 s.
	StopTimeout time.Duration
	// Fails: it does not start.
	Fails bool
	// HangsForEver: a stop does not end, not even by force (a process in state D).
	HangsForEver bool
	// Leaves: a process stays behind when it was stopped.
	Leaves bool
	// CannotFreeze: the machine has no cgroup v2.
	CannotFreeze bool
	// Enabled: something else starts it too.
	Enabled bool
	// Condition is the unit's own ExecCondition; nil: none.
	Condition func(context.Context) error
	// OnStart and OnStop are called when it began to run and when it has ended, in whatever way.
	OnStart, OnStop func()
}

// Manager is the systemd of one machine.
type Manager struct {
	// MayStart is what the guards ask (`tandem guest may-start ID`); nil: all may.
	// It is set before the Manager is used.
	MayStart func(ctx context.Context, id guest.ID) error
	// Trouble fails what it returns an error for, by the method's name and the unit;
	// nil: nothing. It is set before the Manager is used.
	Trouble func(method, unit string) error
	// Transients says how a service behaves that Launch starts, by its name and its
	// words; nil: they all run. It is set before the Manager is used.
	Transients func(unit string, args []string) Spec

	mu    sync.Mutex
	units map[string]*service
	pid   uint32
}

type service struct {
	Spec
	active, sub, result string
	since               time.Time
	pid                 uint32
	frozen              bool
	left                bool
	guard               guest.ID
	starts              int
	journal             []string
	// turn is taken by a job; stopping cuts the start that has it short.
	turn     chan struct{}
	stopping chan struct{}
	thawed   chan struct{}
}

// New is a machine without services.
func New() *Manager { return &Manager{units: map[string]*service{}, pid: 1000} }

// Add installs a service, or changes how one behaves.
func (m *Manager) Add(name string, spec Spec) {
	if spec.StopTimeout == 0 {
		spec.StopTimeout = 90 * time.Second
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.units[name]; s != nil {
		s.Spec = spec
		return
	}
	m.units[name] = &service{
		Spec: spec, active: "inactive", sub: "dead", result: "success",
		turn: make(chan struct{}, 1), stopping: make(chan struct{}), thawed: make(chan struct{}),
	}
}

func (s *service) set(active, sub string) { s.active, s.sub, s.since = active, sub, time.Now() }

func (s *service) age() time.Duration {
	if s.since.IsZero() {
		return 0
	}
	return max(time.Since(s.since), 1)
}

func (s *service) end(active, result string) {
	s.pid, s.result = 0, result
	s.thaw()
	s.set(active, map[bool]string{true: "failed", false: "dead"}[active == "failed"])
	s.journal = append(s.journal, "ended: "+result)
	if s.OnStop != nil {
		s.OnStop()
	}
}

func (s *service) thaw() {
	if s.frozen {
		s.frozen = false
		close(s.thawed)
		s.thawed = make(chan struct{})
	}
}

// find gives the service, or why it cannot be used.
func (m *Manager) find(method, name string) (*service, error) {
	if err := guest.ValidateUnit(name); err != nil || name == "" {
		return nil, cmp.Or(err, errors.New("no unit is named"))
	}
	if m.Trouble != nil {
		if err := m.Trouble(method, name); err != nil {
			return nil, &unit.Error{Op: strings.ToLower(method), Unit: name, Err: err}
		}
	}
	s := m.units[name]
	if s == nil {
		return nil, &unit.Error{Op: strings.ToLower(method), Unit: name, Err: unit.ErrNotFound}
	}
	return s, nil
}

// State is unit.Manager's.
func (m *Manager) State(_ context.Context, name string) (unit.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("State", name)
	if errors.Is(err, unit.ErrNotFound) {
		return unit.State{Load: "not-found", Active: "inactive", Sub: "dead"}, nil
	}
	if err != nil {
		return unit.State{}, err
	}
	return unit.State{
		Load: "loaded", Active: s.active, Sub: s.sub, Result: s.result, Since: s.since, Age: s.age(), MainPID: s.pid,
		StopTimeout: s.StopTimeout, Enabled: s.Enabled, Frozen: s.frozen,
	}, nil
}

// Start is unit.Manager's. As systemd does, it refuses while a stop is going on.
func (m *Manager) Start(ctx context.Context, name string) error {
	m.mu.Lock()
	s, err := m.find("Start", name)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	fail := func(why error) error {
		return &unit.Error{Op: "start", Unit: name, Err: why, Result: s.result, Journal: slices.Clone(s.journal[max(0, len(s.journal)-5):])}
	}
	defer m.mu.Unlock()
	switch s.active {
	case "active":
		return nil
	case "deactivating":
		return fail(errors.New("it is being stopped"))
	}
	if err := m.take(ctx, s); err != nil {
		return fail(err)
	}
	defer func() { <-s.turn }()
	if s.active == "active" {
		return nil
	}
	stopping := s.stopping
	s.set("activating", "condition")
	guard := s.guard
	m.mu.Unlock()
	err = m.conditions(ctx, s.Condition, guard)
	m.mu.Lock()
	if err != nil {
		s.result = "exec-condition"
		s.journal = append(s.journal, err.Error())
		s.set("inactive", "dead")
		return fail(unit.ErrRefused)
	}
	s.set("activating", "start")
	m.mu.Unlock()
	cut := wait(ctx, s.Starts, stopping)
	m.mu.Lock()
	switch {
	case cut || s.active != "activating":
		s.set("inactive", "dead")
		return fail(errors.New("somebody else stopped it meanwhile"))
	case s.Fails:
		s.result = "exit-code"
		s.journal = append(s.journal, "cannot start")
		s.set("failed", "failed")
		return fail(errors.New("it failed"))
	}
	m.pid++
	s.pid, s.result, s.starts = m.pid, "success", s.starts+1
	s.set("active", "running")
	s.journal = append(s.journal, "started")
	if s.OnStart != nil {
		s.OnStart()
	}
	return nil
}

// conditions are asked as systemd does: the unit's own, and the guard.
func (m *Manager) conditions(ctx context.Context, own func(context.Context) error, guard guest.ID) error {
	if own != nil {
		if err := own(ctx); err != nil {
			return err
		}
	}
	if guard != 0 && m.MayStart != nil {
		return m.MayStart(ctx, guard)
	}
	return nil
}

// take waits for the service's turn; m.mu is held before and after.
func (m *Manager) take(ctx context.Context, s *service) error {
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait is false after d, and true if cut came first.
func wait(ctx context.Context, d time.Duration, cut <-chan struct{}) bool {
	if d == 0 {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-cut:
		return true
	case <-ctx.Done():
		return true
	}
}

// Stop is unit.Manager's.
func (m *Manager) Stop(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("Stop", name)
	if errors.Is(err, unit.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	fail := func(why error) error { return &unit.Error{Op: "stop", Unit: name, Err: why, Result: s.result} }
	close(s.stopping)
	s.stopping = make(chan struct{})
	if err := m.take(ctx, s); err != nil {
		return fail(err)
	}
	defer func() { <-s.turn }()
	if s.pid != 0 {
		s.thaw()
		s.set("deactivating", "stop-sigterm")
		takes, hangs, most := min(s.Stops, s.StopTimeout), s.HangsForEver, s.StopTimeout+15*time.Second
		if hangs {
			takes = most
		}
		m.mu.Unlock()
		cut := wait(ctx, takes, nil)
		m.mu.Lock()
		if cut {
			return fail(context.Cause(ctx))
		}
		if hangs {
			return fail(fmt.Errorf("%w: %s", unit.ErrTimeout, most))
		}
		if s.pid != 0 {
			s.stopped()
		}
	}
	if s.left {
		return fail(errors.New("1 of its processes have not ended"))
	}
	return nil
}

func (s *service) stopped() {
	s.left = s.Leaves
	if s.Stops > s.StopTimeout {
		s.end("failed", "timeout")
		return
	}
	s.end("inactive", "success")
}

// Freeze is unit.Manager's.
func (m *Manager) Freeze(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("Freeze", name)
	if err != nil {
		return err
	}
	fail := func(why string) error { return &unit.Error{Op: "freeze", Unit: name, Err: errors.New(why)} }
	switch {
	case s.CannotFreeze:
		return fail("not supported")
	case s.active != "active":
		return fail("it does not run")
	}
	s.frozen = true
	return nil
}

// Thaw is unit.Manager's.
func (m *Manager) Thaw(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("Thaw", name)
	if errors.Is(err, unit.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.thaw()
	return nil
}

// Guard is unit.Manager's.
func (m *Manager) Guard(_ context.Context, name string, id guest.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := id.Validate(); err != nil {
		return err
	}
	s, err := m.find("Guard", name)
	if err == nil {
		s.guard = id
	}
	return err
}

// Unguard is unit.Manager's.
func (m *Manager) Unguard(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("Unguard", name)
	if errors.Is(err, unit.ErrNotFound) {
		return nil
	}
	if err == nil {
		s.guard = 0
	}
	return err
}

// Journal is unit.Manager's.
func (m *Manager) Journal(_ context.Context, name string, n int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find("Journal", name)
	if errors.Is(err, unit.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.Clone(s.journal[max(0, len(s.journal)-max(n, 1)):]), nil
}

// Close is unit.Manager's; nothing needs it here.
func (*Manager) Close() {}

// Adopt is unit.Manager's; nothing needs it here.
func (*Manager) Adopt(context.Context, string, int) error { return nil }
