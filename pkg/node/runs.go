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
	// burst is what a rate limit lets through at once: one frame of a stream.
	burst = 256 << 10
	// maxLogLines bounds the log of one run.
	maxLogLines = 200
)

// run is one sync or removal that is going on. Its goroutine does the I/O and
// reports back to the loop.
type run struct {
	cancel   context.CancelCauseFunc
	limiter  *rate.Limiter
	slow     bool
	started  time.Time
	progress atomic.Pointer[replicate.Progress]
	// record is the ID of its record in the history; 0 until there is one.
	record atomic.Uint64

	mu  sync.Mutex
	log []history.LogLine
}

func limitOf(mbps float64) rate.Limit {
	if mbps <= 0 {
		return rate.Inf
	}
	return rate.Limit(mbps * 1e6)
}

// setRate changes the limit of a run that is going on.
func (r *run) setRate(mbps float64) { r.limiter.SetLimit(limitOf(mbps)) }

func (r *run) say(now time.Time, level, line string) {
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

// work is what a run does: sync or remove.
type work func(ctx context.Context, r *run, rec *history.Run, log *zap.Logger) job.Event

// start begins a run.
func (n *Node) start(e *entry, do work) {
	ctx, cancel := context.WithCancelCause(n.ctx)
	r := &run{
		cancel: cancel, limiter: rate.NewLimiter(limitOf(e.conf.Rate), burst),
		slow: e.job.Facts.Fails > 0 || e.job.Facts.LastSync.IsZero(), started: n.o.Now(),
	}
	e.run = r
	rec := history.Run{
		Job: e.id, Guest: e.id.Guest, Source: n.o.Name, Target: guest.NodeName(n.view.NameOf(e.conf.Target)),
		Start: r.started, Outcome: history.Running, Volumes: n.view.Guests[e.id.Guest].Volumes,
	}
	log := n.o.Logger.With(n.fields(e)...)
	fails := e.job.Facts.Fails
	n.wg.Go(func() {
		defer cancel(nil)
		ev := do(ctx, r, &rec, log)
		if rec.Outcome == history.Failed {
			rec.Fails = fails + 1
		}
		_ = n.post(n.ctx, func(now time.Time) {
			e.run = nil
			e.last = rec
			if n.jobs[e.id] == e {
				_ = n.step(e, ev, now)
			}
		})
	})
}

func (n *Node) sync(ctx context.Context, r *run, rec *history.Run, log *zap.Logger) job.Event {
	n.begin(r, rec, log)
	log.Debug("sync begins")
	res, err := n.o.Syncer.Run(ctx, n.task(r, rec.Job))
	rec.Kind, rec.Bytes = history.Kind(res.Kind), int64(res.Bytes) //nolint:gosec // bytes of one run
	rec.BaseSnapshot, rec.NewSnapshot = res.Base, res.Point
	for _, w := range res.Warnings {
		log.Warn("sync: " + w)
		r.say(n.o.Now(), "warn", w)
	}
	if err == nil && res.Kind != replicate.KindNothing {
		r.say(n.o.Now(), "info", fmt.Sprintf("done: %s, %d bytes sent; %s has %s complete", res.Kind, res.Bytes, rec.Target, res.Point))
	}
	ev := n.end(ctx, r, rec, log, err)
	if err == nil {
		log.Info("sync done", zap.String("kind", string(res.Kind)), zap.Uint64("bytes", res.Bytes),
			zap.Duration("duration", rec.End.Sub(rec.Start)), zap.String("point", res.Point))
	}
	return ev
}

func (n *Node) remove(ctx context.Context, r *run, rec *history.Run, log *zap.Logger) job.Event {
	n.begin(r, rec, log)
	res, err := n.o.Syncer.Remove(ctx, n.task(r, rec.Job))
	ev := n.end(ctx, r, rec, log, err)
	if err == nil {
		log.Info("job removed", zap.Strings("destroyed", res.Destroyed), zap.Strings("left", res.Left))
	}
	return ev
}

func (n *Node) task(r *run, id guest.JobID) replicate.Task {
	return replicate.Task{
		Job: id, Limiter: r.limiter,
		Progress: func(p replicate.Progress) { r.progress.Store(&p) },
		Log:      func(line string) { r.say(n.o.Now(), "info", line) },
	}
}

func (n *Node) begin(r *run, rec *history.Run, log *zap.Logger) {
	id, err := n.o.History.Append(*rec)
	if err != nil {
		log.Warn("the run cannot be recorded", zap.Error(err))
	}
	rec.ID = id
	r.record.Store(id)
}

// end records how a run ended and says it to the job's machine.
func (n *Node) end(ctx context.Context, r *run, rec *history.Run, log *zap.Logger, err error) job.Event {
	rec.End = n.o.Now()
	named := n.Status().Ledger.Named
	var ev job.Event = job.Succeeded{}
	switch {
	case err == nil:
		rec.Outcome = history.OK
	case n.ctx.Err() != nil:
		rec.Outcome, rec.Error = history.Interrupted, "the daemon was stopped"
		ev = job.Skipped{Reason: rec.Error}
	case ctx.Err() != nil:
		rec.Outcome, rec.Error = history.Skipped, context.Cause(ctx).Error()
		ev = job.Skipped{Reason: rec.Error}
	default:
		rec.Outcome, rec.Error, rec.ErrorHint = history.Failed, named(err.Error()), named(replicate.HintOf(err))
		ev = job.Failed{Reason: rec.Error}
		log.Warn("sync failed", zap.String("error", rec.Error), zap.String("hint", rec.ErrorHint), zap.String("class", string(replicate.ClassOf(err))))
	}
	if rec.Error != "" {
		r.say(rec.End, "error", rec.Error)
	}
	rec.Log = r.lines()
	if err := n.o.History.Update(*rec); err != nil {
		log.Warn("the end of the run cannot be recorded", zap.Error(err))
	}
	return ev
}
