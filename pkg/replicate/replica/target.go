// Package replica is the target side of a sync: it takes what the owners of
// guests send to this node, marks what is complete, deletes what owners allow,
// and tells from the disks what this node has.
//
// It trusts no sender: whose guest it is, at which term and by which job, its own
// copy of the ledger says. pkg/daemon registers its methods as handlers.
package replica

import (
	"context"
	"slices"
	"sync"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Target takes what owners of guests send to this node.
type Target struct {
	o       local.Options
	locks   *local.Locks
	aside   *aside.Keeper
	version local.Version
	pools   local.Pools

	mu sync.Mutex
	// receives are those that run, to be ended when their owner is none any more.
	receives map[*receiving]struct{}
	notes    map[guest.ID]*notes
	// sights are what was last seen of volumes that a sync is about.
	sights map[guest.Volume]sight
	// arriving are the guests whose points are being received.
	arriving map[guest.ID]*arrival
}

type receiving struct {
	guest  guest.ID
	owner  guest.NodeID
	term   guest.Term
	cancel context.CancelCauseFunc
}

// New makes the target side of a node.
func New(o local.Options) (*Target, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	keeper, err := aside.New(o)
	if err != nil {
		return nil, err
	}
	return &Target{
		o: o, locks: o.Locks, aside: keeper, receives: map[*receiving]struct{}{}, notes: map[guest.ID]*notes{}, sights: map[guest.Volume]sight{},
		arriving: map[guest.ID]*arrival{},
	}, nil
}

// admit checks a request against the ledger: the sender owns the guest at exactly
// the current term. A target whose ledger is behind the sender's catches up first.
func (t *Target) admit(ctx context.Context, from guest.NodeID, req wire.Request) (*ledger.State, guest.Guest, error) {
	if err := req.Validate(); err != nil {
		return nil, guest.Guest{}, err
	}
	view := t.o.Ledger.View()
	if view.Index < req.Index {
		wait, cancel := context.WithTimeout(ctx, t.o.CatchUp)
		err := t.o.Ledger.WaitApplied(wait, req.Index)
		cancel()
		if err != nil {
			return nil, guest.Guest{}, fault.Busy("", "node %s has applied the ledger to %d and the sender to %d: %v", t.o.Name, view.Index, req.Index, err)
		}
		view = t.o.Ledger.View()
	}
	g, err := t.owned(view, from, req)
	return view, g, err
}

// owned is the guest, if the sender owns it at the request's term.
func (t *Target) owned(view *ledger.State, from guest.NodeID, req wire.Request) (guest.Guest, error) {
	g, ok := view.Guests[req.Job.Guest]
	switch {
	case !ok:
		return g, fault.Never("", "job %s: node %s knows no guest %s", req.Job, t.o.Name, req.Job.Guest)
	case g.Owner != from:
		return g, fault.Never("", "guest %s: node %s does not own it, %s does", g.ID, view.NameOf(from), view.NameOf(g.Owner))
	case g.Term != req.Term:
		return g, fault.Never("", "guest %s: the request is of term %s, the ledger says %s", g.ID, req.Term, g.Term)
	default:
		return g, nil
	}
}

// admitJob is admit for a request that needs the job to point to this node, or the
// owner to hand the guest over to it.
func (t *Target) admitJob(ctx context.Context, from guest.NodeID, req wire.Request) (*ledger.State, guest.Guest, error) {
	view, g, err := t.admit(ctx, from, req)
	if err != nil {
		return nil, g, err
	}
	if req.Move {
		t.o.Pins.Moving(g.ID, t.o.Now())
		return view, g, nil
	}
	job, ok := view.Jobs[req.Job]
	if !ok || job.Target != t.o.Node {
		return nil, g, fault.Never("", "job %s: it does not point to node %s", req.Job, t.o.Name)
	}
	if job.Removing {
		return nil, g, fault.Never("", "job %s is being removed", req.Job)
	}
	return view, g, nil
}

// Inventory tells what this node has of the guest's volumes.
func (t *Target) Inventory(ctx context.Context, from guest.NodeID, req wire.InventoryRequest) (wire.Inventory, error) {
	view, g, err := t.admitInventory(ctx, from, req)
	if err != nil {
		return wire.Inventory{}, err
	}
	out := wire.Inventory{Version: wire.Version}
	if out.ZFS, err = t.version.Get(ctx, t.o.ZFS); err != nil {
		return wire.Inventory{}, err
	}
	release, err := t.lockFor(ctx, from, req.Request, g.Volumes...) // A receive that was just cut is ending.
	if err != nil {
		return wire.Inventory{}, err
	}
	defer release()
	volumes, err := t.list(ctx, g.Volumes)
	if err != nil {
		return wire.Inventory{}, err
	}
	if !req.Move && !req.Preview && t.pointed(view, g.ID) {
		if err := t.landed(ctx, volumes); err != nil {
			return wire.Inventory{}, err
		}
	}
	t.saw(volumes)
	if req.Anew {
		t.pools.Forget()
	}
	for _, v := range volumes {
		one := inventory(v.volume, v.root, v.data, v.name)
		one.InventoryFacts, one.Inherited = t.facts(ctx, v), inherited(g, v.data)
		if one.Token != "" {
			one.Ours = t.begun(ctx, g.ID, v)
		}
		out.Volumes = append(out.Volumes, one)
	}
	if err := t.tellAside(ctx, view.Cluster, g.ID, volumes, out.Volumes); err != nil {
		return wire.Inventory{}, err
	}
	return out, t.tellMoved(ctx, view.Cluster, g.ID, volumes, out.Volumes)
}

// found is one volume as this node has it.
type found struct {
	volume     guest.Volume
	name       string // of its dataset
	root, data zfs.Dataset
}

// list reads volumes and the roots of their storages, with those of other syncs. A dataset
// may be missing; a root may not, and nothing is ever made in a pool that is away.
func (t *Target) list(ctx context.Context, volumes []guest.Volume) ([]found, error) {
	names, err := t.o.Datasets(volumes)
	if err != nil {
		return nil, err
	}
	ask := slices.Clone(names)
	for _, v := range volumes {
		if root := t.o.Storages[v.Storage]; !slices.Contains(ask, root) {
			ask = append(ask, root)
		}
	}
	list, err := t.o.Together.List(ctx, ask...)
	if err != nil {
		return nil, fault.Wrap(err, "list volumes on %s", t.o.Name)
	}
	var out []found
	for i, v := range volumes {
		root := list[slices.Index(ask, t.o.Storages[v.Storage])]
		if root.Err != nil {
			return nil, fault.WrapVolume(v, root.Err, "storage %s on %s", v.Storage, t.o.Name)
		}
		if root.Type != zfs.TypeFilesystem {
			return nil, fault.Person(v, "a storage is a filesystem dataset, like tank/guests", "storage %s on %s: %s is a %s", v.Storage, t.o.Name, root.Name, root.Type)
		}
		d := list[i]
		if d.Err != nil && zfs.ClassOf(d.Err) != zfs.ClassGone {
			return nil, fault.WrapVolume(v, d.Err, "read it on %s", t.o.Name)
		}
		out = append(out, found{volume: v, name: names[i], root: root, data: d})
	}
	return out, nil
}

// one is list for one volume.
func (t *Target) one(ctx context.Context, v guest.Volume) (found, error) {
	l, err := t.list(ctx, []guest.Volume{v})
	if err != nil {
		return found{}, err
	}
	return l[0], nil
}

// replica says whether the dataset carries the marks of the guest's replica.
func (l found) replica(cluster string, g guest.ID) bool { return l.marked(cluster, g, zfs.RoleReplica) }

func (l found) marked(cluster string, g guest.ID, role string) bool {
	return l.data.Exists() && local.MarksOf(l.data).Are(cluster, g, l.volume, role)
}

// unborn says that a first full receive was interrupted: no marks and no snapshots yet.
func (l found) unborn() bool {
	return l.data.Exists() && l.data.ResumeToken != "" && len(l.data.Snapshots) == 0 && local.MarksOf(l.data).None()
}

// snapshot finds a snapshot by its GUID.
func (l found) snapshot(guid uint64) (zfs.Snapshot, bool) {
	i := slices.IndexFunc(l.data.Snapshots, func(s zfs.Snapshot) bool { return s.GUID == guid })
	if i < 0 || guid == 0 {
		return zfs.Snapshot{}, false
	}
	return l.data.Snapshots[i], true
}

// lock takes the volumes' locks, in order. A receive that is just ending is waited for.
func (t *Target) lock(ctx context.Context, volumes ...guest.Volume) (release func(), err error) {
	wait, cancel := context.WithTimeout(ctx, t.o.LockWait)
	defer cancel()
	return t.locks.All(wait, local.VolumeLocks(volumes)...)
}

// lockFor is lock for a request that was admitted. The owner may have changed while it
// waited: what takes this node's data into use has the same locks.
func (t *Target) lockFor(ctx context.Context, from guest.NodeID, req wire.Request, volumes ...guest.Volume) (release func(), err error) {
	if release, err = t.lock(ctx, volumes...); err != nil {
		return nil, err
	}
	if _, err := t.owned(t.o.Ledger.View(), from, req); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// Abort drops an interrupted receive, unless one runs. Only one that is a part of
// the guest's replica, or that this node began for it, and only the very one that
// the source has seen.
func (t *Target) Abort(ctx context.Context, from guest.NodeID, req wire.AbortRequest) (wire.AbortReply, error) {
	view, g, err := t.admitJob(ctx, from, req.Request)
	if err != nil {
		return wire.AbortReply{}, err
	}
	if !g.Has(req.Volume) {
		return wire.AbortReply{}, fault.Never("", "guest %s has no volume %s", g.ID, req.Volume)
	}
	release, err := t.lockFor(ctx, from, req.Request, req.Volume)
	if err != nil {
		return wire.AbortReply{}, err
	}
	defer release()
	l, err := t.one(ctx, req.Volume)
	if err != nil {
		return wire.AbortReply{}, err
	}
	switch {
	case !l.data.Exists() || l.data.ResumeToken == "":
		return wire.AbortReply{}, nil
	case l.data.ResumeToken != req.Token:
		return wire.AbortReply{}, fault.Retry("", "volume %s: the interrupted receive is not the one that was seen", req.Volume)
	case !t.mayAbort(ctx, view.Cluster, g.ID, l):
		return wire.AbortReply{}, t.foreign(g, l)
	}
	if err := t.o.ZFS.AbortReceive(ctx, l.name); err != nil {
		return wire.AbortReply{}, fault.WrapVolume(req.Volume, err, "drop the interrupted receive")
	}
	return wire.AbortReply{}, nil
}

func (t *Target) foreign(g guest.Guest, l found) error {
	return fault.Person(l.volume, "it was not touched; if it is not needed, rename or destroy it there",
		"%s has a dataset %s (%s) that is no replica of guest %s", t.o.Name, l.name, local.MarksOf(l.data), g.ID)
}

// EndStale ends receives whose sender no longer owns the guest at their term, by
// this node's ledger now: "a node that learns a higher term first ends running
// receives of lower ones". It does not wait for them.
func (t *Target) EndStale() {
	view := t.o.Ledger.View()
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.receives {
		if g, ok := view.Guests[r.guest]; !ok || g.Owner != r.owner || g.Term != r.term {
			r.cancel(fault.Never("", "guest %s has a new owner or term", r.guest))
		}
	}
}

// inherited says that the present owner has completed no sync to a replica. The mark of the dataset would not tell: it changes with
// the stream, and a crash may come before the commit. As a rule one of the newest snapshots tells.
func inherited(g guest.Guest, d zfs.Dataset) bool {
	for _, s := range slices.Backward(d.Snapshots) {
		if brought(g, s.Props[zfs.PropComplete]) {
			return false
		}
	}
	return true
}

// inventory is a dataset of this node as it is told to a source.
func inventory(v guest.Volume, root, d zfs.Dataset, name string) wire.InventoryVolume {
	s := local.Side(name, d)
	out := wire.InventoryVolume{
		Volume: v, Root: root.Name, Available: root.Available, RootEncrypted: local.Encrypted(root),
		Dataset: name, Exists: s.Exists, Kind: s.Kind, Mounted: s.Mounted, Encrypted: s.Encrypted, Written: s.Written,
		Cluster: s.Marks.Cluster, Guest: s.Marks.Guest, Role: s.Marks.Role, Term: s.Marks.Term, Marked: s.Marks.Volume,
		Token: d.ResumeToken,
	}
	out.GUID, out.Origin = s.GUID, s.Origin
	for _, x := range s.Snapshots {
		out.Snapshots = append(out.Snapshots, wire.Told(x))
	}
	for _, b := range s.Bookmarks {
		if b.Ours() {
			out.Bookmarks = append(out.Bookmarks, wire.InventoryBookmark{Name: b.Name, GUID: b.GUID, TXG: b.TXG})
		}
	}
	return out
}
