package child_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/child"
)

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestRunner_GivesOutputAndExitCode(t *testing.T) {
	r := &child.Runner{Grace: 10 * time.Second}
	var out bytes.Buffer
	ch, err := r.Start(t.Context(), sh(`echo "$LC_ALL $(pwd)"; echo why >&2; exit 3`), nil, &out)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Await(t.Context(), ch, time.Minute)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 {
		t.Errorf("got %v, want exit code 3", err)
	}
	if out.String() != "C /\n" || ch.Stderr() != "why\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), ch.Stderr())
	}
	if r.Started.Load() != 1 || r.Running.Load() != 0 || r.Abandoned.Load() != 0 {
		t.Error("counters are wrong")
	}
	if _, err := r.Start(t.Context(), []string{"/nonexistent/zfs"}, nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
}

func TestRunner_EndsTheWholeGroup(t *testing.T) {
	r := &child.Runner{Grace: 200 * time.Millisecond}
	for name, script := range map[string]string{
		"polite":   `sleep 1000 & echo $!; wait`,
		"stubborn": `trap '' TERM; sleep 1000 & echo $!; while :; do wait; done`,
	} {
		pr, pw, err := child.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		ch, err := r.Start(ctx, sh(script), nil, pw)
		_ = pw.Close()
		if err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 32)
		n, err := pr.Read(line)
		if err != nil {
			t.Fatal(err)
		}
		cause := errors.New("stopped")
		cancel(cause)
		if err := r.Await(ctx, ch, 0); !errors.Is(err, cause) {
			t.Errorf("%s: got %v, want the context's cause", name, err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
		if err != nil {
			t.Fatal(err)
		}
		// Its end closes the pipe; the process itself may still be a zombie of init's.
		if _, err := pr.Read(line); err == nil {
			t.Errorf("%s: grandchild %d still holds the pipe", name, pid)
		}
		_ = pr.Close()
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestRunner_TimesOut(t *testing.T) {
	r := &child.Runner{Grace: 10 * time.Second}
	ch, err := r.Start(t.Context(), sh("exec sleep 1000"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Await(t.Context(), ch, 50*time.Millisecond); !errors.Is(err, child.ErrTimeout) {
		t.Errorf("got %v, want a timeout", err)
	}
}

// A process that SIGKILL does not end cannot be made here; one in another session that holds the output is the nearest:
// WaitDelay bounds it.
func TestRunner_DoesNotWaitForAStrayGrandchild(t *testing.T) {
	r := &child.Runner{Grace: 50 * time.Millisecond}
	var out bytes.Buffer
	ch, err := r.Start(t.Context(), sh("setsid sleep 3 & exit 0"), nil, &out)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := r.Await(t.Context(), ch, time.Minute); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("waited %s for a grandchild", took)
	}
}
