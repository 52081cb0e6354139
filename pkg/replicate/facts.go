package replicate

import (
	"context"
	"maps"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// doubt notes how a run of the job ended: after a failure the next one looks again at what seldom changes.
func (s *Source) doubt(id guest.JobID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.doubts, id)
		return
	}
	s.doubts[id] = true
}

// doubted says that the last run of the job failed.
func (s *Source) doubted(id guest.JobID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubts[id]
}

// inventory is the question to the target. Both sides look again at what seldom changes where that is due, once in a run.
func (r *run) inventory() wire.InventoryRequest {
	req := wire.InventoryRequest{Request: r.request(), Ahead: wire.Ahead{Anew: r.anew || r.ahead, Preview: r.preview || r.ahead}}
	if r.anew {
		r.s.pools.Forget()
		r.anew = false
	}
	if r.ahead {
		req.Volumes = r.guest.Volumes
	}
	return req
}

// facts adds to a pair what both sides' pools can take.
func (r *run) facts(ctx context.Context, p *plan.Pair, told wire.InventoryVolume) {
	p.Root.Pool = told.RootPool()
	if p.Source.Exists {
		p.Source.Pool = r.s.pools.Get(ctx, r.s.o.ZFS, zname.PoolOf(p.Source.Dataset))
	}
}

// nature is what a volume is like beside its content.
func (r *run) nature(i int) wire.Nature {
	return wire.Nature{Mode: local.Mode(r.own[i]), Manifest: local.Manifest(r.own[i])}
}

// changed is the nature of a volume whose replica differs in it and gets no stream; nil where the replica is as it should be.
func (r *run) changed(v plan.VolumePlan) *wire.Nature {
	for i, told := range r.inv.Volumes {
		if told.Volume != v.Volume || !told.Exists || len(v.Steps) > 0 {
			continue
		}
		n := r.nature(i)
		former := manifest.Parse(told.Manifest)
		c := manifest.Compare(manifest.Kind(told.Kind), n.Manifest, told.Own, former)
		if c.None() && c.Record.Same(former) {
			return nil
		}
		return &n
	}
	return nil
}

// stamp are the properties that make a dataset the owner's volume. How its streams are made is fixed from then on.
func stamp(cluster string, g guest.Guest, v guest.Volume, d zfs.Dataset) map[string]string {
	props := maps.Clone(local.Marks(cluster, g, v, zfs.RoleOwner))
	props[zfs.PropMode] = local.Mode(d)
	return props
}
