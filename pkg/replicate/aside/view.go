package aside

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Viewer lets an operator look into the copies of a node. It changes none of their data: filesystems are mounted read-only and
// by nobody at boot, a zvol gets a device node that cannot be written.
type Viewer struct {
	k      *Keeper
	folder string
}

// Viewer mounts filesystems below the folder, which exists and is the daemon's own.
func (k *Keeper) Viewer(folder string) *Viewer { return &Viewer{k: k, folder: folder} }

// Detail is all that is known of a copy.
type Detail struct {
	Copy
	// Newer is how many bytes were written since the snapshot that it shares with the replica; where there is none,
	// all that its snapshots have written.
	Newer uint64
	// At is where it is mounted, or its device node; empty: nowhere.
	At string
	// Clones are what was cloned from it into a storage's root.
	Clones []Clone
	// Diff are the files in which it differs from the shared snapshot; nil: not compared. Trouble is why it is not all.
	Diff    *zfs.Diff
	Trouble string
}

// Clone is a dataset that was cloned from a copy.
type Clone struct {
	Volume  guest.Volume
	Dataset string
}

// comparePatience is for how long files are compared.
const comparePatience = 20 * time.Second

// Show tells all of a copy. To compare the files of a filesystem it mounts it for that long.
func (v *Viewer) Show(ctx context.Context, cluster, dataset string) (Detail, error) {
	c, err := v.k.find(ctx, cluster, dataset)
	if err != nil {
		return Detail{Copy: c}, err
	}
	out := Detail{Copy: c, Newer: c.Data.Written}
	for _, s := range c.Data.Snapshots {
		out.Newer += s.Written
	}
	if out.Clones, err = v.k.clones(ctx, c); err != nil {
		return out, err
	}
	if out.At, err = v.at(c); err != nil {
		return out, err
	}
	if c.Data.Type == zfs.TypeFilesystem && c.Data.Origin != "" {
		v.compare(ctx, cluster, &out)
	}
	return out, nil
}

// at is where a copy can be looked into now.
func (v *Viewer) at(c Copy) (string, error) {
	if c.Data.Type == zfs.TypeFilesystem {
		at, err := v.k.o.ZFS.MountedAt(c.Data.Name)
		return at, fault.WrapVolume(c.Volume, err, "look where %s is mounted", c.Data.Name)
	}
	if c.Data.Native["volmode"].Value == "none" {
		return "", nil
	}
	return "/dev/zvol/" + c.Data.Name, nil
}

// compare counts the files that differ.
func (v *Viewer) compare(ctx context.Context, cluster string, out *Detail) {
	ctx, cancel := context.WithTimeout(ctx, comparePatience)
	defer cancel()
	c := out.Copy
	if out.At == "" {
		now, release, err := v.k.locked(ctx, cluster, c.Data.Name)
		if err == nil {
			defer release()
			c = now
			_, err = v.mount(ctx, c)
		}
		if err != nil {
			out.Trouble = err.Error()
			return
		}
		defer func() {
			if err := v.unmount(context.WithoutCancel(ctx), c); err != nil {
				out.At, _ = v.at(c) // It is told where it is left.
			}
		}()
	}
	newest := c.Data.Name + "@" + c.Data.Snapshots[len(c.Data.Snapshots)-1].Name
	d, err := v.k.o.ZFS.Diff(ctx, c.Data.Origin, newest)
	switch {
	case ctx.Err() != nil:
		out.Diff, out.Trouble = &d, fmt.Sprintf("not all was compared within %s: mount it, and run `zfs diff %s %s`", comparePatience, c.Data.Origin, newest)
	case err != nil:
		out.Trouble = err.Error()
	default:
		out.Diff = &d
	}
}

// Mount makes a copy readable for an operator and says where: a filesystem at a folder, a zvol as a device. Done again it says
// so again.
func (v *Viewer) Mount(ctx context.Context, cluster, dataset string) (at string, c Copy, err error) {
	c, release, err := v.k.locked(ctx, cluster, dataset)
	if err != nil {
		return "", c, err
	}
	defer release()
	if len(c.Superseded) > 0 {
		return "", c, fault.Never("", "%s is nobody's data and goes by itself: the owner has sent all of it, and destroyed it since", dataset)
	}
	if !c.Data.ReadOnly { // Somebody changed that.
		if err := v.k.o.ZFS.SetProps(ctx, map[string]string{"readonly": "on"}, dataset); err != nil {
			return "", c, fault.WrapVolume(c.Volume, err, "make %s read-only again", dataset)
		}
	}
	if c.Data.Type == zfs.TypeFilesystem {
		at, err = v.at(c)
		if err != nil || at != "" {
			return at, c, err
		}
		at, err = v.mount(ctx, c)
		return at, c, err
	}
	// As a whole only: nothing on this node finds volume groups or labels in its partitions and takes them for its own.
	if c.Data.Native["volmode"].Value != "dev" {
		if err := v.k.o.ZFS.SetProps(ctx, map[string]string{"volmode": "dev"}, dataset); err != nil {
			return "", c, fault.WrapVolume(c.Volume, err, "give %s a device node", dataset)
		}
	}
	at, err = v.k.o.ZFS.Device(ctx, dataset)
	return at, c, fault.WrapVolume(c.Volume, err, "wait for the device node of %s", dataset)
}

// Unmount ends what Mount did; what is not mounted is no error. It refuses while somebody uses it.
func (v *Viewer) Unmount(ctx context.Context, cluster, dataset string) (Copy, error) {
	c, release, err := v.k.locked(ctx, cluster, dataset)
	if err != nil {
		return c, err
	}
	defer release()
	if c.Data.Type == zfs.TypeFilesystem {
		at, err := v.at(c)
		switch {
		case err != nil:
			return c, err
		case at == "":
			v.tidy(c)
			return c, nil
		case at != v.dir(c):
			return c, fault.Person(c.Volume, "run `umount "+at+"` there", "%s is mounted at %s, which was not done by Tandem", dataset, at)
		}
		return c, v.unmount(ctx, c)
	}
	users, err := v.k.o.ZFS.Users(ctx, dataset)
	switch {
	case err != nil:
		return c, fault.WrapVolume(c.Volume, err, "look who has %s open", dataset)
	case len(users) > 0:
		return c, fault.Person(c.Volume, "end that first", "%s is in use: %s", dataset, users[0])
	}
	err = v.k.o.ZFS.SetProps(ctx, map[string]string{"volmode": "none"}, dataset)
	return c, fault.WrapVolume(c.Volume, err, "take the device node of %s away", dataset)
}

func (v *Viewer) dir(c Copy) string { return filepath.Join(v.folder, c.Data.Name) }

func (v *Viewer) mount(ctx context.Context, c Copy) (string, error) {
	if c.Data.KeyStatus == "unavailable" {
		return "", fault.Person(c.Volume, "run `zfs load-key` there", "the key of %s is not loaded", c.Data.Name)
	}
	dir := v.dir(c)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fault.WrapVolume(c.Volume, err, "make a folder to mount %s at", c.Data.Name)
	}
	return dir, fault.WrapVolume(c.Volume, v.k.o.ZFS.MountAt(ctx, c.Data.Name, dir), "mount %s at %s", c.Data.Name, dir)
}

func (v *Viewer) unmount(ctx context.Context, c Copy) error {
	if err := v.k.o.ZFS.UnmountAt(ctx, c.Data.Name, v.dir(c)); err != nil {
		text := fmt.Sprintf("%s cannot be unmounted", c.Data.Name)
		if users, _ := v.k.o.ZFS.Users(ctx, c.Data.Name); len(users) > 0 {
			text += ": " + users[0].String()
		}
		return &fault.Error{Class: fault.ClassPerson, Volume: c.Volume, Text: text, Hint: "see who uses it with `fuser -vm " + v.dir(c) + "`", Err: err}
	}
	v.tidy(c)
	return nil
}

// tidy removes the folder and those above it that are empty by that. What cannot be removed harms nobody.
func (v *Viewer) tidy(c Copy) {
	for dir := v.dir(c); dir != v.folder && os.Remove(dir) == nil; {
		dir = filepath.Dir(dir)
	}
}

// locked is the copy of that name, with its volume locked.
func (k *Keeper) locked(ctx context.Context, cluster, dataset string) (Copy, func(), error) {
	c, err := k.find(ctx, cluster, dataset)
	if err != nil {
		return c, nil, err
	}
	wait, cancel := context.WithTimeout(ctx, k.o.LockWait)
	defer cancel()
	release, err := k.o.Locks.Lock(wait, local.VolumeLock(c.Volume))
	if err != nil {
		return c, nil, err
	}
	if c, err = k.find(ctx, cluster, dataset); err != nil { // What a sync has just done with it counts.
		release()
		return c, nil, err
	}
	return c, release, nil
}

// clones are the datasets in the roots of the storages that were cloned from a copy.
func (k *Keeper) clones(ctx context.Context, c Copy) ([]Clone, error) {
	var out []Clone
	for storage, root := range k.o.Storages {
		if zname.PoolOf(root) != zname.PoolOf(c.Data.Name) {
			continue // ZFS clones within a pool.
		}
		list, err := k.children(ctx, root)
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			if strings.HasPrefix(d.Origin, c.Data.Name+"@") {
				out = append(out, Clone{Volume: guest.Volume{Storage: storage, Name: strings.TrimPrefix(d.Name, root+"/")}, Dataset: d.Name})
			}
		}
	}
	return out, nil
}
