package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/zname"
	"github.com/tandemd/tandem/pkg/zfs/zvol"
)

// RoleReading is the value of [PropRole] of a temporary clone through which a snapshot is read.
const RoleReading = "reading"

// ContentsSpec says which snapshot to read and through which temporary clone. A snapshot of a zvol has no device node of its
// own, and one of a filesystem shows access lists only where the dataset's properties happen to say so; a clone has both, and
// the dataset is not touched.
type ContentsSpec struct {
	// Snapshot is the full name of the snapshot.
	Snapshot string
	Type     Type
	// Clone is the full name of the clone, which does not exist yet. A name is used once: a late device node of a former one
	// would be taken for it.
	Clone string
	// Guest is the clone's mark beside its role and Cluster: nothing is destroyed that does not carry it.
	Guest, Cluster string
	// Folder is an existing folder of the daemon's own; a filesystem is mounted below it.
	Folder string
}

// Check tells what is wrong with the spec; nil if nothing is.
func (s ContentsSpec) Check() error {
	var err error
	switch {
	case s.Type != TypeFilesystem && s.Type != TypeVolume:
		err = fmt.Errorf("type %q: want filesystem or volume", s.Type)
	case s.Guest == "" || s.Cluster == "":
		err = errors.New("the clone needs its marks")
	case !filepath.IsAbs(s.Folder):
		err = fmt.Errorf("folder %q: want an absolute path", s.Folder)
	}
	if err = errors.Join(err, zname.Snapshot(s.Snapshot), zname.Dataset(s.Clone)); err != nil {
		return refuse("read contents", s.Snapshot, err)
	}
	return nil
}

// Props are the clone's properties. Nobody else finds it on the node, and no tool takes it for something to snapshot.
func (s ContentsSpec) Props() map[string]string {
	props := map[string]string{
		PropRole: RoleReading, PropGuest: s.Guest, PropCluster: s.Cluster,
		"readonly": "on", "com.sun:auto-snapshot": "false", "syncoid:sync": "false",
	}
	if s.Type == TypeVolume {
		maps.Copy(props, map[string]string{"volmode": "dev", "refreservation": "none"})
	} else {
		maps.Copy(props, map[string]string{
			"canmount": "noauto", "mountpoint": "legacy", "acltype": "posix", "xattr": "on", "atime": "off",
			"setuid": "off", "devices": "off", "exec": "off",
		})
	}
	return props
}

func (s ContentsSpec) mountpoint() string {
	return filepath.Join(s.Folder, filepath.Base(s.Clone))
}

// Contents reads a snapshot: a zvol's bytes, or a filesystem as a tar archive of ".", each folder sorted by name, with access
// lists and extended attributes. The stream is [Stream]'s; its Close also takes the clone away, and tells if it cannot:
// DropContents can do so later.
func (z *ZFS) Contents(ctx context.Context, spec ContentsSpec) (Stream, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if err := z.Clone(ctx, spec.Snapshot, spec.Clone, spec.Props()); err != nil {
		return nil, err
	}
	c, err := z.reader(ctx, spec)
	if err == nil {
		var s *sendStream
		if s, err = z.stream(ctx, c); err == nil {
			return &contents{sendStream: s, drop: func() error { return z.DropContents(context.WithoutCancel(ctx), spec) }}, nil
		}
	}
	return nil, errors.Join(err, z.DropContents(context.WithoutCancel(ctx), spec))
}

// reader makes the clone readable and tells which process reads it.
func (z *ZFS) reader(ctx context.Context, spec ContentsSpec) (call, error) {
	c := call{op: "read contents", names: []string{spec.Clone}}
	if spec.Type == TypeVolume {
		device, err := z.Device(ctx, spec.Clone)
		c.bin, c.args = "cat", []string{device}
		return c, err
	}
	dir := spec.mountpoint()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return c, c.fail(ClassUnknown, err)
	}
	mount := []string{"-t", "zfs", "-o", "ro,nosuid,nodev,noexec", spec.Clone, dir}
	c.bin = "tar"
	// Access lists are among the attributes, with numbers. With --acls, which up to tar 1.34 knows no --numeric-owner, they would
	// come once more, with this node's names for users.
	c.args = []string{
		"-C", dir, "--sort=name", "--numeric-owner", "--format=posix", "--xattrs", "--xattrs-include=*", "-cf", "-", ".",
	}
	return c, z.run(ctx, call{op: "mount", bin: "mount", names: []string{spec.Clone}, args: mount, timeout: z.opt.ChangeTimeout})
}

// deviceWait is how long udev may take to show a new zvol's device node.
const deviceWait = time.Minute

// Device waits for the device node of a zvol, which udev makes in its own time, and until it can be opened; it returns its path.
func (z *ZFS) Device(ctx context.Context, dataset string) (string, error) {
	c := call{op: "open", names: []string{dataset}}
	if err := zname.Dataset(dataset); err != nil {
		return "", refuse(c.op, dataset, err)
	}
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	device, err := z.devices().Wait(ctx, dataset)
	if err != nil {
		return "", c.fail(ClassBusy, fmt.Errorf("no device that can be opened within %s: is udev at work? %w", deviceWait, err))
	}
	return device, nil
}

func (z *ZFS) devices() zvol.Devices { return zvol.Devices{Dev: z.opt.Dev, Sys: z.opt.Sys} }

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// busyTries is how often a clone is tried to be destroyed that somebody has open for a moment: udev looks into new zvols.
const busyTries = 20

// DropContents takes the clone of such a reading away, and its mount; what is gone is no error.
func (z *ZFS) DropContents(ctx context.Context, spec ContentsSpec) error {
	if err := spec.Check(); err != nil {
		return err
	}
	if spec.Type == TypeFilesystem {
		if err := z.dropMount(ctx, spec.Clone, spec.mountpoint()); err != nil {
			return err
		}
	}
	return z.dropClone(ctx, DestroySpec{Dataset: spec.Clone, Guest: spec.Guest, Role: RoleReading})
}

// dropClone destroys a clone by its marks, whichever GUID it has; its name was used once. What is gone is no error.
func (z *ZFS) dropClone(ctx context.Context, spec DestroySpec) error {
	for try := 1; ; try++ {
		list, err := z.List(ctx, spec.Dataset)
		if err != nil {
			return err
		}
		if ClassOf(list[0].Err) == ClassGone {
			return nil
		}
		spec.GUID = list[0].GUID
		err = z.DestroyDataset(ctx, spec)
		if ClassOf(err) != ClassBusy || try == busyTries || !pause(ctx, 500*time.Millisecond) {
			return err
		}
	}
}

// dropMount unmounts a clone from a folder of its own, and removes that.
func (z *ZFS) dropMount(ctx context.Context, clone, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// One that is not mounted is told by the folder's removal.
	failed := z.run(ctx, call{op: "unmount", bin: "umount", names: []string{clone}, args: []string{dir}, timeout: z.opt.ChangeTimeout})
	if err := os.Remove(dir); err != nil {
		return errors.Join(failed, refuse("unmount", clone, err))
	}
	return nil
}

// contents is the stream of a reading.
type contents struct {
	*sendStream
	drop func() error
	once sync.Once
	left error
}

// Close ends the reading and takes its clone away.
func (c *contents) Close() error {
	c.once.Do(func() {
		_ = c.sendStream.Close() // always nil
		c.left = c.drop()
	})
	return c.left
}
