package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/sched"
)

// entry is a job whose guest this node owns.
type entry struct {
	id   guest.JobID
	conf guest.Job
	// ready is set once the job's past was read from the history.
	ready bool
	// asked are operators who wait for that.
	asked []chan<- error
	job   job.Job
	// boot is the life of the target's daemon that was seen last.
	boot uint64
	// last is the newest finished run.
	last history.Run
	// held is why the last round did not start it although it was due.
	held string
	run  *run
}

// follow takes a new state of the ledger. Several parts tell the loop, so an
// older one may come after a newer.
func (n *Node) follow(s *ledger.State, now time.Time) {
	if s.Index < n.view.Index {
		return
	}
	n.view = s
	for id, e := range n.jobs {
		switch _, ok := s.Jobs[id]; {
		case !ok:
			n.letGo(e)
			n.forget(id)
		case s.Guests[id.Guest].Owner != n.o.Self:
			n.letGo(e)
		}
	}
	for id, c := range s.Jobs {
		if s.Guests[id.Guest].Owner != n.o.Self {
			continue
		}
		e, ok := n.jobs[id]
		if !ok {
			n.meet(c, now)
			continue
		}
		if e.conf == c {
			continue
		}
		e.conf = c
		if e.ready {
			n.change(e, now)
		}
	}
}

func (n *Node) change(e *entry, now time.Time) {
	var effects []job.Effect
	e.job, effects = job.Follow(e.job, n.spec(e.conf), now)
	_ = n.perform(e, effects)
	if e.run != nil {
		e.run.setRate(e.conf.Rate)
	}
}

// spec is what the ledger says of a job. A schedule that this version cannot
// read (it was checked when it was made) falls back to the default.
func (n *Node) spec(c guest.Job) job.Spec {
	s, err := calendar.Parse(c.Schedule)
	if err != nil {
		n.o.Logger.Error("the schedule of a job cannot be read, the default is used", zap.Stringer("job", c.ID), zap.Error(err))
		s, _ = calendar.Parse(calendar.Default)
	}
	return job.Spec{
		Settings: job.Settings{
			Schedule: s, Local: n.o.Local, Retries: n.o.Retries, Target: guest.NodeName(n.view.NameOf(c.Target)),
		},
		Disabled: c.Disabled, Removing: c.Removing, Keep: c.KeepReplica,
	}
}

// meet begins to care for a job; its past is read outside the loop.
func (n *Node) meet(c guest.Job, now time.Time) {
	e := &entry{id: c.ID, conf: c}
	n.jobs[c.ID] = e
	n.wg.Go(func() {
		facts, err := n.o.History.Facts(c.ID)
		if err != nil {
			n.o.Logger.Warn("the history of a job cannot be read, it begins anew", zap.Stringer("job", c.ID), zap.Error(err))
		}
		last, _, _ := n.o.History.Last(c.ID) // its error is that of Facts
		if facts.Known.IsZero() {
			facts.Known = now
		}
		_ = n.post(n.ctx, func(now time.Time) {
			if n.jobs[c.ID] != e {
				return // gone meanwhile
			}
			e.ready, e.last = true, last
			e.job = job.New(n.spec(e.conf), facts, now)
			n.see(e, now)
			for _, answer := range e.asked {
				answer <- n.step(e, job.Ask{}, now)
			}
			e.asked = nil
		})
	})
}

// see tells a job whether its target is alive.
func (n *Node) see(e *entry, now time.Time) {
	if !e.ready {
		return
	}
	p, known := n.peers[e.conf.Target]
	rebooted := e.boot != 0 && p.Boot > e.boot
	e.boot = max(e.boot, p.Boot)
	switch down := known && !p.Alive; {
	case rebooted && !down && e.job.DownSince.IsZero(): // It was down for too short a time to be missed.
		_ = n.step(e, job.TargetDown{Since: p.Since}, now)
		_ = n.step(e, job.TargetUp{}, now)
		n.o.Logger.Info("the target of a job has restarted", n.fields(e)...)
	case down && e.job.DownSince.IsZero():
		_ = n.step(e, job.TargetDown{Since: p.Since}, now)
		n.o.Logger.Warn("the target of a job is down", n.fields(e)...)
	case !down && !e.job.DownSince.IsZero():
		_ = n.step(e, job.TargetUp{}, now)
		n.o.Logger.Info("the target of a job is back", n.fields(e)...)
	}
}

// letGo stops caring for a job that is no longer this node's.
func (n *Node) letGo(e *entry) {
	if e.run != nil {
		e.run.cancel(errNoLonger)
	}
	for _, answer := range e.asked {
		answer <- fmt.Errorf("job %s: %w", e.id, ErrNotHere)
	}
	delete(n.jobs, e.id)
}

// forget drops the past of a job that was taken off the ledger.
func (n *Node) forget(id guest.JobID) {
	n.wg.Go(func() {
		if err := n.o.History.Forget(id); err != nil {
			n.o.Logger.Warn("the history of a removed job stays", zap.Stringer("job", id), zap.Error(err))
		}
	})
}

var errNoLonger = errors.New("the job is no longer this node's")

// step moves a job's machine and performs what it says.
func (n *Node) step(e *entry, ev job.Event, now time.Time) error {
	var effects []job.Effect
	e.job, effects = job.Step(e.job, ev, now)
	return n.perform(e, effects)
}

// refusal is the answer to an operator whose command a job refused.
type refusal string

// Error is the reason.
func (r refusal) Error() string { return string(r) }

func (n *Node) perform(e *entry, effects []job.Effect) error {
	var err error
	for _, f := range effects {
		switch f := f.(type) {
		case job.StartSync:
			n.start(e, n.sync)
		case job.StartRemoval:
			n.start(e, n.remove)
		case job.CancelRun:
			if e.run != nil {
				e.run.cancel(errCanceled)
			}
		case job.Forget:
			n.drop(e)
		case job.Refuse:
			err = refusal("job " + e.id.String() + ": " + f.Reason)
		}
	}
	return err
}

var errCanceled = errors.New("canceled by an operator")

// dropRetry is how long the loop waits before it asks the ledger again.
const dropRetry = 30 * time.Second

// drop takes a removed job off the ledger, however long that takes.
func (n *Node) drop(e *entry) {
	n.wg.Go(func() {
		for {
			ctx, cancel := context.WithTimeout(n.ctx, dropRetry)
			err := n.o.Drop(ctx, e.id)
			cancel()
			if err == nil || n.ctx.Err() != nil {
				return
			}
			n.o.Logger.Warn("a removed job cannot be taken off the ledger yet", zap.Stringer("job", e.id), zap.Error(err))
			select {
			case <-time.After(dropRetry):
			case <-n.ctx.Done():
				return
			}
		}
	})
}

// schedule starts the due jobs that the limits allow, and says how long the loop
// may sleep.
func (n *Node) schedule(now time.Time) time.Duration {
	var due []sched.Candidate
	var active []sched.Active
	wake := now.Add(maxWait)
	for _, id := range slices.SortedFunc(maps.Keys(n.jobs), guest.JobID.Compare) {
		e := n.jobs[id]
		e.held = ""
		if e.run != nil {
			active = append(active, sched.Active{Job: id, Target: e.conf.Target, Slow: e.run.slow})
			continue
		}
		if !e.ready {
			continue
		}
		at, ok := job.NextWake(e.job, now)
		switch {
		case !ok:
		case at.After(now):
			wake = earlier(wake, at)
		default:
			due = append(due, n.candidate(e, at))
		}
	}
	d := sched.Pick(due, active, n.o.Limits, now)
	for _, id := range d.Start {
		_ = n.step(n.jobs[id], job.Picked{}, now)
	}
	for _, h := range d.Held {
		n.jobs[h.Job].held = h.Reason
	}
	if !d.Wake.IsZero() {
		wake = earlier(wake, d.Wake)
	}
	return max(wake.Sub(now), 0)
}

func (n *Node) candidate(e *entry, at time.Time) sched.Candidate {
	_, failing := e.job.State.(job.Failing)
	return sched.Candidate{
		Job: e.id, Target: e.conf.Target, Due: at, Failing: failing,
		Manual: job.Manual(e.job), First: e.job.Facts.LastSync.IsZero(),
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (n *Node) fields(e *entry) []zap.Field {
	return []zap.Field{
		zap.Stringer("job", e.id), zap.Stringer("guest", e.id.Guest), zap.String("target", n.view.NameOf(e.conf.Target)),
	}
}
