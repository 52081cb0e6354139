package unit_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit"
	"github.com/tandemd/tandem/pkg/unit/unittest"
)

const (
	busName   = "org.freedesktop.systemd1"
	busPath   = dbus.ObjectPath("/org/freedesktop/systemd1")
	unitPaths = "/org/freedesktop/systemd1/unit/"
)

// bus is a dbus-daemon of the test's own, with a systemd on it that runs the services of the fake.
type bus struct {
	t       *testing.T
	dir     string
	units   *unittest.Manager
	daemon  *exec.Cmd
	conn    *dbus.Conn
	reloads atomic.Int64
	// silent: no message tells that a job is over. mute: nothing is answered until it is closed.
	silent atomic.Bool
	mute   atomic.Pointer[chan struct{}]

	mu   sync.Mutex
	job  uint32
	jobs map[string]uint32
	// given are the properties of the last transient service.
	given map[string]dbus.Variant
	// starts are counted for the limit.
	starts map[string]int
}

func (b *bus) address() string { return "unix:path=" + filepath.Join(b.dir, "bus") }

func (b *bus) options() unit.Options {
	return unit.Options{
		Address: b.address(), Folder: filepath.Join(b.dir, "units"), Tandem: "/usr/bin/tandem", Journalctl: filepath.Join(b.dir, "journalctl"),
		Poll: 20 * time.Millisecond, Margin: 15 * time.Second,
	}
}

func newBus(t *testing.T) *bus {
	t.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Fatal("dbus-daemon is not installed: `make need` installs it")
	}
	dir, err := os.MkdirTemp("", "bus") //nolint:usetesting // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bus{t: t, dir: dir, units: unittest.New(), jobs: map[string]uint32{}, starts: map[string]int{}}
	b.write("bus.conf", 0o600, `<busconfig><type>session</type><listen>`+b.address()+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`)
	b.start()
	t.Cleanup(b.end)
	return b
}

func (b *bus) write(name string, mode os.FileMode, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), mode); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bus) start() {
	b.t.Helper()
	b.daemon = exec.Command("dbus-daemon", "--config-file="+filepath.Join(b.dir, "bus.conf"), "--nofork", "--nopidfile", "--nosyslog", "--print-address=1") //nolint:noctx // it ends with end
	out, err := b.daemon.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.daemon.Start(); err != nil {
		b.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.t.Fatalf("dbus-daemon: %v", err)
	}
	conn, err := dbus.Connect(b.address())
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.conn = conn
	b.mu.Unlock()
	for _, err := range []error{
		conn.Export(manager{b}, busPath, busName+".Manager"),
		conn.Export(managerProperties{}, busPath, "org.freedesktop.DBus.Properties"),
		conn.ExportSubtree(unitProperties{b}, dbus.ObjectPath(strings.TrimSuffix(unitPaths, "/")), "org.freedesktop.DBus.Properties"),
	} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
	if _, err := conn.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bus) end() {
	_ = b.conn.Close()
	_ = b.daemon.Process.Kill()
	_ = b.daemon.Wait()
}

func (b *bus) wait() {
	if gate := b.mute.Load(); gate != nil {
		<-*gate
	}
}

// begin runs a job as systemd does, and tells when it is over.
func (b *bus) begin(name string, work func() error) (dbus.ObjectPath, *dbus.Error) {
	b.wait()
	if s, _ := b.units.State(context.Background(), name); s.Load != "loaded" {
		return "", dbus.NewError(busName+".NoSuchUnit", []any{"Unit " + name + " not found."})
	}
	b.mu.Lock()
	b.job++
	id, conn := b.job, b.conn
	path := dbus.ObjectPath(fmt.Sprintf("%s/job/%d", busPath, id))
	b.jobs[name] = id
	b.mu.Unlock()
	go func() {
		result := "done"
		if err := work(); err != nil && !errors.Is(err, unit.ErrRefused) {
			result = "failed"
		}
		b.mu.Lock()
		if b.jobs[name] == id {
			delete(b.jobs, name)
		}
		b.mu.Unlock()
		if !b.silent.Load() {
			_ = conn.Emit(busPath, busName+".Manager.JobRemoved", id, path, name, result)
		}
	}()
	return path, nil
}

// manager is what systemd has on its bus.
type manager struct{ *bus }

// startLimit is that of the units that Tandem ships.
const startLimit = 5

func (m manager) StartUnit(name, _ string) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	m.starts[name]++
	over := m.starts[name] > startLimit
	m.mu.Unlock()
	return m.begin(name, func() error {
		if over {
			return errors.New("start-limit-hit")
		}
		return m.units.Start(context.Background(), name)
	})
}

func (m manager) StopUnit(name, _ string) (dbus.ObjectPath, *dbus.Error) {
	return m.begin(name, func() error { return m.units.Stop(context.Background(), name) })
}

type givenProperty struct {
	Name  string
	Value dbus.Variant
}

type givenUnit struct {
	Name       string
	Properties []givenProperty
}

// StartTransientUnit makes a service; one that is called bad does not start.
func (m manager) StartTransientUnit(name, _ string, properties []givenProperty, _ []givenUnit) (dbus.ObjectPath, *dbus.Error) {
	if s, _ := m.units.State(context.Background(), name); s.Load == "loaded" {
		return "", dbus.NewError(busName+".UnitExists", []any{"Unit " + name + " was already loaded or has a fragment file."})
	}
	m.mu.Lock()
	m.given = map[string]dbus.Variant{}
	for _, p := range properties {
		m.given[p.Name] = p.Value
	}
	m.mu.Unlock()
	m.units.Add(name, unittest.Spec{Fails: strings.HasPrefix(name, "bad")})
	return m.StartUnit(name, "")
}

func (m manager) ResetFailedUnit(name string) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.starts[name] == 0 {
		return dbus.NewError(busName+".NoSuchUnit", []any{"Unit " + name + " not loaded."})
	}
	delete(m.starts, name)
	return nil
}

func (m manager) FreezeUnit(name string) *dbus.Error {
	m.wait()
	return failed(m.units.Freeze(context.Background(), name))
}

func (m manager) ThawUnit(name string) *dbus.Error {
	s, _ := m.units.State(context.Background(), name)
	if !s.Running() {
		return dbus.NewError(busName+".UnitInactive", []any{"Unit is not active."})
	}
	return failed(m.units.Thaw(context.Background(), name))
}

func (m manager) GetUnitProcesses(name string) ([]process, *dbus.Error) {
	var out []process
	for range m.units.Left(name) {
		out = append(out, process{"/system.slice/" + name, 4711, "/usr/bin/left behind"})
	}
	return out, nil
}

type process struct {
	Group   string
	PID     uint32
	Command string
}

var guardLine = regexp.MustCompile(`(?m)^ExecCondition="/usr/bin/tandem" guest may-start (\d+)$`)

// Reload takes in what drop-ins there are.
func (m manager) Reload() *dbus.Error {
	m.reloads.Add(1)
	folders, _ := filepath.Glob(filepath.Join(m.dir, "units", "*.d"))
	found := map[string]guest.ID{}
	for _, folder := range folders {
		text, _ := os.ReadFile(filepath.Join(folder, "50-tandem.conf"))
		if line := guardLine.FindSubmatch(text); line != nil {
			found[strings.TrimSuffix(filepath.Base(folder), ".d")], _ = guest.ParseID(string(line[1]))
		}
	}
	for _, name := range services {
		if id := found[name]; id != 0 {
			_ = m.units.Guard(context.Background(), name, id)
		} else {
			_ = m.units.Unguard(context.Background(), name)
		}
	}
	return nil
}

// services are those that a reload looks after.
var services = []string{"tandem-contract@web.service", "web.service"}

func failed(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	return dbus.MakeFailedError(err)
}

type managerProperties struct{}

func (managerProperties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	if name != "SystemState" {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
	}
	return dbus.MakeVariant("running"), nil
}

type unitProperties struct{ *bus }

type execCommand struct {
	Path       string
	Argv       []string
	Ignore     bool
	A, B, C, D uint64
	PID        uint32
	Code, Exit int32
}

type jobProperty struct {
	ID   uint32
	Path dbus.ObjectPath
}

type loadProperty struct{ Name, Text string }

func (u unitProperties) GetAll(msg dbus.Message, _ string) (map[string]dbus.Variant, *dbus.Error) {
	u.wait()
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	name := unescape(strings.TrimPrefix(string(path), unitPaths))
	s, err := u.units.State(context.Background(), name)
	if err != nil {
		return nil, failed(err)
	}
	u.mu.Lock()
	job := u.jobs[name]
	u.mu.Unlock()
	p := map[string]dbus.Variant{
		"LoadState": dbus.MakeVariant(s.Load), "ActiveState": dbus.MakeVariant(s.Active), "SubState": dbus.MakeVariant(s.Sub),
		"Result": dbus.MakeVariant(s.Result), "MainPID": dbus.MakeVariant(s.MainPID),
		"TimeoutStopUSec": dbus.MakeVariant(uint64(s.StopTimeout.Microseconds())), "TimeoutStartUSec": dbus.MakeVariant(^uint64(0)),
		"FreezerState": dbus.MakeVariant("running"), "UnitFileState": dbus.MakeVariant("static"),
		"Job": dbus.MakeVariant(jobProperty{job, "/"}), "LoadError": dbus.MakeVariant(loadProperty{}),
		"WantedBy": dbus.MakeVariant([]string{}), "StateChangeTimestamp": dbus.MakeVariant(uint64(0)),
		"ExecCondition": dbus.MakeVariant([]execCommand{}),
	}
	if !s.Since.IsZero() {
		p["StateChangeTimestamp"] = dbus.MakeVariant(uint64(s.Since.UnixMicro()))
		var now unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
		p["StateChangeTimestampMonotonic"] = dbus.MakeVariant(uint64((time.Duration(now.Nano()) - s.Age).Microseconds()))
	}
	if s.Frozen {
		p["FreezerState"] = dbus.MakeVariant("frozen")
	}
	if s.Enabled {
		p["WantedBy"] = dbus.MakeVariant([]string{"multi-user.target"})
	}
	if s.Load == "not-found" {
		p["LoadError"] = dbus.MakeVariant(loadProperty{busName + ".NoSuchUnit", "Unit " + name + " not found."})
	}
	if id := u.units.Guarded(name); id != 0 {
		argv := []string{"/usr/bin/tandem", "guest", "may-start", strconv.Itoa(int(id))}
		p["ExecCondition"] = dbus.MakeVariant([]execCommand{{Path: argv[0], Argv: argv}})
	}
	return p, nil
}

// unescape reads a unit's name out of its object's path.
func unescape(s string) string {
	return regexp.MustCompile(`_[0-9a-f]{2}`).ReplaceAllStringFunc(s, func(x string) string {
		b, _ := hex.DecodeString(x[1:])
		return string(b)
	})
}
