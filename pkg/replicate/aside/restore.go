package aside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Restoration is copies that become the volumes of a guest of their own: clones of their newest snapshots. The copies stay as
// they are, and cannot be discarded as long as the clones depend on them.
type Restoration struct {
	// Guest is the one that the data was of, As the new one.
	Guest, As guest.ID
	Volumes   []RestoredVolume
	// Known says that the ledger has the new guest already: this was done before.
	Known bool
}

// RestoredVolume is a copy and the clone of it.
type RestoredVolume struct {
	Copy    Copy
	Volume  guest.Volume
	Dataset string
	// guid is the clone's; made says that this run made it.
	guid uint64
	made bool
}

// List are the new guest's volumes.
func (r Restoration) List() []guest.Volume {
	var out []guest.Volume
	for _, v := range r.Volumes {
		out = append(out, v.Volume)
	}
	return out
}

// Restore makes the clones, or finds those of a run that was cut; nothing is ever put in the place of something else. The clones
// carry no marks and cannot be written. They become the guest's once the ledger has it: [Keeper.Settle]; where it is refused,
// [Keeper.Undo] takes them away.
func (k *Keeper) Restore(ctx context.Context, cluster string, datasets []string, as guest.ID) (Restoration, error) {
	r := Restoration{As: as}
	if err := as.Validate(); err != nil {
		return r, fault.Never("", "%v", err)
	}
	if err := k.pick(ctx, cluster, datasets, &r); err != nil {
		return r, err
	}
	release, err := k.lockRestoration(ctx, r)
	if err != nil {
		return r, err
	}
	defer release()
	r.Volumes = nil
	if err := k.pick(ctx, cluster, datasets, &r); err != nil { // What a sync has just done with them counts.
		return r, err
	}
	if err := k.place(ctx, &r); err != nil {
		return r, err
	}
	if !r.Known { // A guest of that ID may have been here before.
		if err := k.o.Identities.Forget(r.As, r.List()); err != nil {
			return r, err
		}
	}
	for i := range r.Volumes {
		if err := k.clone(ctx, &r.Volumes[i]); err != nil {
			return r, errors.Join(err, k.undo(context.WithoutCancel(ctx), r))
		}
	}
	return r, nil
}

// pick finds the copies.
func (k *Keeper) pick(ctx context.Context, cluster string, datasets []string, r *Restoration) error {
	for _, name := range datasets {
		c, err := k.find(ctx, cluster, name)
		if err != nil {
			return err
		}
		r.Guest = c.Guest
		v := RestoredVolume{Copy: c, Volume: VolumeFor(c.Volume, c.Guest, r.As)}
		for _, other := range r.Volumes {
			switch {
			case other.Copy.Guest != c.Guest:
				return fault.Never("restore each guest's data by itself", "%s is of guest %s, and %s of guest %s", other.Copy.Data.Name, other.Copy.Guest, name, c.Guest)
			case other.Volume == v.Volume:
				return fault.Never("name one of them", "%s and %s are both of volume %s", other.Copy.Data.Name, name, c.Volume)
			}
		}
		r.Volumes = append(r.Volumes, v)
	}
	switch {
	case len(r.Volumes) == 0:
		return fault.Never("", "nothing to restore was named")
	case r.Guest == r.As:
		return fault.Never("choose another ID", "the data is of guest %s, and cannot become a guest of its own with the same ID", r.Guest)
	}
	return nil
}

// VolumeFor is the name of a volume of one guest as another's: vm-100-disk-0 of 100 is vm-900-disk-0 of 900, data is data-900.
func VolumeFor(v guest.Volume, of, as guest.ID) guest.Volume {
	parts := strings.Split(v.Name, "-")
	i := slices.Index(parts, of.String())
	if i < 0 {
		parts = append(parts, as.String())
	} else {
		parts[i] = as.String()
	}
	return guest.Volume{Storage: v.Storage, Name: strings.Join(parts, "-")}
}

func (k *Keeper) lockRestoration(ctx context.Context, r Restoration) (release func(), err error) {
	wait, cancel := context.WithTimeout(ctx, k.o.LockWait)
	defer cancel()
	volumes := r.List()
	for _, v := range r.Volumes {
		volumes = append(volumes, v.Copy.Volume)
	}
	return k.o.Locks.All(wait, append([]string{local.GuestLock(r.As)}, local.VolumeLocks(volumes)...)...)
}

// place finds where the clones go, and refuses what is in the way before anything is made.
func (k *Keeper) place(ctx context.Context, r *Restoration) error {
	view := k.o.Ledger.View()
	old, known := view.Guests[r.As]
	for i := range r.Volumes {
		v := &r.Volumes[i]
		name, err := k.o.Dataset(v.Volume)
		if err != nil {
			return err
		}
		v.Dataset = name
		other, taken := view.GuestOf(v.Volume)
		err = v.Volume.Validate()
		switch longest := len(name) + 1 + longestPoint; {
		case err != nil:
			return fault.Never("", "%v", err)
		case taken && other.ID != r.As:
			return fault.Never("choose another ID with --as", "volume %s belongs to guest %s already", v.Volume, other.ID)
		case longest > plan.MaxName:
			return fault.Never("", "%s is too long a name for a volume: its points would have names of %d bytes, ZFS allows %d", name, longest, plan.MaxName)
		case v.Copy.Data.KeyStatus == "unavailable":
			return fault.Person(v.Copy.Volume, "run `zfs load-key` there", "the key of %s is not loaded", v.Copy.Data.Name)
		case len(v.Copy.Data.Snapshots) == 0:
			return fault.Person(v.Copy.Volume, "", "%s has no snapshot left to begin from", v.Copy.Data.Name)
		}
		if err := k.there(ctx, v); err != nil {
			return err
		}
	}
	if !known {
		return nil
	}
	r.Known = old.Owner == k.o.Node && len(old.Volumes) == len(r.Volumes)
	for _, v := range r.Volumes {
		r.Known = r.Known && old.Has(v.Volume) && v.guid != 0
	}
	if !r.Known {
		return fault.Never("choose another ID with --as", "guest %s exists already (%s on %s)", old.ID, old.Name, view.NameOf(old.Owner))
	}
	return nil
}

// longestPoint is how long the name of a point can be, amply.
const longestPoint = 96

// there takes a dataset that has the clone's name for it where a run before made it; any other is in the way.
func (k *Keeper) there(ctx context.Context, v *RestoredVolume) error {
	list, err := k.o.ZFS.List(ctx, v.Dataset)
	if err != nil {
		return fault.Wrap(err, "look for %s", v.Dataset)
	}
	d := list[0]
	if zfs.ClassOf(d.Err) == zfs.ClassGone {
		return nil
	}
	if d.Err != nil {
		return fault.Wrap(d.Err, "look for %s", v.Dataset)
	}
	props, err := k.o.ZFS.Properties(ctx, []string{zfs.PropRestored}, v.Dataset)
	if err != nil {
		return fault.Wrap(err, "look for %s", v.Dataset)
	}
	p := props[v.Dataset][zfs.PropRestored]
	if !p.Own() || p.Value != strconv.FormatUint(v.Copy.Data.GUID, 10) || !strings.HasPrefix(d.Origin, v.Copy.Data.Name+"@") {
		return fault.Never("choose another ID with --as, or rename it", "%s exists already on %s", v.Dataset, k.o.Name)
	}
	v.guid = d.GUID
	if d.Props[zfs.PropRole] != zfs.RoleRestored {
		return nil
	}
	for _, mark := range []string{zfs.PropGuest, zfs.PropRole} { // An Undo was cut.
		if err := k.o.ZFS.Inherit(ctx, mark, v.Dataset); err != nil {
			return fault.Wrap(err, "go on with %s", v.Dataset)
		}
	}
	return nil
}

// clone makes one, unless it is there: like the volume that it was, but as a replica is guarded, and without what would put it
// in that volume's place: no mountpoint of its own, no reservation.
func (k *Keeper) clone(ctx context.Context, v *RestoredVolume) error {
	if v.guid != 0 {
		return nil
	}
	d := v.Copy.Data
	kind := manifest.Kind(d.Type)
	props := map[string]string{zfs.PropRestored: strconv.FormatUint(d.GUID, 10)}
	maps.Copy(props, manifest.Parse(d.Props[zfs.PropManifest]).Values.Replica(kind).Settable())
	maps.Copy(props, manifest.Guard(kind))
	snap := d.Name + "@" + d.Snapshots[len(d.Snapshots)-1].Name
	if err := k.o.ZFS.Clone(ctx, snap, v.Dataset, props); err != nil {
		return fault.WrapVolume(v.Copy.Volume, err, "clone %s as %s", snap, v.Dataset)
	}
	v.made = true
	list, err := k.o.ZFS.List(ctx, v.Dataset)
	if err == nil {
		err = list[0].Err
	}
	if err != nil {
		return fault.Wrap(err, "look at %s, which was just made", v.Dataset)
	}
	v.guid = list[0].GUID
	return nil
}

// Undo takes away what Restore made, because it became no guest's. What was found from a run before stays.
func (k *Keeper) Undo(ctx context.Context, r Restoration) error {
	release, err := k.lockRestoration(ctx, r)
	if err != nil {
		return err
	}
	defer release()
	return k.undo(ctx, r)
}

func (k *Keeper) undo(ctx context.Context, r Restoration) error {
	var errs []error
	for _, v := range r.Volumes {
		if !v.made || v.guid == 0 {
			continue
		}
		if err := k.remove(ctx, r.As, v); err != nil {
			errs = append(errs, fmt.Errorf("%s, a clone that nobody needs, is left: %w", v.Dataset, err))
		}
	}
	return fault.Worst(errs)
}

func (k *Keeper) remove(ctx context.Context, as guest.ID, v RestoredVolume) error {
	if g, taken := k.o.Ledger.View().GuestOf(v.Volume); taken {
		return fmt.Errorf("it is guest %s's by now", g.ID)
	}
	list, err := k.o.ZFS.List(ctx, v.Dataset)
	if err != nil {
		return err
	}
	d := list[0]
	switch {
	case zfs.ClassOf(d.Err) == zfs.ClassGone:
		return nil
	case d.Err != nil:
		return d.Err
	case d.GUID != v.guid || !d.ReadOnly || len(d.Snapshots) > 0 || !local.MarksOf(d).None():
		return errors.New("somebody uses it already")
	}
	marks := map[string]string{zfs.PropGuest: as.String(), zfs.PropRole: zfs.RoleRestored}
	if err := k.o.ZFS.SetProps(ctx, marks, v.Dataset); err != nil {
		return err
	}
	return k.o.ZFS.DestroyDataset(ctx, zfs.DestroySpec{Dataset: v.Dataset, GUID: v.guid, Guest: as.String(), Role: zfs.RoleRestored})
}

// Settle takes off the clones what kept them from being used, now that the ledger gives them to the guest. Who makes a guest's
// volumes ready does the rest. Done again it changes nothing.
func (k *Keeper) Settle(ctx context.Context, r Restoration) error {
	release, err := k.lockRestoration(ctx, r)
	if err != nil {
		return err
	}
	defer release()
	for _, v := range r.Volumes {
		list, err := k.o.ZFS.List(ctx, v.Dataset)
		if err == nil {
			err = list[0].Err
		}
		if err == nil && list[0].GUID != v.guid {
			err = errors.New("it is another dataset by now")
		}
		if err == nil {
			err = k.open(ctx, list[0])
		}
		if err != nil {
			return fault.WrapVolume(v.Volume, err, "make %s ready", v.Dataset)
		}
	}
	return nil
}

// open takes off what a clone got with it. Whether it can be written to says nothing: the guest may have been started before this.
// A guard of what is a replica by now is not a clone's.
func (k *Keeper) open(ctx context.Context, d zfs.Dataset) error {
	m, own := local.MarksOf(d), d.Own()
	switch {
	case !m.None() && m.Role != zfs.RoleOwner:
		return nil
	case d.Type == zfs.TypeFilesystem && own["canmount"] == "noauto":
		return k.o.ZFS.SetProps(ctx, map[string]string{"canmount": "on"}, d.Name)
	case d.Type == zfs.TypeVolume && own["volmode"] == "none":
		return k.o.ZFS.Inherit(ctx, "volmode", d.Name)
	}
	return nil
}
