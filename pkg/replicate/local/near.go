package local

import (
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/replicate/gather"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Near is a sync that goes on at this node, in one of its roles. It waits a while
// for those that began about when it did and are about to ask for the same as it
// asks for, and they for it: syncs that are due together end one after another, and
// each process costs more than their data. How long it waits is in proportion to
// what it has taken anyway: a commit at most as long again as its receives, a
// snapshot twice as long as what came before it, which is the smaller part of a sync.
//
// A nil Near waits for nobody, nor anybody for it. All its methods may be called by
// several goroutines.
type Near struct {
	t     *Together
	pools []string
	// began is when it did. The rest is guarded by the lock of Together.
	began time.Time
	next  Step
	// over is when nobody waits for it any more; zero: as long as it is near.
	over time.Time
}

// Step is what a sync is about to ask for.
type Step string

// The steps. A snapshot waits for no receive, and a commit for no snapshot.
const (
	StepList   Step = "list"
	StepTake   Step = "take"
	StepCommit Step = "commit"
)

const (
	// mostPatience is how long one waits for others at most, and how much earlier or
	// later than it they may have begun.
	mostPatience = 3 * time.Second
	// longSync is how long those take for which nobody waits: one process more is
	// nothing to them, and when they end nobody knows.
	longSync = 30 * time.Second
	// CommitGrace is how long a commit may take to come once all that it is about has been received.
	CommitGrace = 2 * time.Second
)

// Near notes a sync of these datasets that begins now, with what it will ask for
// first. Leave must be called in the end.
func (t *Together) Near(next Step, datasets ...string) *Near {
	n := &Near{t: t, began: time.Now(), next: next}
	for _, d := range datasets {
		if pool := zname.PoolOf(d); !slices.Contains(n.pools, pool) {
			n.pools = append(n.pools, pool)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.near[n] = struct{}{}
	return n
}

// Next says what it is about to ask for.
func (n *Near) Next(next Step) { n.turn(next, time.Time{}) }

// Rest says that it asks for nothing soon.
func (n *Near) Rest() { n.turn("", time.Time{}) }

// Within says that it asks for it soon, or not at all.
func (n *Near) Within(next Step, most time.Duration) { n.turn(next, time.Now().Add(most)) }

func (n *Near) turn(next Step, over time.Time) {
	if n == nil {
		return
	}
	n.t.mu.Lock()
	before := n.next
	n.next, n.over = next, over
	n.t.mu.Unlock()
	if before != "" && before != next {
		n.tell()
	}
}

// Leave ends it.
func (n *Near) Leave() {
	if n == nil {
		return
	}
	n.t.mu.Lock()
	delete(n.t.near, n)
	n.t.mu.Unlock()
	n.tell()
}

// tell has those who wait look whether there is still somebody to wait for.
func (n *Near) tell() {
	for _, pool := range n.pools {
		n.t.lists.Look(pool)
		n.t.changes.Look(pool)
	}
}

// List is [Together.List].
func (n *Near) List(ctx context.Context, t *Together, names ...string) ([]zfs.Dataset, error) {
	if n == nil {
		return t.List(ctx, names...)
	}
	return t.listed(ctx, names, func(line string) gather.Wait { return n.wait(StepList, line) })
}

// Change is [Together.Change], as the step that it is.
func (n *Near) Change(ctx context.Context, t *Together, step Step, c zfs.Change) (zfs.Changed, error) {
	if n == nil {
		return t.Change(ctx, c)
	}
	return t.changed(ctx, c, func(pool string) gather.Wait { return n.wait(step, pool) })
}

// come says that it has come for what it was about to ask for.
func (n *Near) come(step Step) {
	n.t.mu.Lock()
	due := n.next == step
	n.t.mu.Unlock()
	if due {
		n.Rest()
	}
}

// wait is for whom it waits in a pool's line, and how long.
func (n *Near) wait(step Step, pool string) gather.Wait {
	most := time.Since(n.began)
	if step == StepTake {
		most *= 2
	}
	most = min(most, mostPatience)
	about := most
	if step == StepList { // It is the first thing that all of them do.
		about = mostPatience
	}
	return gather.Wait{
		Most: most, Near: func() bool { return n.t.awaits(n, step, pool, about) }, Came: func() { n.come(step) },
	}
}

// awaits says whether others that began about when it did are about to ask for a step in a pool.
func (t *Together) awaits(n *Near, step Step, pool string, about time.Duration) bool {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for o := range t.near {
		if o == n || o.next != step || !slices.Contains(o.pools, pool) || now.Sub(o.began) > longSync {
			continue
		}
		if apart := o.began.Sub(n.began).Abs(); apart <= about && (o.over.IsZero() || now.Before(o.over)) {
			return true
		}
	}
	return false
}
