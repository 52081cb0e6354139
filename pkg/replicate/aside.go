package replicate

import (
	"context"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// aside has the target do a step that carries no data: set a diverged replica
// aside, or part the new one from it.
func (r *run) aside(ctx context.Context, v guest.Volume, step plan.Step) error {
	req := wire.AsideRequest{
		Request: r.request(), Volume: v, Verb: step.Verb, Dataset: step.Dataset, Base: step.From.GUID, Why: step.Why, Superseded: step.Superseded,
	}
	var reply wire.AsideReply
	if err := r.s.call(ctx, r.job.Target, wire.PathAside, req, &reply); err != nil {
		return err
	}
	if reply.Dataset == "" {
		return nil
	}
	r.log("%s: it is %s on %s now", v, reply.Dataset, r.target)
	if len(step.Superseded) > 0 {
		return nil // It goes again by itself.
	}
	what := "everything is sent again"
	if step.From.GUID != 0 {
		what = "only what is newer than " + step.From.Name + " is sent"
	}
	r.warn("volume %s: the replica on %s had diverged (%s): it was set aside as %s and %s; see `tandem diverged list`",
		v, r.target, step.Why, reply.Dataset, what)
	return nil
}

// maxSent bounds what is remembered of operators' snapshots on their way: a cut
// sync has brought the newest of them last.
const maxSent = 1000

// operators are the operators' snapshots that the plan is about to send, with
// those of earlier syncs that the target has and has not marked yet. One that is
// destroyed here while the sync is cut can then be told from somebody's data.
func (r *run) operators(p plan.Plan) sentLists {
	out := sentLists{}
	for i, pair := range r.pairs {
		var list sentList
		for _, s := range pair.Target.Snapshots {
			if !s.Received && slices.Contains(pair.Sent, s.GUID) {
				list.GUIDs = append(list.GUIDs, s.GUID)
			}
		}
		at := slices.IndexFunc(p.Volumes, func(v plan.VolumePlan) bool { return v.Volume == r.guest.Volumes[i] })
		if at < 0 {
			continue
		}
		for _, step := range p.Volumes[at].Steps {
			for _, a := range step.Arrivals {
				if a.Tandem {
					list.Point = a.GUID
				} else {
					list.GUIDs = append(list.GUIDs, a.GUID)
				}
			}
		}
		if n := len(list.GUIDs); n > 0 {
			list.GUIDs = list.GUIDs[max(0, n-maxSent):]
			out[pair.Volume] = list
		}
	}
	return out
}
