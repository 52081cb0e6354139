package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// change runs a command that changes the named things, after it has checked the names.
func (z *ZFS) change(ctx context.Context, op string, names, args []string) error {
	if len(names) == 0 {
		return refuse(op, "", errors.New("no name given"))
	}
	if err := checkAll(op, names, zname.Any); err != nil {
		return err
	}
	return z.run(ctx, call{op: op, names: names, args: args, timeout: z.opt.ChangeTimeout})
}

// checkAll refuses the first of the names that is not of the kind.
func checkAll(op string, names []string, kind func(string) error) error {
	for _, name := range names {
		if err := kind(name); err != nil {
			return refuse(op, name, err)
		}
	}
	return nil
}

// options turns properties into -o arguments, sorted by name.
func options(props map[string]string) []string {
	var args []string
	for _, name := range sortedKeys(props) {
		args = append(args, "-o", name+"="+props[name])
	}
	return args
}

// Snapshot takes all the snapshots (full names) at one moment, or none. They must be on one pool. Props are user properties.
func (z *ZFS) Snapshot(ctx context.Context, snaps []string, props map[string]string) error {
	if err := CheckSnapshots(snaps, props); err != nil {
		return err
	}
	return z.change(ctx, "snapshot", snaps, slices.Concat([]string{"snapshot"}, options(props), snaps))
}

// CheckSnapshots tells what is wrong with the arguments of a Snapshot call; nil if nothing is.
func CheckSnapshots(snaps []string, props map[string]string) error {
	if len(snaps) == 0 {
		return refuse("snapshot", "", errors.New("no name given"))
	}
	for _, snap := range snaps {
		if err := zname.Snapshot(snap); err != nil {
			return refuse("snapshot", snap, err)
		}
		if zname.PoolOf(snap) != zname.PoolOf(snaps[0]) {
			return refuse("snapshot", snap, fmt.Errorf("pools %s and %s: one snapshot cannot be taken on two pools at one moment",
				zname.PoolOf(snaps[0]), zname.PoolOf(snap)))
		}
	}
	if err := zname.Props(props); err != nil {
		return refuse("snapshot", snaps[0], err)
	}
	for _, name := range sortedKeys(props) {
		if !strings.Contains(name, ":") {
			return refuse("snapshot", snaps[0], fmt.Errorf("property %s: snapshots take user properties only", name))
		}
	}
	return nil
}

// DestroySnapshots destroys the named snapshots (without "dataset@") of one dataset. Names that do not exist are no error. If
// one of them has a hold or a clone, none is destroyed (of each 32 KiB of names).
func (z *ZFS) DestroySnapshots(ctx context.Context, dataset string, names []string) error {
	if err := CheckDestroy(dataset, names); err != nil {
		return err
	}
	const most = 32 << 10
	for len(names) > 0 {
		n, size := 0, 0
		for n < len(names) && (n == 0 || size+len(names[n]) < most) {
			size += len(names[n]) + 1
			n++
		}
		// The list is one argument; zname.Own lets no ',' and no '%' (a range) into a name.
		arg := dataset + "@" + strings.Join(names[:n], ",")
		err := z.run(ctx, call{op: "destroy", names: []string{dataset}, args: []string{"destroy", arg}, timeout: z.opt.ChangeTimeout})
		if err != nil && !nothingToDestroy(err) {
			return err
		}
		names = names[n:]
	}
	return nil
}

// CheckDestroy tells what is wrong with the arguments of a DestroySnapshots call; nil if nothing is.
func CheckDestroy(dataset string, names []string) error {
	if err := zname.Dataset(dataset); err != nil {
		return refuse("destroy", dataset, err)
	}
	for _, name := range names {
		if err := zname.Snapshot(dataset + "@" + name); err != nil {
			return refuse("destroy", dataset, err)
		}
	}
	return nil
}

// saying tells whether zfs failed with this text.
func saying(err error, text string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && strings.Contains(e.Stderr, text)
}

func nothingToDestroy(err error) bool { return saying(err, "could not find any snapshots to destroy") }

// Bookmark makes the bookmark (full name) of the snapshot (full name) or of another bookmark.
func (z *ZFS) Bookmark(ctx context.Context, snap, bookmark string) error {
	if err := zname.Bookmark(bookmark); err != nil {
		return refuse("bookmark", bookmark, err)
	}
	return z.change(ctx, "bookmark", []string{snap, bookmark}, []string{"bookmark", snap, bookmark})
}

// DestroyBookmark destroys the bookmark (full name); an absent one is of ClassGone.
func (z *ZFS) DestroyBookmark(ctx context.Context, bookmark string) error {
	if err := zname.Bookmark(bookmark); err != nil {
		return refuse("destroy", bookmark, err)
	}
	return z.change(ctx, "destroy", []string{bookmark}, []string{"destroy", bookmark})
}

// Hold puts a hold on each of the snapshots; one that is there already is no error.
func (z *ZFS) Hold(ctx context.Context, tag string, snaps ...string) error {
	return z.eachTag(ctx, []string{"hold", tag}, "tag already exists", snaps)
}

// Release takes the hold off each of the snapshots; one that is not there is no error.
func (z *ZFS) Release(ctx context.Context, tag string, snaps ...string) error {
	return z.eachTag(ctx, []string{"release", tag}, "no such tag", snaps)
}

// eachTag runs hold or release for all snapshots; where one is in the wanted state already, zfs does none, so then one by one.
func (z *ZFS) eachTag(ctx context.Context, args []string, already string, snaps []string) error {
	if err := CheckTag(args[0], args[1], snaps); err != nil {
		return err
	}
	err := z.change(ctx, args[0], snaps, slices.Concat(args, snaps))
	if err == nil || !saying(err, already) {
		return err
	}
	if len(snaps) == 1 {
		return nil
	}
	for _, snap := range snaps {
		if err := z.eachTag(ctx, args, already, []string{snap}); err != nil {
			return err
		}
	}
	return nil
}

// CheckTag tells what is wrong with the arguments of a Hold or Release call; nil if nothing is.
func CheckTag(op, tag string, snaps []string) error {
	if err := zname.Tag(tag); err != nil {
		return refuse(op, "", err)
	}
	return checkAll(op, snaps, zname.Snapshot)
}

// Hold is a hold on a snapshot.
type Hold struct {
	// Snapshot is the full name.
	Snapshot, Tag string
}

// Holds returns the holds on the snapshots (full names).
func (z *ZFS) Holds(ctx context.Context, snaps ...string) ([]Hold, error) {
	if err := CheckTag("holds", "any", snaps); err != nil || len(snaps) == 0 {
		return nil, err
	}
	out, _, err := z.outputs(ctx, call{op: "holds", names: snaps, args: slices.Concat([]string{"holds", "-H"}, snaps), timeout: z.opt.QueryTimeout})
	if err != nil {
		return nil, err
	}
	var holds []Hold
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) < 2 {
			return nil, &Error{Op: "holds", Dataset: snaps[0], Class: ClassUnknown, Err: fmt.Errorf("unreadable line %q", line)}
		}
		holds = append(holds, Hold{Snapshot: fields[0], Tag: fields[1]})
	}
	return holds, nil
}

// SetProps sets all the properties on all the named datasets or snapshots, in one process.
func (z *ZFS) SetProps(ctx context.Context, props map[string]string, names ...string) error {
	if err := CheckSet(props); err != nil {
		return err
	}
	args := []string{"set"}
	for _, name := range sortedKeys(props) {
		args = append(args, name+"="+props[name])
	}
	return z.change(ctx, "set", names, append(args, names...))
}

// CheckSet tells what is wrong with the properties of a SetProps call; nil if nothing is.
func CheckSet(props map[string]string) error {
	if len(props) == 0 {
		return refuse("set", "", errors.New("no property given"))
	}
	if err := zname.Props(props); err != nil {
		return refuse("set", "", err)
	}
	return nil
}

// Inherit takes the own value of a property off the named datasets or snapshots; one that is not set is no error.
func (z *ZFS) Inherit(ctx context.Context, prop string, names ...string) error {
	if err := zname.Prop(prop); err != nil {
		return refuse("inherit", "", err)
	}
	return z.change(ctx, "inherit", names, append([]string{"inherit", prop}, names...))
}

// Properties reads any properties of datasets and snapshots: name → property → value. All must exist.
func (z *ZFS) Properties(ctx context.Context, props []string, names ...string) (map[string]map[string]Property, error) {
	if err := cmp.Or(checkAll("get", props, zname.Prop), checkAll("get", names, zname.Any)); err != nil {
		return nil, err
	}
	if len(props) == 0 || len(names) == 0 {
		return map[string]map[string]Property{}, nil
	}
	args := append([]string{"get", "-Hp", "-o", "name,property,value,source", strings.Join(props, ",")}, names...)
	out, _, err := z.outputs(ctx, call{op: "get", names: names, args: args, timeout: z.opt.QueryTimeout})
	if err != nil {
		return nil, err
	}
	all := make(map[string]map[string]Property, len(names))
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) < 4 {
			return nil, &Error{Op: "get", Dataset: names[0], Class: ClassUnknown, Err: fmt.Errorf("unreadable line %q", line)}
		}
		if all[f[0]] == nil {
			all[f[0]] = make(map[string]Property, len(props))
		}
		all[f[0]][f[1]] = Property{Value: strings.Join(f[2:len(f)-1], "\t"), Source: f[len(f)-1]}
	}
	return all, nil
}

// Rename renames a dataset. A mounted filesystem that is in use is of ClassBusy.
func (z *ZFS) Rename(ctx context.Context, from, to string) error {
	if strings.ContainsAny(from+to, "@#") {
		return refuse("rename", from, errors.New("only datasets are renamed"))
	}
	return z.change(ctx, "rename", []string{from, to}, []string{"rename", from, to})
}

// Promote makes a clone the owner of the snapshots up to its origin. Names that clash are of ClassClones.
func (z *ZFS) Promote(ctx context.Context, dataset string) error {
	return z.change(ctx, "promote", []string{dataset}, []string{"promote", dataset})
}

// Clone makes a dataset of the snapshot (full name).
func (z *ZFS) Clone(ctx context.Context, snap, dataset string, props map[string]string) error {
	if err := zname.Snapshot(snap); err != nil {
		return refuse("clone", snap, err)
	}
	if err := zname.Props(props); err != nil {
		return refuse("clone", dataset, err)
	}
	return z.change(ctx, "clone", []string{snap, dataset}, slices.Concat([]string{"clone"}, options(props), []string{snap, dataset}))
}

// Mount mounts a filesystem; one that is mounted is no error.
func (z *ZFS) Mount(ctx context.Context, dataset string) error {
	err := z.change(ctx, "mount", []string{dataset}, []string{"mount", dataset})
	if saying(err, "already mounted") {
		return nil
	}
	return err
}

// Unmount unmounts a filesystem, without force; one that is not mounted is no error.
func (z *ZFS) Unmount(ctx context.Context, dataset string) error {
	err := z.change(ctx, "unmount", []string{dataset}, []string{"unmount", dataset})
	if saying(err, "not currently mounted") {
		return nil
	}
	return err
}

// AbortReceive drops the kept part of an interrupted receive; nothing to drop is no error. One of a dataset that never had
// a complete snapshot takes the dataset with it.
func (z *ZFS) AbortReceive(ctx context.Context, dataset string) error {
	err := z.change(ctx, "receive -A", []string{dataset}, []string{"receive", "-A", dataset})
	if saying(err, "does not have any resumable receive state") {
		return nil
	}
	return err
}

// DestroySpec says what DestroyDataset may destroy. All that the caller knows of it must still be so.
type DestroySpec struct {
	Dataset string
	// GUID is the dataset's own; Guest the value of its tandem:guest.
	GUID  uint64
	Guest string
	// Role is the value of its tandem:role; empty is a replica. Only where an operator
	// asked for the guest's data to go it is an owner's.
	Role string
	// Snapshots are the GUIDs of the snapshots that may go with it; any other is a reason to refuse.
	Snapshots []uint64
}

// Check tells why the dataset as it is now must not be destroyed; nil if it may.
func (s DestroySpec) Check(d Dataset) error {
	switch {
	case d.Err != nil:
		return d.Err
	case d.GUID != s.GUID:
		return refuse("destroy", d.Name, fmt.Errorf("its guid is %d and not %d: this is another dataset", d.GUID, s.GUID))
	case s.Guest == "" || d.Props[PropGuest] != s.Guest:
		return refuse("destroy", d.Name, fmt.Errorf("it belongs to guest %q and not %q", d.Props[PropGuest], s.Guest))
	case d.Props[PropRole] != cmp.Or(s.Role, RoleReplica):
		return refuse("destroy", d.Name, fmt.Errorf("its role is %q and not %q", d.Props[PropRole], cmp.Or(s.Role, RoleReplica)))
	case d.Mounted:
		return refuse("destroy", d.Name, errors.New("it is mounted"))
	}
	for _, snap := range d.Snapshots {
		if !slices.Contains(s.Snapshots, snap.GUID) {
			return refuse("destroy", d.Name, fmt.Errorf("snapshot %s is not one of those that may go", snap.Name))
		}
		if snap.UserRefs > 0 {
			return &Error{Op: "destroy", Dataset: d.Name, Class: ClassHeld, Exit: -1, Err: fmt.Errorf("snapshot %s has a hold", snap.Name)}
		}
	}
	return nil
}

// Removing says that a [ZFS.DestroyDataset] was cut after it had destroyed the snapshots: all that is left counts as written,
// and none of it is.
func (d Dataset) Removing() bool {
	return d.Exists() && len(d.Snapshots) == 0 && d.Props[PropRemoving] == strconv.FormatUint(d.GUID, 10)
}

// DestroyDataset destroys a replica: it reads the dataset again, refuses if anything is not as the caller says, notes that it
// begins, destroys the snapshots by their names and then the dataset alone.
func (z *ZFS) DestroyDataset(ctx context.Context, spec DestroySpec) error {
	list, err := z.List(ctx, spec.Dataset)
	if err != nil {
		return err
	}
	if err := spec.Check(list[0]); err != nil {
		return err
	}
	var names []string
	for _, snap := range list[0].Snapshots {
		names = append(names, snap.Name)
	}
	if err := z.SetProps(ctx, map[string]string{PropRemoving: strconv.FormatUint(spec.GUID, 10)}, spec.Dataset); err != nil {
		return err
	}
	if err := z.DestroySnapshots(ctx, spec.Dataset, names); err != nil {
		return err
	}
	return z.change(ctx, "destroy", []string{spec.Dataset}, []string{"destroy", spec.Dataset})
}
