package quiesce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// runHook calls an operator's hook with what to do and the guest's ID. Its output is in
// the error.
func runHook(ctx context.Context, path, verb string, id guest.ID) error {
	if err := checkHook(path); err != nil {
		return fmt.Errorf("%w: hook %s: %w", errUntouched, path, err)
	}
	cmd := exec.CommandContext(ctx, path, verb, id.String())
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	// With all that it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = errors.New("it did not end in time")
	}
	text := fmt.Sprintf("hook %s %s %s: %v", path, verb, id, err)
	if said := out.String(); said != "" {
		text += "; it said: " + said
	}
	return errors.New(text)
}

// checkHook refuses what somebody else than root could have put there: it runs as root.
func checkHook(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return errors.New("it is no file")
	case info.Mode().Perm()&0o111 == 0:
		return errors.New("it is not executable")
	case info.Mode().Perm()&0o022 != 0:
		return errors.New("others than its owner may change it, and it runs as root: `chmod go-w` it")
	case !ok || owner.Uid != 0 && int(owner.Uid) != os.Getuid():
		return errors.New("it is not root's, and it runs as root: `chown root` it")
	default:
		return nil
	}
}

// tail keeps the end of what a hook says, in one line.
type tail struct{ buf []byte }

const maxSaid = 500

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*maxSaid {
		t.buf = bytes.Clone(t.buf[len(t.buf)-maxSaid:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	said := t.buf[max(0, len(t.buf)-maxSaid):]
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(said), ""))
	return strings.TrimSpace(text)
}
