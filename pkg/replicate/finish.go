package replicate

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/calendar"
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
	switch {
	case req.Current:
		req.Age = int64(txgTimeout / time.Second)
	case !r.unwritten.IsZero():
		req.Age = min(req.Age, max(0, int64((now.Sub(r.unwritten)+txgTimeout)/time.Second)))
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
			Volume: v.Volume, GUID: guid, Mark: mark, Delete: slices.Concat(v.Gone, spare.Spare[v.Volume]), Stay: v.Stay, Nature: r.changed(v),
			CommitBookmarks: r.bookmarksAtTarget(v.Volume, spare),
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
	r.note(func() {
		r.result.Point, r.result.Taken, r.result.Consistency = point, time.Unix(taken.Taken, 0), taken.Consistency
	})
	r.s.bases.arrived(r.guest, r.job.Target, after)
	return nil
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
func (r *run) spareAtTarget(p plan.Plan, point string, guids map[guest.Volume]uint64) plan.Verdict {
	volumes, held := map[guest.Volume][]plan.Snapshot{}, holdings{}
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
		volumes[v.Volume], held[v.Volume] = after, h
	}
	return r.judge(volumes, held)
}

// judge is which of a node's snapshots stay, where the job's target has those: nil for what it is known to have.
func (r *run) judge(volumes map[guest.Volume][]plan.Snapshot, after holdings) plan.Verdict {
	targets := r.s.bases.targets(r.guest, r.targets())
	for i, t := range targets {
		if after != nil && t.Node == r.job.Target {
			targets[i] = plan.Holding{Node: t.Node, Known: true, Volumes: after}
		}
	}
	return plan.Keep(plan.Judged{Volumes: volumes, Targets: targets, Reading: r.s.o.Pins.Of(r.guest.ID)})
}

// cleanWithin is how long own points that nobody needs may stay: where the next
// sync comes as soon, it destroys them with the snapshot that it takes.
const cleanWithin = 15 * time.Minute

// tidy cleans unless the next sync will soon, or a guest waits for the end of this one.
func (r *run) tidy(ctx context.Context) {
	if !r.soon() && (r.hand == nil || !r.hand.locked) {
		r.clean(ctx)
	}
}

// soon says that the next sync of the job is due soon, and that nothing has waited
// long for it: a guest that does nothing takes no more snapshots.
func (r *run) soon() bool {
	schedule, err := calendar.Parse(r.job.Schedule)
	if err != nil || r.job.Disabled {
		return false
	}
	now := r.s.o.Now()
	next := schedule.Next(now, now.Location())
	if next.IsZero() || next.Sub(now) > cleanWithin {
		return false
	}
	for _, d := range r.own {
		if n := len(d.Snapshots); n > 0 && now.Sub(d.Snapshots[n-1].Creation) > cleanWithin {
			return false
		}
	}
	return true
}

// clean destroys own points that nobody needs. What cannot go now goes later; the
// sync has succeeded.
func (r *run) clean(ctx context.Context) {
	r.phase(PhaseClean, 0)
	release, err := r.lockGuest(ctx)
	if err != nil {
		r.warn("old snapshots are left: %v", err)
		return
	}
	defer release()
	r.destroy(ctx, r.spare())
}

// spare are own points that nobody needs, by the list that this run has read: what
// another run needs since then is pinned.
func (r *run) spare() plan.Verdict {
	volumes := map[guest.Volume][]plan.Snapshot{}
	for i, d := range r.own {
		volumes[r.guest.Volumes[i]] = local.Side(r.names[i], d).Snapshots
	}
	return r.judge(volumes, nil)
}

// destroy destroys own points.
func (r *run) destroy(ctx context.Context, spare plan.Verdict) {
	change := r.destroying(spare)
	change.Volumes = slices.DeleteFunc(change.Volumes, func(v zfs.VolumeChange) bool { return len(v.Destroy) == 0 })
	if len(change.Volumes) == 0 {
		return
	}
	done, err := r.s.o.Together.Change(ctx, change)
	if err = cmp.Or(err, done.Err); err != nil {
		r.warn("old snapshots are left: %v", err)
		return
	}
	r.destroyed(change, done)
}

// destroying is the change that destroys own points, by name, GUID and mark.
func (r *run) destroying(spare plan.Verdict) zfs.Change {
	var c zfs.Change
	for i, v := range r.guest.Volumes {
		part := zfs.VolumeChange{
			Dataset: r.names[i], GUID: r.own[i].GUID, Marks: []string{zfs.PropPoint, zfs.PropReceived, zfs.PropComplete},
		}
		for _, ref := range spare.Spare[v] {
			s, ok := local.Spare(r.own[i], ref, spare.Bookmark[v][ref.GUID])
			if ok && !r.held(i, ref.GUID) {
				part.Destroy = append(part.Destroy, s)
			}
		}
		c.Volumes = append(c.Volumes, part)
	}
	return c
}

// destroyed takes what was destroyed off what this run has read.
func (r *run) destroyed(change zfs.Change, done zfs.Changed) {
	for n, v := range change.Volumes {
		i, gone := slices.Index(r.names, v.Dataset), map[uint64]bool{}
		for _, s := range v.Destroy {
			gone[s.GUID] = true
		}
		for _, left := range done.Volumes[n].Left {
			delete(gone, left.GUID)
			r.log("%s: the old snapshot %s is left: %v", r.guest.Volumes[i], left.Name, left.Err)
		}
		if len(gone) == 0 {
			continue
		}
		r.log("%s: removed %d old snapshots here", r.guest.Volumes[i], len(gone))
		d := &r.own[i]
		d.Snapshots = slices.DeleteFunc(slices.Clone(d.Snapshots), func(s zfs.Snapshot) bool { return gone[s.GUID] })
	}
}

// held says whether a snapshot has a hold.
func (r *run) held(volume int, guid uint64) bool {
	return slices.ContainsFunc(r.own[volume].Snapshots, func(s zfs.Snapshot) bool { return s.GUID == guid && s.UserRefs > 0 })
}
