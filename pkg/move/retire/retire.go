// Package retire takes what a former owner has of a guest out of use, on its own node: no write comes to it any more (Seal), what
// the new owner does not have is set aside, and the rest becomes a replica again (Retire). A move seals its source by it as well.
//
// It works from the disks and the guest's record in the ledger and keeps no state: each of its steps can be the last before a
// power cut. It destroys nothing. It does not stop the guest's unit: its caller, pkg/keeper, has done that, and it refuses to go on
// while anybody has a volume open. What it leaves is taken up by the next sync from the new owner, as any diverged replica is.
package retire

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Retirer does it on one node.
type Retirer struct {
	o     local.Options
	aside *aside.Keeper
}

// New makes that of a node. It shares the options, and with them the locks, of the node's syncs.
func New(o local.Options) (*Retirer, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	keeper, err := aside.New(o)
	if err != nil {
		return nil, err
	}
	return &Retirer{o: o, aside: keeper}, nil
}

// State is what became of a volume.
type State string

// The states.
const (
	// Replica: a job of the guest points here, and its next sync goes on with it.
	Replica State = "replica"
	// Kept is a replica to which no job points: it stays as it is.
	Kept State = "kept copy"
	// Aside: it had data that the new owner does not have, and is kept under another name.
	Aside State = "diverged"
)

// Volume is what became of one volume.
type Volume struct {
	Volume guest.Volume `json:"volume"`
	// Dataset is its name now; Used is in bytes, snapshots included.
	Dataset string `json:"dataset"`
	State   State  `json:"state"`
	Used    uint64 `json:"used"`
}

// Retired is what became of a guest's volumes. Without volumes there was nothing of a former owner's.
type Retired struct {
	Volumes  []Volume `json:"volumes,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Former says that this node has volumes of the guest as an owner's, or not all the way to a replica, although another node owns it.
func (r *Retirer) Former(ctx context.Context, cluster string, g guest.Guest) (bool, error) {
	if g.Owner == r.o.Node {
		return false, nil
	}
	list, err := r.former(ctx, cluster, g)
	return len(list) > 0, fault.Final(ctx, err)
}

// Retire takes the volumes of a guest out of use that another node owns, by a ledger that the caller has had confirmed, and whose
// unit the caller has stopped. Done again it goes on where it was cut; where nothing is left to do it does nothing.
func (r *Retirer) Retire(ctx context.Context, view *ledger.State, g guest.Guest) (Retired, error) {
	x := &retirement{r: r, view: view, guest: g}
	err := x.run(ctx)
	return x.out, fault.Final(ctx, err)
}

// volume is a volume of the guest that this node has as an owner's.
type volume struct {
	guest.Volume
	data zfs.Dataset
}

// marked reads the guest's volumes here that carry its marks in one of the roles.
func (r *Retirer) marked(ctx context.Context, cluster string, g guest.Guest, roles ...string) ([]volume, error) {
	var known []guest.Volume
	for _, v := range g.Volumes {
		if _, ok := r.o.Storages[v.Storage]; ok { // Without the storage there is nothing of it here.
			known = append(known, v)
		}
	}
	if len(known) == 0 {
		return nil, nil
	}
	datasets, err := r.o.Datasets(known)
	if err != nil {
		return nil, err
	}
	list, err := r.o.ZFS.List(ctx, datasets...)
	if err != nil {
		return nil, fault.Wrap(err, "look at the volumes of guest %s", g.ID)
	}
	var out []volume
	for i, d := range list {
		if d.Err != nil && zfs.ClassOf(d.Err) != zfs.ClassGone {
			return nil, fault.WrapVolume(known[i], d.Err, "read it")
		}
		m := local.MarksOf(d)
		if d.Exists() && slices.Contains(roles, m.Role) && m.Are(cluster, g.ID, known[i], m.Role) {
			out = append(out, volume{Volume: known[i], data: d})
		}
	}
	return out, nil
}

func (r *Retirer) owned(ctx context.Context, cluster string, g guest.Guest) ([]volume, error) {
	return r.marked(ctx, cluster, g, zfs.RoleOwner)
}

// former are those with which a retirement is not through: the owner's, those whose setting aside was cut, and replicas that are
// sealed still.
func (r *Retirer) former(ctx context.Context, cluster string, g guest.Guest) ([]volume, error) {
	list, err := r.marked(ctx, cluster, g, zfs.RoleOwner, zfs.RoleDiverged, zfs.RoleReplica)
	if err != nil {
		return nil, err
	}
	var out []volume
	for _, v := range list {
		if v.data.Props[zfs.PropRole] != zfs.RoleReplica || v.data.Props[zfs.PropSealed] != "" {
			out = append(out, v)
		}
	}
	return out, nil
}

func (v volume) demoted() manifest.Change {
	return manifest.Demote(manifest.Kind(v.data.Type), v.data.Own())
}

// retirement is one that is going on.
type retirement struct {
	r     *Retirer
	view  *ledger.State
	guest guest.Guest
	out   Retired
}

func (x *retirement) run(ctx context.Context) error {
	if x.guest.Owner == x.r.o.Node {
		return fault.Never("", "guest %s: it is this node's own", x.guest.ID)
	}
	release, err := x.r.o.LockGuest(ctx, x.guest)
	if err != nil {
		return err
	}
	defer release()
	list, err := x.r.former(ctx, x.view.Cluster, x.guest)
	if err != nil || len(list) == 0 {
		return err
	}
	if err := x.r.fence(ctx, x.guest, list); err != nil {
		return err
	}
	if err := x.complete(ctx, list); err != nil {
		return err
	}
	for _, v := range list {
		if err := x.one(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// one takes one volume out of use.
func (x *retirement) one(ctx context.Context, v volume) error {
	base, why := x.diverged(v)
	if why == "" {
		return x.demote(ctx, v)
	}
	if v.data.Props[zfs.PropRole] == zfs.RoleOwner {
		if err := x.record(ctx, v); err != nil {
			return err
		}
	}
	c, err := x.r.aside.Set(ctx, x.view.Cluster, v.data, aside.Case{Guest: x.guest, Volume: v.Volume, Base: base, Why: why})
	if err != nil {
		return err
	}
	x.out.Volumes = append(x.out.Volumes, Volume{Volume: v.Volume, Dataset: c.Data.Name, State: Aside, Used: c.Data.Used})
	return nil
}

// begun is the snapshot from which the new owner's data of the volume began; 0 where the ledger does not say, or it was not in
// the point.
func (x *retirement) begun(v guest.Volume) uint64 {
	if x.guest.Beginning == nil {
		return 0
	}
	return x.guest.Beginning.GUIDs[v]
}

// diverged says why a volume has to be set aside, or nothing. Where this node does not have the snapshot from which the new owner
// began, it cannot tell: then the new owner's next sync finds out, by what both have, and sets aside what diverged.
func (x *retirement) diverged(v volume) (base uint64, why string) {
	base = x.begun(v.Volume)
	switch v.data.Props[zfs.PropRole] {
	case zfs.RoleDiverged:
		return base, "its setting aside was interrupted"
	case zfs.RoleReplica:
		return 0, "" // That was found out before; what it has more by now a sync has brought.
	}
	at := slices.IndexFunc(v.data.Snapshots, func(s zfs.Snapshot) bool { return s.GUID == base && base != 0 })
	if at < 0 {
		return 0, ""
	}
	newer := v.data.Written
	for _, s := range v.data.Snapshots[at+1:] {
		newer += s.Written
	}
	if newer == 0 {
		return 0, ""
	}
	b := x.guest.Beginning
	return base, fmt.Sprintf("%d bytes were written here in term %s after %s, from which %s went on in term %s",
		newer, v.data.Props[zfs.PropTerm], b.Point, x.view.NameOf(x.guest.Owner), x.guest.Term)
}

// record writes down what an owner's volume is like, for the time when it may be one again.
func (x *retirement) record(ctx context.Context, v volume) error {
	text, err := v.demoted().Record.Text()
	if err == nil {
		err = x.r.o.ZFS.SetProps(ctx, map[string]string{zfs.PropManifest: text}, v.data.Name)
	}
	return fault.WrapVolume(v.Volume, err, "write down what %s is like", v.data.Name)
}

// demote makes a volume a replica: first its role, together with what is written down of it, then what only an owner's volume has
// goes. Cut in between, the rest is found by what the dataset still has.
func (x *retirement) demote(ctx context.Context, v volume) error {
	d, c := v.data, v.demoted()
	if d.Props[zfs.PropRole] == zfs.RoleOwner {
		text, err := c.Record.Text()
		if err != nil {
			return fault.WrapVolume(v.Volume, err, "write down what %s is like", d.Name)
		}
		role := map[string]string{zfs.PropRole: zfs.RoleReplica, zfs.PropManifest: text}
		if err := x.r.o.ZFS.SetProps(ctx, role, d.Name); err != nil {
			return fault.WrapVolume(v.Volume, err, "make %s a replica", d.Name)
		}
	}
	if len(c.Set) > 0 {
		if err := x.r.o.ZFS.SetProps(ctx, c.Set, d.Name); err != nil {
			return fault.WrapVolume(v.Volume, err, "take what an owner's volume has off %s", d.Name)
		}
	}
	for _, name := range append(c.Inherit, zfs.PropSealed) {
		if err := x.r.o.ZFS.Inherit(ctx, name, d.Name); err != nil {
			return fault.WrapVolume(v.Volume, err, "take what an owner's volume has off %s", d.Name)
		}
	}
	out := Volume{Volume: v.Volume, Dataset: d.Name, State: Kept, Used: d.Used}
	for _, j := range x.view.JobsOf(x.guest.ID) {
		if j.Target == x.r.o.Node && !j.Removing {
			out.State = Replica
		}
	}
	x.out.Volumes = append(x.out.Volumes, out)
	if b := x.guest.Beginning; b != nil && x.begun(v.Volume) != 0 && !slices.ContainsFunc(d.Snapshots, func(s zfs.Snapshot) bool {
		return s.GUID == x.begun(v.Volume)
	}) {
		x.out.Warnings = append(x.out.Warnings, fmt.Sprintf(
			"volume %s: %s does not have %s, from which the new owner went on: a sync from there finds out what they have in common",
			v.Volume, d.Name, b.Point))
	}
	return nil
}

// complete marks the point from which the new owner began as one that this node has, as a sync marks one that arrived: it is what
// this node can offer until the first sync from the new owner. The point was taken here, of all volumes at once.
func (x *retirement) complete(ctx context.Context, list []volume) error {
	for _, v := range list {
		i := slices.IndexFunc(v.data.Snapshots, func(s zfs.Snapshot) bool { return s.GUID == x.begun(v.Volume) && s.GUID != 0 })
		if i < 0 || v.data.Snapshots[i].Props[zfs.PropComplete] != "" {
			continue
		}
		s := v.data.Snapshots[i]
		point, err := guest.ParsePoint(s.Props[zfs.PropPoint])
		if err != nil {
			continue // Not one that was taken here.
		}
		now := x.r.o.Now().Unix()
		arrived, err := local.Arrival{At: now, Age: max(0, now-point.Taken)}.Property()
		if err != nil {
			return err
		}
		ref := zfs.Ref{Name: s.Name, GUID: s.GUID}
		done, err := x.r.o.Together.Change(ctx, zfs.Change{Volumes: []zfs.VolumeChange{{
			Dataset: v.data.Name, GUID: v.data.GUID, Need: []zfs.Ref{ref},
			Mark: []zfs.Marking{{Snapshots: []zfs.Ref{ref}, Props: map[string]string{
				zfs.PropComplete: x.guest.Beginning.Term.String(), zfs.PropArrived: arrived,
			}}},
		}}})
		if err = cmp.Or(err, done.Err); err != nil {
			return fault.WrapVolume(v.Volume, err, "mark the point %s", s.Name)
		}
	}
	return nil
}
