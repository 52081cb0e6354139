package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs"
)

// cleanWait bounds the cleaning after a drill; what is left then Sweep takes away.
const cleanWait = 2 * time.Minute

// clean takes away all that there is of the drill.
func (x *drill) clean(ctx context.Context) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWait)
	defer cancel()
	return x.drop(late, x.folder())
}

// drop takes the drill's service and clones away, in all storages that it may have
// used, and then these folders.
func (x *drill) drop(ctx context.Context, folders ...string) error {
	var storages []string
	for _, v := range x.point.volumes {
		storages = append(storages, v.volume.Storage)
	}
	slices.Sort(storages)
	found, err := x.d.find(ctx, x.view.Cluster, slices.Compact(storages), func(name string) bool { return name == x.name })
	if err := errors.Join(err, x.d.clear(ctx, x.name, found[x.name])); err != nil {
		return err
	}
	for _, f := range folders {
		if err := removeFolder(f); err != nil {
			return err
		}
	}
	return nil
}

// Sweep takes away what drills have left that do not go on: those of a process that
// died, and what could not go when they ended. What cannot be taken away now is told,
// and tried again with the next sweep.
func (d *Drills) Sweep(ctx context.Context) error {
	d.sweeping.Lock()
	defer d.sweeping.Unlock()
	abandoned := func(name string) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return !d.open[name]
	}
	found, unread := d.find(ctx, d.o.Ledger.View().Cluster, slices.Sorted(maps.Keys(d.o.Storages)), abandoned)
	folders, err := os.ReadDir(d.o.Folder)
	if err != nil {
		return errors.Join(unread, fmt.Errorf("look for what drills have left: %w", err))
	}
	for _, f := range folders {
		if _, known := found[f.Name()]; !known && isName(f.Name()) && abandoned(f.Name()) {
			found[f.Name()] = nil
		}
	}
	errs := []error{unread}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		err := d.clear(ctx, name, found[name])
		if err == nil {
			err = removeFolder(filepath.Join(d.o.Folder, name))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// find lists the clones of drills in these storages by the drills' names. A storage
// whose dataset or pool is missing has none, until it is there again; one that cannot
// be read makes an error, and does not hide what is in the others.
func (d *Drills) find(ctx context.Context, cluster string, storages []string, which func(name string) bool) (map[string][]zfs.Dataset, error) {
	out := map[string][]zfs.Dataset{}
	var errs []error
	for _, storage := range storages {
		root := d.o.Storages[storage]
		list, err := d.o.ZFS.Children(ctx, root)
		if err != nil {
			if zfs.ClassOf(err) != zfs.ClassGone && !errors.Is(err, zfs.ClassPoolAbsent) {
				errs = append(errs, fmt.Errorf("storage %s: %w", storage, err))
			}
			continue
		}
		for _, c := range list {
			own, ours := strings.CutPrefix(c.Name, root+"/"+guest.DrillPrefix)
			name, _, _ := strings.Cut(own, "-")
			if ours && isName(name) && c.Origin != "" && c.Props[zfs.PropRole] == zfs.RoleDrill && c.Props[zfs.PropCluster] == cluster && which(name) {
				out[name] = append(out[name], c)
			}
		}
	}
	return out, errors.Join(errs...)
}

// isName says that it can be a drill's.
func isName(s string) bool { return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == "" }

// clear stops a drill's service, if there may be one, and destroys its clones: by
// their marks, and none with a snapshot that somebody made of it.
func (d *Drills) clear(ctx context.Context, name string, clones []zfs.Dataset) error {
	folder := filepath.Join(d.o.Folder, name)
	files, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if slices.ContainsFunc(files, func(f fs.DirEntry) bool { return strings.HasSuffix(f.Name(), confSuffix) }) {
		if err := d.o.Stage.Stop(ctx, unitOf(name)); err != nil {
			return fmt.Errorf("%s of a drill does not stop: %w", unitOf(name), err)
		}
	}
	var errs []error
	for _, c := range clones {
		_, part, _ := strings.Cut(c.Name[strings.LastIndexByte(c.Name, '/')+len(guest.DrillPrefix)+1:], "-")
		err := d.o.ZFS.DropTrial(ctx, zfs.TrialSpec{
			Snapshot: c.Origin, Type: c.Type, Clone: c.Name, Guest: c.Props[zfs.PropGuest], Cluster: c.Props[zfs.PropCluster],
			Dir: filepath.Join(folder, part),
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s is left of a drill: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// removeFolder removes a drill's folder: its own files, sockets and empty folders,
// and nothing else. A folder on which something is mounted stays, and is told.
func removeFolder(folder string) error {
	list, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range list {
		path := filepath.Join(folder, f.Name())
		if _, err := guest.ParseID(f.Name()); err == nil {
			for _, socket := range []string{"qmp", "agent"} {
				if err := os.Remove(filepath.Join(path, socket)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
		if f.IsDir() || strings.HasSuffix(f.Name(), confSuffix) {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return os.Remove(folder)
}

// closeName ends the protection of what is a drill's.
func (d *Drills) closeName(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, name)
}
