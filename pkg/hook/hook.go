// Package hook runs executables that operators put on a node: as root, without a
// shell, with a deadline, and with the end of what they say.
//
// It does not know what they are for; pkg/quiesce and pkg/daemon call it.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Call says what to run.
type Call struct {
	// Path is absolute; see Check.
	Path string
	Args []string
	// Env is added to a plain environment, as NAME=VALUE.
	Env []string
	// Dir is the working folder; default /.
	Dir string
	// EndAll ends what it left running when it ended by itself, too.
	EndAll bool
}

// maxSaid is how much of the output is kept, in bytes.
const maxSaid = 4 << 10

// ErrEnded says that it was ended with the context, its time over for example.
var ErrEnded = errors.New("it did not end in time")

// Run waits until it has ended, or ends it with the context, with all that it
// started. Said is the end of its output, in lines without control characters.
func Run(ctx context.Context, c Call) (said string, err error) {
	if err := Check(c.Path); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = slices.Concat([]string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, c.Env)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	// With all that it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if c.EndAll && cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err != nil && ctx.Err() != nil {
		err = ErrEnded
	}
	return out.String(), err
}

// Check refuses what is no executable, and what somebody else than root could have
// put there: it runs as root.
func Check(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not an absolute path", path)
	}
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

// tail keeps the end of what is said.
type tail struct{ buf []byte }

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*maxSaid {
		t.buf = bytes.Clone(t.buf[len(t.buf)-maxSaid:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	text := strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r == 0x7f) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(t.buf[max(0, len(t.buf)-maxSaid):]), ""))
	return strings.TrimSpace(text)
}
