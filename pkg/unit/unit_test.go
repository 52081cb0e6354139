package unit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit"
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/unit/unittest/contract"
)

const web = "web.service"

// open makes a manager on a bus of its own, whose journal is the fake's.
func open(t *testing.T, change func(*unit.Options)) (*bus, *unit.Manager) {
	t.Helper()
	b := newBus(t)
	o := b.options()
	if change != nil {
		change(&o)
	}
	b.write("journalctl", 0o700, "#!/bin/sh\necho cannot start\n")
	b.units.Add(web, unittest.Spec{})
	m := unit.New(o)
	t.Cleanup(m.Close)
	return b, m
}

func TestManager_KeepsTheContract(t *testing.T) {
	contract.Run(t, func(t *testing.T) contract.Env {
		t.Helper()
		b, m := open(t, nil)
		allowed := make(chan bool, 1)
		allowed <- true
		b.units.MayStart = func(context.Context, guest.ID) error {
			ok := <-allowed
			allowed <- ok
			if !ok {
				return errors.New("not here")
			}
			return nil
		}
		return contract.Env{
			Manager: m, Crash: func(name string) { b.units.Crash(name, "exit-code") },
			Allow: func(ok bool) {
				<-allowed
				allowed <- ok
			},
			Define: func(name string, s contract.Service) {
				spec := unittest.Spec{Fails: s.Fails, StopTimeout: time.Second, Leaves: s.Leaves, Enabled: s.Enabled}
				if s.Ignores {
					spec.Stops = time.Hour
				}
				b.units.Add(name, spec)
			},
		}
	})
}

func TestManager_NamesTheBusThatIsAbsent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "no-bus")
	m := unit.New(unit.Options{Address: "unix:path=" + socket})
	defer m.Close()
	_, err := m.State(t.Context(), web)
	if !errors.Is(err, unit.ErrUnreachable) || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), web) {
		t.Errorf("without a bus: %v", err)
	}
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "systemd") {
		t.Errorf("no hint in %v", err)
	}
}

func TestManager_ConnectsAgain(t *testing.T) {
	b, m := open(t, func(o *unit.Options) { o.Patience = 100 * time.Millisecond })
	if err := m.Start(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	b.end()
	if _, err := m.State(t.Context(), web); !errors.Is(err, unit.ErrUnreachable) {
		t.Errorf("without the bus: %v", err)
	}
	b.start()
	if s, err := m.State(t.Context(), web); err != nil || !s.Running() {
		t.Errorf("with the bus again: %+v, %v", s, err)
	}
	b.end()
	b.start()
	if err := m.Stop(t.Context(), web); err != nil {
		t.Errorf("a bus that was restarted unnoticed: %v", err)
	}
}

// The messages of jobs may be lost, when systemd or the bus is restarted meanwhile.
func TestManager_JobsNeedNoMessage(t *testing.T) {
	b, m := open(t, nil)
	b.silent.Store(true)
	if err := m.Start(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context(), web); err != nil {
		t.Fatal(err)
	}

	begun, ended := make(chan struct{}), make(chan struct{})
	b.units.Add(web, unittest.Spec{Stops: 300 * time.Millisecond, OnStart: func() { close(begun) }, OnStop: func() { close(ended) }})
	if err := m.Start(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- m.Stop(t.Context(), web) }()
	for s := (unit.State{}); s.Active != "deactivating"; {
		s, _ = b.units.State(t.Context(), web)
	}
	b.end()
	<-ended
	b.start()
	if err := <-stopped; err != nil { // It waited for the bus.
		t.Errorf("the bus was restarted during a stop: %v", err)
	}
}

func TestManager_WaitsForNothingWithoutAnEnd(t *testing.T) {
	b, m := open(t, func(o *unit.Options) { o.Margin, o.CallTimeout = 100*time.Millisecond, 500*time.Millisecond })
	b.units.Add(web, unittest.Spec{HangsForEver: true, StopTimeout: 200 * time.Millisecond})
	if err := m.Start(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	err := m.Stop(t.Context(), web)
	if !errors.Is(err, unit.ErrTimeout) || !strings.Contains(err.Error(), "deactivating") {
		t.Errorf("a stop that hangs: %v", err)
	}
	gate := make(chan struct{})
	b.mute.Store(&gate)
	defer close(gate)
	if _, err := m.State(t.Context(), web); !errors.Is(err, unit.ErrTimeout) {
		t.Errorf("a systemd that does not answer: %v", err)
	}
}

func TestManager_ReloadsOnlyForAChange(t *testing.T) {
	b, m := open(t, nil)
	path := filepath.Join(b.dir, "units", web+".d", "50-tandem.conf")
	for range 3 {
		if err := m.Guard(t.Context(), web, 100); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.reloads.Load(); n != 1 {
		t.Errorf("systemd was reloaded %d times for one change", n)
	}
	text, err := os.ReadFile(path)
	want := "# Written by tandemd: only the owner of guest 100 may start it.\n[Service]\nExecCondition=\"/usr/bin/tandem\" guest may-start 100\n"
	if diff := cmp.Diff(want, string(text)); err != nil || diff != "" {
		t.Errorf("%v, the drop-in (-want +got):\n%s", err, diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("its mode: %v, %v", info.Mode(), err)
	}

	// Whoever wrote it died before the reload.
	if err := b.units.Unguard(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if err := m.Guard(t.Context(), web, 100); err != nil || b.reloads.Load() != 2 || b.units.Guarded(web) != 100 {
		t.Errorf("a drop-in that systemd had not read: %v, %d reloads, guard %d", err, b.reloads.Load(), b.units.Guarded(web))
	}
	if err := m.Unguard(t.Context(), web); err != nil || b.units.Guarded(web) != 0 {
		t.Errorf("unguard: %v, guard %d", err, b.units.Guarded(web))
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "units", "*")); len(left) != 0 {
		t.Errorf("it left %q", left)
	}
}

func TestManager_LeavesAUnitThatAsksByItself(t *testing.T) {
	b, m := open(t, nil)
	if err := b.units.Guard(t.Context(), web, 100); err != nil { // as if its file said so
		t.Fatal(err)
	}
	if err := m.Guard(t.Context(), web, 100); err != nil || b.reloads.Load() != 0 {
		t.Errorf("%v, %d reloads", err, b.reloads.Load())
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "units", "*")); len(left) != 0 {
		t.Errorf("it wrote %q", left)
	}
}

func TestManager_Journal(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "journalctl")
	m := unit.New(unit.Options{Journalctl: script})
	defer m.Close()
	for _, c := range []struct {
		name, script string
		want         []string
		fails        string
	}{
		{name: "lines", script: `printf 'one\n\ntwo\033[31m\n three \n'`, want: []string{"two [31m", "three"}},
		{name: "arguments", script: `echo "$LC_ALL $*"`, want: []string{"C --unit web.service --lines 2 --output cat --no-pager --quiet"}},
		{name: "failure", script: `echo "no journal" >&2; exit 1`, fails: "no journal"},
		{name: "nothing", script: `exit 0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(script, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			got, err := m.Journal(t.Context(), web, 2)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("the error is %v, want %q", err, c.fails)
			}
		})
	}
}

func TestState_Passing(t *testing.T) {
	for _, tc := range []struct {
		active, sub string
		want        bool
	}{
		{"active", "running", false},
		{"reloading", "reload", false},
		{"activating", "start", false},
		{"activating", "condition", true},
		{"activating", "auto-restart", true},
		{"activating", "auto-restart-queued", true},
		{"deactivating", "stop-sigterm", true},
	} {
		s := unit.State{Active: tc.active, Sub: tc.sub}
		if s.Passing() != tc.want || !s.Running() {
			t.Errorf("%s (%s): passing %v, running %v", tc.active, tc.sub, s.Passing(), s.Running())
		}
	}
}
