package unit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/unit"
)

func TestManager_LaunchesATransientService(t *testing.T) {
	const name = "tandem-drill-1.service"
	b, m := open(t, nil)
	launch := unit.Transient{Description: "Drill", Args: []string{"guest", "exec-drill", "100"}, Isolated: true, Lifetime: time.Minute}
	for range 2 { // Asked twice, because the answer was lost, it is one.
		if err := m.Launch(t.Context(), name, launch); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := m.State(t.Context(), name); err != nil || !s.Running() || b.units.Starts(name) != 1 {
		t.Errorf("%+v, %v, started %d times", s, err, b.units.Starts(name))
	}
	b.mu.Lock()
	for property, want := range map[string]string{
		"ExecStart": "[[/usr/bin/tandem [/usr/bin/tandem guest exec-drill 100] false]]", "Type": "exec", "PrivateNetwork": "true", "Delegate": "false",
		"RuntimeMaxUSec": "60000000", "CollectMode": "inactive-or-failed",
	} {
		if got := fmt.Sprint(b.given[property].Value()); got != want {
			t.Errorf("%s is %s, want %s", property, got, want)
		}
	}
	b.mu.Unlock()
	if err := m.Stop(t.Context(), name); err != nil {
		t.Error(err)
	}
	launch.Notify = true
	if err := m.Launch(t.Context(), "bad.service", launch); err == nil || !strings.Contains(err.Error(), "start bad.service: it failed") || !strings.Contains(err.Error(), "cannot start") {
		t.Errorf("one that fails: %v", err)
	}
	if err := m.Launch(t.Context(), "bad.scope", launch); err == nil {
		t.Error("something else than a service was launched")
	}
	launch.Lifetime = 0
	if err := m.Launch(t.Context(), "other.service", launch); err == nil || !strings.Contains(err.Error(), "no lifetime") {
		t.Errorf("without an end: %v", err)
	}
}
