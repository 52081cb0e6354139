package unit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/tandemd/tandem/pkg/guest"
)

// longest bounds what is waited for a unit whose own timeout is longer, or that has none.
const longest = 10 * time.Minute

// Start starts the unit and waits until it runs. It is no error if it does already.
// The error of one that did not says why, with the last lines of its journal.
func (m *Manager) Start(ctx context.Context, unit string) error {
	const op = "start"
	p, err := m.properties(ctx, op, unit)
	if err != nil {
		return err
	}
	if err := p.loaded(op, unit); err != nil {
		return err
	}
	if p.state().Active == "active" && !p.job() {
		return nil
	}
	if err := m.forgive(ctx, op, unit); err != nil {
		return err
	}
	defer m.hold(ctx, unit)()
	limit := m.limit(p.microseconds("TimeoutStartUSec"))
	// Mode "fail" disturbs no stop that is going on, nor the machine's own.
	result, waited := m.job(ctx, limit, op, unit, func(ctx context.Context, l *link, done chan<- string) error {
		_, err := l.StartUnitContext(ctx, unit, "fail", done)
		return err
	})
	if p, err = m.properties(ctx, op, unit); err != nil {
		return errors.Join(waited, err)
	}
	s := p.state()
	switch {
	case s.Active == "active" || s.Active == "reloading":
		return nil
	case waited != nil:
		return waited
	case s.Result == "exec-condition":
		return m.failed(ctx, op, unit, s, ErrRefused)
	case result == "canceled":
		return m.failed(ctx, op, unit, s, errors.New("somebody else stopped it meanwhile"))
	case s.Active == "failed" || result == "failed" || result == "timeout":
		return m.failed(ctx, op, unit, s, errors.New("it failed"))
	case result == "dependency":
		return m.failed(ctx, op, unit, s, errors.New("a unit that it needs failed"))
	default:
		return m.failed(ctx, op, unit, s, fmt.Errorf("it does not run afterwards: it is %s (%s)", s.Active, s.Sub))
	}
}

// forgive has systemd's limit of starts (StartLimitBurst=) begin anew: it is for a service that restarts by itself, not for one that
// somebody has repaired, nor for a guest that goes from node to node and back.
func (m *Manager) forgive(ctx context.Context, op, unit string) error {
	return m.do(ctx, op, unit, func(ctx context.Context, l *link) error {
		err := l.ResetFailedUnitContext(ctx, unit)
		if nameOf(err) == "org.freedesktop.systemd1.NoSuchUnit" {
			return nil // It is not loaded, so nothing is counted.
		}
		return err
	})
}

// hold keeps systemd from forgetting how a start ended: one that a condition refused
// leaves a unit that is inactive and in nobody's use, which systemd unloads at once.
// Where it cannot be held, over systemd's own socket, only the reason is lost.
func (m *Manager) hold(ctx context.Context, unit string) (release func()) {
	call := func(ctx context.Context, method string) error {
		return m.do(ctx, "hold", unit, func(ctx context.Context, l *link) error {
			manager := l.bus.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
			return manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager."+method, 0, unit).Err
		})
	}
	if call(ctx, "RefUnit") != nil {
		return func() {}
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		_ = call(ctx, "UnrefUnit") // It ends with the connection at the latest.
	}
}

// Stop stops the unit, waits for its own stop timeout and a little longer, and
// verifies that nothing of it is left: no main process, nothing in its control group.
// One that does not exist does not run. If the error is ErrTimeout systemd goes on
// stopping it.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	const op = "stop"
	p, err := m.properties(ctx, op, unit)
	if err != nil {
		return err
	}
	s := p.state()
	if s.Running() || p.job() {
		if s.Frozen { // A process that stands still does not end.
			if err := m.Thaw(ctx, unit); err != nil {
				return err
			}
		}
		_, err := m.job(ctx, m.limit(s.StopTimeout), op, unit, func(ctx context.Context, l *link, done chan<- string) error {
			_, err := l.StopUnitContext(ctx, unit, "replace", done)
			return err
		})
		if err != nil {
			return err
		}
	}
	return m.stopped(ctx, unit)
}

// stopped verifies that nothing of the unit runs.
func (m *Manager) stopped(ctx context.Context, unit string) error {
	const op = "stop"
	s, err := m.State(ctx, unit)
	if err != nil {
		return err
	}
	if s.Running() {
		return m.failed(ctx, op, unit, s, fmt.Errorf("it still runs: it is %s (%s), main process %d", s.Active, s.Sub, s.MainPID))
	}
	left, err := m.processes(ctx, unit)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		return nil
	}
	var names []string
	for _, p := range left[:min(len(left), 3)] {
		names = append(names, fmt.Sprintf("%d %s", p.PID, clip(p.Command, 60)))
	}
	return &Error{
		Op: op, Unit: unit, Result: s.Result,
		Err:    fmt.Errorf("%d of its processes have not ended: %s", len(left), strings.Join(names, ", ")),
		Advice: "end them; KillMode=control-group or mixed in the unit does so by itself",
	}
}

// limit is how long a job is waited for.
func (m *Manager) limit(own time.Duration) time.Duration {
	if own == 0 || own > longest {
		own = longest
	}
	return own + m.o.Margin
}

// job has systemd do something with a unit and waits for it. Systemd tells when the
// job is over; a message that is lost, with the connection or with systemd's own
// restart, is made up for by looking.
func (m *Manager) job(
	ctx context.Context, limit time.Duration, op, unit string, begin func(context.Context, *link, chan<- string) error,
) (result string, err error) {
	over := fmt.Errorf("%w: %s", ErrTimeout, limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, over)
	defer cancel()
	var done chan string
	err = m.do(ctx, op, unit, func(ctx context.Context, l *link) error {
		done = make(chan string, 1)
		return begin(ctx, l, done)
	})
	if err != nil {
		return "", err
	}
	tick := time.NewTicker(m.o.Poll)
	defer tick.Stop()
	for idle := 0; idle < 2; {
		select {
		case result = <-done:
			return result, nil
		case <-ctx.Done():
			return "", m.late(context.WithoutCancel(ctx), op, unit, context.Cause(ctx))
		case <-tick.C:
			if p, err := m.properties(ctx, op, unit); err == nil && !p.job() {
				idle++
			} else {
				idle = 0
			}
		}
	}
	return "", nil
}

// late tells what a unit is at when its time is over.
func (m *Manager) late(ctx context.Context, op, unit string, why error) error {
	s, err := m.State(ctx, unit)
	if err != nil {
		return errors.Join(&Error{Op: op, Unit: unit, Err: why}, err)
	}
	return m.failed(ctx, op, unit, s, fmt.Errorf("%w: it is %s (%s), and systemd goes on", why, s.Active, s.Sub))
}

// failed is the error with what the unit itself said.
func (m *Manager) failed(ctx context.Context, op, unit string, s State, why error) error {
	lines, err := m.Journal(ctx, unit, 5)
	if err != nil {
		lines = nil // The failure itself matters more.
	}
	return &Error{Op: op, Unit: unit, Err: why, Result: s.Result, Journal: lines}
}

// Adopt moves a process of the daemon's into a scope of its own, so that systemd does
// not end it with the daemon. The name ends in .scope.
func (m *Manager) Adopt(ctx context.Context, scope string, pid int) error {
	const op = "make"
	if stem, ok := strings.CutSuffix(scope, ".scope"); !ok || guest.ValidateUnit(stem+".service") != nil || pid <= 0 {
		return fmt.Errorf("%s %q for process %d: not the name of a scope, or no process", op, scope, pid)
	}
	properties := []dbus.Property{
		dbus.PropDescription("Thaws a guest if tandemd dies"), dbus.PropPids(uint32(pid)),
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
	}
	done := make(chan string, 1)
	return m.ask(ctx, op, scope, func(ctx context.Context, l *link) error {
		if _, err := l.StartTransientUnitContext(ctx, scope, "fail", properties, done); err != nil {
			return err
		}
		select {
		case result := <-done:
			if result != "done" {
				return fmt.Errorf("its job ended with %q", result)
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}
