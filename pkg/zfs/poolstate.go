package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// PoolTrouble is why a pool answers nothing; empty where it does.
type PoolTrouble string

// The troubles.
const (
	// PoolSuspended: its disks do not answer; a process that asks it may never end.
	PoolSuspended PoolTrouble = "suspended"
	// PoolNotImported: nothing is known of its datasets, and they are not gone.
	PoolNotImported PoolTrouble = "not imported"
)

// PoolTrouble looks at the kernel's own view of a pool, which needs no lock and no process.
func (z *ZFS) PoolTrouble(pool string) (PoolTrouble, error) {
	state, err := os.ReadFile(filepath.Join(z.opt.KStat, pool, "state"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return PoolNotImported, nil
	case err != nil:
		return "", fmt.Errorf("state of pool %s: %w", pool, err)
	case strings.TrimSpace(string(state)) == "SUSPENDED":
		return PoolSuspended, nil
	}
	return "", nil
}

// poolReady asks before every command: one on a suspended pool may never end, and one on an exported pool says that volumes do
// not exist.
func (z *ZFS) poolReady(op, name string) error {
	pool := zname.PoolOf(name)
	switch trouble, err := z.PoolTrouble(pool); {
	case err != nil:
		return &Error{Op: op, Dataset: name, Class: ClassUnknown, Exit: -1, Err: err}
	case trouble == PoolSuspended:
		return zerr.Suspended(op, name, pool)
	case trouble == PoolNotImported:
		return zerr.Absent(op, name, pool)
	}
	return nil
}

// watched ends the context with the error of a suspended pool when one of the call's pools becomes so while a process works on
// it: the process may hang in the kernel then, for as long as the disks are away, and streams have no other deadline.
func (z *ZFS) watched(ctx context.Context, c call) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() { cancel(nil) }
	names := c.ofEachPool()
	if len(names) == 0 {
		return ctx, stop
	}
	go func() {
		tick := time.NewTicker(z.opt.PoolPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, name := range names {
				if err := z.poolReady(c.op, name); ClassOf(err) == ClassPool {
					cancel(err)
					return
				}
			}
		}
	}()
	return ctx, stop
}

// suspended is the error with which watched ended a context, or nil.
func suspended(ctx context.Context) *Error {
	if e, ok := errors.AsType[*Error](context.Cause(ctx)); ok && e.Class == ClassPool {
		return e
	}
	return nil
}
