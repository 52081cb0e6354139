package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// poolsEvery is how often the pools are looked at: reading a file each, without a lock.
const poolsEvery = 5 * time.Second

// pools watches the pools below this node's storages. A pool that is suspended or not imported is told once in the journal, and in
// every status as long as it lasts; the syncs of its volumes are put off meanwhile, by what pkg/zfs answers.
type pools struct {
	names []string
	look  func(pool string) (zfs.PoolTrouble, error)
	log   *zap.Logger
	now   func() time.Time

	mu       sync.Mutex
	troubles map[string]poolTrouble
}

type poolTrouble struct {
	what  string
	since time.Time
}

func (d *Daemon) newPools() *pools {
	p := &pools{look: d.zfs.PoolTrouble, log: d.log, now: d.now, troubles: map[string]poolTrouble{}}
	for _, dataset := range d.conf.Storages {
		pool := zname.PoolOf(dataset)
		if !slices.Contains(p.names, pool) {
			p.names = append(p.names, pool)
		}
	}
	slices.Sort(p.names)
	return p
}

func (p *pools) run(ctx context.Context) {
	tick := time.NewTicker(poolsEvery)
	defer tick.Stop()
	for {
		for _, name := range p.names {
			p.note(name)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *pools) note(name string) {
	trouble, err := p.look(name)
	what := string(trouble)
	if err != nil {
		what = "in an unknown state: " + err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.troubles[name]
	switch what {
	case was.what:
	case "":
		delete(p.troubles, name)
		p.log.Info("a pool is in order again", zap.String("pool", name), zap.Duration("after", p.now().Sub(was.since)))
	default:
		p.troubles[name] = poolTrouble{what: what, since: p.now()}
		p.log.Error("pool "+name+" is "+what+"; the syncs of its volumes wait", zap.String("pool", name),
			zap.String("hint", poolHint(trouble)))
	}
}

func poolHint(t zfs.PoolTrouble) string {
	switch t {
	case zfs.PoolSuspended:
		return "see `zpool status`; once the disks are back: `zpool clear`"
	case zfs.PoolNotImported:
		return "see `zpool import`"
	}
	return "see the kernel's log"
}

// list is a sentence for each pool in trouble.
func (p *pools) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, name := range p.names {
		if t, ok := p.troubles[name]; ok {
			out = append(out, fmt.Sprintf("pool %s is %s since %s; the syncs of its volumes wait", name, t.what, t.since.Format(time.RFC3339)))
		}
	}
	return out
}
