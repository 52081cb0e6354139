package replicate

import (
	"context"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// RemoveResult says what a removed job left.
type RemoveResult struct {
	// Destroyed are datasets of the target, Left what stays there, with reasons.
	Destroyed, Left []string
	Warnings        []string
}

// Remove ends a job that an operator deleted: the target's replicas go, unless the
// job says to keep them, then the snapshots here that no other job needs, then
// what was known of the target. The caller then drops the job from the ledger.
func (s *Source) Remove(ctx context.Context, task Task) (RemoveResult, error) {
	out, err := s.remove(ctx, task)
	return out, fault.Final(ctx, err)
}

func (s *Source) remove(ctx context.Context, task Task) (RemoveResult, error) {
	r, err := s.begin(task)
	if err != nil {
		return RemoveResult{}, err
	}
	if !r.job.Removing {
		return RemoveResult{}, fault.Never("", "job %s is not being removed", r.job.ID)
	}
	release, err := s.job(task.Job)
	if err != nil {
		return RemoveResult{}, err
	}
	defer release()
	end, err := s.settled(ctx, r.guest.ID)
	if err != nil {
		return RemoveResult{}, err
	}
	defer end()
	if err := r.list(ctx); err != nil {
		return RemoveResult{}, err
	}
	if err := r.ready(); err != nil {
		return RemoveResult{}, err
	}
	var reply wire.RemoveReply
	req := wire.RemoveRequest{Request: r.request(), Keep: r.job.KeepReplica, Volumes: r.has()}
	if err := s.call(ctx, r.job.Target, wire.PathRemove, req, &reply); err != nil {
		return RemoveResult{}, fault.Wrap(err, "remove the replicas on %s", r.target)
	}
	forget := s.bases.forget
	if req.Keep || len(reply.Left) > 0 {
		forget = s.bases.retain
	}
	if err := forget(r.guest, r.job.Target); err != nil {
		return RemoveResult{}, err
	}
	if len(r.targets()) > 0 {
		r.clean(ctx)
	} else if err := r.cleanAll(ctx); err != nil {
		return RemoveResult{}, err
	}
	r.dropBookmarks(ctx)
	for _, left := range reply.Left {
		if !req.Keep {
			r.warn("left on %s: %s", r.target, left)
		}
	}
	return RemoveResult{Destroyed: reply.Destroyed, Left: reply.Left, Warnings: r.finish().Warnings}, nil
}

// has tells a target what this node has, so that nothing goes there which is nowhere else. Of a target that was away
// for long it has bookmarks.
func (r *run) has() []wire.HeldVolume {
	var out []wire.HeldVolume
	for i, d := range r.own {
		held := wire.HeldVolume{Volume: r.guest.Volumes[i]}
		for _, s := range d.Snapshots {
			held.Has = append(held.Has, s.GUID)
		}
		for _, b := range d.Bookmarks {
			held.Has = append(held.Has, b.GUID)
		}
		out = append(out, held)
	}
	return out
}

// Needs says that a kept copy of a guest builds on what a snapshot of a volume of its owner had, by its GUID.
func (s *Source) Needs(g guest.Guest, v guest.Volume, guid uint64) bool {
	return slices.ContainsFunc(s.bases.targets(g, nil), func(h plan.Holding) bool { return slices.Contains(h.Volumes[v].Pins, guid) })
}

// cleanAll removes every point from a guest that has no job any more.
func (r *run) cleanAll(ctx context.Context) error {
	release, err := r.s.lockGuest(ctx, r.guest.ID)
	if err != nil {
		return err
	}
	defer release()
	if g := r.s.o.Ledger.View().Guests[r.guest.ID]; g.Owner != r.guest.Owner || g.Term != r.guest.Term {
		return fault.Busy("", "guest %s has a new owner or term", r.guest.ID)
	}
	if len(r.targets()) > 0 { // One has come while this waited.
		r.destroy(ctx, r.spare())
		return nil
	}
	all := plan.Verdict{Spare: map[guest.Volume][]plan.Ref{}, Bookmark: map[guest.Volume]map[uint64]bool{}}
	for i, d := range r.own {
		for _, x := range local.Side(r.names[i], d).Snapshots {
			if x.Tandem {
				v := r.guest.Volumes[i]
				all.Spare[v] = append(all.Spare[v], plan.Ref{Name: x.Name, GUID: x.GUID, Tandem: true})
				if all.Bookmark[v] == nil {
					all.Bookmark[v] = map[uint64]bool{}
				}
				all.Bookmark[v][x.GUID] = r.s.Needs(r.guest, v, x.GUID)
			}
		}
	}
	r.destroy(ctx, all)
	return nil
}
