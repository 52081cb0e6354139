package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/zname"
	"github.com/tandemd/tandem/pkg/zfs/zroot"
)

// Storage is the root dataset of a storage and the pool below it.
type Storage = zroot.Root

// Storage reads a storage's root. One that does not exist is of ClassGone, one on a pool that is not imported of ClassPoolAbsent.
// Two processes; not for the path of a sync.
func (z *ZFS) Storage(ctx context.Context, dataset string) (Storage, error) {
	c := call{op: "storage", names: []string{dataset}}
	if err := zname.Dataset(dataset); err != nil {
		return Storage{}, refuse(c.op, dataset, err)
	}
	if err := z.poolReady(c.op, dataset); err != nil {
		return Storage{}, err
	}
	var root Storage
	var err error
	done := make(chan struct{})
	z.runner.Started.Add(2)
	z.runner.Running.Add(1)
	go func() {
		defer close(done)
		root, err = zroot.Read(dataset)
		z.runner.Running.Add(-1)
	}()
	timer := time.NewTimer(z.opt.QueryTimeout)
	defer timer.Stop()
	failed := c.fail(ClassHung, fmt.Errorf("no answer within %s", z.opt.QueryTimeout))
	select {
	case <-done:
		if e, ok := errors.AsType[*Error](err); ok {
			return root, z.absentOrGone(e)
		}
		return root, err
	case <-ctx.Done():
		failed = c.fail(ClassCanceled, context.Cause(ctx))
	case <-timer.C:
	}
	// What hangs is left behind, and counted until it ends.
	z.runner.Abandoned.Add(1)
	go func() {
		<-done
		z.runner.Abandoned.Add(-1)
	}()
	return Storage{}, failed
}

// Mounted tells whether the filesystem is mounted, without a process: it asks the kernel's list.
func (z *ZFS) Mounted(dataset string) (bool, error) {
	if err := zname.Dataset(dataset); err != nil {
		return false, refuse("mounted", dataset, err)
	}
	list, err := os.ReadFile(z.opt.Mounts)
	if err != nil {
		return false, &Error{Op: "mounted", Dataset: dataset, Class: ClassUnknown, Exit: -1, Err: err}
	}
	for line := range strings.Lines(string(list)) {
		// What, where, type. Names that zname allows need none of the list's escapes.
		if f := strings.Fields(line); len(f) > 2 && f[0] == dataset && f[2] == "zfs" {
			return true, nil
		}
	}
	return false, nil
}
