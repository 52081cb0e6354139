package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
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
	// last is the newest finished run that was not put off.
	last history.Run
	// putOff is set when the run before was: it is logged once.
	putOff bool
	run    *run

	// at is when the job is due, if it waits for a time at all; timed is set when both are right.
	at    time.Time
	waits bool
	timed bool
	// held is why it was not started although it was due.
	held string
	// shown is what was published of it; nil: something has changed.
	shown *JobStatus
}

// touch has everything worked out anew that is derived from the entry.
func (n *Node) touch(e *entry) {
	e.timed, e.held = false, ""
	n.reveal(e)
}

// reveal has the entry published anew.
func (n *Node) reveal(e *entry) { e.shown, n.news = nil, true }

// follow takes a new state of the ledger. Several parts tell the loop, so an
// older one may come after a newer. Of two generations the one that was told last
// holds.
func (n *Node) follow(s *ledger.State, now time.Time) {
	if s.Generation == n.view.Generation && s.Index < n.view.Index {
		return
	}
	n.view, n.news = s, true
	for id, e := range n.jobs {
		switch _, ok := s.Jobs[id]; {
		case !ok:
			n.letGo(e)
			n.forget(e)
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
		n.touch(e)
		if e.ready {
			n.change(e, now)
		}
	}
}

func (n *Node) change(e *entry, now time.Time) {
	var effects []job.Effect
	e.job, effects = job.Follow(e.job, n.spec(e.conf), now)
	n.touch(e)
	_ = n.perform(e, effects)
	if e.run != nil {
		SetRate(e.run.limiter, e.conf.Rate)
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
	at, _ := slices.BinarySearchFunc(n.order, c.ID, byID)
	n.order = slices.Insert(n.order, at, e)
	n.reveal(e)
	forgotten := n.forgets[c.ID]
	n.wg.Go(func() {
		if forgotten != nil { // A job of this ID was just removed: its past is another's.
			<-forgotten
		}
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
			n.touch(e)
			n.see(e, now)
			for _, answer := range e.asked {
				answer <- n.step(e, job.Ask{}, now)
			}
			e.asked = nil
		})
	})
}

func byID(e *entry, id guest.JobID) int { return e.id.Compare(id) }

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
		_ = n.step(e, job.TargetDown{Since: p.Since.Round(0)}, now)
		_ = n.step(e, job.TargetUp{}, now)
		n.o.Logger.Info("the target of a job has restarted", n.fields(e)...)
	case down && e.job.DownSince.IsZero():
		_ = n.step(e, job.TargetDown{Since: p.Since.Round(0)}, now)
		n.o.Logger.Warn("the target of a job is down", n.fields(e)...)
	case !down && !e.job.DownSince.IsZero():
		_ = n.step(e, job.TargetUp{}, now)
		n.o.Logger.Info("the target of a job is back", n.fields(e)...)
	}
}

// letGo stops caring for a job that is no longer this node's.
func (n *Node) letGo(e *entry) {
	if e.run != nil {
		n.leaving[e.run] = e.active()
		e.run.cancel(errNoLonger)
	}
	for _, answer := range e.asked {
		answer <- fmt.Errorf("job %s: %w", e.id, ErrNotHere)
	}
	delete(n.jobs, e.id)
	if at, ok := slices.BinarySearchFunc(n.order, e.id, byID); ok {
		n.order = slices.Delete(n.order, at, at+1)
	}
	n.news = true
}

// forget drops the past of a job that was taken off the ledger, once its last
// run has been recorded.
func (n *Node) forget(e *entry) {
	id, r, done := e.id, e.run, make(chan struct{})
	n.forgets[id] = done
	n.wg.Go(func() {
		if r != nil {
			<-r.done
		}
		if err := n.o.History.Forget(id); err != nil {
			n.o.Logger.Warn("the history of a removed job stays", zap.Stringer("job", id), zap.Error(err))
		}
		close(done)
		_ = n.post(n.ctx, func(time.Time) {
			if n.forgets[id] == done {
				delete(n.forgets, id)
			}
		})
	})
}

var errNoLonger = errors.New("the job is no longer this node's")

// step moves a job's machine and performs what it says.
func (n *Node) step(e *entry, ev job.Event, now time.Time) error {
	var effects []job.Effect
	e.job, effects = job.Step(e.job, ev, now)
	n.touch(e)
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

func (n *Node) fields(e *entry) []zap.Field {
	return []zap.Field{
		zap.Stringer("job", e.id), zap.Stringer("guest", e.id.Guest), zap.String("target", n.view.NameOf(e.conf.Target)),
	}
}
