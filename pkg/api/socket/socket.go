// Package socket is the Unix socket on which tandemd serves its clients: who may
// connect, and who is at its other end.
//
// What is said on it is pkg/api's; pkg/daemon joins the two.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// socketMode lets root and the group in, and nobody else.
const socketMode fs.FileMode = 0o660

// answerTimeout is how long somebody who holds the socket has to accept.
const answerTimeout = 2 * time.Second

// Listen makes the socket at path, mode 0660, of root and, where it exists, the
// group tandem. A socket that a dead daemon left is removed; one on which
// somebody answers, and what is no socket, is left alone and is an error.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := removeStale(ctx, path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	// Between here and chmod the umask of a daemon (022 or stricter) already
	// keeps others out: connecting needs the right to write.
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := admit(path); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("something that is no socket is in its place: move it away")
	}
	d := net.Dialer{Timeout: answerTimeout}
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(errors.New("another tandemd answers there: systemctl status tandemd"), c.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	default:
		// Busy, not allowed, or slow: somebody may well hold it.
		return fmt.Errorf("cannot tell whether another tandemd holds it: %w", err)
	}
}

func admit(path string) error {
	if err := os.Chmod(path, socketMode); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil // Only root can give it to the group.
	}
	g, err := user.LookupGroup(api.Group)
	if _, missing := errors.AsType[user.UnknownGroupError](err); missing {
		return nil
	}
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group %s: its number %q: %w", api.Group, g.Gid, err)
	}
	return os.Lchown(path, -1, gid)
}
