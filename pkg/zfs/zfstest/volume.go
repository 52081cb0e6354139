package zfstest

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Clone is [zfs.ZFS.Clone].
func (p *Pool) Clone(ctx context.Context, snap, dataset string, props map[string]string) error {
	if err := check("clone", zname.Snapshot(snap), zname.Dataset(dataset), zname.Props(props)); err != nil {
		return err
	}
	return p.do(ctx, "Clone", []string{snap, dataset}, func() error {
		s, err := p.openSnap("clone", snap)
		if err != nil {
			return err
		}
		if p.datasets[dataset] != nil {
			return zerr.New("clone", snap, 1, fmt.Sprintf("cannot create '%s': dataset already exists", dataset))
		}
		d := p.add(dataset, s.Of.Type)
		d.Live, d.Origin = s.Content.Share(), s
		d.Mounted = d.Type == zfs.TypeFilesystem && props["canmount"] == ""
		maps.Copy(d.Props, props)
		return nil
	})
}

// Promote is [zfs.ZFS.Promote].
func (p *Pool) Promote(ctx context.Context, dataset string) error {
	if err := check("promote", zname.Dataset(dataset)); err != nil {
		return err
	}
	return p.do(ctx, "Promote", []string{dataset}, func() error {
		d, err := p.open("promote", dataset)
		if err != nil {
			return err
		}
		if d.Origin == nil {
			return zerr.New("promote", dataset, 1, fmt.Sprintf("cannot promote '%s': not a cloned filesystem", dataset))
		}
		old, at := d.Origin.Of, d.Origin
		var moved, stay []*disk.Snapshot
		for _, s := range old.Snaps {
			if s.CreateTXG > at.CreateTXG {
				stay = append(stay, s)
				continue
			}
			if d.Snap(s.Name) != nil {
				return zerr.New("promote", dataset, 1, fmt.Sprintf("cannot promote '%s': conflicting snapshot '%s' from parent '%s'", dataset, s.Name, old.Name))
			}
			moved = append(moved, s)
		}
		for _, s := range moved {
			s.Of = d
		}
		d.Snaps, old.Snaps = append(moved, d.Snaps...), stay
		for name, b := range old.Marks {
			if b.CreateTXG <= at.CreateTXG {
				b.Of, d.Marks[name] = d, b
				delete(old.Marks, name)
			}
		}
		d.Origin, old.Origin = old.Origin, at
		d.Recount()
		old.Recount()
		return nil
	})
}

// Mount is [zfs.ZFS.Mount].
func (p *Pool) Mount(ctx context.Context, name string) error {
	return p.mount(ctx, "Mount", name, func(d *disk.Dataset) error {
		if canmount, _ := p.effective(d, "canmount"); canmount == "off" {
			return zerr.New("mount", name, 1, fmt.Sprintf("cannot mount '%s': 'canmount' property is set to 'off'", name))
		}
		d.Mounted, d.At = true, ""
		return nil
	})
}

// Unmount is [zfs.ZFS.Unmount].
func (p *Pool) Unmount(ctx context.Context, name string) error {
	return p.mount(ctx, "Unmount", name, func(d *disk.Dataset) error {
		if d.Busy {
			return zerr.New("unmount", name, 1, fmt.Sprintf("cannot unmount '/%s': pool or dataset is busy", name))
		}
		d.Mounted, d.At = false, ""
		return nil
	})
}

func (p *Pool) mount(ctx context.Context, op, name string, effect func(*disk.Dataset) error) error {
	if err := check(strings.ToLower(op), zname.Dataset(name)); err != nil {
		return err
	}
	return p.do(ctx, op, []string{name}, func() error {
		d, err := p.open(strings.ToLower(op), name)
		if err != nil {
			return err
		}
		if d.Type != zfs.TypeFilesystem {
			return zerr.New(strings.ToLower(op), name, 1, fmt.Sprintf("cannot open '%s': operation not applicable to datasets of this type", name))
		}
		return effect(d)
	})
}

// AbortReceive is [zfs.ZFS.AbortReceive].
func (p *Pool) AbortReceive(ctx context.Context, dataset string) error {
	if err := check("receive -A", zname.Dataset(dataset)); err != nil {
		return err
	}
	return p.do(ctx, "AbortReceive", []string{dataset}, func() error {
		d, err := p.open("receive -A", dataset)
		if err != nil {
			return err
		}
		if d.Receiving {
			return zerr.New("receive -A", dataset, 1, fmt.Sprintf("cannot destroy '%s': dataset is busy", dataset))
		}
		if d.Partial != nil && d.Partial.Created {
			delete(p.datasets, dataset)
		}
		d.Partial = nil
		return nil
	})
}

// DestroyDataset is [zfs.ZFS.DestroyDataset].
func (p *Pool) DestroyDataset(ctx context.Context, spec zfs.DestroySpec) error {
	list, err := p.List(ctx, spec.Dataset)
	if err != nil {
		return err
	}
	if err := spec.Check(list[0]); err != nil {
		return err
	}
	var snaps []string
	for _, s := range list[0].Snapshots {
		snaps = append(snaps, s.Name)
	}
	if err := p.SetProps(ctx, map[string]string{zfs.PropRemoving: strconv.FormatUint(spec.GUID, 10)}, spec.Dataset); err != nil {
		return err
	}
	if err := p.DestroySnapshots(ctx, spec.Dataset, snaps); err != nil {
		return err
	}
	return p.do(ctx, "DestroyDataset", []string{spec.Dataset}, func() error {
		d, err := p.open("destroy", spec.Dataset)
		if err != nil {
			return err
		}
		why := ""
		for name := range p.datasets {
			if strings.HasPrefix(name, d.Name+"/") {
				why = "filesystem has children use '-r' to destroy the following datasets: " + name
			}
		}
		switch {
		case len(d.Snaps) > 0:
			why = "filesystem has children use '-r' to destroy the following datasets: " + d.Snaps[0].Full()
		case d.Partial != nil && !d.Partial.Created:
			why = "filesystem has children use '-r' to destroy the following datasets: " + d.Name + "/%recv"
		case d.Busy || d.Receiving:
			why = "dataset is busy"
		}
		if why != "" {
			return zerr.New("destroy", d.Name, 1, fmt.Sprintf("cannot destroy '%s': %s", d.Name, why))
		}
		delete(p.datasets, d.Name)
		return nil
	})
}
