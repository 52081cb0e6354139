// Package unit is the systemd of this machine, as far as guests need it: what state
// a service is in, starting and stopping it, freezing it for a moment, a guard that
// has systemd ask Tandem before it starts one, and the last lines of its journal.
//
// It speaks to systemd over D-Bus, connects again when the connection is lost, and
// waits for nothing without an end. It does not know which guest may run where:
// the daemon decides, this package obeys. unittest is its stand-in for tests, and
// unittest/contract what both are held to.
package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// State is what systemd says of a service.
type State struct {
	// Load is "loaded", or why it is not: "not-found", "masked", "bad-setting", "error".
	Load string
	// Active is active, reloading, inactive, failed, activating or deactivating; Sub is finer.
	Active, Sub string
	// Result is why it last ended: success, exit-code, timeout, exec-condition, …
	Result string
	// Since is when it entered Sub, by this machine's clock; zero: never.
	Since time.Time
	// Age is for how long it has been in Sub, whatever was done to the clock meanwhile; 0:
	// not known.
	Age time.Duration
	// MainPID is 0 where nothing runs.
	MainPID uint32
	// StopTimeout is the unit's own; 0: it has none.
	StopTimeout time.Duration
	// Enabled says that something else than Tandem starts it: at boot, by a timer, …
	Enabled bool
	// Frozen says that its processes stand still.
	Frozen bool
}

// Running says that it runs, is about to, or has not ended yet: that it may write to
// its guest's volumes.
func (s State) Running() bool {
	return s.MainPID != 0 || s.Active != "" && s.Active != "inactive" && s.Active != "failed"
}

// Passing says of one that counts as running that it may be over in a moment: its start waits for the answer of an ExecCondition,
// which may refuse it, systemd is about to start it again (Restart=), of which it may grow tired, or it is being stopped.
func (s State) Passing() bool {
	switch s.Active {
	case "activating":
		return s.Sub == "condition" || strings.HasPrefix(s.Sub, "auto-restart")
	default:
		return s.Active == "deactivating"
	}
}

// Kinds of failures that callers tell apart.
var (
	// ErrUnreachable: systemd does not answer, so that nothing is known.
	ErrUnreachable = errors.New("systemd cannot be reached")
	// ErrNotFound: there is no such unit, or it cannot be loaded.
	ErrNotFound = errors.New("the unit is not there")
	// ErrRefused: its ExecCondition does not let it start.
	ErrRefused = errors.New("its ExecCondition refused the start")
	// ErrTimeout: it has not done so in time; systemd may still be about it.
	ErrTimeout = errors.New("not in time")
)

// Error is how something with a unit fails.
type Error struct {
	Op, Unit string
	Err      error
	// Result is systemd's word for how the unit ended, where it did.
	Result string
	// Journal are its last lines.
	Journal []string
	// Advice is what to do about it, or empty.
	Advice string
}

// Error is one line.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %v", e.Op, e.Unit, e.Err)
	if e.Result != "" && e.Result != "success" {
		text += " (result: " + e.Result + ")"
	}
	if n := len(e.Journal); n > 0 {
		text += "; it last said: " + e.Journal[n-1]
	}
	return text
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint is what an operator can do, with the journal's last lines.
func (e *Error) Hint() string {
	text := e.Advice
	if len(e.Journal) > 0 {
		text = strings.TrimPrefix(text+"\n", "\n") + "its journal ends with:\n  " + strings.Join(e.Journal, "\n  ") +
			"\n`journalctl -u " + e.Unit + "` shows more"
	}
	return text
}

// Options say where systemd is.
type Options struct {
	// Address is the D-Bus address of a bus with systemd on it. Default: the system
	// bus, and where that does not answer systemd's own socket.
	Address string
	// Folder is where drop-ins go; default /run/systemd/system.
	Folder string
	// Tandem is the client that a guard calls; default: the one beside the running program.
	Tandem string
	// Journalctl is the program; default journalctl.
	Journalctl string
	// CallTimeout is for one question to systemd; default 30 s.
	CallTimeout time.Duration
	// Margin is what a start or a stop gets beyond the unit's own timeout; default 15 s.
	Margin time.Duration
	// Patience is how long a systemd that was there may be away, because it or the bus is
	// being restarted; default 5 s.
	Patience time.Duration
	// Poll is how often a unit is looked at while a job of it runs; default 1 s.
	Poll time.Duration
}

func (o Options) withDefaults() Options {
	set := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	wait := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&o.Folder, "/run/systemd/system")
	set(&o.Journalctl, "journalctl")
	if o.Tandem == "" {
		o.Tandem = "/usr/bin/tandem"
		if self, err := os.Executable(); err == nil && filepath.Base(self) == "tandemd" {
			o.Tandem = filepath.Join(filepath.Dir(self), "tandem")
		}
	}
	wait(&o.CallTimeout, 30*time.Second)
	wait(&o.Margin, 15*time.Second)
	wait(&o.Patience, 5*time.Second)
	wait(&o.Poll, time.Second)
	return o
}

// Manager is systemd. Its methods may be called concurrently.
type Manager struct {
	o Options
	// life is that of the connections.
	life context.Context //nolint:containedctx // a connection outlives the call that made it
	end  context.CancelFunc

	mu   sync.Mutex
	link *link
	// was: systemd has been there, and was not given up since.
	was bool
	// guards is held while a drop-in is written and taken in.
	guards sync.Mutex
}

// New makes a Manager; it connects when it is first asked something.
func New(o Options) *Manager {
	m := &Manager{o: o.withDefaults()}
	m.life, m.end = context.WithCancel(context.Background())
	return m
}

// Close ends its connections.
func (m *Manager) Close() { m.end() }

// check refuses what cannot be the name of a service.
func check(op, unit string) error {
	if unit == "" {
		return fmt.Errorf("%s: no unit is named", op)
	}
	if err := guest.ValidateUnit(unit); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// State asks systemd for a service. One that does not exist has Load "not-found" and
// does not run; that is no error.
func (m *Manager) State(ctx context.Context, unit string) (State, error) {
	p, err := m.properties(ctx, "look at", unit)
	return p.state(), err
}

// Freeze makes all processes of the unit stand still, and verifies it. If it fails
// they may be standing still all the same: Thaw it.
func (m *Manager) Freeze(ctx context.Context, unit string) error {
	const op = "freeze"
	err := m.do(ctx, op, unit, func(ctx context.Context, l *link) error { return l.FreezeUnit(ctx, unit) })
	if err != nil {
		return err
	}
	s, err := m.State(ctx, unit)
	if err == nil && !s.Frozen {
		err = &Error{Op: op, Unit: unit, Err: errors.New("it runs on although systemd said that it is frozen")}
	}
	return err
}

// Thaw lets them run on, and verifies it. One that is not frozen, or does not run, is
// no error.
func (m *Manager) Thaw(ctx context.Context, unit string) error {
	err := m.do(ctx, "thaw", unit, func(ctx context.Context, l *link) error { return l.ThawUnit(ctx, unit) })
	s, failed := m.State(ctx, unit)
	switch {
	case failed != nil:
		return errors.Join(err, failed)
	case !s.Frozen:
		return nil
	case err == nil:
		err = &Error{Op: "thaw", Unit: unit, Err: errors.New("it stands still although systemd said that it runs on")}
	}
	return err
}
