package replicate

import (
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// commit tells the target that the point is complete, what to mark and what it
// may delete, and remembers what it then has.
func (r *run) commit(ctx context.Context, p plan.Plan, point string) error {
	r.phase(PhaseCommit, 0)
	property, guids, err := r.point(point)
	if err != nil {
		return err
	}
	taken, err := guest.ParsePoint(property)
	if err != nil {
		return err
	}
	now := r.s.o.Now()
	req := wire.CommitRequest{
		Request: r.request(), Point: point, Property: property, Current: r.result.Kind == KindNothing,
		Age: max(0, now.Unix()-taken.Taken),
	}
	if req.Current || r.unwritten {
		req.Age = int64(txgTimeout / time.Second)
	}
	spare := r.spareAtTarget(p, point, guids)
	after := holdings{}
	for _, v := range p.Volumes {
		guid, ok := guids[v.Volume]
		if !ok {
			continue
		}
		mark := slices.DeleteFunc(slices.Clone(v.Mark), func(m plan.Ref) bool { return m.GUID == guid })
		req.Volumes = append(req.Volumes, wire.CommitVolume{
			Volume: v.Volume, GUID: guid, Mark: mark, Delete: slices.Concat(v.Gone, spare[v.Volume]), Nature: r.changed(v),
		})
		after[v.Volume] = plan.Held{Pins: []uint64{guid}}
	}
	var reply wire.CommitReply
	if err := r.s.call(ctx, r.job.Target, wire.PathCommit, req, &reply); err != nil {
		return fault.Wrap(err, "commit %s at %s", point, r.target)
	}
	for _, w := range reply.Warnings {
		r.warn("%s: %s", r.target, w)
	}
	for _, v := range reply.Volumes {
		if h, ok := after[v.Volume]; ok {
			h.Has = v.Has
			after[v.Volume] = h
		}
	}
	r.note(func() { r.result.Point, r.result.Taken = point, time.Unix(taken.Taken, 0) })
	return r.s.bases.put(r.guest, r.job.Target, after)
}

// txgTimeout is how old "nothing was written" can be: what is written counts once
// its transaction group is on disk (zfs_txg_timeout).
const txgTimeout = 5 * time.Second

// point is the property and the GUIDs of one of this node's points.
func (r *run) point(name string) (property string, guids map[guest.Volume]uint64, err error) {
	guids = map[guest.Volume]uint64{}
	for i, d := range r.own {
		for _, s := range d.Snapshots {
			if s.Name == name && s.Props[zfs.PropPoint] != "" {
				property = s.Props[zfs.PropPoint]
				guids[r.guest.Volumes[i]] = s.GUID
			}
		}
	}
	if property == "" {
		return "", nil, fault.Retry("", "the point %s is gone", name)
	}
	return property, guids, nil
}

// spareAtTarget is what the target may delete once the point is complete.
func (r *run) spareAtTarget(p plan.Plan, point string, guids map[guest.Volume]uint64) map[guest.Volume][]plan.Ref {
	j := plan.Judged{Volumes: map[guest.Volume][]plan.Snapshot{}, Reading: r.s.o.Pins.Of(r.guest.ID)}
	held := holdings{}
	for _, v := range p.Volumes {
		after := slices.Clone(v.After)
		h := plan.Held{Pins: []uint64{guids[v.Volume]}}
		for i := range after {
			after[i].TXG = uint64(i) // Arrivals have none at the target yet; the order is right.
			if after[i].Name == point && after[i].GUID == guids[v.Volume] {
				after[i].Complete, after[i].Tandem = true, true
			}
			if after[i].Tandem {
				h.Has = append(h.Has, after[i].GUID)
			}
		}
		j.Volumes[v.Volume], held[v.Volume] = after, h
	}
	for _, t := range r.s.bases.targets(r.guest, r.targets()) {
		if t.Node == r.job.Target {
			t.Known, t.Volumes = true, held
		}
		j.Targets = append(j.Targets, t)
	}
	return plan.Keep(j).Spare
}

// clean destroys own points that nobody needs. What cannot go now goes later; the
// sync has succeeded.
func (r *run) clean(ctx context.Context) {
	r.phase(PhaseClean, 0)
	release, err := r.s.lockGuest(ctx, r.guest.ID)
	if err != nil {
		r.warn("old snapshots are left: %v", err)
		return
	}
	defer release()
	j := plan.Judged{
		Volumes: map[guest.Volume][]plan.Snapshot{}, Targets: r.s.bases.targets(r.guest, r.targets()), Reading: r.s.o.Pins.Of(r.guest.ID),
	}
	for i, d := range r.own {
		j.Volumes[r.guest.Volumes[i]] = local.Side(r.names[i], d).Snapshots
	}
	r.destroy(ctx, plan.Keep(j).Spare)
}

// destroy takes names from the list that this run has read: what another run
// needs since then is pinned, and a name of Tandem's is used once.
func (r *run) destroy(ctx context.Context, spare map[guest.Volume][]plan.Ref) {
	for i, v := range r.guest.Volumes {
		refs := slices.DeleteFunc(slices.Clone(spare[v]), func(ref plan.Ref) bool { return r.held(i, ref.GUID) })
		if len(refs) == 0 {
			continue
		}
		var names []string
		for _, ref := range refs {
			names = append(names, ref.Name)
		}
		r.log("%s: remove %d old snapshots here", v, len(names))
		if err := r.s.o.ZFS.DestroySnapshots(ctx, r.names[i], names); err != nil {
			r.warn("volume %s: old snapshots are left: %v", v, err)
		}
	}
}

// held says whether a snapshot has a hold: one stops the destruction of all.
func (r *run) held(volume int, guid uint64) bool {
	return slices.ContainsFunc(r.own[volume].Snapshots, func(s zfs.Snapshot) bool { return s.GUID == guid && s.UserRefs > 0 })
}
