package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// A reload takes over the limits, also of running syncs; a file that is wrong
// changes nothing, and what needs a restart is told.
func TestReloads_TakeOverTheLimits(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tandemd.toml")
	write := func(level, limits string) {
		t.Helper()
		text := fmt.Sprintf("node_name = \"n1\"\npeer = \"127.0.0.1:7947\"\ngossip = \"127.0.0.1:7946\"\nlog_level = %q\nstate_dir = %q\n[limits]\n%s\n",
			level, filepath.Join(dir, "state"), limits)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("info", "rate_limit = 5.0\nmax_jobs = 3")
	conf, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	core, logged := observer.New(zapcore.InfoLevel)
	d, err := New(Options{Config: conf, Logger: zap.New(core), ZFS: zfstest.New(zfstest.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	defer d.history.Close()
	told, done := make(chan os.Signal), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		reloads(ctx, d, path, told)
	}()
	said := 0
	reload := func(level, limits, wantLog string, wantRate float64, wantJobs int) {
		t.Helper()
		write(level, limits)
		told <- syscall.SIGHUP
		told <- syscall.SIGHUP // taken once the first is done
		var lines []string
		for _, e := range logged.All()[said:] {
			lines = append(lines, e.Message)
		}
		said = logged.Len()
		if got := strings.Join(lines, "; "); !strings.Contains(got, wantLog) {
			t.Errorf("it logs %q, want %q in it", got, wantLog)
		}
		if got := float64(d.rate.Limit()); got != wantRate*1e6 {
			t.Errorf("the rate is %v, want %v MB/s", got, wantRate)
		}
		if got := limitsOf(*d.limits.Load()).Node; got != wantJobs {
			t.Errorf("max_jobs is %d, want %d", got, wantJobs)
		}
	}
	reload("info", "rate_limit = 2.5\nmax_jobs = 7", "are in force", 2.5, 7)
	reload("info", "rate_limit = 0.5\nmax_jobs = 1", "cannot be read anew", 2.5, 7)
	reload("debug", "rate_limit = 4.0\nmax_jobs = 2", "systemctl restart tandemd", 4, 2)
	cancel()
	<-done
}
