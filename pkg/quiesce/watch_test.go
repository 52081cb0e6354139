package quiesce_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/quiesce"
)

// watchdog is this test program as the watchdog.
func watchdog(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{self, "watch-frozen"}
}

func TestQuiescer_WatchdogLetsGo(t *testing.T) {
	path, log := hook(t, "")
	var dogs []int
	q := newQuiescer(t, quiesce.Options{
		Units: noUnits{}, Watchdog: watchdog(t),
		Adopt: func(_ context.Context, _ guest.ID, pid int) error {
			dogs = append(dogs, pid)
			return errors.New("there is no systemd")
		},
	})
	for range 2 {
		how, thaw, warning := q.Quiesce(t.Context(), guest.Guest{ID: webID, Quiesce: guest.Quiesce("hook:" + path)})
		if err := thaw(); how != guest.Hooked || warning != "" || err != nil {
			t.Errorf("%s, %q, %v", how, warning, err)
		}
	}
	if got, want := read(t, log), strings.Repeat("freeze 200\nthaw 200\n", 2); got != want {
		t.Errorf("calls: %q", got)
	}
	if len(dogs) != 2 {
		t.Errorf("watchdogs: %v", dogs)
	}
	for _, pid := range dogs {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("watchdog %d: %v", pid, err)
		}
	}
}

func TestQuiescer_DoesNotFreezeWithoutItsWatchdog(t *testing.T) {
	path, log := hook(t, "")
	for _, dog := range [][]string{{"/nonexistent/tandemd"}, {"/bin/false"}, {"/bin/echo", "no"}} {
		q := newQuiescer(t, quiesce.Options{Units: noUnits{}, Watchdog: dog})
		how, _, warning := q.Quiesce(t.Context(), guest.Guest{ID: webID, Quiesce: guest.Quiesce("hook:" + path)})
		if how != guest.Crash || !strings.Contains(warning, "if the daemon died") || read(t, log) != "" {
			t.Errorf("%v: %s, %q, called with %q", dog, how, warning, read(t, log))
		}
	}
}

// The daemon's death closes the pipe.
func TestWatch_ThawsWhenTheDaemonDies(t *testing.T) {
	path, log := hook(t, "")
	dir := t.TempDir()
	_, _, warning := newQuiescer(t, quiesce.Options{Dir: dir, Units: noUnits{}, Deadline: time.Hour}).
		Quiesce(t.Context(), guest.Guest{ID: webID, Quiesce: guest.Quiesce("hook:" + path)})
	if warning != "" {
		t.Fatal(warning)
	}
	for name, c := range map[string]struct{ said, want string }{
		"told that it runs": {said: "done\n", want: "freeze 200\n"}, "half a word": {said: "do", want: "freeze 200\nthaw 200\n"},
	} {
		if err := os.WriteFile(log, []byte("freeze 200\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		in, daemon := io.Pipe()
		out, dog := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- quiesce.Watch(t.Context(), filepath.Join(dir, "200.json"), noUnits{}, in, dog) }()
		ready := make([]byte, 6)
		if _, err := io.ReadFull(out, ready); err != nil || string(ready) != "ready\n" {
			t.Fatalf("%q, %v", ready, err)
		}
		if got := read(t, log); got != "freeze 200\n" {
			t.Errorf("while the daemon lives: %q", got)
		}
		_, _ = io.WriteString(daemon, c.said)
		_ = daemon.Close()
		if err := <-ended; err != nil || read(t, log) != c.want {
			t.Errorf("%s: %v, calls %q", name, err, read(t, log))
		}
	}
}
