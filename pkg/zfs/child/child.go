// Package child runs child processes that may never end: each in a process group of its own, with its stderr kept, ended by
// SIGTERM and then SIGKILL when its time is over, and given up when the kernel does not let it go. It knows nothing of zfs;
// pkg/zfs alone calls it.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrTimeout says that the process did not end within its time, and was ended.
	ErrTimeout = errors.New("no answer in time")
	// ErrGivenUp says that the process does not end, not even by SIGKILL. It may still write to its stdout.
	ErrGivenUp = errors.New("does not end, not even by SIGKILL: given up")
)

// Runner starts processes and counts them.
type Runner struct {
	// Grace is the time between SIGTERM and SIGKILL, and again between SIGKILL and giving up.
	Grace time.Duration
	// Started counts from the beginning; Running those that have not ended; Abandoned those of them that were given up.
	Started, Running, Abandoned atomic.Int64
}

// Child is a started process.
type Child struct {
	cmd    *exec.Cmd
	stderr tail
	done   chan struct{}
	err    error // after done
}

// Start starts the program at path with stdin (nil: empty) and stdout (nil: thrown away; an *os.File is handed over as it is).
// The process does not end with ctx: see Await.
func (r *Runner) Start(ctx context.Context, argv []string, stdin *os.File, stdout io.Writer) (*Child, error) {
	ch := &Child{done: make(chan struct{})}
	// CommandContext would kill without a SIGTERM first and then wait for ever.
	ch.cmd = exec.CommandContext(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	ch.cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	ch.cmd.Dir = "/"
	ch.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ch.cmd.WaitDelay = r.Grace // For a grandchild that keeps the pipes open.
	ch.cmd.Stdout, ch.cmd.Stderr = stdout, &ch.stderr
	if stdin != nil {
		ch.cmd.Stdin = stdin
	}
	if err := ch.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	r.Started.Add(1)
	r.Running.Add(1)
	go func() {
		ch.err = ch.cmd.Wait()
		r.Running.Add(-1)
		close(ch.done)
	}()
	return ch, nil
}

// Await waits for the child's end: nil, or an *exec.ExitError. When ctx ends, or after timeout (0: none), it ends the child and
// returns the context's cause or ErrTimeout, joined with ErrGivenUp if the child stays; nil if it ended well all the same.
func (r *Runner) Await(ctx context.Context, ch *Child, timeout time.Duration) error {
	wait := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	select {
	case <-ch.done:
		return ch.err
	case <-wait.Done():
	}
	why := fmt.Errorf("%w: %s", ErrTimeout, timeout)
	if ctx.Err() != nil {
		why = context.Cause(ctx)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		// The whole group; an error means that it is gone, which is what is wanted.
		_ = syscall.Kill(-ch.cmd.Process.Pid, sig)
		if ch.ended(r.Grace) {
			if ch.err == nil {
				return nil
			}
			return why
		}
	}
	r.Abandoned.Add(1)
	go func() {
		<-ch.done
		r.Abandoned.Add(-1)
	}()
	return fmt.Errorf("process %d %w: %w", ch.cmd.Process.Pid, ErrGivenUp, why)
}

func (ch *Child) ended(within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-ch.done:
		return true
	case <-timer.C:
		return false
	}
}

// Stderr returns the end of what the child has written there so far.
func (ch *Child) Stderr() string { return ch.stderr.String() }

// Pipe makes a pipe that is as large as the kernel allows without asking: zfs receive reads in bursts.
func Pipe() (r, w *os.File, err error) {
	r, w, err = os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	if conn, err := w.SyscallConn(); err == nil {
		// Smaller than asked for is slower, not wrong.
		_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
	}
	return r, w, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const limit = 1 << 20
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > limit {
		t.buf = slices.Clone(t.buf[len(t.buf)-limit/2:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
