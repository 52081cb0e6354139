package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// RoleDrill is the value of [PropRole] of a temporary clone on which a replica is tried.
const RoleDrill = "drill"

// TrialSpec says which snapshot to make usable, through which temporary clone. The clone can be written to; the snapshot and its
// dataset are not touched.
type TrialSpec struct {
	// Snapshot is the full name of the snapshot. It does not matter to what takes the clone away.
	Snapshot string
	Type     Type
	// Clone is the full name of the clone, which does not exist yet. A name is used once: a late device node of a former one
	// would be taken for it.
	Clone string
	// Guest is the clone's mark beside its role and Cluster: nothing is destroyed that does not carry it.
	Guest, Cluster string
	// Dir is where a filesystem is mounted: a folder that does not exist yet, in one of the daemon's own.
	Dir string
	// Own are the properties of a filesystem without which its files are not what they were: acltype, xattr.
	Own map[string]string
}

// Check tells what is wrong with the spec; nil if nothing is.
func (s TrialSpec) Check() error {
	var err error
	switch {
	case s.Type != TypeFilesystem && s.Type != TypeVolume:
		err = fmt.Errorf("type %q: want filesystem or volume", s.Type)
	case s.Guest == "" || s.Cluster == "":
		err = errors.New("the clone needs its marks")
	case s.Type == TypeFilesystem && !filepath.IsAbs(s.Dir):
		err = fmt.Errorf("folder %q: want an absolute path", s.Dir)
	}
	if err = errors.Join(err, zname.Snapshot(s.Snapshot), zname.Dataset(s.Clone), zname.Props(s.Own)); err != nil {
		return refuse("try", s.Snapshot, err)
	}
	return nil
}

// Props are the clone's properties. It is mounted nowhere by itself, takes no room beforehand, and no tool takes it for something
// to snapshot.
func (s TrialSpec) Props() map[string]string {
	props := maps.Clone(s.Own)
	if props == nil || s.Type == TypeVolume {
		props = map[string]string{}
	}
	maps.Copy(props, map[string]string{
		PropRole: RoleDrill, PropGuest: s.Guest, PropCluster: s.Cluster,
		"readonly": "off", "com.sun:auto-snapshot": "false", "syncoid:sync": "false",
	})
	if s.Type == TypeVolume {
		maps.Copy(props, map[string]string{"volmode": "dev", "refreservation": "none"})
	} else {
		maps.Copy(props, map[string]string{"canmount": "noauto", "mountpoint": "legacy"})
	}
	return props
}

// Try makes the clone and waits until it can be used: the path is a zvol's device, or where the filesystem is mounted. Where it
// fails the clone may be there: DropTrial takes it away.
func (z *ZFS) Try(ctx context.Context, spec TrialSpec) (path string, err error) {
	if err := spec.Check(); err != nil {
		return "", err
	}
	if err := z.Clone(ctx, spec.Snapshot, spec.Clone, spec.Props()); err != nil {
		return "", err
	}
	if spec.Type == TypeVolume {
		if _, err := z.Device(ctx, spec.Clone); err != nil {
			return "", err
		}
		return filepath.Join(z.opt.Dev, "zvol", spec.Clone), nil
	}
	c := call{op: "mount", bin: "mount", names: []string{spec.Clone}, timeout: z.opt.ChangeTimeout}
	if err := os.Mkdir(spec.Dir, 0o700); err != nil {
		return "", c.fail(ClassUnknown, err)
	}
	c.args = []string{"-t", "zfs", spec.Clone, spec.Dir}
	return spec.Dir, z.run(ctx, c)
}

// DropTrial takes the clone and its mount away, by its marks; what is gone is no error. One with a snapshot is left: somebody made
// that.
func (z *ZFS) DropTrial(ctx context.Context, spec TrialSpec) error {
	if err := spec.Check(); err != nil {
		return err
	}
	if spec.Type == TypeFilesystem {
		if err := z.dropMount(ctx, spec.Clone, spec.Dir); err != nil {
			return err
		}
	}
	return z.dropClone(ctx, DestroySpec{Dataset: spec.Clone, Guest: spec.Guest, Role: RoleDrill})
}
