package local

import (
	"context"
	"sync"

	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/plan/gate"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Pools remembers what seldom changes of this node's pools: a sync starts no process for it. A run that failed has them forgotten,
// so that the next one asks again.
type Pools struct {
	mu    sync.Mutex
	known map[string]plan.Pool
}

// Forget has all pools asked again.
func (p *Pools) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = nil
}

// Get asks at the first call. What cannot be told now (an older zpool, a pool that hangs) is left open, and not asked for again
// until Forget: ZFS itself refuses later what does not fit, and that is a run that failed.
func (p *Pools) Get(ctx context.Context, z ZFS, name string) plan.Pool {
	p.mu.Lock()
	known, ok := p.known[name]
	p.mu.Unlock()
	if ok {
		return known
	}
	facts, err := z.PoolFacts(ctx, name)
	if ctx.Err() != nil {
		return plan.Pool{Name: name}
	}
	out := plan.Pool{Name: name}
	if err == nil {
		out.ReadOnly, out.Features = facts.ReadOnly, map[string]string{}
	}
	for _, f := range gate.Relevant() {
		if state, ok := facts.Features[f]; ok && err == nil {
			out.Features[f] = state
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[string]plan.Pool{}
	}
	p.known[name] = out
	return out
}

// Facts are what a dataset of this node is like, but for its pool.
func Facts(d zfs.Dataset) plan.Facts {
	if !d.Exists() {
		return plan.Facts{}
	}
	return plan.Facts{
		Mode: d.Props[zfs.PropMode], RecordSize: d.BlockSize(), Referenced: d.Referenced,
		Compression: d.Native["compression"].Value, DNodeSize: d.Native["dnodesize"].Value,
	}
}

// Mode is how the streams of a dataset are made: as was recorded, else as it is.
func Mode(d zfs.Dataset) string { return plan.ModeOf(d.Props[zfs.PropMode], Encrypted(d)) }

// Manifest are the values of a dataset that go with it.
func Manifest(d zfs.Dataset) manifest.Values {
	return manifest.Of(manifest.Kind(d.Type), d.Own())
}
