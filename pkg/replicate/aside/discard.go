package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Discard destroys one copy, for good, because an operator said so. It refuses
// what does not carry the marks, what somebody else holds or has mounted, and
// what other data depends on. Cut at any point it can be done again.
func (k *Keeper) Discard(ctx context.Context, cluster, dataset string) (Copy, error) {
	c, release, err := k.locked(ctx, cluster, dataset)
	if err != nil {
		return c, err
	}
	defer release()
	if err := k.unused(ctx, c); err != nil {
		return c, err
	}
	return c, k.destroy(ctx, c)
}

// unused refuses a copy that somebody looks into, or that was restored.
func (k *Keeper) unused(ctx context.Context, c Copy) error {
	replica, err := k.o.Dataset(c.Volume)
	if err != nil {
		return err
	}
	clones, err := k.clones(ctx, c)
	if err != nil {
		return err
	}
	for _, x := range clones {
		if g, ok := k.o.Ledger.View().GuestOf(x.Volume); ok && x.Dataset != replica {
			hint := fmt.Sprintf("it goes with `tandem guest remove %s --delete-data`, or when that guest is migrated with --delete-source; then discard this", g.ID)
			return fault.Person(c.Volume, hint,
				"guest %s was restored from it: its volume %s depends on it", g.ID, x.Dataset)
		}
		if x.Dataset != replica {
			return fault.Person(c.Volume, "discard that first, with `zfs destroy` if nobody needs it", "%s was cloned from it", x.Dataset)
		}
	}
	if c.Data.Type != zfs.TypeVolume {
		return nil // One that is mounted is refused in any case.
	}
	users, err := k.o.ZFS.Users(ctx, c.Data.Name)
	if err != nil || len(users) == 0 {
		return fault.WrapVolume(c.Volume, err, "look who has %s open", c.Data.Name)
	}
	return fault.Person(c.Volume, "end that first", "%s is in use: %s", c.Data.Name, users[0])
}

// find is the copy of that name.
func (k *Keeper) find(ctx context.Context, cluster, dataset string) (Copy, error) {
	folder := dataset[:max(0, strings.LastIndexByte(dataset, '/'))]
	known := false
	for _, root := range k.o.Storages {
		id, found := strings.CutPrefix(folder, root+"/"+Folder+"/")
		_, err := guest.ParseID(id)
		known = known || found && err == nil
	}
	if !known {
		return Copy{}, fault.Never("see `tandem diverged list`", "%s is no place for diverged data on %s", dataset, k.o.Name)
	}
	found, err := k.read(ctx, cluster, []zfs.Dataset{{Name: dataset}})
	switch {
	case err != nil:
		return Copy{}, err
	case len(found) == 0:
		return Copy{}, fault.Never("see `tandem diverged list`", "%s on %s does not exist, or is no diverged data of this cluster", dataset, k.o.Name)
	}
	return found[0], nil
}

// destroy takes the holds off and destroys the copy, or puts them back where that is refused. The caller has the volume's lock.
func (k *Keeper) destroy(ctx context.Context, c Copy) error {
	if err := k.independent(ctx, c); err != nil {
		return err
	}
	spec := zfs.DestroySpec{Dataset: c.Data.Name, GUID: c.Data.GUID, Guest: c.Guest.String(), Role: zfs.RoleDiverged}
	for _, s := range c.Data.Snapshots {
		spec.Snapshots = append(spec.Snapshots, s.GUID)
	}
	err := k.release(ctx, c)
	if err == nil {
		if err = k.o.ZFS.DestroyDataset(ctx, spec); err != nil {
			hint := ""
			if errors.Is(err, zfs.ClassClones) {
				hint = "something was cloned from it, or set aside after it: discard that first"
			}
			err = &fault.Error{Class: fault.ClassPerson, Volume: c.Volume, Text: "discard " + c.Data.Name, Hint: hint, Err: err}
		}
	}
	if err != nil {
		k.holdAgain(context.WithoutCancel(ctx), c)
		return err
	}
	k.tidy(ctx, c)
	return nil
}

// release takes the copy's holds off.
func (k *Keeper) release(ctx context.Context, c Copy) error {
	own := tag(c.Data)
	if c.Data.Origin != "" {
		// One that was not promoted over has no hold there; one that is gone needs none.
		if err := k.o.ZFS.Release(ctx, own, c.Data.Origin); err != nil && zfs.ClassOf(err) != zfs.ClassGone {
			return fault.WrapVolume(c.Volume, err, "release %s", c.Data.Origin)
		}
	}
	if held := c.held(); len(held) > 0 {
		return fault.WrapVolume(c.Volume, k.o.ZFS.Release(ctx, own, held...), "release the snapshots of %s", c.Data.Name)
	}
	return nil
}

// held are its snapshots that have holds.
func (c Copy) held() (snaps []string) {
	for _, s := range c.Data.Snapshots {
		if s.UserRefs > 0 {
			snaps = append(snaps, c.Data.Name+"@"+s.Name)
		}
	}
	return snaps
}

// holdAgain puts back what release took off, as far as it is there still. Without the holds the copy is as good as with them, and
// discarded in the same way; they tell other tools only.
func (k *Keeper) holdAgain(ctx context.Context, c Copy) {
	list, err := k.o.ZFS.List(ctx, c.Data.Name)
	if err != nil || !list[0].Exists() || list[0].GUID != c.Data.GUID {
		return
	}
	var snaps []string
	for _, name := range c.held() {
		if slices.ContainsFunc(list[0].Snapshots, func(s zfs.Snapshot) bool { return c.Data.Name+"@"+s.Name == name }) {
			snaps = append(snaps, name)
		}
	}
	if c.Data.Origin != "" {
		snaps = append(snaps, c.Data.Origin)
	}
	for _, name := range snaps { // One that is gone does not stand in the way of the others.
		_ = k.o.ZFS.Hold(ctx, tag(c.Data), name)
	}
}

// independent refuses a copy that is still needed, before anything is changed.
func (k *Keeper) independent(ctx context.Context, c Copy) error {
	replica, err := k.o.Dataset(c.Volume)
	if err != nil {
		return err
	}
	list, err := k.o.ZFS.List(ctx, replica)
	if err != nil {
		return fault.WrapVolume(c.Volume, err, "look at %s", replica)
	}
	switch {
	case list[0].Err != nil && zfs.ClassOf(list[0].Err) != zfs.ClassGone:
		return fault.WrapVolume(c.Volume, list[0].Err, "look at %s", replica)
	case c.Data.Mounted:
		return fault.Person(c.Volume, "unmount it first: `tandem diverged umount` undoes `tandem diverged mount`", "%s is mounted", c.Data.Name)
	case strings.HasPrefix(list[0].Origin, c.Data.Name+"@"):
		return fault.Person(c.Volume, "the next sync of the guest ends that; then discard it", "the replica %s is being made out of %s", replica, c.Data.Name)
	}
	if err := k.waitedFor(c, list[0]); err != nil {
		return err
	}
	holds, err := k.o.ZFS.Holds(ctx, c.held()...)
	if err != nil {
		return fault.WrapVolume(c.Volume, err, "read the holds on %s", c.Data.Name)
	}
	if i := slices.IndexFunc(holds, func(h zfs.Hold) bool { return h.Tag != tag(c.Data) }); i >= 0 {
		return fault.Person(c.Volume, "if it is not needed, run `zfs release "+holds[i].Tag+" "+holds[i].Snapshot+"`",
			"snapshot %s has a hold %s that is not Tandem's", holds[i].Snapshot, holds[i].Tag)
	}
	return nil
}

// waitedFor refuses a copy from which this node goes on: nothing is in its place yet.
func (k *Keeper) waitedFor(c Copy, inPlace zfs.Dataset) error {
	view := k.o.Ledger.View()
	g, ok := view.Guests[c.Guest]
	switch {
	case !ok || !g.Has(c.Volume):
		return nil
	case g.Owner == k.o.Node && !inPlace.Exists():
		return fault.Person(c.Volume, fmt.Sprintf("`tandem guest show %s` tells what is in its way", c.Guest),
			"guest %s is this node's, and goes on from it: its volume %s is not made out of it yet", c.Guest, c.Volume)
	case len(inPlace.Snapshots) > 0 || !slices.ContainsFunc(c.Data.Snapshots, func(s zfs.Snapshot) bool { return s.Props[zfs.PropComplete] != "" }):
		return nil
	}
	for _, j := range view.JobsOf(c.Guest) {
		if j.Target == k.o.Node && !j.Removing {
			return fault.Person(c.Volume, fmt.Sprintf("once job %s has succeeded it can go; to be rid of it before, delete that job first", j.ID),
				"job %s goes on from it: it is the last good copy of %s here", j.ID, c.Volume)
		}
	}
	return nil
}

// tidy destroys the guest's folder once it is empty. What it cannot do harms nobody.
func (k *Keeper) tidy(ctx context.Context, c Copy) {
	folder, err := k.folder(c.Volume.Storage, c.Guest)
	if err != nil {
		return
	}
	list, err := k.o.ZFS.List(ctx, folder)
	if err != nil || !list[0].Exists() {
		return
	}
	if rest, err := k.o.ZFS.Children(ctx, folder); err != nil || len(rest) > 0 {
		return
	}
	_ = k.o.ZFS.DestroyDataset(ctx, zfs.DestroySpec{Dataset: folder, GUID: list[0].GUID, Guest: c.Guest.String(), Role: zfs.RoleFolder})
}

// Tidy destroys a copy that is superseded, once nothing depends on it: the owner
// sent all that it has, and destroyed it since. It says whether it did.
func (k *Keeper) Tidy(ctx context.Context, c Copy) (bool, error) {
	if len(c.Superseded) == 0 || c.Data.Origin == "" || c.Data.Written > 0 || !within(c.Data.Snapshots, c.Superseded) {
		return false, nil
	}
	return true, k.destroy(ctx, c)
}
