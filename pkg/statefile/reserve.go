package statefile

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// renewAt is how many times its size must be free before a reserve that was given
// up is made again, so that it does not take away what it just gave.
const renewAt = 4

// Reserve is a file that keeps space on the state folder's disk for the day on
// which something else fills it: given up, it lets the daemon write what it must.
type Reserve struct {
	path string
	size int64

	mu   sync.Mutex
	held bool
}

// OpenReserve makes the file, or takes it as it is. An error says that there is no
// reserve for now; the Reserve can be used all the same, and renewed.
func OpenReserve(path string, size int64) (*Reserve, error) {
	r := &Reserve{path: path, size: size}
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		r.held = true
		return r, nil
	}
	return r, r.Renew()
}

// Held says whether the space is kept.
func (r *Reserve) Held() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}

// Size is how much is kept, in bytes.
func (r *Reserve) Size() int64 { return r.size }

// Release gives the space up. It says whether there was any.
func (r *Reserve) Release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held {
		return false
	}
	// Cut first: a file that cannot be removed (a full ZFS may refuse) can be cut.
	cut := os.Truncate(r.path, 0)
	gone := removeIfThere(r.path)
	r.held = cut != nil && gone != nil
	return !r.held
}

// Renew makes the reserve again if there is plenty of room.
func (r *Reserve) Renew() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return nil
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(r.path), &disk); err != nil {
		return fmt.Errorf("make the reserve %s: %w", r.path, err)
	}
	if free := int64(disk.Bavail) * int64(disk.Bsize); free < renewAt*r.size { //nolint:unconvert // the types differ between platforms
		return fmt.Errorf("make the reserve %s: %d MiB are free, %d are needed: %w", r.path, free>>20, renewAt*r.size>>20, syscall.ENOSPC)
	}
	if err := r.fill(); err != nil {
		return errors.Join(fmt.Errorf("make the reserve %s: %w", r.path, err), removeIfThere(r.path))
	}
	r.held = true
	return nil
}

// fill writes bytes that cannot be compressed: where the folder is on ZFS or
// btrfs, fallocate and zeros reserve nothing.
func (r *Reserve) fill() error {
	if err := removeIfThere(r.path); err != nil {
		return err
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), r.size)
	return errors.Join(err, f.Sync(), f.Close())
}
