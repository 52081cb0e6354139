package socket

import (
	"context"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

type callerKey struct{}

// ConnContext is http.Server's: it notes for Caller who is at the other end of the
// socket, as the kernel tells.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	err = raw.Control(func(fd uintptr) {
		cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) // nil where it fails
	})
	if err != nil || cred == nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, cred.Uid)
}

// Caller is the name of the user who asks, "operator" where it is not known.
func Caller(ctx context.Context) string {
	uid, ok := ctx.Value(callerKey{}).(uint32)
	if !ok {
		return "operator"
	}
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user " + id
}
