package zfstest

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

// Try is [zfs.ZFS.Try]. What can be read and written is the clone's dataset; the path is only told.
func (p *Pool) Try(ctx context.Context, spec zfs.TrialSpec) (path string, err error) {
	if err := spec.Check(); err != nil {
		return "", err
	}
	if err := p.Clone(ctx, spec.Snapshot, spec.Clone, spec.Props()); err != nil {
		return "", err
	}
	if spec.Type == zfs.TypeVolume {
		return p.Device(ctx, spec.Clone)
	}
	return spec.Dir, p.do(ctx, "Try", []string{spec.Clone}, func() error {
		d, err := p.open("mount", spec.Clone)
		if err != nil {
			return err
		}
		if p.keyless(d.Origin.Of) {
			return zerr.New("mount", spec.Clone, 1, fmt.Sprintf("filesystem '%s' can not be mounted: encryption key not loaded", spec.Clone))
		}
		d.Mounted = true
		return nil
	})
}

// DropTrial is [zfs.ZFS.DropTrial].
func (p *Pool) DropTrial(ctx context.Context, spec zfs.TrialSpec) error {
	if err := spec.Check(); err != nil {
		return err
	}
	list, err := p.List(ctx, spec.Clone)
	if err != nil || zfs.ClassOf(list[0].Err) == zfs.ClassGone {
		return err
	}
	err = p.do(ctx, "DropTrial", []string{spec.Clone}, func() error {
		d, err := p.open("unmount", spec.Clone)
		if err != nil {
			return err
		}
		if d.Busy {
			return zerr.New("unmount", spec.Clone, 1, fmt.Sprintf("cannot unmount '%s': pool or dataset is busy", spec.Clone))
		}
		d.Mounted = false
		return nil
	})
	if err != nil {
		return err
	}
	return p.DestroyDataset(ctx, zfs.DestroySpec{Dataset: spec.Clone, GUID: list[0].GUID, Guest: spec.Guest, Role: zfs.RoleDrill})
}
