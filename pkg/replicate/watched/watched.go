// Package watched is for work that an operator began and waits for: it goes on as long as somebody watches it.
package watched

import (
	"context"
	"errors"
	"time"
)

// Lease is how long work goes on that nobody watches.
const Lease = 30 * time.Second

// watchWait is how long Watch waits for the end.
const watchWait = time.Second

// Why work is ended.
var (
	ErrUnwatched = errors.New("nobody watched it any more")
	ErrCancelled = errors.New("it was ended by whoever began it")
	ErrStopped   = errors.New("the daemon ended")
)

// Work is some of it. It is safe for concurrent use.
type Work struct {
	cancel context.CancelCauseFunc
	lease  *time.Timer
	done   chan struct{}
}

// Begin gives the context in which the work is to be done. Whoever does it calls Done at its end.
func Begin() (context.Context, *Work) {
	ctx, cancel := context.WithCancelCause(context.Background())
	w := &Work{cancel: cancel, done: make(chan struct{})}
	w.lease = time.AfterFunc(Lease, func() { cancel(ErrUnwatched) })
	return ctx, w
}

// Done says that nothing of it goes on any more.
func (w *Work) Done() {
	w.lease.Stop()
	w.cancel(nil)
	close(w.done)
}

// Watch keeps it going, and waits a little for its end.
func (w *Work) Watch(ctx context.Context) {
	w.lease.Reset(Lease)
	enough := time.NewTimer(watchWait)
	defer enough.Stop()
	select {
	case <-w.done:
		w.lease.Stop()
	case <-enough.C:
	case <-ctx.Done():
	}
}

// End ends it, and does not wait for that. The first cause counts; what has ended is left alone.
func (w *Work) End(cause error) { w.cancel(cause) }

// Wait waits until nothing of it goes on any more, or ctx ends.
func (w *Work) Wait(ctx context.Context) {
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}
