package reading

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Sweep takes clones away that nobody reads any more: those of a process that
// died, and those that could not go when their reading ended. What cannot be taken
// away now is told, and tried again with the next sweep.
func (r *Reader) Sweep(ctx context.Context) error {
	cluster := r.o.Ledger.View().Cluster
	var errs []error
	for _, storage := range slices.Sorted(maps.Keys(r.o.Storages)) {
		root := r.o.Storages[storage]
		list, err := r.zfs.Children(ctx, root)
		if err != nil {
			if zfs.ClassOf(err) != zfs.ClassGone { // A storage without its dataset has no clones.
				errs = append(errs, fmt.Errorf("storage %s: %w", storage, err))
			}
			continue
		}
		for _, d := range list {
			if !r.abandoned(root, d, cluster) {
				continue
			}
			err := r.zfs.DropContents(ctx, zfs.ContentsSpec{
				Snapshot: d.Origin, Type: d.Type, Clone: d.Name, Guest: d.Props[zfs.PropGuest], Cluster: cluster, Folder: r.folder,
			})
			if err != nil {
				errs = append(errs, fmt.Errorf("%s is left of a verification: %w", d.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// abandoned says that a dataset is such a clone, and nobody's.
func (r *Reader) abandoned(root string, d zfs.Dataset, cluster string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.HasPrefix(d.Name, root+"/"+guest.ReadingPrefix) && d.Origin != "" && !r.open[d.Name] &&
		d.Props[zfs.PropRole] == zfs.RoleReading && d.Props[zfs.PropCluster] == cluster && d.Props[zfs.PropGuest] != ""
}
