package replica

import (
	"context"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// tellMoved adds to an inventory the replicas that somebody renamed. Where one is
// missing and nothing of it was set aside, its storage is looked through for its marks.
func (t *Target) tellMoved(ctx context.Context, cluster string, id guest.ID, list []found, out []wire.InventoryVolume) error {
	missing := map[string][]int{}
	for i, l := range list {
		if !l.data.Exists() && len(out[i].Aside) == 0 {
			missing[l.root.Name] = append(missing[l.root.Name], i)
		}
	}
	volumes, names := map[string]int{}, []string{}
	for _, root := range slices.Sorted(maps.Keys(missing)) {
		children, err := t.o.ZFS.Children(ctx, root)
		if err != nil {
			return fault.Wrap(err, "look into %s on %s", root, t.o.Name)
		}
		for _, d := range children {
			marks := local.MarksOf(d)
			of := slices.IndexFunc(missing[root], func(i int) bool { return marks.Are(cluster, id, list[i].volume, zfs.RoleReplica) })
			if of >= 0 {
				volumes[d.Name], names = missing[root][of], append(names, d.Name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	moved, err := t.o.ZFS.List(ctx, names...)
	if err != nil {
		return fault.Wrap(err, "read renamed replicas on %s", t.o.Name)
	}
	for _, d := range moved {
		if d.Exists() {
			i := volumes[d.Name]
			out[i].Moved = append(out[i].Moved, told(d))
		}
	}
	return nil
}

// told is a dataset that is no replica as it is told to a source.
func told(d zfs.Dataset) wire.InventoryCopy {
	out := wire.InventoryCopy{Dataset: d.Name, Kind: plan.Kind(d.Type)}
	for _, s := range d.Snapshots {
		out.Snapshots = append(out.Snapshots, wire.Told(local.Snapshot(s, zfs.RoleReplica)))
	}
	return out
}
