// Package folder has what the lab needs of folders and small files: locks that end with their holder, work that becomes
// visible when it is complete and whose rest is found when it is not, JSON files. It knows nothing of machines. The lab's
// other packages call it.
package folder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/deploy/lab/host"
)

// lockPoll is how often a lock that somebody else holds is asked for again.
const lockPoll = 200 * time.Millisecond

// ErrLocked says that somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// Lock is an exclusive lock on a folder. It ends with the process that holds it, however that ends.
type Lock struct {
	dir *os.File
}

// TryLock makes the folder where it is missing and locks it, or fails with errLocked.
func TryLock(path string) (*Lock, error) {
	for {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
		dir, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by its last owner in this moment
		}
		if err != nil {
			return nil, fmt.Errorf("open folder: %w", err)
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = dir.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrLocked
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if stillNamed(dir, path) {
			return &Lock{dir: dir}, nil
		}
		_ = dir.Close()
	}
}

// stillNamed reports whether path leads to the open folder: it may have been removed and made again meanwhile.
func stillNamed(dir *os.File, path string) bool {
	opened, err := dir.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(opened, named)
}

// WaitLock waits for the lock; waiting is called once, when it is not to be had at once.
func WaitLock(ctx context.Context, path string, waiting func()) (*Lock, error) {
	var lock *Lock
	err := host.Poll(ctx, lockPoll, func() (bool, error) {
		var err error
		lock, err = TryLock(path)
		if errors.Is(err, ErrLocked) {
			if waiting != nil {
				waiting()
				waiting = nil
			}
			return false, nil
		}
		return err == nil, err
	})
	return lock, err
}

// Release gives the lock up.
func (l *Lock) Release() {
	_ = l.dir.Close()
}

// Work makes a new locked folder, named so that sweepWork knows it.
func Work(parent string) (string, *Lock, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", nil, fmt.Errorf("make folder: %w", err)
	}
	path, err := os.MkdirTemp(parent, workPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("make work folder: %w", err)
	}
	lock, err := TryLock(path)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(path))
	}
	return path, lock, nil
}

// workPrefix begins the names of folders in which something is being built; a finished one is renamed.
const workPrefix = ".work-"

// Sweep removes the work folders in parent whose builder is gone.
func Sweep(parent string) error {
	found, err := filepath.Glob(filepath.Join(parent, workPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for work folders: %w", err)
	}
	for _, path := range found {
		lock, err := TryLock(path)
		if errors.Is(err, ErrLocked) {
			continue
		}
		if err != nil {
			return err
		}
		err = os.RemoveAll(path)
		lock.Release()
		if err != nil {
			return fmt.Errorf("remove the rest of an interrupted build: %w", err)
		}
	}
	return nil
}

// Publish makes a work folder the finished one: everything in it is on the disk before it gets its name.
func Publish(work, final string) error {
	err := filepath.WalkDir(work, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.Type().IsRegular() && !entry.IsDir() {
			return nil
		}
		return syncPath(path)
	})
	if err != nil {
		return fmt.Errorf("bring %s to the disk: %w", work, err)
	}
	if err := os.Rename(work, final); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return syncPath(filepath.Dir(final))
}

// syncPath brings a file or a folder to the disk.
func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return errors.Join(file.Sync(), file.Close())
}
