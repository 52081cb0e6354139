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
	for _, v := range p.Volumes {
		pair := r.pairs[slices.Index(r.guest.Volumes, v.Volume)]
		var list sentList
		for _, s := range pair.Target.Snapshots {
			if !s.Received && slices.Contains(pair.Sent, s.GUID) {
				list.GUIDs = append(list.GUIDs, s.GUID)
			}
		}
		for _, step := range v.Steps {
			list.add(step.Arrivals)
		}
		if n := len(list.GUIDs); n > 0 {
			list.GUIDs = list.GUIDs[max(0, n-maxSent):]
			out[v.Volume] = list
		}
	}
	return out
}

func (l *sentList) add(arrivals []plan.Snapshot) {
	for _, a := range arrivals {
		if a.Tandem {
			l.Point = a.GUID
		} else {
			l.GUIDs = append(l.GUIDs, a.GUID)
		}
	}
}
