package zfstest

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/content"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// MountAt is [zfs.ZFS.MountAt].
func (p *Pool) MountAt(ctx context.Context, dataset, dir string) error {
	if err := zfs.CheckMountAt(dataset, dir); err != nil {
		return err
	}
	return p.mount(ctx, "MountAt", dataset, func(d *disk.Dataset) error {
		switch {
		case d.Mounted:
			return zerr.New("mount", dataset, 32, fmt.Sprintf("filesystem '%s' is already mounted", dataset))
		case p.keyless(d):
			return zerr.New("mount", dataset, 1, fmt.Sprintf("filesystem '%s' can not be mounted: encryption key not loaded", dataset))
		}
		d.Mounted, d.At = true, dir
		return nil
	})
}

// UnmountAt is [zfs.ZFS.UnmountAt].
func (p *Pool) UnmountAt(ctx context.Context, dataset, dir string) error {
	if err := zfs.CheckMountAt(dataset, dir); err != nil {
		return err
	}
	return p.mount(ctx, "UnmountAt", dataset, func(d *disk.Dataset) error {
		switch {
		case !d.Mounted || d.At != dir:
			return zerr.New("unmount", dataset, 32, fmt.Sprintf("umount: %s: not mounted.", dir))
		case d.Busy:
			return zerr.New("unmount", dataset, 32, fmt.Sprintf("umount: %s: pool or dataset is busy", dir))
		}
		d.Mounted, d.At = false, ""
		return nil
	})
}

// MountedAt is [zfs.ZFS.MountedAt].
func (p *Pool) MountedAt(dataset string) (string, error) {
	if err := check("mounted", zname.Dataset(dataset)); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.datasets[dataset]
	switch {
	case d == nil || !d.Mounted:
		return "", nil
	case d.At != "":
		return d.At, nil
	default:
		return "/" + dataset, nil
	}
}

// Diff is [zfs.ZFS.Diff]; the files are those of [Pool.Contents].
func (p *Pool) Diff(ctx context.Context, from, to string) (zfs.Diff, error) {
	var out zfs.Diff
	if err := check("diff", zname.Snapshot(from), zname.Snapshot(to)); err != nil {
		return out, err
	}
	err := p.do(ctx, "Diff", []string{to, from}, func() error {
		a, err := p.openSnap("diff", from)
		if err != nil {
			return err
		}
		b, err := p.openSnap("diff", to)
		if err != nil {
			return err
		}
		if !b.Of.Mounted {
			return zerr.New("diff", to, 1, "Cannot diff an unmounted snapshot")
		}
		before, after := a.Content.Bytes(), b.Content.Bytes()
		for i := 0; i < max(len(before), len(after)); i += content.BlockSize {
			kind := "M"
			switch {
			case i >= len(before):
				kind = "+"
			case i >= len(after):
				kind = "-"
			case bytes.Equal(before[i:i+content.BlockSize], after[i:i+content.BlockSize]):
				continue
			}
			out.Count(fmt.Sprintf("%s\t/%s/block-%08d", kind, b.Of.Name, i/content.BlockSize))
		}
		return nil
	})
	return out, err
}
