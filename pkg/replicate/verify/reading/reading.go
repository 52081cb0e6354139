// Package reading reads snapshots of this node's volumes for a comparison: one
// pool at a time, held to a rate, through clones that go again. What a dead
// process left of them is swept away.
//
// It compares nothing and talks to nobody; pkg/replicate/verify is its caller.
package reading

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/verify/content"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// ZFS is what it needs of pkg/zfs.
type ZFS interface {
	List(ctx context.Context, names ...string) ([]zfs.Dataset, error)
	Children(ctx context.Context, root string) ([]zfs.Dataset, error)
	Contents(ctx context.Context, spec zfs.ContentsSpec) (zfs.Stream, error)
	DropContents(ctx context.Context, spec zfs.ContentsSpec) error
}

// Reader reads on one node.
type Reader struct {
	o   local.Options
	zfs ZFS
	// folder is where filesystems are mounted.
	folder string
	// stall is how long a disk may give nothing.
	stall time.Duration

	mu sync.Mutex
	// pools are those that are being read, and for whom.
	pools map[string]string
	// open are the clones of this process.
	open map[string]bool
}

// Stall is how long a disk may give nothing before the reading is given up.
const Stall = 2 * time.Minute

// New makes that of a node; folder is an existing one of the daemon's own.
func New(o local.Options, z ZFS, folder string) *Reader {
	return &Reader{o: o, zfs: z, folder: folder, stall: Stall, pools: map[string]string{}, open: map[string]bool{}}
}

// Claim takes the pools of the datasets for one guest, or tells who has one: a
// disk that serves guests is not read twice at a time.
func (r *Reader) Claim(g guest.ID, datasets []string) (release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var mine []string
	for _, d := range datasets {
		pool := zname.PoolOf(d)
		if who := r.pools[pool]; who != "" && !slices.Contains(mine, pool) {
			for _, p := range mine {
				delete(r.pools, p)
			}
			return nil, fault.Busy("wait until it has ended: one verification reads a pool at a time",
				"pool %s on %s is being read already, to verify guest %s", pool, r.o.Name, who)
		}
		r.pools[pool] = g.String()
		mine = append(mine, pool)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range mine {
			delete(r.pools, p)
		}
	}, nil
}

// Spec says what to read.
type Spec struct {
	Guest   guest.ID
	Cluster string
	Volume  guest.Volume
	Type    zfs.Type
	// Name and GUID are those of the snapshot.
	Name string
	GUID uint64
	// Limiter is in bytes per second; nil is no limit.
	Limiter *rate.Limiter
}

// Reading is a snapshot that is being read.
type Reading struct {
	entries chan content.Entry
	// Bytes is how many were read so far.
	Bytes  atomic.Uint64
	cancel context.CancelCauseFunc
	err    error         // after entries is closed
	done   chan struct{} // closed when the clone is gone
	left   error         // after done
}

// ahead is how many entries are read before somebody wants them.
const ahead = 256

// Open begins to read. The snapshot must be the one with the GUID.
func (r *Reader) Open(ctx context.Context, spec Spec) (*Reading, error) {
	dataset, err := r.o.Dataset(spec.Volume)
	if err != nil {
		return nil, err
	}
	if err := r.there(ctx, dataset, spec); err != nil {
		return nil, err
	}
	name := make([]byte, 8)
	if _, err := rand.Read(name); err != nil {
		return nil, err
	}
	clone := zfs.ContentsSpec{
		Snapshot: dataset + "@" + spec.Name, Type: spec.Type, Folder: r.folder, Guest: spec.Guest.String(), Cluster: spec.Cluster,
		Clone: r.o.Storages[spec.Volume.Storage] + "/" + guest.ReadingPrefix + hex.EncodeToString(name),
	}
	r.mark(clone.Clone, true)
	ctx, cancel := context.WithCancelCause(ctx)
	stream, err := r.zfs.Contents(ctx, clone)
	if err == nil {
		if err = r.there(ctx, dataset, spec); err != nil {
			err = errors.Join(err, stream.Close())
		}
	}
	if err != nil {
		cancel(err)
		r.mark(clone.Clone, false)
		return nil, fault.WrapVolume(spec.Volume, err, "read %s on %s", spec.Name, r.o.Name)
	}
	reading := &Reading{entries: make(chan content.Entry, ahead), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(reading.done)
		reading.scan(ctx, spec, &watched{in: stream, reading: reading, limiter: spec.Limiter, ctx: ctx, stall: r.stall})
		reading.left = stream.Close()
		r.mark(clone.Clone, false)
	}()
	return reading, nil
}

// there wants the snapshot to be what it is taken for, before and after it was
// cloned by its name.
func (r *Reader) there(ctx context.Context, dataset string, spec Spec) error {
	list, err := r.zfs.List(ctx, dataset)
	if err != nil {
		return err
	}
	if list[0].Err != nil {
		return fault.WrapVolume(spec.Volume, list[0].Err, "read it on %s", r.o.Name)
	}
	for _, s := range list[0].Snapshots {
		if s.GUID == spec.GUID && s.Name == spec.Name {
			return nil
		}
	}
	return fault.Retry("try again: there is a newer point by now", "volume %s: the snapshot %s is gone on %s", spec.Volume, spec.Name, r.o.Name)
}

func (r *Reader) mark(clone string, open bool) { //nolint:revive // flag-parameter: it is the value
	r.mu.Lock()
	defer r.mu.Unlock()
	if open {
		r.open[clone] = true
	} else {
		delete(r.open, clone)
	}
}

// scan turns the stream into entries until its end.
func (g *Reading) scan(ctx context.Context, spec Spec, in io.Reader) {
	defer close(g.entries)
	scan := content.Chunks
	if spec.Type == zfs.TypeFilesystem {
		scan = content.Files
	}
	g.err = scan(in, func(e content.Entry) error {
		select {
		case g.entries <- e:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if cause := context.Cause(ctx); g.err != nil && cause != nil {
		g.err = cause
	}
}

// Next waits for the next entry; false after the last.
func (g *Reading) Next(ctx context.Context) (content.Entry, bool, error) {
	select {
	case e, ok := <-g.entries:
		if !ok {
			return e, false, g.err
		}
		return e, true, nil
	case <-ctx.Done():
		return content.Entry{}, false, context.Cause(ctx)
	}
}

// Batch waits a while for entries and returns those that there are, at most so
// many; done: there are no more.
func (g *Reading) Batch(ctx context.Context, most int) (list []content.Entry, done bool, err error) {
	e, ok, err := g.Next(ctx)
	if !ok {
		if err != nil && ctx.Err() != nil {
			return nil, false, nil //nolint:nilerr // nothing yet
		}
		return nil, true, err
	}
	list = append(list, e)
	for len(list) < most {
		select {
		case e, ok := <-g.entries:
			if !ok {
				return list, true, g.err
			}
			list = append(list, e)
		default:
			return list, false, nil
		}
	}
	return list, false, nil
}

// Close ends the reading and tells what is left of it. Sweep takes that away later.
func (g *Reading) Close() error {
	g.cancel(errors.New("the reading was ended"))
	<-g.done
	return g.left
}

// watched counts, limits, and gives up a disk that gives nothing.
type watched struct {
	in      io.Reader
	reading *Reading
	limiter *rate.Limiter
	ctx     context.Context //nolint:containedctx // the reading's
	stall   time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	if w.limiter != nil {
		p = p[:min(len(p), w.limiter.Burst())]
	}
	watch := time.AfterFunc(w.stall, func() {
		w.reading.cancel(fmt.Errorf("the disk has given nothing for %s", w.stall))
	})
	n, err := w.in.Read(p)
	watch.Stop()
	w.reading.Bytes.Add(uint64(n)) //nolint:gosec // not negative
	if n > 0 && w.limiter != nil {
		if failed := w.limiter.WaitN(w.ctx, n); failed != nil {
			return n, failed
		}
	}
	return n, err
}
