// Package zvol finds the block devices of ZFS volumes and waits for them.
package zvol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"
)

// errRestart is ERESTARTSYS, which no program should ever see. Since Linux 5.13 the first open of a zvol fails with it where the
// list of pools stays locked for a second, as it does while a pool is imported (https://github.com/openzfs/zfs/pull/12759).
// udev meets it, too: then it makes no link.
const errRestart = syscall.Errno(512)

// nameOf asks for the dataset of a zvol's device: BLKZNAME of OpenZFS' sys/fs/zfs.h, _IOR(0x12, 125, char[256]).
const nameOf = 0x8100127d

const (
	// interval is how often it is looked.
	interval = 50 * time.Millisecond
	// udevTime is how long a link may take that will come.
	udevTime = 5 * time.Second
)

// Devices are the devices of a machine.
type Devices struct {
	// Dev and Sys are its /dev and /sys; those by default.
	Dev, Sys string

	open func(device string) (*os.File, error)
	name func(*os.File) (string, error)
}

func (d Devices) withDefaults() Devices {
	if d.Dev == "" {
		d.Dev = "/dev"
	}
	if d.Sys == "" {
		d.Sys = "/sys"
	}
	if d.open == nil {
		d.open = os.Open
	}
	if d.name == nil {
		d.name = datasetOf
	}
	return d
}

// Find is the path of a zvol's device: the link that udev has made, or, where there is none, what the kernel calls it. The error
// is os.ErrNotExist where it has no device, and another one where that cannot be told.
func (d Devices) Find(dataset string) (string, error) {
	d = d.withDefaults()
	link, missing := d.link(dataset)
	if !errors.Is(missing, os.ErrNotExist) {
		return link, missing
	}
	bare, err := d.withoutLink()
	if err != nil {
		return "", err
	}
	doubt := missing
	for _, device := range bare {
		name, err := d.dataset(device)
		switch {
		case err == nil && name == dataset:
			return device, nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			doubt = fmt.Errorf("%s has no link, and whose device it is cannot be told: %w", device, err)
		}
	}
	return "", doubt
}

func (d Devices) link(dataset string) (string, error) {
	link := filepath.Join(d.Dev, "zvol", dataset)
	_, err := os.Stat(link)
	return link, err
}

// withoutLink are the zvols' devices to which no link leads.
func (d Devices) withoutLink() ([]string, error) {
	linked := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(d.Dev, "zvol"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeSymlink != 0 {
			var to string
			to, err = os.Readlink(path)
			linked[filepath.Base(to)] = true
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // It is gone by now, or there was never a zvol.
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	blocks, err := filepath.Glob(filepath.Join(d.Sys, "block", "zd*"))
	var out []string
	for _, b := range blocks {
		if own := filepath.Base(b); !linked[own] {
			out = append(out, filepath.Join(d.Dev, own))
		}
	}
	return out, err
}

func (d Devices) dataset(device string) (string, error) {
	f, err := d.open(device)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return d.name(f)
}

func datasetOf(f *os.File) (string, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	var name [256]byte
	var errno syscall.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, nameOf, uintptr(unsafe.Pointer(&name))) //nolint:gosec // the kernel writes as much as it holds
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("ioctl", errno)
	}
	text, _, _ := bytes.Cut(name[:], []byte{0})
	return string(text), err
}

// Wait waits until ctx ends for the device of a zvol, which udev shows in its own time, and until it can be opened. It returns
// its path, as Find does, or why it cannot be used.
func (d Devices) Wait(ctx context.Context, dataset string) (string, error) {
	d = d.withDefaults()
	find, start := d.link, time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if time.Since(start) > udevTime {
			find = d.Find
		}
		device, err := find(dataset)
		if err == nil {
			err = d.opens(device)
		}
		if err == nil || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errRestart) {
			return device, err
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-tick.C:
		}
	}
}

func (d Devices) opens(device string) error {
	f, err := d.open(device)
	if err != nil {
		return err
	}
	return f.Close()
}
