// Package release takes Tandem off volumes that an operator took out of its care:
// the marks, the snapshots that Tandem made, and the data where that was asked
// for. It works on the disks of its own node only; pkg/daemon asks it on each.
//
// It touches nothing but what carries the marks of that very guest and volume,
// and only once the ledger no longer gives the volume to the guest; before that it
// unmounts, where it is asked to make sure that all can go, and mounts again.
package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// ZFS is what it needs of pkg/zfs.
type ZFS interface {
	List(ctx context.Context, names ...string) ([]zfs.Dataset, error)
	Inherit(ctx context.Context, prop string, names ...string) error
	SetProps(ctx context.Context, props map[string]string, names ...string) error
	DestroySnapshots(ctx context.Context, dataset string, names []string) error
	DestroyBookmark(ctx context.Context, bookmark string) error
	DestroyDataset(ctx context.Context, spec zfs.DestroySpec) error
	Mount(ctx context.Context, dataset string) error
	Unmount(ctx context.Context, dataset string) error
	// Users are who has datasets open or mounted.
	Users(ctx context.Context, datasets ...string) ([]zfs.User, error)
}

// Releaser does it on one node.
type Releaser struct {
	o     local.Options
	zfs   ZFS
	locks *local.Locks
}

// New makes that of a node; z is the ZFS of its options.
func New(o local.Options, z ZFS) (*Releaser, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	return &Releaser{o: o, zfs: z, locks: o.Locks}, nil
}

// Request names volumes that were a guest's.
type Request struct {
	Guest   guest.ID       `json:"guest"`
	Volumes []guest.Volume `json:"volumes"`
	// Index is that of the sender's ledger, which no longer gives them to the guest.
	Index uint64 `json:"index"`
	// Delete destroys them, an owner's as well as replicas.
	Delete bool `json:"delete,omitempty"`
	// Check changes nothing: it tells what Delete would leave.
	Check bool `json:"check,omitempty"`
	// Mounts goes with Check: nothing is changed but that.
	Mounts Mounts `json:"mounts,omitempty"`
	// Whole says that the guest goes with its volumes, so that Delete is not done while its unit runs.
	Whole bool `json:"whole,omitempty"`
	// Owner is who has the guest; empty: nobody is known to. Another node's volume with the owner's role is a former owner's.
	Owner guest.NodeID `json:"owner,omitempty"`
	// Cuts are what recoveries gave up of the guest: a replica that has such points has what the owner does not have.
	Cuts []guest.Cut `json:"cuts,omitempty"`
	// Unit is that which runs the guest; empty: there is none that Tandem knows.
	Unit string `json:"unit,omitempty"`
	// Idle says that it does not run on this node, which this node looks up itself.
	Idle bool `json:"-"`
}

// Validate refuses what could not come from another daemon.
func (r Request) Validate() error {
	if err := r.Guest.Validate(); err != nil {
		return err
	}
	for _, v := range r.Volumes {
		if err := v.Validate(); err != nil {
			return err
		}
	}
	if r.Mounts != "" && (!r.Check || !r.Delete || r.Mounts != Unmount && r.Mounts != Remount) {
		return fmt.Errorf("mounts %q", r.Mounts)
	}
	return guest.ValidateUnit(r.Unit)
}

// Result is what became of one dataset of this node.
type Result struct {
	Volume  guest.Volume `json:"volume"`
	Dataset string       `json:"dataset"`
	// Replica: it is one; else it is the owner's.
	Replica bool `json:"replica,omitempty"`
	// Destroyed and Left exclude each other; with neither it stays with its data, as
	// was asked. Left is why it could not be changed or destroyed.
	Destroyed bool   `json:"destroyed,omitempty"`
	Left      string `json:"left,omitempty"`
	// Mounted: it has to be unmounted first, Unmounted: that was done now.
	Mounted   bool `json:"mounted,omitempty"`
	Unmounted bool `json:"unmounted,omitempty"`
}

// Release does what the request says with the volumes that this node has. What
// does not carry the guest's marks is not told of. The error is that of the whole
// request; what stands in the way of a single volume is in its result.
func (r *Releaser) Release(ctx context.Context, req Request) ([]Result, error) {
	if err := req.Validate(); err != nil {
		return nil, fault.Never("", "release volumes: %v", err)
	}
	if err := r.catchUp(ctx, req); err != nil {
		return nil, err
	}
	if !req.Check || req.Mounts != "" {
		release, err := r.lock(ctx, req.Guest, req.Volumes)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	view, err := r.view(req)
	if err != nil {
		return nil, err
	}
	list, err := r.volumes(ctx, view.Cluster, req)
	if err != nil {
		return nil, err
	}
	switch {
	case req.Mounts == Remount:
		for _, x := range list {
			x.Unmounted = !x.Replica && x.data.Type == zfs.TypeFilesystem && !x.data.Mounted
		}
		r.remount(ctx, list)
	case req.Delete:
		r.remove(ctx, req, list)
	case !req.Check:
		for _, x := range list {
			if !x.Replica { // A replica that is kept stays one: a new job can go on from it.
				x.leave(r.leaveOwners(ctx, req, x))
			}
		}
	}
	var out []Result
	for _, x := range list {
		out = append(out, x.Result)
	}
	return out, nil
}

// catchUp waits until the ledger here is as far as the sender's.
func (r *Releaser) catchUp(ctx context.Context, req Request) error {
	if r.o.Ledger.View().Index >= req.Index {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, r.o.CatchUp)
	defer cancel()
	if err := r.o.Ledger.WaitApplied(wait, req.Index); err != nil {
		return fault.Retry("", "node %s has not applied the ledger to %d yet: %v", r.o.Name, req.Index, err)
	}
	return nil
}

// view is the ledger, which gives none of the volumes to a guest. It is asked once the
// locks are there: they are waited for.
func (r *Releaser) view(req Request) (*ledger.State, error) {
	view := r.o.Ledger.View()
	for _, v := range req.Volumes {
		if g, ok := view.GuestOf(v); ok && !req.Check {
			return nil, fault.Never("", "volume %s belongs to guest %s", v, g.ID)
		}
	}
	return view, nil
}

// lock waits until no sync takes, cleans or receives snapshots of the volumes.
func (r *Releaser) lock(ctx context.Context, id guest.ID, volumes []guest.Volume) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.LockWait)
	defer cancel()
	return r.locks.All(ctx, append([]string{local.GuestLock(id)}, local.VolumeLocks(volumes)...)...)
}

// volume is one that this node has, marked.
type volume struct {
	Result
	data zfs.Dataset
	side plan.Side
}

func (x *volume) leave(err error) {
	if err != nil {
		x.Left = err.Error()
	}
}

// volumes reads those that this node has, marked.
func (r *Releaser) volumes(ctx context.Context, cluster string, req Request) (out []*volume, err error) {
	for _, v := range req.Volumes {
		name, err := r.o.Dataset(v)
		if err != nil {
			continue // A node without the storage has no such volume.
		}
		list, err := r.zfs.List(ctx, name)
		if err != nil {
			return nil, fault.WrapVolume(v, err, "read it")
		}
		d := list[0]
		if d.Err != nil && zfs.ClassOf(d.Err) != zfs.ClassGone {
			return nil, fault.WrapVolume(v, d.Err, "read it")
		}
		side := local.Side(name, d)
		if d.Exists() && marked(side.Marks, cluster, req.Guest, v) {
			out = append(out, &volume{Result: Result{Volume: v, Dataset: name, Replica: side.Marks.Role == zfs.RoleReplica}, data: d, side: side})
		}
	}
	return out, nil
}

// remove destroys the volumes, or tells what stands in the way. Where one of the owner's
// cannot go, none of them does: snapshots go before their volume, so that one in use has to be known before.
func (r *Releaser) remove(ctx context.Context, req Request, list []*volume) {
	blocked := ""
	for _, x := range list {
		x.Left, x.Mounted = cmp.Or(r.ahead(x, req), obstacle(x.data, x.side, req)), x.data.Mounted
	}
	r.unused(ctx, list)
	for _, x := range list {
		if x.Left != "" && !x.Replica {
			blocked = x.Dataset
		}
	}
	if blocked == "" && (!req.Check || req.Mounts == Unmount) {
		blocked = r.unmount(ctx, list)
	}
	if req.Check {
		return
	}
	for _, x := range list {
		switch {
		case x.Left != "":
		case blocked != "" && !x.Replica:
			x.Left = blocked + " cannot be destroyed, so it stays too"
		default:
			err := r.destroy(ctx, req.Guest, x.data, x.side)
			x.Destroyed = err == nil
			x.leave(err)
		}
	}
}

// marked says that a dataset carries the marks of the guest's volume.
func marked(m plan.Marks, cluster string, g guest.ID, v guest.Volume) bool {
	return m.Cluster == cluster && m.Guest == g.String() && m.Volume == v.String() &&
		(m.Role == zfs.RoleOwner || m.Role == zfs.RoleReplica)
}

// ahead is why a dataset may have what the guest's owner does not have, or empty.
func (r *Releaser) ahead(x *volume, req Request) string {
	if !x.Replica && req.Owner != "" && req.Owner != r.o.Node {
		return "this node wrote it when it owned the guest, and has not set aside yet what the owner does not have of it; it does that by itself"
	}
	for _, s := range x.side.Snapshots { // Empty ones hold nothing that could be lost.
		point, err := guest.ParseSnapshotName(s.Name)
		if err == nil && x.Replica && s.Written > 0 && slices.ContainsFunc(req.Cuts, func(c guest.Cut) bool { return c.Has(point) }) {
			return "snapshot " + s.Name + " holds data that a recovery gave up; a sync to this node sets it aside, for `tandem diverged`"
		}
	}
	return ""
}

// obstacle is why a dataset is not destroyed, or empty. That it is mounted is none where
// it is for a guest that does not run.
func obstacle(d zfs.Dataset, side plan.Side, req Request) string {
	replica := side.Marks.Role == zfs.RoleReplica
	switch {
	case d.Mounted && replica:
		return "it is mounted"
	case d.Mounted && req.Unit == "":
		return "it is mounted, and the guest has no unit that would tell whether it is used: unmount it first"
	case d.Mounted && !req.Idle:
		return "it is mounted, and the guest's unit " + req.Unit + " is not known to be stopped: stop the guest first"
	case !replica && req.Whole && req.Unit != "" && !req.Idle:
		return "the guest's unit " + req.Unit + " is not known to be stopped: stop the guest first"
	case replica && d.Written > 0 && !d.Removing():
		return "it was written to since its newest snapshot"
	case d.ResumeToken != "":
		return "a receive into it was interrupted, or is running"
	}
	for i, s := range side.Snapshots {
		switch {
		case !s.Tandem && (!replica || !s.Received):
			return "snapshot " + s.Name + " was not made by Tandem"
		case d.Snapshots[i].UserRefs > 0:
			return "snapshot " + s.Name + " has a hold"
		}
	}
	return ""
}

func (r *Releaser) destroy(ctx context.Context, id guest.ID, d zfs.Dataset, side plan.Side) error {
	spec := zfs.DestroySpec{Dataset: d.Name, GUID: d.GUID, Guest: id.String(), Role: side.Marks.Role}
	for _, s := range side.Snapshots {
		spec.Snapshots = append(spec.Snapshots, s.GUID)
	}
	return r.zfs.DestroyDataset(ctx, spec)
}

// leaveOwners makes the owner's dataset an ordinary one, which can be written to where only a migration had ended that.
func (r *Releaser) leaveOwners(ctx context.Context, req Request, x *volume) error {
	if x.data.Props[zfs.PropSealed] != "" && req.Owner == r.o.Node {
		if err := r.zfs.SetProps(ctx, map[string]string{"readonly": "off"}, x.Dataset); err != nil {
			return fmt.Errorf("make it writable, which a migration ended: %w", err)
		}
	}
	return r.unmark(ctx, x.data, x.side)
}

// unmark makes an owner's dataset an ordinary one: Tandem's points go, but those
// that somebody holds, then the marks.
func (r *Releaser) unmark(ctx context.Context, d zfs.Dataset, side plan.Side) error {
	var points []string
	for i, s := range side.Snapshots {
		if s.Tandem && d.Snapshots[i].UserRefs == 0 {
			points = append(points, s.Name)
		}
	}
	var failed error
	if len(points) > 0 {
		if err := r.zfs.DestroySnapshots(ctx, d.Name, points); err != nil {
			failed = fmt.Errorf("snapshots of Tandem's are left: %w", err)
		}
	}
	for _, b := range side.Bookmarks {
		if !b.Ours() {
			continue
		}
		if err := local.DropBookmark(ctx, r.zfs, d.Name+"#"+b.Name); err != nil {
			failed = errors.Join(failed, fmt.Errorf("a bookmark of Tandem's is left: %w", err))
		}
	}
	// The cluster's mark goes last: Clear knows by it what was begun here.
	var props []string
	for _, p := range []string{zfs.PropRemoving, zfs.PropSealed, zfs.PropManifest, zfs.PropLanding} {
		if d.Props[p] != "" { // Few volumes have them.
			props = append(props, p)
		}
	}
	for _, p := range append(props, zfs.PropMode, zfs.PropTerm, zfs.PropVolume, zfs.PropGuest, zfs.PropRole, zfs.PropCluster) {
		if err := r.zfs.Inherit(ctx, p, d.Name); err != nil {
			return errors.Join(failed, fmt.Errorf("take the property %s off: %w", p, err))
		}
	}
	return failed
}

// Clear makes a guest's volumes ordinary datasets where they carry the owner's
// marks of a guest of this cluster that no longer has them: what a removal left
// whose node was away.
func (r *Releaser) Clear(ctx context.Context, g guest.Guest) error {
	release, err := r.lock(ctx, g.ID, g.Volumes) // A removal that goes on has the volumes.
	if err != nil {
		return err
	}
	defer release()
	view := r.o.Ledger.View()
	for _, v := range g.Volumes {
		name, err := r.o.Dataset(v)
		if err != nil {
			return err
		}
		list, err := r.zfs.List(ctx, name)
		if err != nil {
			return fault.WrapVolume(v, err, "read it")
		}
		if !list[0].Exists() {
			continue
		}
		side := local.Side(name, list[0])
		if _, taken := view.GuestOf(v); taken || !former(side.Marks, view.Cluster, v) {
			continue
		}
		if err := r.unmark(ctx, list[0], side); err != nil {
			return fault.WrapVolume(v, err, "take the marks of a guest off that no longer has it")
		}
	}
	return nil
}

// former says that a dataset carries an owner's marks of this cluster for that
// volume, or what is left of them where their removal was cut.
func former(m plan.Marks, cluster string, v guest.Volume) bool {
	return m.Cluster == cluster && (m.Role == "" || m.Role == zfs.RoleOwner) && (m.Volume == "" || m.Volume == v.String())
}
