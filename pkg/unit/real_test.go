//go:build realsystemd

package unit_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/unit"
	"github.com/tandemd/tandem/pkg/unit/unittest/contract"
)

// TestRealSystemd_KeepsTheContract needs root and a machine with systemd and dbus: go test -c -tags realsystemd, and run the binary there.
func TestRealSystemd_KeepsTheContract(t *testing.T) {
	const folder = "/run/systemd/system"
	systemctl := func(args ...string) {
		if said, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil { //nolint:noctx // the test has a limit
			t.Errorf("systemctl %v: %v\n%s", args, err, said)
		}
	}
	contract.Run(t, func(t *testing.T) contract.Env {
		t.Helper()
		dir := t.TempDir()
		m := unit.New(unit.Options{Tandem: filepath.Join(dir, "tandem")})
		var defined []string
		t.Cleanup(func() {
			for _, name := range defined {
				_ = exec.Command("systemctl", "kill", "--signal=KILL", name).Run() //nolint:noctx // as above
				_ = exec.Command("systemctl", "stop", name).Run()                  //nolint:noctx // as above
				_ = os.Remove(filepath.Join(folder, name))
				_ = os.RemoveAll(filepath.Join(folder, name+".d"))
				_ = os.Remove(filepath.Join(folder, "multi-user.target.wants", name))
			}
			systemctl("daemon-reload")
			systemctl("reset-failed")
			m.Close()
		})
		env := contract.Env{
			Manager: m,
			Crash:   func(name string) { systemctl("kill", "--kill-whom=main", "--signal=ABRT", name) },
			Allow: func(ok bool) {
				code := map[bool]int{true: 0, false: 1}[ok]
				if err := os.WriteFile(filepath.Join(dir, "tandem"), fmt.Appendf(nil, "#!/bin/sh\nexit %d\n", code), 0o700); err != nil {
					t.Fatal(err)
				}
			},
			Define: func(name string, s contract.Service) {
				defined = append(defined, name)
				if err := os.WriteFile(filepath.Join(folder, name), []byte(unitFile(s)), 0o600); err != nil {
					t.Fatal(err)
				}
				if s.Enabled {
					systemctl("add-wants", "--runtime", "multi-user.target", name)
				}
				systemctl("daemon-reload")
			},
		}
		env.Allow(true)
		return env
	})
}

// TestRealSystemd_LaunchesWithoutANetwork starts a service without a file, and ends it.
func TestRealSystemd_LaunchesWithoutANetwork(t *testing.T) {
	dir := t.TempDir()
	m := unit.New(unit.Options{Tandem: filepath.Join(dir, "tandem")})
	t.Cleanup(m.Close)
	script := "#!/bin/sh\ncat /proc/self/net/dev >\"$1.new\" && mv \"$1.new\" \"$1\"\nexec sleep infinity\n"
	if err := os.WriteFile(filepath.Join(dir, "tandem"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	name, seen := fmt.Sprintf("tandem-test-%d.service", os.Getpid()), filepath.Join(dir, "seen")
	launch := unit.Transient{Description: "Test", Args: []string{seen}, Isolated: true, Lifetime: 5 * time.Minute}
	if err := m.Launch(t.Context(), name, launch); err != nil {
		t.Fatal(err)
	}
	if s, err := m.State(t.Context(), name); err != nil || !s.Running() {
		t.Errorf("%+v, %v", s, err)
	}
	late := time.After(time.Minute)
	for {
		list, err := os.ReadFile(seen)
		if err == nil {
			if n := strings.Count(string(list), ":"); n != 1 || !strings.Contains(string(list), "lo:") {
				t.Errorf("its network is\n%s", list)
			}
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-late:
			t.Fatal(err)
		}
	}
	if err := m.Stop(t.Context(), name); err != nil {
		t.Error(err)
	}
	if s, err := m.State(t.Context(), name); err != nil || s.Running() {
		t.Errorf("when it was stopped: %+v, %v", s, err)
	}
}

// unitFile is a service that behaves as the contract wants it.
func unitFile(s contract.Service) string {
	text := "[Unit]\nStartLimitIntervalSec=600\nStartLimitBurst=5\n[Service]\nType=exec\nTimeoutStopSec=2\n"
	switch {
	case s.Fails:
		text += "ExecStartPre=/bin/sh -c 'echo cannot start; exit 1'\nExecStart=/bin/sleep infinity\n"
	case s.Ignores:
		text += "ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\n"
	case s.Leaves:
		text += "KillMode=process\nExecStart=/bin/sh -c 'sleep 600 & exec sleep infinity'\n"
	default:
		text += "ExecStart=/bin/sleep infinity\n"
	}
	return text
}
