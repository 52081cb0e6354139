// Package zfstest is a working in-memory ZFS for tests: [Pool] has the methods of [zfs.ZFS], with GUIDs, createtxg, increments,
// bookmarks, holds, resume tokens, clones, properties and space, answers with the same errors, and lets a test inject faults by
// operation. zfstest/contract is what fake and real ZFS both keep. Tests alone import it.
//
// What it is not: fast with much data (content is kept in blocks of 4 KiB), or a model of the disk's format: its streams are its own.
package zfstest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/fault"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Options make a [Pool]; the zero value is a machine with a pool "tank" of 1 GiB and OpenZFS 2.3.2.
type Options struct {
	// Pools are the names of the machine's pools; default "tank".
	Pools []string
	// Size of each pool in bytes; default 1 GiB.
	Size uint64
	// Node makes this machine's GUIDs differ from others'; give each machine its own.
	Node string
	// Version of the kernel module and tools; default "2.3.2".
	Version string
	// Now is the clock for creation times; default time.Now. It may go back.
	Now func() time.Time
	// Timeout is when a hanging operation becomes an error of ClassHung; default 2 minutes.
	Timeout time.Duration
	// Hook is called before and after each operation's effect, without locks held; an error is what the operation returns. It
	// numbers kill points. May be nil.
	Hook func(Event) error
	// Volatile: what is in no synced transaction group is lost at a [Pool.PowerCut].
	Volatile bool
	// SyncEvery is after how many records of a stream a Volatile machine syncs a transaction group; default 16. Every operation
	// but a List syncs one too.
	SyncEvery int
}

// Fault is what a test injects.
type Fault = fault.Fault

// Event is a moment in an operation.
type Event = fault.Event

// Pool is one machine's ZFS. It is safe for concurrent use.
type Pool struct {
	*fault.Injector

	opt      Options
	mu       sync.Mutex
	pools    map[string]PoolState
	datasets map[string]*disk.Dataset
	txg      uint64
	guids    uint64
	power    power
}

// New makes a machine with empty pools.
func New(opt Options) *Pool {
	if len(opt.Pools) == 0 {
		opt.Pools = []string{"tank"}
	}
	opt.Size = cmp.Or(opt.Size, 1<<30)
	opt.Version = cmp.Or(opt.Version, "2.3.2")
	opt.Timeout = cmp.Or(opt.Timeout, 2*time.Minute)
	opt.SyncEvery = cmp.Or(opt.SyncEvery, 16)
	if opt.Now == nil {
		opt.Now = time.Now
	}
	p := &Pool{
		Injector: &fault.Injector{Timeout: opt.Timeout, Hook: opt.Hook}, opt: opt,
		pools: map[string]PoolState{}, datasets: map[string]*disk.Dataset{}, txg: 4,
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, opt.Node+"\x00"+strings.Join(opt.Pools, "\x00"))
	p.guids = h.Sum64()
	for _, name := range opt.Pools {
		p.pools[name] = PoolState{Size: opt.Size}
		p.add(name, zfs.TypeFilesystem)
	}
	return p
}

func (p *Pool) add(name string, typ zfs.Type) *disk.Dataset {
	p.txg++
	d := &disk.Dataset{Name: name, Type: typ, GUID: p.newGUID(), CreateTXG: p.txg, Props: map[string]string{}, Marks: map[string]*disk.Snapshot{}}
	p.datasets[name] = d
	return d
}

// newGUID is splitmix64: all different, the same in every run.
func (p *Pool) newGUID() uint64 {
	p.guids += 0x9e3779b97f4a7c15
	x := p.guids
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31 | 1
}

// Counters count the processes that a real one would have started.
func (p *Pool) Counters() zfs.Counters {
	return zfs.Counters{Started: int64(len(p.Calls()))}
}

// do runs an operation's effect under the lock, between its two moments.
func (p *Pool) do(ctx context.Context, op string, names []string, effect func() error) error {
	return p.about(ctx, op, strings.Join(names[:min(1, len(names))], ""), names, effect)
}

func (p *Pool) about(ctx context.Context, op, name string, names []string, effect func() error) error {
	life := p.life()
	if err := p.At(ctx, Event{Op: op, Name: name}); err != nil {
		return err
	}
	p.mu.Lock()
	err := p.alive(life, op, name)
	if err == nil {
		err = p.ready(op, names)
	}
	if err == nil {
		p.txg++
		err = effect()
		p.synced()
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.At(ctx, Event{Op: op, Name: name, After: true})
}

func (p *Pool) ready(op string, names []string) error {
	for _, name := range names {
		pool := zname.PoolOf(name)
		switch v, ok := p.pools[pool]; {
		case !ok || v.Exported:
			return zerr.Absent(op, name, pool)
		case v.Suspended:
			return zerr.Suspended(op, name, pool)
		case v.ReadOnly && !reads(op):
			return zerr.New(op, name, 1, fmt.Sprintf("cannot change '%s': pool is read-only", name))
		}
	}
	return nil
}

// open finds a dataset; zfs says the same of all commands.
func (p *Pool) open(op, name string) (*disk.Dataset, error) {
	if d := p.datasets[name]; d != nil {
		return d, nil
	}
	return nil, zerr.New(op, name, 1, fmt.Sprintf("cannot open '%s': dataset does not exist", name))
}

// openSnap finds a snapshot or bookmark by its full name.
func (p *Pool) openSnap(op, full string) (*disk.Snapshot, error) {
	if d := p.datasets[zname.DatasetOf(full)]; d != nil {
		if _, name, ok := strings.Cut(full, "#"); ok && d.Marks[name] != nil {
			return d.Marks[name], nil
		}
		if _, name, ok := strings.Cut(full, "@"); ok {
			if s := d.Snap(name); s != nil {
				return s, nil
			}
		}
	}
	return nil, zerr.New(op, full, 1, fmt.Sprintf("cannot open '%s': dataset does not exist", full))
}

// props returns the own properties of a dataset or snapshot.
func (p *Pool) props(op, name string) (map[string]string, error) {
	if strings.Contains(name, "@") {
		s, err := p.openSnap(op, name)
		if err != nil {
			return nil, err
		}
		return s.Props, nil
	}
	d, err := p.open(op, name)
	if err != nil {
		return nil, err
	}
	return d.Props, nil
}

// used is what a pool's or dataset's tree takes.
func (p *Pool) used(root string) uint64 {
	var n uint64
	for name, d := range p.datasets {
		if name == root || strings.HasPrefix(name, root+"/") {
			n += d.Used()
		}
	}
	return n
}

// room tells whether n more bytes fit below name: the pool, and each ancestor's quota.
func (p *Pool) room(name string, n uint64) string {
	pool := zname.PoolOf(name)
	if p.used(pool)+n > p.pools[pool].Size {
		return "out of space"
	}
	for at := name; at != ""; at = parentOf(at) {
		if quota := p.quota(at); quota > 0 && p.used(at)+n > quota {
			return "destination " + name + " space quota exceeded"
		}
	}
	return ""
}

// quota is that of a dataset itself, or 0.
func (p *Pool) quota(name string) uint64 {
	if d := p.datasets[name]; d != nil {
		n, _ := strconv.ParseUint(d.Props["quota"], 10, 64)
		return n
	}
	return 0
}

// available is what the pool, and the quotas above, leave below name.
func (p *Pool) available(name string) uint64 {
	pool := zname.PoolOf(name)
	n := p.pools[pool].Size - min(p.used(pool), p.pools[pool].Size)
	for at := name; at != ""; at = parentOf(at) {
		if quota := p.quota(at); quota > 0 {
			n = min(n, quota-min(p.used(at), quota))
		}
	}
	return n
}

func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

// Version answers with Options.Version.
func (p *Pool) Version(ctx context.Context) (zfs.Version, error) {
	v := zfs.Version{Userland: p.opt.Version, Kernel: p.opt.Version}
	return v, p.do(ctx, "Version", nil, func() error { return nil })
}

// Storage answers for a storage's root.
func (p *Pool) Storage(ctx context.Context, dataset string) (zfs.Storage, error) {
	var s zfs.Storage
	err := p.do(ctx, "Storage", []string{dataset}, func() error {
		d, err := p.open("storage", dataset)
		if err != nil {
			return err
		}
		pool := zname.PoolOf(dataset)
		s = zfs.Storage{
			Dataset: dataset, Type: string(d.Type), Available: p.available(dataset), Used: p.used(dataset), Pool: pool, Health: "ONLINE",
			PoolFree: p.available(pool), PoolSize: p.pools[pool].Size,
		}
		return nil
	})
	return s, err
}

// check turns a refused name into the error that the real one gives.
func check(op string, errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return zerr.Refuse(op, "", err)
	}
	return nil
}

func names(list []string, kind func(string) error) error {
	for _, name := range list {
		if err := kind(name); err != nil {
			return err
		}
	}
	return nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
