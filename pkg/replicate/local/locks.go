package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// Locks are by name, in this process and on disk: "one lock per volume on each
// node, in process and on disk".
type Locks struct {
	dir string
	mu  sync.Mutex
	// turns holds a channel of capacity 1 for each name ever locked; a value in it
	// means locked.
	turns map[string]chan struct{}
	// uses counts how often each was locked.
	uses map[string]uint64
}

// GuestLock is the name of the lock under which a guest's snapshots are made and
// cleaned.
func GuestLock(id guest.ID) string { return "guest-" + id.String() }

// VolumeLock is the name of the lock under which a replica is changed.
func VolumeLock(v guest.Volume) string { return "volume-" + v.Storage + "." + v.Name }

// NewLocks keeps its files in dir, which exists.
func NewLocks(dir string) *Locks {
	return &Locks{dir: dir, turns: map[string]chan struct{}{}, uses: map[string]uint64{}}
}

// Turn is the lock in this process only: a value in it means locked.
func (l *Locks) Turn(name string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.turns[name]
	if t == nil {
		t = make(chan struct{}, 1)
		l.turns[name] = t
	}
	return t
}

// Lock waits for its turn in this process until ctx ends. A lock that another
// process has is not waited for.
func (l *Locks) Lock(ctx context.Context, name string) (release func(), err error) {
	turn := l.Turn(name)
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fault.Retry("", "%s is locked by a sync that has not ended yet", name)
	}
	f, err := l.file(name)
	if err != nil {
		<-turn
		return nil, err
	}
	l.mu.Lock()
	l.uses[name]++
	l.mu.Unlock()
	return func() {
		// Closing alone would not do: a child that is just being started has a copy of the file until it becomes zfs.
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		_ = f.Close()
		<-turn
	}, nil
}

// All takes several locks in the given order, and none where one cannot be had.
// Who takes a guest's takes it before those of volumes, and volumes in their order.
func (l *Locks) All(ctx context.Context, names ...string) (release func(), err error) {
	var held []func()
	release = func() {
		for _, f := range slices.Backward(held) {
			f()
		}
	}
	for _, name := range names {
		f, err := l.Lock(ctx, name)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, f)
	}
	return release, nil
}

// VolumeLocks are the names of the locks of volumes, in the order in which they are taken.
func VolumeLocks(volumes []guest.Volume) []string {
	var names []string
	for _, v := range slices.SortedFunc(slices.Values(volumes), guest.Volume.Compare) {
		names = append(names, VolumeLock(v))
	}
	return names
}

// LockGuest takes the locks of a guest and of all its volumes, within LockWait: what
// changes the owner excludes syncs of either direction.
func (o Options) LockGuest(ctx context.Context, g guest.Guest) (release func(), err error) {
	wait, cancel := context.WithTimeout(ctx, o.LockWait)
	defer cancel()
	return o.Locks.All(wait, append([]string{GuestLock(g.ID)}, VolumeLocks(g.Volumes)...)...)
}

// Uses is how often the lock was taken: who finds one more than at his own last
// time, and has it, knows that nobody else had it since.
func (l *Locks) Uses(name string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.uses[name]
}

func (l *Locks) file(name string) (*os.File, error) {
	path := filepath.Join(l.dir, name+".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fault.Retry("see `fuser "+path+"`: only one tandemd may run", "%s is locked by another process", name)
	}
	return nil, fmt.Errorf("lock %s: %w", name, err)
}
