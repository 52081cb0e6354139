package quiesce_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/quiesce"
	"github.com/tandemd/tandem/pkg/unit/unittest"
)

const (
	web   = "tandem-ct@200.service"
	webID = guest.ID(200)
)

// TestMain is the watchdog's process, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "watch-frozen" {
		if err := quiesce.Watch(context.Background(), os.Args[2], noUnits{}, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// noUnits is a machine without systemd.
type noUnits struct{}

var errNoUnits = errors.New("there is no systemd")

func (noUnits) Running(context.Context, string) (bool, error) { return false, errNoUnits }
func (noUnits) Frozen(context.Context, string) (bool, error)  { return false, errNoUnits }
func (noUnits) Freeze(context.Context, string) error          { return errNoUnits }
func (noUnits) Thaw(context.Context, string) error            { return errNoUnits }

// units is the fake systemd.
type units struct{ *unittest.Manager }

func (u units) Running(ctx context.Context, name string) (bool, error) {
	s, err := u.State(ctx, name)
	return s.Running(), err
}

func (u units) Frozen(ctx context.Context, name string) (bool, error) {
	s, err := u.State(ctx, name)
	return s.Frozen, err
}

func running(t *testing.T) units {
	t.Helper()
	m := unittest.New()
	m.Add(web, unittest.Spec{})
	if err := m.Start(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	return units{m}
}

// reports are what the operator is told.
type reports struct {
	mu   sync.Mutex
	said []string
}

func (r *reports) report(id guest.ID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf("%s: %v", id, err))
}

func (r *reports) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said)
}

func newQuiescer(t *testing.T, o quiesce.Options) *quiesce.Quiescer {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	q, err := quiesce.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func frozen(t *testing.T, u units) bool {
	t.Helper()
	f, err := u.Frozen(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func frozenWeb(q guest.Quiesce) guest.Guest { return guest.Guest{ID: webID, Unit: web, Quiesce: q} }

func TestQuiescer_FreezesAUnit(t *testing.T) {
	u, dir := running(t), t.TempDir()
	q := newQuiescer(t, quiesce.Options{Dir: dir, Units: u})
	for range 2 {
		how, thaw, warning := q.Quiesce(t.Context(), frozenWeb(guest.QuiesceFreeze))
		if how != guest.Frozen || warning != "" || !frozen(t, u) {
			t.Errorf("%s, %q, frozen %t", how, warning, frozen(t, u))
		}
		if notes, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(notes) != 1 {
			t.Errorf("while it stands still the notes are %q", notes)
		}
		if err := thaw(); err != nil || frozen(t, u) {
			t.Errorf("thaw: %v, frozen %t", err, frozen(t, u))
		}
		if notes, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(notes) != 0 {
			t.Errorf("it left %q", notes)
		}
	}
}

func TestQuiescer_LeavesAlone(t *testing.T) {
	u := running(t)
	if err := u.Stop(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	q := newQuiescer(t, quiesce.Options{Units: u})
	for name, c := range map[string]struct {
		guest guest.Guest
		warns string
	}{
		"guest that is not to be quiesced": {guest: frozenWeb("")},
		"guest that does not run":          {guest: frozenWeb(guest.QuiesceFreeze)},
		"agent of one that does not run":   {guest: frozenWeb(guest.QuiesceAgent)},
		"freeze without a unit":            {guest: guest.Guest{ID: 300, Quiesce: guest.QuiesceFreeze}, warns: "no unit"},
		"agent that is not there":          {guest: guest.Guest{ID: 300, Quiesce: guest.QuiesceAgent}, warns: "guest agent cannot be reached"},
		"hook that is not there":           {guest: guest.Guest{ID: 300, Quiesce: "hook:/nonexistent"}, warns: "no such file"},
		"way of a later version":           {guest: guest.Guest{ID: 300, Quiesce: "magic"}, warns: "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			how, thaw, warning := q.Quiesce(t.Context(), c.guest)
			if how != guest.Crash || thaw() != nil || (warning != "") != (c.warns != "") || !strings.Contains(warning, c.warns) {
				t.Errorf("%s, warning %q", how, warning)
			}
		})
	}
}

func TestQuiescer_ThawsWhileTheSnapshotHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := running(t)
		q := newQuiescer(t, quiesce.Options{Units: u})
		_, thaw, _ := q.Quiesce(t.Context(), frozenWeb(guest.QuiesceFreeze))
		time.Sleep(10*time.Second - time.Millisecond)
		if !frozen(t, u) {
			t.Error("it ran on too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if frozen(t, u) {
			t.Error("it still stands still")
		}
		if err := thaw(); err == nil || !strings.Contains(err.Error(), "longer than 10s") {
			t.Errorf("the snapshot is not told: %v", err)
		}
	})
}

// Somebody else thawed it meanwhile, by `systemctl thaw`.
func TestQuiescer_TellsThatItRanOn(t *testing.T) {
	u := running(t)
	q := newQuiescer(t, quiesce.Options{Units: u})
	_, thaw, _ := q.Quiesce(t.Context(), frozenWeb(guest.QuiesceFreeze))
	if err := u.Thaw(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if err := thaw(); err == nil {
		t.Error("the point counts as frozen")
	}
}

func TestQuiescer_NextDaemonThaws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, dir := running(t), t.TempDir()
		_, _, warning := newQuiescer(t, quiesce.Options{Dir: dir, Units: u, Deadline: time.Hour}).Quiesce(t.Context(), frozenWeb(guest.QuiesceFreeze))
		if warning != "" || !frozen(t, u) {
			t.Fatal(warning)
		}
		next := newQuiescer(t, quiesce.Options{Dir: dir, Units: u})
		if how, _, warning := next.Quiesce(t.Context(), frozenWeb(guest.QuiesceFreeze)); how != guest.Crash || !strings.Contains(warning, "being thawed") {
			t.Errorf("before it was thawed: %s, %q", how, warning)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go next.Run(ctx)
		synctest.Wait()
		if frozen(t, u) {
			t.Error("it still stands still")
		}
		if how, thaw, _ := next.Quiesce(t.Context(), frozenWeb(guest.QuiesceFreeze)); how != guest.Frozen || thaw() != nil {
			t.Errorf("afterwards: %s", how)
		}
	})
}

func TestQuiescer_GoesOnTryingToThaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := running(t)
		var broken sync.Map
		u.Trouble = func(method, _ string) error {
			if _, is := broken.Load(method); is {
				return errors.New("systemd is away")
			}
			return nil
		}
		var told reports
		q := newQuiescer(t, quiesce.Options{Units: u, Report: told.report})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go q.Run(ctx)
		_, thaw, _ := q.Quiesce(t.Context(), frozenWeb(guest.QuiesceFreeze))
		broken.Store("Thaw", true)
		if err := thaw(); err == nil || !strings.Contains(err.Error(), "systemd is away") {
			t.Errorf("thaw: %v", err)
		}
		time.Sleep(12 * time.Second)
		if said := told.all(); len(said) < 3 || !strings.Contains(said[0], "guest 200 stands still and cannot be thawed") {
			t.Errorf("the operator was told %q", said)
		}
		broken.Delete("Thaw")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if said := told.all(); frozen(t, u) || said[len(said)-1] != "200: <nil>" {
			t.Errorf("frozen %t; the operator was told %q", frozen(t, u), said)
		}
	})
}

func TestQuiescer_TellsOfANoteThatIsBroken(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "200.json"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	var told reports
	newQuiescer(t, quiesce.Options{Dir: dir, Units: noUnits{}, Report: told.report})
	if said := told.all(); len(said) != 1 || !strings.Contains(said[0], "guest 200 may stand still") {
		t.Errorf("told: %q", said)
	}
}

// hook writes an executable that notes what it is called with.
func hook(t *testing.T, text string) (path, log string) {
	t.Helper()
	dir := t.TempDir()
	path, log = filepath.Join(dir, "hook"), filepath.Join(dir, "log")
	script := "#!/bin/sh\necho \"$@\" >>" + log + "\n" + text + "\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, log
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func TestQuiescer_Hook(t *testing.T) {
	for name, c := range map[string]struct {
		script, warns, thaws string
		how                  guest.Consistency
		calls                string
	}{
		"good":              {how: guest.Hooked, calls: "freeze 200\nthaw 200\n"},
		"failing freeze":    {script: `[ $1 = thaw ] || { echo "the database is away"; exit 3; }`, warns: "it said: the database is away", how: guest.Crash, calls: "freeze 200\nthaw 200\n"},
		"failing thaw":      {script: `[ $1 = freeze ] || exit 4`, thaws: "exit status 4", how: guest.Hooked, calls: "freeze 200\nthaw 200\n"},
		"failing both ways": {script: `exit 5`, warns: "exit status 5", how: guest.Crash, calls: "freeze 200\nthaw 200\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path, log := hook(t, c.script)
			q := newQuiescer(t, quiesce.Options{Units: noUnits{}})
			how, thaw, warning := q.Quiesce(t.Context(), guest.Guest{ID: webID, Quiesce: guest.Quiesce("hook:" + path)})
			if how != c.how || (warning != "") != (c.warns != "") || !strings.Contains(warning, c.warns) {
				t.Errorf("%s, warning %q", how, warning)
			}
			if err := thaw(); (err != nil) != (c.thaws != "") || err != nil && !strings.Contains(err.Error(), c.thaws) {
				t.Errorf("thaw: %v", err)
			}
			if diff := cmp.Diff(c.calls, read(t, log)); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

// A hook runs as root: others must not be able to change it.
func TestQuiescer_RefusesAHookOfOthers(t *testing.T) {
	path, log := hook(t, "")
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	q := newQuiescer(t, quiesce.Options{Units: noUnits{}})
	how, _, warning := q.Quiesce(t.Context(), guest.Guest{ID: webID, Quiesce: guest.Quiesce("hook:" + path)})
	if how != guest.Crash || !strings.Contains(warning, "chmod go-w") || read(t, log) != "" {
		t.Errorf("%s, %q, called with %q", how, warning, read(t, log))
	}
}

func TestQuiescer_EndsAHookThatHangs(t *testing.T) {
	path, _ := hook(t, `[ $1 = thaw ] || sleep 600`)
	q := newQuiescer(t, quiesce.Options{Units: noUnits{}})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	how, _, warning := q.Quiesce(ctx, guest.Guest{ID: webID, Quiesce: guest.Quiesce("hook:" + path)})
	if how != guest.Crash || !strings.Contains(warning, "did not end in time") {
		t.Errorf("%s, %q", how, warning)
	}
}
