package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// PropRestored is on a dataset that was cloned out of diverged data to be a guest's volume of its own: the GUID of the dataset
// with that data. Only who restores reads it.
const PropRestored = "tandem:restored"

// MountAt mounts a filesystem read-only at a folder, whatever its mountpoint is; programs in it do not run. Nothing of that is
// left after a boot.
func (z *ZFS) MountAt(ctx context.Context, dataset, dir string) error {
	if err := CheckMountAt(dataset, dir); err != nil {
		return err
	}
	props, err := z.Properties(ctx, []string{"mountpoint"}, dataset)
	if err != nil {
		return err
	}
	options := "ro,nosuid,nodev,noexec"
	if props[dataset]["mountpoint"].Value != "legacy" {
		options += ",zfsutil" // mount(8) refuses a filesystem that has a mountpoint of its own without it, and one that is legacy with it.
	}
	return z.run(ctx, call{
		op: "mount", bin: "mount", names: []string{dataset}, args: []string{"-t", "zfs", "-o", options, dataset, dir}, timeout: z.opt.ChangeTimeout,
	})
}

// UnmountAt unmounts a filesystem that MountAt has mounted at the folder; one that is in use is of ClassBusy.
func (z *ZFS) UnmountAt(ctx context.Context, dataset, dir string) error {
	if err := CheckMountAt(dataset, dir); err != nil {
		return err
	}
	err := z.run(ctx, call{op: "unmount", bin: "umount", names: []string{dataset}, args: []string{dir}, timeout: z.opt.ChangeTimeout})
	if e, ok := errors.AsType[*Error](err); ok && strings.Contains(e.Stderr, "target is busy") {
		e.Class = ClassBusy
	}
	return err
}

// CheckMountAt tells what is wrong with the arguments of MountAt and UnmountAt; nil if nothing is.
func CheckMountAt(dataset, dir string) error {
	err := zname.Dataset(dataset)
	if err == nil && (!filepath.IsAbs(dir) || filepath.Clean(dir) != dir) {
		err = fmt.Errorf("folder %q: want a clean absolute path", dir)
	}
	if err != nil {
		return refuse("mount", dataset, err)
	}
	return nil
}

// MountedAt is where a filesystem is mounted, by the kernel's list; empty: nowhere. No process is started.
func (z *ZFS) MountedAt(dataset string) (string, error) {
	if err := zname.Dataset(dataset); err != nil {
		return "", refuse("mounted", dataset, err)
	}
	list, err := os.ReadFile(z.opt.Mounts)
	if err != nil {
		return "", &Error{Op: "mounted", Dataset: dataset, Class: ClassUnknown, Exit: -1, Err: err}
	}
	for line := range strings.Lines(string(list)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == dataset && f[2] == "zfs" {
			return unescaped(f[1]), nil
		}
	}
	return "", nil
}

// unescaped undoes what the kernel's list does to spaces, tabs, line ends and backslashes.
func unescaped(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
