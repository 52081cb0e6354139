// Package leftover looks on its own node for what syncs have left and no sync
// will take away: parts of receives of jobs that are gone, points of guests that
// have no job, holds for copies that somebody destroyed. pkg/daemon runs it after
// its start and every hour. What a job of today has left, its own next run sees.
//
// That something is missing is no reason to destroy anything. It takes away only
// what the ledger, which has the guest, says that nobody needs; the rest it names.
package leftover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Target remembers first receives.
type Target interface {
	Begun(ctx context.Context, id guest.ID, v guest.Volume, d zfs.Dataset) bool
	// Ended forgets one. The caller has the volume's lock.
	Ended(id guest.ID, v guest.Volume) error
}

// Source knows what kept copies build on.
type Source interface {
	Needs(g guest.Guest, v guest.Volume, guid uint64) bool
}

// Finding is something that was left.
type Finding struct {
	Dataset string
	// What is a sentence without its end, and Hint what somebody can do where it was not Removed.
	What, Hint string
	Removed    bool
}

// Finder finds it.
type Finder struct {
	o      local.Options
	aside  *aside.Keeper
	target Target
	source Source
}

// New makes that of a node. It shares the options, and with them the locks, of the node's syncs.
func New(o local.Options, source Source, target Target) (*Finder, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	keeper, err := aside.New(o)
	return &Finder{o: o, aside: keeper, source: source, target: target}, err
}

// Run looks once. The caller has made sure that the ledger's copy is as new as
// the majority's. What was found is told beside an error too.
func (f *Finder) Run(ctx context.Context) ([]Finding, error) {
	view := f.o.Ledger.View()
	var out []Finding
	var errs []error
	for _, storage := range slices.Sorted(maps.Keys(f.o.Storages)) {
		list, err := f.volumes(ctx, storage, view.Cluster)
		if err != nil {
			errs = append(errs, fmt.Errorf("storage %s: %w", storage, err))
			continue
		}
		for _, d := range list {
			for _, look := range []func(context.Context, *ledger.State, volume) (Finding, error){f.partial, f.points, f.holds} {
				found, err := look(ctx, view, d)
				if found.What != "" {
					out = append(out, found)
				}
				if err != nil {
					errs = append(errs, fault.WrapVolume(d.Volume, err, "look for what is left"))
				}
			}
		}
	}
	return out, errors.Join(errs...)
}

// volume is a dataset of this node that is Tandem's, or may become so.
type volume struct {
	guest.Volume
	data zfs.Dataset
}

func (v volume) role() string { return v.data.Props[zfs.PropRole] }

// volumes lists those datasets of a storage.
func (f *Finder) volumes(ctx context.Context, storage, cluster string) ([]volume, error) {
	root := f.o.Storages[storage]
	children, err := f.o.ZFS.Children(ctx, root)
	if zfs.ClassOf(err) == zfs.ClassGone {
		return nil, nil // Said by every sync with it.
	}
	if err != nil {
		return nil, err
	}
	var out []volume
	var names []string
	for _, d := range children {
		v := guest.Volume{Storage: storage, Name: d.Name[min(len(d.Name), len(root)+1):]}
		unborn := d.ResumeToken != "" && local.MarksOf(d).None()
		if v.Validate() == nil && (unborn || d.Props[zfs.PropCluster] == cluster) {
			out = append(out, volume{Volume: v})
			names = append(names, d.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	list, err := f.o.ZFS.List(ctx, names...)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].data = list[i]
	}
	return slices.DeleteFunc(out, func(v volume) bool { return !v.data.Exists() }), nil
}

// of is the guest of a volume: by its marks, or where it has none by the ledger.
// Known is false where the ledger does not have that guest with that volume.
func of(view *ledger.State, v volume) (g guest.Guest, known bool) {
	if local.MarksOf(v.data).None() {
		return view.GuestOf(v.Volume)
	}
	id, err := guest.ParseID(v.data.Props[zfs.PropGuest])
	if err != nil {
		return g, false
	}
	g, known = view.Guests[id]
	return g, known && g.Has(v.Volume)
}

// expected says that a job may go on with what this node has of the guest, or a move.
func (f *Finder) expected(view *ledger.State, g guest.Guest) bool {
	return g.Owner == f.o.Node || f.o.Pins.Busy(g.ID, f.o.Now()) ||
		slices.ContainsFunc(view.JobsOf(g.ID), func(j guest.Job) bool { return j.Target == f.o.Node })
}

// partial drops a part of a receive that no job will go on with.
func (f *Finder) partial(ctx context.Context, view *ledger.State, v volume) (found Finding, err error) {
	if v.data.ResumeToken == "" || v.role() == zfs.RoleOwner || v.role() == zfs.RoleDiverged {
		return found, nil
	}
	found = Finding{Dataset: v.data.Name, Hint: "if nobody needs it: `zfs receive -A " + v.data.Name + "`"}
	g, known := of(view, v)
	switch {
	case !known:
		found.What = "a part of a receive, and the ledger has no guest with this volume"
		return found, nil
	case f.expected(view, g):
		return Finding{}, nil
	case v.role() == "" && !f.target.Begun(ctx, g.ID, v.Volume, v.data):
		found.What = "a part of a first receive that this node does not know to have begun"
		return found, nil
	}
	found.What = "a part of a receive, and no job brings guest " + g.ID.String() + " here any more"
	found.Removed, err = f.locked(ctx, v, local.VolumeLock(v.Volume), func(now zfs.Dataset) error {
		if now.ResumeToken != v.data.ResumeToken || f.expected(f.o.Ledger.View(), g) {
			return errChanged
		}
		if err := f.o.ZFS.AbortReceive(ctx, now.Name); err != nil {
			return err
		}
		return f.target.Ended(g.ID, v.Volume)
	})
	return found, err
}

// points destroys Tandem's points and bookmarks on a volume of this node's own guest that has no job.
func (f *Finder) points(ctx context.Context, view *ledger.State, v volume) (found Finding, err error) {
	if v.role() != zfs.RoleOwner {
		return found, nil
	}
	found.Dataset = v.data.Name
	g, known := of(view, v)
	points, marks := f.spare(g, v, v.data)
	switch {
	case !known:
		found.What = fmt.Sprintf("an owner's marks and %d points, and the ledger has no guest with this volume", len(points))
		found.Hint = "if it is no guest's any more, run `zfs inherit` on each of its tandem: properties, and destroy its @tandem_ snapshots"
		return found, nil
	case g.Owner != f.o.Node, f.busy(view, g), len(points)+len(marks) == 0:
		return Finding{}, nil
	}
	found.What = fmt.Sprintf("%d points and %d bookmarks, and guest %s has no job", len(points), len(marks), g.ID)
	found.Removed, err = f.locked(ctx, v, local.GuestLock(g.ID), func(now zfs.Dataset) error {
		view := f.o.Ledger.View()
		g, ok := view.Guests[g.ID]
		if !ok || g.Owner != f.o.Node || f.busy(view, g) {
			return errChanged
		}
		points, marks := f.spare(g, v, now)
		for _, name := range marks {
			if err := local.DropBookmark(ctx, f.o.ZFS, now.Name+"#"+name); err != nil {
				return err
			}
		}
		if len(points) == 0 {
			return nil
		}
		done, err := f.o.Together.Change(ctx, zfs.Change{Volumes: []zfs.VolumeChange{{
			Dataset: now.Name, GUID: now.GUID, Destroy: points, Marks: []string{zfs.PropPoint, zfs.PropReceived, zfs.PropComplete},
		}}})
		return cmp.Or(err, done.Err)
	})
	return found, err
}

// busy says that a guest has a job, that its points are being read, or that it moves.
func (f *Finder) busy(view *ledger.State, g guest.Guest) bool {
	return len(view.JobsOf(g.ID)) > 0 || f.o.Pins.Busy(g.ID, f.o.Now())
}

// spare are Tandem's points and bookmarks on an owner's volume, but those that somebody holds, and the bookmarks that a kept copy needs.
// Of copies of another node's guests this one knows nothing.
func (f *Finder) spare(g guest.Guest, v volume, d zfs.Dataset) (points []zfs.Spare, marks []string) {
	side := local.Side("", d)
	for i, s := range side.Snapshots {
		if s.Tandem && d.Snapshots[i].UserRefs == 0 {
			points = append(points, zfs.Spare{Ref: zfs.Ref{Name: s.Name, GUID: s.GUID}})
		}
	}
	for _, b := range side.Bookmarks {
		if b.Ours() && (g.Owner != f.o.Node || !f.source.Needs(g, v.Volume, b.GUID)) {
			marks = append(marks, b.Name)
		}
	}
	return points, marks
}

// holds releases Tandem's own on snapshots where what they were for is gone.
func (f *Finder) holds(ctx context.Context, view *ledger.State, v volume) (found Finding, err error) {
	if v.role() != zfs.RoleReplica && v.role() != zfs.RoleOwner {
		return found, nil
	}
	stray, err := f.stray(ctx, view.Cluster, v.data)
	if err != nil || len(stray) == 0 {
		return found, err
	}
	found = Finding{Dataset: v.data.Name, What: fmt.Sprintf("%d holds for copies that were set aside and are gone", len(stray))}
	found.Removed, err = f.locked(ctx, v, local.VolumeLock(v.Volume), func(now zfs.Dataset) error {
		stray, err := f.stray(ctx, view.Cluster, now)
		if err != nil {
			return err
		}
		for _, h := range stray {
			if err := f.o.ZFS.Release(ctx, h.Tag, h.Snapshot); err != nil && zfs.ClassOf(err) != zfs.ClassGone {
				return err
			}
		}
		return nil
	})
	return found, err
}

func (f *Finder) stray(ctx context.Context, cluster string, d zfs.Dataset) ([]zfs.Hold, error) {
	var held []string
	for _, s := range d.Snapshots {
		if s.UserRefs > 0 {
			held = append(held, d.Name+"@"+s.Name)
		}
	}
	if len(held) == 0 {
		return nil, nil
	}
	holds, err := f.o.ZFS.Holds(ctx, held...)
	if err != nil {
		return nil, err
	}
	copies, err := f.aside.All(ctx, cluster) // Of all storages, or an error.
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(holds, func(h zfs.Hold) bool { return !aside.Stray(h.Tag, d, copies) }), nil
}

// errChanged says that it is not as it was before the lock was taken.
var errChanged = errors.New("it is needed by now")

// locked reads the volume again under its lock and does it then. A volume that is
// in use is left for the next time.
func (f *Finder) locked(ctx context.Context, v volume, lock string, do func(now zfs.Dataset) error) (done bool, err error) {
	wait, cancel := context.WithTimeout(ctx, f.o.LockWait)
	defer cancel()
	release, err := f.o.Locks.Lock(wait, lock)
	if err != nil {
		return false, ctx.Err()
	}
	defer release()
	list, err := f.o.ZFS.List(ctx, v.data.Name)
	if err != nil {
		return false, err
	}
	if !list[0].Exists() || list[0].GUID != v.data.GUID {
		return false, nil
	}
	if err := do(list[0]); err != nil {
		if errors.Is(err, errChanged) {
			err = nil
		}
		return false, err
	}
	return true, nil
}
