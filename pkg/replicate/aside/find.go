package aside

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Of finds what was set aside of these volumes of a guest.
func (k *Keeper) Of(ctx context.Context, cluster string, g guest.ID, volumes []guest.Volume) ([]Copy, error) {
	var all []zfs.Dataset
	var seen []string
	for _, v := range volumes {
		folder, err := k.folder(v.Storage, g)
		if err != nil {
			return nil, err
		}
		if slices.Contains(seen, folder) {
			continue
		}
		seen = append(seen, folder)
		list, err := k.children(ctx, folder)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	copies, err := k.read(ctx, cluster, all)
	return slices.DeleteFunc(copies, func(c Copy) bool { return c.Guest != g || !slices.Contains(volumes, c.Volume) }), err
}

// All finds everything that was set aside on this node, by guest, volume and
// time. A storage that cannot be read makes an error beside what the others have.
func (k *Keeper) All(ctx context.Context, cluster string) ([]Copy, error) {
	var out []Copy
	var errs []error
	for storage, root := range k.o.Storages {
		var all []zfs.Dataset
		folders, err := k.children(ctx, root+"/"+Folder)
		for _, f := range folders {
			var list []zfs.Dataset
			if err == nil && f.Props[zfs.PropRole] == zfs.RoleFolder {
				list, err = k.children(ctx, f.Name)
				all = append(all, list...)
			}
		}
		var found []Copy
		if err == nil {
			found, err = k.read(ctx, cluster, all)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("storage %s: %w", storage, err))
		}
		out = append(out, found...)
	}
	slices.SortFunc(out, func(a, b Copy) int {
		return cmp.Or(cmp.Compare(a.Guest, b.Guest), a.Volume.Compare(b.Volume), a.At.Compare(b.At), cmp.Compare(a.Data.Name, b.Data.Name))
	})
	return out, fault.Worst(errs)
}

// children are the datasets in a folder; none where it does not exist.
func (k *Keeper) children(ctx context.Context, folder string) ([]zfs.Dataset, error) {
	list, err := k.o.ZFS.Children(ctx, folder)
	if zfs.ClassOf(err) == zfs.ClassGone && !errors.Is(err, zfs.ClassPoolAbsent) {
		return nil, nil
	}
	return list, fault.Wrap(err, "look into %s on %s", folder, k.o.Name)
}

// read lists those of the datasets that carry the marks of diverged data.
func (k *Keeper) read(ctx context.Context, cluster string, all []zfs.Dataset) ([]Copy, error) {
	var names []string
	for _, d := range all {
		names = append(names, d.Name)
	}
	if len(names) == 0 {
		return nil, nil
	}
	list, err := k.o.ZFS.List(ctx, names...)
	if err != nil {
		return nil, fault.Wrap(err, "read what was set aside on %s", k.o.Name)
	}
	list = slices.DeleteFunc(list, func(d zfs.Dataset) bool {
		return !d.Exists() || d.Props[zfs.PropRole] != zfs.RoleDiverged || d.Props[zfs.PropCluster] != cluster
	})
	if len(list) == 0 {
		return nil, nil
	}
	names = nil
	for _, d := range list {
		names = append(names, d.Name)
	}
	props, err := k.o.ZFS.Properties(ctx, []string{zfs.PropDiverged}, names...)
	if err != nil {
		return nil, fault.Wrap(err, "read why data was set aside on %s", k.o.Name)
	}
	var out []Copy
	for _, d := range list {
		c := Copy{Term: d.Props[zfs.PropTerm], Data: d}
		var bad error
		if c.Guest, bad = guest.ParseID(d.Props[zfs.PropGuest]); bad != nil {
			continue
		}
		if c.Volume, bad = guest.ParseVolume(d.Props[zfs.PropVolume]); bad != nil {
			continue
		}
		var n note
		if p := props[d.Name][zfs.PropDiverged]; p.Own() && json.Unmarshal([]byte(p.Value), &n) == nil {
			c.At, c.Why, c.Owner, c.ByTerm, c.Superseded = time.Unix(n.At, 0), n.Why, n.Owner, n.Term, n.Superseded
		}
		out = append(out, c)
	}
	return out, nil
}
