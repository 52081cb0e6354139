package unit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Transient is a service without a file: it is gone once it has ended, and with the
// next boot.
type Transient struct {
	Description string
	// Args are the words of a call of the client, `tandem`, which becomes what runs.
	Args []string
	// Notify says that what runs tells systemd when it is ready; else it is once it is executed.
	Notify bool
	// Delegate gives it a control group of its own, as containers need.
	Delegate bool
	// Isolated gives it no network but a loopback of its own.
	Isolated bool
	// Lifetime is how long it may run, also if nobody is there to stop it any more.
	Lifetime time.Duration
}

// transientStop is how long it has to end by itself.
const transientStop = 10 * time.Second

// Launch starts a transient service and waits until it runs. Stop ends it. A name is
// used once.
func (m *Manager) Launch(ctx context.Context, unit string, t Transient) error {
	const op = "start"
	if len(t.Args) == 0 || t.Lifetime <= 0 {
		return fmt.Errorf("%s %s: no command, or no lifetime", op, unit)
	}
	_, err := m.job(ctx, m.limit(dialTimeout), op, unit, func(ctx context.Context, l *link, done chan<- string) error {
		_, err := l.StartTransientUnitContext(ctx, unit, "fail", t.properties(m.o.Tandem), done)
		if nameOf(err) == "org.freedesktop.systemd1.UnitExists" { // It was asked before, and the answer was lost.
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	s, err := m.State(ctx, unit)
	switch {
	case err != nil:
		return err
	case s.Active == "active":
		return nil
	default: // It is not there any more where systemd has forgotten it.
		return m.failed(ctx, op, unit, s, errors.New("it failed"))
	}
}

// properties are those of systemd.service(5) and systemd.exec(5).
func (t Transient) properties(tandem string) []dbus.Property {
	kind := "exec"
	if t.Notify {
		kind = "notify"
	}
	return []dbus.Property{
		dbus.PropDescription(t.Description),
		dbus.PropExecStart(append([]string{tandem}, t.Args...), false),
		dbus.PropType(kind),
		dbus.PropSlice("machine.slice"),
		property("CollectMode", "inactive-or-failed"),
		property("KillMode", "mixed"),
		property("TimeoutStopUSec", microseconds(transientStop)),
		property("RuntimeMaxUSec", microseconds(t.Lifetime)),
		property("Delegate", t.Delegate),
		property("PrivateNetwork", t.Isolated),
		property("TasksMax", uint64(16384)),
		property("UMask", uint32(0o077)),
	}
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

func microseconds(d time.Duration) uint64 { return uint64(d / time.Microsecond) } //nolint:gosec // not negative
