package zfs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/child"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// call is one process to run.
type call struct {
	op    string   // for errors
	bin   string   // empty: zfs
	names []string // datasets, snapshots, bookmarks that it is about; their pools are looked at first
	args  []string
	// timeout is the deadline; 0: only the context's.
	timeout time.Duration
}

func (c call) fail(class Class, err error) *Error {
	e := &Error{Op: c.op, Class: class, Exit: -1, Err: err}
	if len(c.names) > 0 {
		e.Dataset = c.names[0]
	}
	return e
}

// ofEachPool is the first name of each pool that the call is about.
func (c call) ofEachPool() (names []string) {
	for _, name := range c.names {
		if !slices.ContainsFunc(names, func(n string) bool { return zname.PoolOf(n) == zname.PoolOf(name) }) {
			names = append(names, name)
		}
	}
	return names
}

// run runs a process to its end.
func (z *ZFS) run(ctx context.Context, c call) error {
	_, err := z.feed(ctx, c, nil)
	return err
}

// outputs runs a process to its end and returns what it printed on stdout and stderr, also where it failed.
func (z *ZFS) outputs(ctx context.Context, c call) (stdout, stderr string, err error) {
	var out bytes.Buffer
	stderr, err = z.feed(ctx, c, &out)
	if ClassOf(err) == ClassHung {
		return "", "", err // The child may still be writing.
	}
	return out.String(), stderr, err
}

// feed runs a process to its end, gives w (nil: nobody) what it prints, and returns its stderr. After an error of ClassHung
// the child may still write to w.
func (z *ZFS) feed(ctx context.Context, c call, w io.Writer) (stderr string, err error) {
	ch, err := z.start(ctx, c, nil, w)
	if err != nil {
		return "", err
	}
	err = z.await(ctx, ch, c)
	return ch.Stderr(), err
}

// start checks the pools and starts the process.
func (z *ZFS) start(ctx context.Context, c call, stdin *os.File, stdout io.Writer) (*child.Child, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, c.fail(ClassCanceled, err)
	}
	for _, name := range c.ofEachPool() {
		if err := z.poolReady(c.op, name); err != nil {
			return nil, err
		}
	}
	ch, err := z.runner.Start(ctx, append([]string{cmp.Or(c.bin, z.opt.ZFS)}, c.args...), stdin, stdout)
	if err != nil {
		return nil, c.fail(ClassUnknown, err)
	}
	return ch, nil
}

// await waits for the child's end and classifies it.
func (z *ZFS) await(ctx context.Context, ch *child.Child, c call) error {
	watched, stop := z.watched(ctx, c)
	defer stop()
	err := z.runner.Await(watched, ch, c.timeout)
	if err == nil {
		return nil
	}
	if e := suspended(watched); e != nil && ctx.Err() == nil {
		e.Err = fmt.Errorf("%w (%w)", e.Err, err)
		return e
	}
	e := c.fail(ClassUnknown, err)
	e.Stderr = zerr.Normalise(ch.Stderr())
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case errors.Is(err, child.ErrGivenUp), errors.Is(err, child.ErrTimeout):
		e.Class = ClassHung
	case !ended && ctx.Err() != nil:
		e.Class = ClassCanceled
	default:
		e.Class = zerr.Classify(e.Stderr)
		if ended && exit.Exited() {
			e.Exit, e.Err = exit.ExitCode(), nil
		}
		return z.absentOrGone(e)
	}
	return e
}

// absentOrGone corrects what zfs says of an exported pool's datasets: "does not exist", and of a token "no longer exists".
func (z *ZFS) absentOrGone(e *Error) error {
	if (e.Class == ClassGone || e.Class == ClassToken) && e.Dataset != "" && errors.Is(z.poolReady(e.Op, e.Dataset), ClassPoolAbsent) {
		e.Class = ClassPoolAbsent
	}
	return e
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
