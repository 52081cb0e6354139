package local

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/tandemd/tandem/pkg/replicate/gather"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Together lists and changes the datasets of many syncs at once: what is due
// together is listed, snapshotted, marked and cleaned in one process for each
// pool. The syncs know of each other only that they are [Near]. The sides of one node share it.
type Together struct {
	zfs     ZFS
	lists   gather.Group[[]string, []zfs.Dataset]
	changes gather.Group[zfs.Change, zfs.Changed]

	mu sync.Mutex
	// heavy are datasets with so many snapshots that nobody should wait for their list.
	heavy map[string]bool
	// near are the syncs that go on at this node, in either role.
	near map[*Near]struct{}
}

const (
	// mostNames is how many datasets one process lists, mostChanges how many snapshots
	// one changes: nothing else happens in the pool meanwhile.
	mostNames, mostChanges = 256, 128
	// heavySnapshots is how many a dataset has that is listed alone.
	heavySnapshots = 1000
)

// NewTogether makes that of a node.
func NewTogether(z ZFS) *Together {
	t := &Together{zfs: z, heavy: map[string]bool{}, near: map[*Near]struct{}{}}
	t.lists = gather.Group[[]string, []zfs.Dataset]{
		Serve: t.list, Weight: func(names []string) int { return len(names) }, Most: mostNames, Apart: apart,
	}
	t.changes = gather.Group[zfs.Change, zfs.Changed]{
		Serve:  func(ctx context.Context, lot []zfs.Change) ([]zfs.Changed, error) { return z.Change(ctx, lot...) },
		Weight: weight, Most: mostChanges, Apart: apart,
	}
	return t
}

// apart: a lot that failed for what only one of its calls is about is tried call by
// call. A pool that does not answer would not answer any of them.
func apart(err error) bool {
	return !slices.Contains([]zfs.Class{zerr.Hung, zerr.Canceled, zerr.Pool, zerr.PoolAbsent}, zfs.ClassOf(err))
}

// List reads the datasets, as [zfs.ZFS.List] does: one process for each of their pools, or a part of one.
func (t *Together) List(ctx context.Context, names ...string) ([]zfs.Dataset, error) {
	return t.listed(ctx, names, func(string) gather.Wait { return gather.Wait{} })
}

// listed lists; wait is for whom the part of a pool waits.
func (t *Together) listed(ctx context.Context, names []string, wait func(line string) gather.Wait) ([]zfs.Dataset, error) {
	lines := map[string][]string{}
	for _, name := range names {
		lines[t.line(name)] = append(lines[t.line(name)], name)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		errs  []error
		found = make(map[string]zfs.Dataset, len(names))
	)
	for key, part := range lines {
		wg.Go(func() {
			list, err := t.lists.Call(ctx, key, part, wait(key))
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, canceled("list", part[0], ctx, err))
			for _, d := range list {
				found[d.Name] = d
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := make([]zfs.Dataset, 0, len(names))
	for _, name := range names {
		out = append(out, found[name])
	}
	return out, nil
}

// line is in which a dataset is listed: its pool's or, if it has very many snapshots, its own.
func (t *Together) line(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heavy[name] {
		return name
	}
	return zname.PoolOf(name)
}

func (t *Together) list(ctx context.Context, lot [][]string) ([][]zfs.Dataset, error) {
	var names []string
	for _, part := range lot {
		for _, name := range part {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	list, err := t.zfs.List(ctx, names...)
	if err != nil {
		return nil, err
	}
	t.weigh(list)
	out := make([][]zfs.Dataset, len(lot))
	for i, part := range lot {
		for _, name := range part {
			out[i] = append(out[i], list[slices.Index(names, name)])
		}
	}
	return out, nil
}

// weigh remembers which datasets are listed alone.
func (t *Together) weigh(list []zfs.Dataset) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range list {
		if len(d.Snapshots) > heavySnapshots {
			t.heavy[d.Name] = true
		} else {
			delete(t.heavy, d.Name)
		}
	}
}

// Change makes a change, as [zfs.ZFS.Change] does. One that is about very many
// snapshots is made in pieces, in this order: what it checks and takes, all marks,
// what it destroys.
func (t *Together) Change(ctx context.Context, c zfs.Change) (zfs.Changed, error) {
	return t.changed(ctx, c, func(string) gather.Wait { return gather.Wait{} })
}

// changed makes a change; wait is for whom it waits in a pool's line.
func (t *Together) changed(ctx context.Context, c zfs.Change, wait func(pool string) gather.Wait) (zfs.Changed, error) {
	if err := zfs.CheckChanges([]zfs.Change{c}); err != nil {
		return zfs.Changed{}, err
	}
	var out zfs.Changed
	pool := zname.PoolOf(c.Volumes[0].Dataset)
	first := wait(pool)
	for i, piece := range pieces(c) {
		done, err := t.changes.Call(ctx, pool, piece, first)
		first = gather.Wait{}
		if err = canceled("change", c.Volumes[0].Dataset, ctx, err); err != nil || done.Err != nil {
			return zfs.Changed{Err: done.Err}, err
		}
		if i == 0 {
			out = done
			continue
		}
		for k := range done.Volumes {
			out.Volumes[k].Left = append(out.Volumes[k].Left, done.Volumes[k].Left...)
		}
	}
	return out, nil
}

// canceled makes the error of a caller that left.
func canceled(op, dataset string, ctx context.Context, err error) error { //nolint:revive // context-as-argument: it is only looked at
	if err == nil || ctx.Err() == nil {
		return err
	}
	return &zfs.Error{Op: op, Dataset: dataset, Class: zfs.ClassCanceled, Exit: -1, Err: context.Cause(ctx)}
}

// weight is how many snapshots a change is about.
func weight(c zfs.Change) int {
	n := 0
	for _, v := range c.Volumes {
		n += 1 + len(v.Destroy)
		for _, m := range v.Mark {
			n += len(m.Snapshots)
		}
	}
	return n
}

// pieces splits a change that is too large for one.
func pieces(c zfs.Change) []zfs.Change {
	if weight(c) <= mostChanges {
		return []zfs.Change{c}
	}
	var out []zfs.Change
	next, room := bare(c), mostChanges
	next.Take, next.Props = c.Take, c.Props
	// fill hands out how many of n go into the next piece, until none is left.
	fill := func(n int, take func(v []zfs.VolumeChange, from, to int)) {
		for from := 0; from < n; {
			if room == 0 {
				out = append(out, next)
				next, room = bare(c), mostChanges
			}
			to := min(n, from+room)
			take(next.Volumes, from, to)
			room -= to - from
			from = to
		}
	}
	for i, v := range c.Volumes {
		for _, m := range v.Mark {
			fill(len(m.Snapshots), func(v []zfs.VolumeChange, from, to int) {
				v[i].Mark = append(v[i].Mark, zfs.Marking{Props: m.Props, Snapshots: m.Snapshots[from:to]})
			})
		}
	}
	for i, v := range c.Volumes {
		fill(len(v.Destroy), func(into []zfs.VolumeChange, from, to int) {
			into[i].Destroy = append(into[i].Destroy, v.Destroy[from:to]...)
		})
	}
	return append(out, next)
}

// bare is a change that does nothing but look, at all that the change looks at.
func bare(c zfs.Change) zfs.Change {
	b := zfs.Change{Volumes: slices.Clone(c.Volumes)}
	for i := range b.Volumes {
		b.Volumes[i].Mark, b.Volumes[i].Destroy = nil, nil
	}
	return b
}
