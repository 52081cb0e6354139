package replicate

import (
	"math"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/local"
)

// PreviewClean is what a sync removes from one volume of one node once its point
// has arrived; on the source it may be left to the next sync.
type PreviewClean struct {
	Node   string
	Volume guest.Volume
	// Snapshots are names, oldest first.
	Snapshots []string
}

// untaken stands for the GUID of a point that is not taken yet.
const untaken = math.MaxUint64

// cleans are what the sync would remove, by the same rules: its plan's end is taken
// for what the target has, and the point for taken.
func (r *run) cleans(p plan.Plan, point string) []PreviewClean {
	guids := map[guest.Volume]uint64{}
	own := map[guest.Volume][]plan.Snapshot{}
	for i, v := range r.guest.Volumes {
		snaps := local.Side(r.names[i], r.own[i]).Snapshots
		at := slices.IndexFunc(snaps, func(s plan.Snapshot) bool { return s.Name == point })
		if at < 0 {
			at = len(snaps)
			snaps = append(snaps, plan.Snapshot{
				Name: point, GUID: untaken, TXG: math.MaxUint64, Tandem: true, Complete: true, Volumes: r.guest.Volumes,
			})
		}
		own[v], guids[v] = snaps, snaps[at].GUID
	}
	p.Volumes = slices.Clone(p.Volumes)
	after := holdings{}
	for i, v := range p.Volumes {
		v.After = slices.Clone(v.After)
		held := plan.Held{Pins: []uint64{guids[v.Volume]}}
		for n, s := range v.After {
			if s.Name == point && s.GUID == 0 {
				v.After[n].GUID = guids[v.Volume]
			}
			if s.Tandem || s.Name == point {
				held.Has = append(held.Has, v.After[n].GUID)
			}
		}
		p.Volumes[i], after[v.Volume] = v, held
	}
	var out []PreviewClean
	spare := r.spareAtTarget(p, point, guids)
	for _, v := range p.Volumes {
		out = appendClean(out, r.target, v.Volume, slices.Concat(v.Gone, spare.Spare[v.Volume]))
	}
	spare = r.judge(own, after)
	for _, v := range r.guest.Volumes {
		out = appendClean(out, string(r.s.o.Name), v, spare.Spare[v])
	}
	return out
}

func appendClean(out []PreviewClean, node string, v guest.Volume, refs []plan.Ref) []PreviewClean {
	if len(refs) == 0 {
		return out
	}
	c := PreviewClean{Node: node, Volume: v}
	for _, ref := range refs {
		c.Snapshots = append(c.Snapshots, ref.Name)
	}
	return append(out, c)
}
