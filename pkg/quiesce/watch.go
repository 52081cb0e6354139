package quiesce

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/statefile"
)

const (
	// dogTimeout is for the watchdog to start.
	dogTimeout = 15 * time.Second
	// dogMargin is what the watchdog gives the daemon beyond its own timers.
	dogMargin = 5 * time.Second
	// dogTries is how often the watchdog tries, retryEvery apart; the daemon's next start does, too.
	dogTries = 60
	// The words between the two.
	wordReady, wordDone = "ready\n", "done\n"
)

// dog is the daemon's end of its watchdog.
type dog struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}
}

// watch starts the watchdog of a guest that is about to be frozen; it returns once
// that is ready. Without one configured it gives nil, which can be released too.
func (q *Quiescer) watch(ctx context.Context, n note) (*dog, error) {
	if len(q.o.Watchdog) == 0 {
		return nil, nil //nolint:nilnil // see above
	}
	argv := append(q.o.Watchdog[1:len(q.o.Watchdog):len(q.o.Watchdog)], q.path(n.Guest))
	cmd := exec.CommandContext(context.WithoutCancel(ctx), q.o.Watchdog[0], argv...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close() //nolint:errcheck // it was only read
	cmd.Stdout = theirs
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	d := &dog{cmd: cmd, stdin: stdin, ended: make(chan struct{})}
	go func() {
		defer close(d.ended)
		_ = cmd.Wait() // How it ends is of no use to anybody.
	}()
	_ = out.SetReadDeadline(time.Now().Add(dogTimeout))
	if word, err := bufio.NewReader(io.LimitReader(out, 100)).ReadString('\n'); err != nil || word != wordReady {
		d.release()
		return nil, fmt.Errorf("the process that watches over it does not start: %w", errors.Join(err, fmt.Errorf("it said %q", word)))
	}
	if q.o.Adopt != nil {
		// Without it, what is frozen is thawed by the next start if systemd ends both.
		_ = q.o.Adopt(ctx, n.Guest, cmd.Process.Pid)
	}
	return d, nil
}

// release ends the watchdog, whose guest runs.
func (d *dog) release() {
	if d == nil {
		return
	}
	_, _ = io.WriteString(d.stdin, wordDone)
	_ = d.stdin.Close()
	grace := time.NewTimer(dogMargin)
	defer grace.Stop()
	select {
	case <-d.ended:
	case <-grace.C:
		_ = d.cmd.Process.Kill()
	}
}

// alarm has the watchdog try to thaw, too.
func (d *dog) alarm() {
	if d != nil {
		_ = d.stdin.Close()
	}
}

// Watch is the watchdog's process: it reads the note at path, says that it is ready,
// and thaws the guest when in ends, which means that the daemon died, or when the
// daemon's own timers must have passed; unless it is told that the guest runs.
func Watch(ctx context.Context, path string, units Units, in io.Reader, out io.Writer) error {
	var n note
	if err := statefile.Read(path, &n); err != nil {
		return err
	}
	unlock, err := lockNote(ctx, path)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := io.WriteString(out, wordReady); err != nil {
		return err
	}
	told := make(chan bool, 1)
	go func() {
		word, _ := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
		told <- word == wordDone
	}()
	limit := time.NewTimer(freezeTimeout + n.Within + thawTimeout + dogMargin)
	defer limit.Stop()
	select {
	case runs := <-told:
		if runs {
			return nil
		}
	case <-limit.C:
	case <-ctx.Done(): // This process is told to end, but the guest comes first.
	}
	return thawSurely(context.WithoutCancel(ctx), n, units)
}

// thawSurely tries for some minutes. The note stays: the daemon's next start looks
// itself, which does no harm.
func thawSurely(ctx context.Context, n note, units Units) error {
	var err error
	for try := range dogTries {
		if try > 0 {
			time.Sleep(retryEvery)
		}
		limited, cancel := context.WithTimeout(ctx, thawTimeout)
		_, err = n.thaw(limited, units)
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("guest %s stands still and cannot be thawed: %w", n.Guest, err)
}

// lockNote waits until no other watchdog of that guest is at work: the one of a daemon
// that died might thaw what this one is to watch over.
func lockNote(ctx context.Context, path string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, dogTimeout/2)
	defer cancel()
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("another process is still thawing the guest: %w", err)
		case <-tick.C:
		}
	}
}
