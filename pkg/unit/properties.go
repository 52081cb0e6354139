package unit

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// properties are those of a unit, by systemd's names for them.
type properties map[string]any

// properties reads all of a unit's at once.
func (m *Manager) properties(ctx context.Context, op, unit string) (p properties, err error) {
	err = m.do(ctx, op, unit, func(ctx context.Context, l *link) error {
		p, err = l.GetAllPropertiesContext(ctx, unit)
		return err
	})
	return p, err
}

// prop is one of them, or nothing where systemd does not tell it.
func prop[T any](p properties, name string) T {
	v, _ := p[name].(T)
	return v
}

func (p properties) state() State {
	s := State{
		Load: prop[string](p, "LoadState"), Active: prop[string](p, "ActiveState"), Sub: prop[string](p, "SubState"),
		Result: prop[string](p, "Result"), MainPID: prop[uint32](p, "MainPID"),
		StopTimeout: p.microseconds("TimeoutStopUSec"), Enabled: p.enabled(),
	}
	if t := prop[uint64](p, "StateChangeTimestamp"); t != 0 && t < math.MaxInt64 {
		s.Since = time.UnixMicro(int64(t))
	}
	if t, now := p.microseconds("StateChangeTimestampMonotonic"), monotonic(); t > 0 && t <= now {
		s.Age = now - t
	}
	f := prop[string](p, "FreezerState")
	s.Frozen = f != "" && f != "running" // "thawing" and "freezing" do not run yet, or not any more
	return s
}

// monotonic is the clock of systemd's timestamps of that name, CLOCK_MONOTONIC.
func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // never fails
	return time.Duration(t.Nano())
}

// microseconds is a duration; 0 where it is none, or infinity.
func (p properties) microseconds(name string) time.Duration {
	n := prop[uint64](p, name)
	if n > math.MaxInt64/uint64(time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// enabled says whether something else than Tandem would start the unit.
func (p properties) enabled() bool {
	for _, by := range []string{"WantedBy", "RequiredBy", "UpheldBy", "TriggeredBy"} {
		if len(prop[[]string](p, by)) > 0 {
			return true
		}
	}
	return slices.Contains([]string{"enabled", "enabled-runtime"}, prop[string](p, "UnitFileState"))
}

// job says whether systemd has one for the unit.
func (p properties) job() bool {
	j := prop[[]any](p, "Job")
	if len(j) == 0 {
		return false
	}
	id, _ := j[0].(uint32)
	return id != 0
}

// loaded says why a unit cannot be used.
func (p properties) loaded(op, unit string) error {
	load := prop[string](p, "LoadState")
	if load == "loaded" {
		return nil
	}
	err := fmt.Errorf("%w: systemd says %q", ErrNotFound, load)
	if e := prop[[]any](p, "LoadError"); len(e) == 2 && e[1] != "" {
		err = fmt.Errorf("%w: %v", err, e[1])
	}
	return &Error{Op: op, Unit: unit, Err: err, Advice: adviceLoad(unit)}
}

// conditions are the command lines of its ExecCondition.
func (p properties) conditions() (out [][]string) {
	for _, c := range prop[[][]any](p, "ExecCondition") {
		if len(c) > 1 {
			if argv, ok := c[1].([]string); ok {
				out = append(out, argv)
			}
		}
	}
	return out
}

// process is one of a unit's control group.
type process struct {
	Group   string
	PID     uint32
	Command string
}

// processes are all that the unit's control group holds.
func (m *Manager) processes(ctx context.Context, unit string) (out []process, err error) {
	err = m.do(ctx, "list the processes of", unit, func(ctx context.Context, l *link) error {
		systemd := l.bus.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
		err := systemd.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.GetUnitProcesses", 0, unit).Store(&out)
		if nameOf(err) == "org.freedesktop.systemd1.NoSuchUnit" { // It is not loaded any more: nothing of it runs.
			return nil
		}
		return err
	})
	return out, err
}
