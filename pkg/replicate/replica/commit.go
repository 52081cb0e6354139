package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Commit ends a sync: where all volumes of the point are here, it is marked
// complete; then what nobody needs goes.
func (t *Target) Commit(ctx context.Context, from guest.NodeID, req wire.CommitRequest) (wire.CommitReply, error) {
	if err := req.Validate(); err != nil {
		return wire.CommitReply{}, err
	}
	view, g, err := t.admitJob(ctx, from, req.Request)
	if err != nil {
		return wire.CommitReply{}, err
	}
	var volumes []guest.Volume
	for _, v := range req.Volumes {
		if !g.Has(v.Volume) || slices.Contains(volumes, v.Volume) {
			return wire.CommitReply{}, fault.Never("", "commit of %s: guest %s has no volume %s, or it is named twice", req.Point, g.ID, v.Volume)
		}
		volumes = append(volumes, v.Volume)
	}
	release, err := t.lockFor(ctx, from, req.Request, volumes...)
	if err != nil {
		return wire.CommitReply{}, err
	}
	defer release()
	if err := t.settle(g.ID, volumes); err != nil {
		return wire.CommitReply{}, err
	}
	if req.Idle() {
		return wire.CommitReply{}, t.noteCurrent(g.ID, req)
	}
	near := t.arrived(req.Request)
	defer near.Leave()
	list, err := t.seen(ctx, volumes)
	if err != nil {
		return wire.CommitReply{}, err
	}
	defer t.forgetSights(volumes)
	c := commit{t: t, req: req, near: near, guest: g, cluster: view.Cluster, list: list, pinned: t.o.Pins.Of(g.ID), pinnedAll: t.o.Pins.All(g.ID)}
	if err := c.verify(ctx); err != nil {
		return wire.CommitReply{}, err
	}
	if err := c.adopt(ctx); err != nil {
		return wire.CommitReply{}, err
	}
	if err := c.change(ctx); err != nil {
		return wire.CommitReply{}, err
	}
	c.unbookmark(ctx)
	if req.Current {
		if err := t.noteCurrent(g.ID, req); err != nil {
			return wire.CommitReply{}, err
		}
	}
	return c.reply(), nil
}

func (t *Target) noteCurrent(id guest.ID, req wire.CommitRequest) error {
	return t.annotate(id, func(n *notes) {
		n.Current = &current{Point: req.Point, GUID: req.Volumes[0].GUID, At: t.o.Now().Unix(), Age: req.Age}
	})
}

// commit is one commit that is being done.
type commit struct {
	t       *Target
	req     wire.CommitRequest
	guest   guest.Guest
	cluster string
	list    []found // in the order of the request's volumes
	// pinned are snapshots that are being tried on this node: they go with a later commit,
	// as all do while one is chosen.
	pinned    map[guest.Volume][]uint64
	pinnedAll bool
	// near is nil where nothing was received for it: it waits for nobody.
	near *local.Near

	warnings []string
}

// verify refuses a point of which anything is missing.
func (c *commit) verify(ctx context.Context) error {
	point, err := guest.ParsePoint(c.req.Property)
	if err != nil {
		return err
	}
	for _, v := range point.Volumes {
		if !slices.ContainsFunc(c.list, func(l found) bool { return l.volume == v }) {
			return fault.Never("", "commit of %s: it lists volume %s, the request does not", c.req.Point, v)
		}
	}
	for i, l := range c.list {
		if !l.replica(c.cluster, c.guest.ID) {
			return c.t.foreign(c.guest, l)
		}
		s, ok := l.snapshot(c.req.Volumes[i].GUID)
		if !ok || s.Name != c.req.Point {
			return fault.Retry("", "volume %s: %s does not have %s with GUID %d", l.volume, c.t.o.Name, c.req.Point, c.req.Volumes[i].GUID)
		}
		if l.data.Mounted && !c.req.Current {
			return c.t.guarded(ctx, l)
		}
	}
	return nil
}

// change marks what arrived and destroys what nobody needs, in one moment for all
// volumes. Where they are on several pools, all marks come before anything goes: until
// the point is complete everywhere, the one before it is what a recovery needs.
func (c *commit) change(ctx context.Context) error {
	at, err := local.Arrival{At: c.t.o.Now().Unix(), Age: c.req.Age}.Property()
	if err != nil {
		return err
	}
	pools := map[string]*zfs.Change{}
	for i, l := range c.list {
		pool := zname.PoolOf(l.name)
		if pools[pool] == nil {
			pools[pool] = &zfs.Change{}
		}
		pools[pool].Volumes = append(pools[pool].Volumes, c.volume(c.req.Volumes[i], l, at))
	}
	var marks, rest []zfs.Change
	for _, pool := range slices.Sorted(maps.Keys(pools)) {
		change := *pools[pool]
		if len(pools) == 1 {
			return c.make(ctx, change)
		}
		marking, destroying := zfs.Change{}, zfs.Change{}
		for _, v := range change.Volumes {
			m, d := v, v
			m.Destroy, d.Mark = nil, nil
			marking.Volumes = append(marking.Volumes, m)
			destroying.Volumes = append(destroying.Volumes, d)
		}
		marks, rest = append(marks, marking), append(rest, destroying)
	}
	for _, change := range append(marks, rest...) {
		if err := c.make(ctx, change); err != nil {
			return err
		}
	}
	return nil
}

// volume is what is done to one volume, and what must be so for it. The mark of the
// point comes last: until it is complete, the next plan finds again what arrived and
// is not marked.
func (c *commit) volume(v wire.CommitVolume, l found, arrived string) zfs.VolumeChange {
	own := local.Marks(c.cluster, c.guest, l.volume, zfs.RoleReplica)
	delete(own, zfs.PropTerm) // An increment sets it; who owns the guest now, the ledger has said.
	out := zfs.VolumeChange{
		Dataset: l.name, GUID: l.data.GUID, Own: own, ReadOnly: !c.req.Current, Need: []zfs.Ref{{Name: c.req.Point, GUID: v.GUID}},
		Marks: []string{zfs.PropReceived, zfs.PropComplete, zfs.PropPoint}, // The last where this node was the owner.
	}
	var operators, points []zfs.Ref
	for _, ref := range v.Mark {
		if ref.Tandem {
			points = append(points, zfs.Ref{Name: ref.Name, GUID: ref.GUID})
		} else {
			operators = append(operators, zfs.Ref{Name: ref.Name, GUID: ref.GUID})
		}
	}
	mark := func(props map[string]string, refs []zfs.Ref) {
		if len(refs) > 0 {
			out.Mark = append(out.Mark, zfs.Marking{Props: props, Snapshots: refs})
		}
	}
	var former []zfs.Ref
	for _, ref := range v.Stay {
		former = append(former, zfs.Ref{Name: ref.Name, GUID: ref.GUID})
	}
	mark(map[string]string{zfs.PropReceived: local.ReceivedFormer}, former)
	mark(map[string]string{zfs.PropReceived: local.ReceivedSnapshot}, operators)
	mark(map[string]string{zfs.PropReceived: local.ReceivedPoint}, points)
	if s, _ := l.snapshot(v.GUID); s.Props[zfs.PropComplete] == "" {
		mark(map[string]string{zfs.PropPoint: c.req.Property, zfs.PropComplete: c.req.Term.String(), zfs.PropArrived: arrived}, out.Need)
	}
	for _, ref := range v.Delete {
		if ref.GUID != v.GUID && !c.pinnedAll && !slices.Contains(c.pinned[v.Volume], ref.GUID) {
			if s, ok := local.Spare(l.data, ref, slices.Contains(v.Bookmark, ref.GUID)); ok {
				out.Destroy = append(out.Destroy, s)
			}
		}
	}
	return out
}

// make makes a change. What stays though the owner's list allows it to go is told:
// it carries no mark as brought by Tandem, or a hold or clone keeps it.
func (c *commit) make(ctx context.Context, change zfs.Change) error {
	if !slices.ContainsFunc(change.Volumes, func(v zfs.VolumeChange) bool { return len(v.Mark)+len(v.Destroy) > 0 }) {
		return nil
	}
	done, err := c.near.Change(ctx, c.t.o.Together, local.StepCommit, change)
	c.near = nil // It has waited once.
	if z, ok := errors.AsType[*zfs.Error](cmp.Or(err, done.Err)); ok && errors.Is(z, zfs.ErrWritable) {
		if err := c.protect(ctx, z.Dataset); err != nil {
			return err
		}
		done, err = c.t.o.Together.Change(ctx, change)
	}
	if err = cmp.Or(err, done.Err); err != nil {
		return fault.Wrap(err, "mark what arrived on %s", c.t.o.Name)
	}
	for i, v := range done.Volumes {
		for _, left := range v.Left {
			volume := c.named(change.Volumes[i].Dataset).volume
			c.warnings = append(c.warnings, fmt.Sprintf("volume %s: snapshot %s is not removed: %v", volume, left.Name, left.Err))
		}
	}
	return nil
}

// protect puts right what a stream or somebody else changed of a replica.
func (c *commit) protect(ctx context.Context, dataset string) error {
	l, err := c.t.one(ctx, c.named(dataset).volume)
	if err != nil {
		return err
	}
	return c.t.guarded(ctx, l)
}

// named is the volume of a dataset.
func (c *commit) named(dataset string) found {
	return c.list[slices.IndexFunc(c.list, func(l found) bool { return l.name == dataset })]
}

// reply lists Tandem's points that are here. What was just removed may be listed
// still: it is needed by nobody and gone from the next list.
func (c *commit) reply() wire.CommitReply {
	out := wire.CommitReply{Warnings: c.warnings}
	for i, l := range c.list {
		v := c.req.Volumes[i]
		h := wire.HeldVolume{Volume: l.volume}
		has := func(guid uint64) {
			if !slices.ContainsFunc(v.Delete, func(r plan.Ref) bool { return r.GUID == guid }) && !slices.Contains(h.Has, guid) {
				h.Has = append(h.Has, guid)
			}
		}
		for _, s := range local.Side(l.name, l.data).Snapshots {
			if s.Tandem {
				has(s.GUID)
			}
		}
		for _, ref := range v.Mark {
			if ref.Tandem {
				has(ref.GUID)
			}
		}
		has(v.GUID)
		out.Volumes = append(out.Volumes, h)
	}
	return out
}
