package unit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// link is one connection to systemd.
type link struct {
	*dbus.Conn
	// bus is that of its calls, for those that the library does not have.
	bus *godbus.Conn
}

// route is a way to systemd.
type route struct {
	address string
	// direct: systemd itself is at the other end, and no bus.
	direct bool
}

// routes are the ways in their order. Systemd's own socket, which systemctl uses too,
// works where the bus does not run or is being restarted.
func (o Options) routes() []route {
	if o.Address != "" {
		return []route{{address: o.Address}}
	}
	return []route{
		{address: "unix:path=/run/dbus/system_bus_socket"},
		{address: "unix:path=/run/systemd/private", direct: true},
	}
}

// dialTimeout is for a connection, up to systemd's first answer.
const dialTimeout = 10 * time.Second

// connect gives the connection, a new one where there is none.
func (m *Manager) connect(ctx context.Context) (*link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.link != nil && m.link.Connected() {
		return m.link, nil
	}
	m.close()
	if err := m.life.Err(); err != nil {
		return nil, fmt.Errorf("%w: this end is closed", ErrUnreachable)
	}
	var errs []error
	for _, r := range m.o.routes() {
		l, err := m.dial(ctx, r)
		if err == nil {
			m.link, m.was = l, true
			return l, nil
		}
		errs = append(errs, fmt.Errorf("over %s: %w", r.address, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrUnreachable, errors.Join(errs...))
}

// close forgets the connection; m.mu is held.
func (m *Manager) close() {
	if m.link != nil {
		m.link.Close()
		m.link = nil
	}
}

// drop forgets a connection that does not work any more.
func (m *Manager) drop(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.link == l {
		m.close()
	}
}

// dial connects, and asks systemd something: a bus without systemd on it is of no use.
func (m *Manager) dial(ctx context.Context, r route) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var l link
	conn, err := dbus.NewConnection(func() (*godbus.Conn, error) {
		c, err := m.handshake(ctx, r)
		if l.bus == nil {
			l.bus = c // The library makes the connection of its calls first, then that of signals.
		}
		return c, err
	})
	if err != nil {
		return nil, timely(ctx, err)
	}
	l.Conn = conn
	if _, err := conn.SystemStateContext(ctx); err != nil {
		conn.Close()
		return nil, timely(ctx, err)
	}
	return &l, nil
}

// handshake makes one connection, which lives longer than ctx.
func (m *Manager) handshake(ctx context.Context, r route) (*godbus.Conn, error) {
	c, err := godbus.Dial(r.address, godbus.WithContext(m.life)) //nolint:contextcheck // it outlives the call
	if err != nil {
		return nil, err
	}
	// Nothing in the library ends a handshake that hangs.
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	err = c.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err == nil && !r.direct {
		err = c.Hello()
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// timely names the deadline where that is why.
func timely(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer in time (%w)", err)
	}
	return err
}

// do asks systemd something, once more where the connection was lost on the way.
// Everything that is asked can be asked twice.
func (m *Manager) do(ctx context.Context, op, unit string, ask func(context.Context, *link) error) error {
	if err := check(op, unit); err != nil {
		return err
	}
	return m.ask(ctx, op, unit, ask)
}

// ask is do for a unit whose name is good.
func (m *Manager) ask(ctx context.Context, op, unit string, ask func(context.Context, *link) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.CallTimeout)
	defer cancel()
	begun := time.Now()
	for again := true; ; again = false {
		l, err := m.connect(ctx)
		if err != nil {
			if m.patient(ctx, begun) {
				continue
			}
			return &Error{Op: op, Unit: unit, Err: err, Advice: "is systemd the init of this machine, and dbus installed? (systemctl status dbus.socket)"}
		}
		err = ask(ctx, l)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && lost(l, err) {
			m.drop(l)
			if again || m.patient(ctx, begun) {
				continue
			}
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return explain(ctx, op, unit, err)
	}
}

// patient waits a moment for a systemd that was there before: it, or the bus, is being
// restarted.
func (m *Manager) patient(ctx context.Context, begun time.Time) bool {
	m.mu.Lock()
	m.was = m.was && time.Since(begun) < m.o.Patience && m.life.Err() == nil
	was := m.was
	m.mu.Unlock()
	if !was {
		return false
	}
	pause := time.NewTimer(m.o.Poll)
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lost says whether an error is the connection's.
func lost(l *link, err error) bool {
	if _, network := errors.AsType[*net.OpError](err); network || !l.Connected() || errors.Is(err, godbus.ErrClosed) || errors.Is(err, io.EOF) {
		return true
	}
	return slices.Contains([]string{
		"org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected",
		"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
	}, nameOf(err))
}

// nameOf is D-Bus's name of an error, or empty.
func nameOf(err error) string {
	if e, ok := errors.AsType[godbus.Error](err); ok {
		return e.Name
	}
	if e, ok := errors.AsType[*godbus.Error](err); ok {
		return e.Name
	}
	return ""
}

// explain makes an operator's error of one of D-Bus's.
func explain(ctx context.Context, op, unit string, err error) error {
	out := &Error{Op: op, Unit: unit, Err: err}
	switch nameOf(err) {
	case "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.LoadFailed", "org.freedesktop.systemd1.BadUnitSetting",
		"org.freedesktop.systemd1.UnitMasked":
		out.Err, out.Advice = fmt.Errorf("%w: %w", ErrNotFound, err), adviceLoad(unit)
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
		out.Advice = "systemd obeys root only: tandemd must run as root"
	case "org.freedesktop.DBus.Error.NotSupported":
		out.Advice = "freezing needs cgroup v2 (the unified hierarchy) and systemd 246 or later"
	default:
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			out.Err = fmt.Errorf("systemd does not answer: %w", ErrTimeout)
		}
	}
	return out
}

func adviceLoad(unit string) string {
	return "`systemctl cat " + unit + "` shows what systemd knows of it; install its file on this node, then `systemctl daemon-reload`"
}
