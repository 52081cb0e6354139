// Package gather serves calls together that arrive together, as a database
// commits the transactions of many in one write: what costs a process for each
// call costs one for all. It knows nothing of ZFS; pkg/replicate/local lists and
// changes datasets with it.
//
// The calls of one line are served in lots: those that come while a lot is being
// served make the next one. The first of a lot waits a little for those that were
// fired with it, and longer for those of which it knows that they are near.
package gather

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Group serves calls of one kind. Its fields are set before the first call.
type Group[In, Out any] struct {
	// Serve does what a lot asks for: one result for each, in order. An error is that of the whole lot.
	Serve func(ctx context.Context, lot []In) ([]Out, error)
	// Weight is what a call counts in a lot, at least 1; Most what a lot may weigh,
	// unless it is a single call.
	Weight func(In) int
	Most   int
	// Apart says that after this error of a lot its calls are tried one by one.
	Apart func(error) bool

	mu    sync.Mutex
	lines map[string]*line[In, Out]
}

// Wait says for whom a call waits; the zero value: for nobody.
type Wait struct {
	// Most is how long at most. It may be a quarter of the time that the last lot took, if that is more: what is late for
	// one lot waits for it to end.
	Most time.Duration
	// Near says whether others are about to come that are not there yet; see [Group.Look]. It must not call the group.
	Near func() bool
	// Came is called once the call is in its line, so that nobody goes because the last one who was near has come
	// and is not there yet. It may call Look. May be nil.
	Came func()
}

const (
	// LeastWait is what each call waits for others where none are known of.
	LeastWait = 3 * time.Millisecond
	// mostQuarter bounds the quarter of the last lot's time.
	mostQuarter = 300 * time.Millisecond
	// patience is how long a lot may take before the next one is served beside it: one
	// call may be about ten thousand snapshots.
	patience = 3 * time.Second
)

// errLeft is the cause with which a lot ends that nobody waits for any more.
var errLeft = errors.New("nobody waits for it any more")

// line is what waits and runs under one key. The group's lock guards it.
type line[In, Out any] struct {
	waiting []*call[In, Out]
	// serving says that a lot is being gathered or served and not overdue.
	serving bool
	news    chan struct{} // has a value when somebody came, or may not come any more
	took    time.Duration // by the last lot
}

type call[In, Out any] struct {
	in   In
	wait Wait
	came time.Time
	out  Out
	err  error
	lot  *lot // nil while it waits
	done chan struct{}
}

// lot is what its calls share.
type lot struct {
	callers int
	cancel  context.CancelCauseFunc
}

// Call waits until a lot with this call was served. A caller whose context ends
// leaves; the lot goes on for the others. Calls with different keys never meet.
// A lot is served once one of its calls waits no longer.
func (g *Group[In, Out]) Call(ctx context.Context, key string, in In, wait Wait) (Out, error) {
	c := &call[In, Out]{in: in, wait: wait, came: time.Now(), done: make(chan struct{})}
	g.mu.Lock()
	if g.lines == nil {
		g.lines = map[string]*line[In, Out]{}
	}
	l := g.lines[key]
	if l == nil {
		l = &line[In, Out]{news: make(chan struct{}, 1)}
		g.lines[key] = l
	}
	l.waiting = append(l.waiting, c)
	if !l.serving {
		l.serving = true
		go g.serve(context.WithoutCancel(ctx), l)
	}
	l.tell()
	g.mu.Unlock()
	if wait.Came != nil {
		wait.Came()
	}
	select {
	case <-c.done:
		return c.out, c.err
	case <-ctx.Done():
		var none Out
		return none, g.leave(ctx, l, c)
	}
}

func (l *line[In, Out]) tell() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// Look has a lot that waits ask again who is near.
func (g *Group[In, Out]) Look(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.lines[key]; l != nil {
		l.tell()
	}
}

// leave takes a call back. The last one of a lot ends it and waits for that.
func (g *Group[In, Out]) leave(ctx context.Context, l *line[In, Out], c *call[In, Out]) error {
	g.mu.Lock()
	last := false
	if c.lot == nil {
		l.waiting = slices.DeleteFunc(l.waiting, func(x *call[In, Out]) bool { return x == c })
	} else if c.lot.callers--; c.lot.callers == 0 {
		last = true
		c.lot.cancel(errLeft)
	}
	g.mu.Unlock()
	if last {
		<-c.done
	}
	return context.Cause(ctx)
}

// serve serves lots until nobody waits, or somebody else does it.
func (g *Group[In, Out]) serve(ctx context.Context, l *line[In, Out]) {
	for {
		g.gather(l)
		calls, run := g.next(ctx, l)
		if calls == nil {
			return
		}
		late := make(chan bool, 1)
		overdue := time.AfterFunc(patience, func() { late <- g.overtake(ctx, l) })
		began := time.Now()
		g.do(run, calls)
		took := time.Since(began)
		overtaken := !overdue.Stop() && <-late
		g.mu.Lock()
		l.took = took
		g.mu.Unlock()
		if overtaken {
			return
		}
	}
}

// overtake lets the next lot be served beside one that takes long.
func (g *Group[In, Out]) overtake(ctx context.Context, l *line[In, Out]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.serving = len(l.waiting) > 0
	if l.serving {
		go g.serve(ctx, l)
	}
	return true
}

// gather waits until one of those that wait waits no longer, or none is left.
func (g *Group[In, Out]) gather(l *line[In, Out]) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left := g.left(l, time.Now())
		if left <= 0 {
			return
		}
		timer.Reset(left)
		select {
		case <-timer.C:
		case <-l.news:
		}
	}
}

// left is how long the next lot still waits. One that is full does not, nor one that nobody waits for.
func (g *Group[In, Out]) left(l *line[In, Out], now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	least, weight := time.Duration(0), 0
	for i, c := range l.waiting {
		wait := LeastWait
		if c.wait.Near != nil && c.wait.Near() {
			wait = max(wait, c.wait.Most, min(l.took/4, mostQuarter))
		}
		if left := c.came.Add(wait).Sub(now); i == 0 || left < least {
			least = left
		}
		if weight += max(1, g.Weight(c.in)); weight >= g.Most {
			return 0
		}
	}
	return least
}

// next takes the next lot off the line; nil where nobody waits.
func (g *Group[In, Out]) next(ctx context.Context, l *line[In, Out]) ([]*call[In, Out], context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, weight := 0, 0
	for n < len(l.waiting) {
		weight += max(1, g.Weight(l.waiting[n].in))
		if n > 0 && weight > g.Most {
			break
		}
		n++
	}
	if n == 0 {
		l.serving = false
		return nil, nil
	}
	calls := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	run, cancel := context.WithCancelCause(ctx)
	shared := &lot{callers: n, cancel: cancel}
	for _, c := range calls {
		c.lot = shared
	}
	return calls, run
}

// attempt serves calls together.
func (g *Group[In, Out]) attempt(ctx context.Context, calls []*call[In, Out]) {
	in := make([]In, 0, len(calls))
	for _, c := range calls {
		in = append(in, c.in)
	}
	out, err := g.Serve(ctx, in)
	if err == nil && len(out) != len(in) {
		err = fmt.Errorf("%d answers to %d calls", len(out), len(in))
	}
	for i, c := range calls {
		if c.err = err; err == nil {
			c.out = out[i]
		}
	}
}

// do serves a lot and tells its callers.
func (g *Group[In, Out]) do(ctx context.Context, calls []*call[In, Out]) {
	defer calls[0].lot.cancel(nil)
	g.attempt(ctx, calls)
	if err := calls[0].err; len(calls) > 1 && err != nil && ctx.Err() == nil && g.Apart(err) {
		for i := range calls {
			g.attempt(ctx, calls[i:i+1])
		}
	}
	for _, c := range calls {
		close(c.done)
	}
}
