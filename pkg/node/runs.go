package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/replicate"
)

const (
	// maxLogLines bounds the log of one run.
	maxLogLines = 200
	// saveEvery is how often the record of a run that goes on is brought up to date,
	// for the case that the daemon is killed.
	saveEvery = time.Minute
)

// run is one sync or removal that is going on. Its goroutine does the I/O and
// reports back to the loop.
type run struct {
	cancel  context.CancelCauseFunc
	limiter *rate.Limiter
	target  guest.NodeID
	removal bool
	slow    bool
	// again is set when the run before was put off, and has been logged.
	again    bool
	started  time.Time
	progress atomic.Pointer[replicate.Progress]
	// record is the ID of its record in the history; 0 until there is one.
	record atomic.Uint64
	// done is closed when its record is written.
	done chan struct{}
	bell *bell

	mu  sync.Mutex
	log []history.LogLine
}

func (r *run) say(now time.Time, level, line string) {
	defer r.bell.ring()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.log) < maxLogLines:
		r.log = append(r.log, history.LogLine{Time: now, Level: level, Message: line})
	case len(r.log) == maxLogLines:
		r.log = append(r.log, history.LogLine{Time: now, Level: "warn", Message: "more lines were left out"})
	}
}

func (r *run) lines() []history.LogLine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.log)
}

// work is what a run does: sync or remove. It notes in the record what it did.
type work func(ctx context.Context, r *run, rec *history.Run, log *zap.Logger) error

// start begins a run.
func (n *Node) start(e *entry, do work) {
	ctx, cancel := context.WithCancelCause(n.ctx)
	_, removal := e.job.State.(job.Removing)
	asked := e.candidate()
	r := &run{
		cancel: cancel, limiter: NewLimiter(e.conf.Rate), target: e.conf.Target, removal: removal,
		slow: asked.Slow(), again: e.putOff, started: n.now(), done: make(chan struct{}), bell: &n.bell,
	}
	e.run = r
	rec := history.Run{
		Job: e.id, Guest: e.id.Guest, Source: n.o.Name, Target: guest.NodeName(n.view.NameOf(e.conf.Target)),
		Start: r.started, Outcome: history.Running, Volumes: n.view.Guests[e.id.Guest].Volumes, Fails: e.job.Facts.Fails,
	}
	log := n.o.Logger.With(n.fields(e)...)
	n.wg.Go(func() {
		defer cancel(nil)
		ev := n.carryOut(ctx, r, &rec, log, do)
		close(r.done)
		_ = n.post(n.ctx, func(now time.Time) { n.ended(e, r, rec, ev, now) })
	})
}

// ended takes a run's result into the loop.
func (n *Node) ended(e *entry, r *run, rec history.Run, ev job.Event, now time.Time) {
	delete(n.leaving, r)
	e.run = nil
	if n.jobs[e.id] != e {
		return
	}
	if e.putOff = rec.Outcome == history.Skipped; !e.putOff {
		e.last = rec
	}
	_ = n.step(e, ev, now)
}

// carryOut does a run and keeps its record.
func (n *Node) carryOut(ctx context.Context, r *run, rec *history.Run, log *zap.Logger, do work) job.Event {
	recorded := n.begin(r, *rec, log)
	err := do(ctx, r, rec, log)
	rec.ID = recorded()
	return n.end(ctx, r, rec, log, err)
}

func (n *Node) sync(ctx context.Context, r *run, rec *history.Run, log *zap.Logger) error {
	log.Debug("sync begins")
	res, err := n.o.Syncer.Run(ctx, n.task(r, rec.Job))
	rec.Kind, rec.Bytes = kindOf(res, err), int64(res.Bytes) //nolint:gosec // bytes of one run
	rec.BaseSnapshot, rec.NewSnapshot, rec.Consistency = res.Base, res.Point, res.Consistency
	for _, w := range res.Warnings {
		log.Warn("sync: " + w)
		r.say(n.now(), "warn", w)
	}
	if err == nil && res.Kind != replicate.KindNothing {
		how := ""
		if res.Consistency == guest.Frozen || res.Consistency == guest.Hooked {
			how = ", " + string(res.Consistency)
		}
		r.say(n.now(), "info", fmt.Sprintf("done: %s, %d bytes sent; %s has %s complete%s", res.Kind, res.Bytes, rec.Target, res.Point, how))
	}
	return err
}

// kindOf is what a run was; one that failed before it sent anything was nothing.
func kindOf(res replicate.Result, err error) history.Kind {
	if res.Kind == "" || err != nil && res.Bytes == 0 {
		return history.Nothing
	}
	return history.Kind(res.Kind)
}

func (n *Node) remove(ctx context.Context, r *run, rec *history.Run, log *zap.Logger) error {
	res, err := n.o.Syncer.Remove(ctx, n.task(r, rec.Job))
	for _, w := range res.Warnings {
		log.Warn("removal: " + w)
		r.say(n.now(), "warn", w)
	}
	if err == nil {
		log.Info("job removed", zap.Strings("destroyed", res.Destroyed), zap.Strings("left", res.Left))
	}
	return err
}

func (n *Node) task(r *run, id guest.JobID) replicate.Task {
	return replicate.Task{
		Job: id, Limiter: r.limiter,
		Progress: func(p replicate.Progress) { r.progress.Store(&p) },
		Log:      func(line string) { r.say(n.now(), "info", line) },
	}
}

// begin records that a run has begun, beside it: runs that are due together begin at
// the same moment, and not one after the other as the disk takes their records. It
// keeps the record up to date until recorded is called, which gives its ID; 0 where
// there is none.
func (n *Node) begin(r *run, rec history.Run, log *zap.Logger) (recorded func() uint64) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		id, err := n.o.History.Append(rec)
		if err != nil {
			log.Warn("the run cannot be recorded", zap.Error(err))
			return
		}
		rec.ID = id
		r.record.Store(id)
		n.bell.ring()
		tick := time.NewTicker(saveEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			rec.Log = r.lines()
			if p := r.progress.Load(); p != nil {
				rec.Bytes = int64(p.Bytes) //nolint:gosec // bytes of one run
			}
			if err := n.o.History.Update(rec); err != nil {
				log.Warn("how far the run is cannot be recorded", zap.Error(err))
			}
		}
	})
	return func() uint64 {
		close(quit)
		wg.Wait()
		return r.record.Load()
	}
}

// end records how a run ended and says it to the job's machine.
func (n *Node) end(ctx context.Context, r *run, rec *history.Run, log *zap.Logger, err error) job.Event {
	rec.End = n.now()
	ev := n.judge(ctx, rec, err)
	n.tell(r, rec, log, err)
	if rec.Error != "" {
		r.say(rec.End, "error", rec.Error)
	}
	rec.Log = r.lines()
	record := n.o.History.Update
	if rec.ID == 0 { // Its beginning could not be recorded.
		record = func(whole history.Run) (err error) {
			rec.ID, err = n.o.History.Append(whole)
			return err
		}
	}
	if err := record(*rec); err != nil {
		log.Warn("the end of the run cannot be recorded", zap.Error(err))
	}
	n.bell.ring()
	return ev
}

// judge turns a run's error into its outcome.
func (n *Node) judge(ctx context.Context, rec *history.Run, err error) job.Event {
	if err == nil {
		rec.Outcome, rec.Fails = history.OK, 0
		return job.Succeeded{}
	}
	named := n.shown.Load().ledger.Named
	switch {
	case n.ctx.Err() != nil:
		rec.Outcome, rec.Error = history.Interrupted, "the daemon was stopped"
	case ctx.Err() != nil:
		rec.Outcome, rec.Error = history.Interrupted, context.Cause(ctx).Error()
	case replicate.ClassOf(err) == replicate.ClassBusy:
		rec.Outcome, rec.Error, rec.ErrorHint = history.Skipped, named(err.Error()), named(replicate.HintOf(err))
	default:
		rec.Outcome, rec.Error, rec.ErrorHint = history.Failed, named(err.Error()), named(replicate.HintOf(err))
		rec.Fails++
		return job.Failed{Reason: rec.Error}
	}
	return job.Skipped{Reason: rec.Error}
}

// tell logs how a run ended.
func (n *Node) tell(r *run, rec *history.Run, log *zap.Logger, err error) {
	switch {
	case rec.Outcome == history.OK && !r.removal:
		log.Info("sync done", zap.String("kind", string(rec.Kind)), zap.Int64("bytes", rec.Bytes),
			zap.Duration("duration", rec.Duration()), zap.String("point", rec.NewSnapshot), zap.String("consistency", string(rec.Consistency)))
	case rec.Outcome == history.Skipped && !r.again:
		log.Info("sync put off", zap.String("reason", rec.Error))
	case rec.Outcome == history.Failed:
		message := "sync failed"
		if r.removal {
			message = "removal failed"
		}
		log.Warn(message, zap.String("error", rec.Error), zap.String("hint", rec.ErrorHint), zap.String("class", string(replicate.ClassOf(err))))
	default: // Removed: that was said. Interrupted: whoever did that says so. Put off again: once is enough.
	}
}
