package zfstest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// List is [zfs.ZFS.List].
func (p *Pool) List(ctx context.Context, list ...string) ([]zfs.Dataset, error) {
	if err := check("list", names(list, zname.Dataset)); err != nil {
		return nil, err
	}
	if err := p.At(ctx, Event{Op: "List", Name: strings.Join(list, " ")}); err != nil {
		return nil, err
	}
	p.mu.Lock()
	out := make([]zfs.Dataset, len(list))
	for i, name := range list {
		out[i].Name = name
		if out[i].Err = p.ready("list", []string{name}); out[i].Err != nil {
			continue
		}
		d, err := p.open("list", name)
		if err != nil {
			out[i].Err = err
			continue
		}
		if out[i].Err = p.Part("Read", name); out[i].Err != nil {
			continue
		}
		out[i] = p.export(d)
		for _, s := range d.Snaps {
			out[i].Snapshots = append(out[i].Snapshots, zfs.Snapshot{
				Name: s.Name, GUID: s.GUID, CreateTXG: s.CreateTXG, Creation: s.Creation, UserRefs: uint64(len(s.Holds)),
				Written: s.Written, Props: userProps(s.Props),
			})
		}
		for _, name := range sorted(d.Marks) {
			b := d.Marks[name]
			out[i].Bookmarks = append(out[i].Bookmarks, zfs.Bookmark{Name: name, GUID: b.GUID, CreateTXG: b.CreateTXG, Creation: b.Creation})
		}
		out[i].Sort()
	}
	p.mu.Unlock()
	return out, p.At(ctx, Event{Op: "List", Name: strings.Join(list, " "), After: true})
}

// export tells of a dataset what List and Children tell. Locked.
func (p *Pool) export(d *disk.Dataset) zfs.Dataset {
	out := zfs.Dataset{
		Name: d.Name, Type: d.Type, GUID: d.GUID, CreateTXG: d.CreateTXG, Used: d.Used(), Available: p.available(d.Name),
		Referenced: d.Live.Referenced(), Written: d.Live.Born, VolSize: d.Live.VolSize, Mounted: d.Mounted, Props: userProps(d.Props),
	}
	p.native(d, &out)
	p.encryption(d, &out)
	if d.Origin != nil {
		out.Origin = d.Origin.Full()
	}
	if d.Partial != nil {
		out.ResumeToken = d.Partial.Token()
	}
	return out
}

func userProps(props map[string]string) map[string]string {
	own := maps.Clone(props)
	maps.DeleteFunc(own, func(name, _ string) bool { return !slices.Contains(zfs.UserProps(), name) })
	if len(own) == 0 {
		return nil
	}
	return own
}

// Children is [zfs.ZFS.Children].
func (p *Pool) Children(ctx context.Context, root string) ([]zfs.Dataset, error) {
	children := []zfs.Dataset{}
	err := p.do(ctx, "Children", []string{root}, func() error {
		if _, err := p.open("list", root); err != nil {
			return err
		}
		for _, name := range sorted(p.datasets) {
			if parentOf(name) == root {
				children = append(children, p.export(p.datasets[name]))
			}
		}
		return nil
	})
	return children, err
}

// Properties is [zfs.ZFS.Properties], of the properties that this package knows and those that were set.
func (p *Pool) Properties(ctx context.Context, props []string, list ...string) (map[string]map[string]zfs.Property, error) {
	all := map[string]map[string]zfs.Property{}
	if err := check("get", names(list, zname.Any), names(props, zname.Prop)); err != nil {
		return nil, err
	}
	err := p.do(ctx, "Properties", list, func() error {
		for _, name := range list {
			d, err := p.open("get", zname.DatasetOf(name))
			if err != nil {
				return err
			}
			own, err := p.props("get", name)
			if err != nil {
				return err
			}
			all[name] = map[string]zfs.Property{}
			for _, prop := range props {
				value, source := p.effective(d, prop)
				if v, ok := own[prop]; ok {
					value, source = v, "local"
				} else if name != d.Name && source == "local" {
					source = "inherited from " + d.Name
				}
				all[name][prop] = zfs.Property{Value: value, Source: source}
			}
		}
		return nil
	})
	return all, err
}

// Snapshot is [zfs.ZFS.Snapshot].
func (p *Pool) Snapshot(ctx context.Context, snaps []string, props map[string]string) error {
	if err := zfs.CheckSnapshots(snaps, props); err != nil {
		return err
	}
	return p.do(ctx, "Snapshot", snaps, func() error {
		for _, full := range snaps {
			name, own, _ := strings.Cut(full, "@")
			d := p.datasets[name]
			switch {
			case d == nil:
				return zerr.New("snapshot", full, 2, fmt.Sprintf("cannot open '%s': dataset does not exist usage: snapshot …", name))
			case d.Snap(own) != nil:
				return zerr.New("snapshot", full, 1, fmt.Sprintf("cannot create snapshot '%s': dataset already exists no snapshots were created", full))
			case p.room(name, 1) != "":
				return zerr.New("snapshot", full, 1, "cannot create snapshots : out of space no snapshots were created")
			}
		}
		for _, full := range snaps {
			name, own, _ := strings.Cut(full, "@")
			d := p.datasets[name]
			maps.Copy(d.Take(own, p.newGUID(), p.txg, p.opt.Now()).Props, props)
		}
		return nil
	})
}

// DestroySnapshots is [zfs.ZFS.DestroySnapshots].
func (p *Pool) DestroySnapshots(ctx context.Context, dataset string, list []string) error {
	if err := zfs.CheckDestroy(dataset, list); err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	return p.do(ctx, "DestroySnapshots", []string{dataset}, func() error {
		d, err := p.open("destroy", dataset)
		if err != nil {
			return err
		}
		for _, name := range list {
			if s := d.Snap(name); s != nil {
				if why := p.pinned(s); why != "" {
					return zerr.New("destroy", dataset, 1, fmt.Sprintf("cannot destroy snapshot %s@%s: %s", dataset, name, why))
				}
			}
		}
		d.Snaps = slices.DeleteFunc(d.Snaps, func(s *disk.Snapshot) bool { return slices.Contains(list, s.Name) })
		d.Recount()
		return nil
	})
}

func (p *Pool) pinned(s *disk.Snapshot) string {
	if len(s.Holds) > 0 {
		if strings.HasPrefix(p.opt.Version, "2.1") || strings.HasPrefix(p.opt.Version, "2.2") {
			return "dataset is busy"
		}
		return "it's being held. Run 'zfs holds -r " + s.Full() + "' to see holders."
	}
	if s.Sending > 0 {
		return "dataset is busy"
	}
	for _, d := range p.datasets {
		if d.Origin == s || d.Partial != nil && d.Partial.FromGUID == s.GUID && d.Partial.FromGUID != 0 && d == s.Of {
			return "snapshot has dependent clones use '-R' to destroy the following datasets: " + d.Name
		}
	}
	return ""
}

// Bookmark is [zfs.ZFS.Bookmark].
func (p *Pool) Bookmark(ctx context.Context, snap, bookmark string) error {
	if err := check("bookmark", zname.Any(snap), zname.Bookmark(bookmark)); err != nil {
		return err
	}
	return p.do(ctx, "Bookmark", []string{snap, bookmark}, func() error {
		s, err := p.openSnap("bookmark", snap)
		if err != nil {
			return zerr.New("bookmark", snap, 2, fmt.Sprintf("cannot create bookmark '%s': dataset does not exist", bookmark))
		}
		name, own, _ := strings.Cut(bookmark, "#")
		d, err := p.open("bookmark", name)
		if err != nil {
			return err
		}
		if d.Marks[own] != nil {
			return zerr.New("bookmark", snap, 1, fmt.Sprintf("cannot create bookmark '%s': bookmark exists", bookmark))
		}
		d.Marks[own] = &disk.Snapshot{Of: d, Name: own, GUID: s.GUID, CreateTXG: s.CreateTXG, Creation: s.Creation, IVSet: s.IVSet}
		return nil
	})
}

// DestroyBookmark is [zfs.ZFS.DestroyBookmark].
func (p *Pool) DestroyBookmark(ctx context.Context, bookmark string) error {
	if err := check("destroy", zname.Bookmark(bookmark)); err != nil {
		return err
	}
	return p.do(ctx, "DestroyBookmark", []string{bookmark}, func() error {
		name, own, _ := strings.Cut(bookmark, "#")
		if d := p.datasets[name]; d != nil && d.Marks[own] != nil {
			delete(d.Marks, own)
			return nil
		}
		return zerr.New("destroy", bookmark, 1, fmt.Sprintf("bookmark '%s' does not exist.", bookmark))
	})
}

// Hold is [zfs.ZFS.Hold].
func (p *Pool) Hold(ctx context.Context, tag string, snaps ...string) error {
	return p.tags(ctx, "Hold", tag, snaps, func(s *disk.Snapshot) { s.Holds[tag] = true })
}

// Release is [zfs.ZFS.Release].
func (p *Pool) Release(ctx context.Context, tag string, snaps ...string) error {
	return p.tags(ctx, "Release", tag, snaps, func(s *disk.Snapshot) { delete(s.Holds, tag) })
}

func (p *Pool) tags(ctx context.Context, op, tag string, snaps []string, apply func(*disk.Snapshot)) error {
	if err := zfs.CheckTag(strings.ToLower(op), tag, snaps); err != nil {
		return err
	}
	return p.do(ctx, op, snaps, func() error {
		var found []*disk.Snapshot
		for _, full := range snaps {
			s, err := p.openSnap(strings.ToLower(op), full)
			if err != nil {
				return err
			}
			found = append(found, s)
		}
		for _, s := range found {
			apply(s)
		}
		return nil
	})
}

// Holds is [zfs.ZFS.Holds].
func (p *Pool) Holds(ctx context.Context, snaps ...string) ([]zfs.Hold, error) {
	var holds []zfs.Hold
	err := p.tags(ctx, "Holds", "any", snaps, func(s *disk.Snapshot) {
		for _, tag := range sorted(s.Holds) {
			holds = append(holds, zfs.Hold{Snapshot: s.Full(), Tag: tag})
		}
	})
	return holds, err
}

// SetProps is [zfs.ZFS.SetProps].
func (p *Pool) SetProps(ctx context.Context, props map[string]string, list ...string) error {
	if err := zfs.CheckSet(props); err != nil {
		return err
	}
	if err := limits("set", list[0], props); err != nil {
		return err
	}
	return p.each(ctx, "SetProps", list, func(own map[string]string) { keep(own, props) })
}

// Inherit is [zfs.ZFS.Inherit].
func (p *Pool) Inherit(ctx context.Context, prop string, list ...string) error {
	if err := check("inherit", zname.Prop(prop), inheritable(prop)); err != nil {
		return err
	}
	return p.each(ctx, "Inherit", list, func(own map[string]string) { delete(own, prop) })
}

func (p *Pool) each(ctx context.Context, op string, list []string, apply func(own map[string]string)) error {
	if err := check(strings.ToLower(op), names(list, zname.Any)); err != nil {
		return err
	}
	return p.do(ctx, op, list, func() error {
		for _, name := range list {
			own, err := p.props(strings.ToLower(op), name)
			if err != nil {
				return err
			}
			apply(own)
			if d := p.datasets[name]; d != nil {
				var size uint64
				if _, err := fmt.Sscan(own["volsize"], &size); err == nil {
					d.Live.VolSize = size
				}
				delete(own, "volsize")
			}
		}
		return nil
	})
}

// Rename is [zfs.ZFS.Rename].
func (p *Pool) Rename(ctx context.Context, from, to string) error {
	if err := check("rename", zname.Dataset(from), zname.Dataset(to)); err != nil {
		return err
	}
	return p.do(ctx, "Rename", []string{from, to}, func() error {
		d, err := p.open("rename", from)
		if err != nil {
			return err
		}
		switch {
		case p.datasets[to] != nil:
			return zerr.New("rename", from, 1, fmt.Sprintf("cannot rename '%s': dataset already exists", from))
		case p.datasets[parentOf(to)] == nil:
			return zerr.New("rename", from, 1, fmt.Sprintf("cannot open '%s': dataset does not exist", parentOf(to)))
		case d.Busy && d.Mounted:
			return zerr.New("rename", from, 1, fmt.Sprintf("cannot unmount '/%s': pool or dataset is busy", from))
		}
		for _, name := range sorted(p.datasets) {
			if name == from || strings.HasPrefix(name, from+"/") {
				moved := p.datasets[name]
				delete(p.datasets, name)
				moved.Name = to + name[len(from):]
				p.datasets[moved.Name] = moved
			}
		}
		return nil
	})
}
