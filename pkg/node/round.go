package node

import (
	"time"

	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/sched"
)

// round starts the due jobs that the limits allow, and says how long the loop
// may sleep. It happens with every piece of news, so that for a job of which there
// is none it only compares two times.
func (n *Node) round(now time.Time) time.Duration {
	// When a job is due is a function of its facts, and of now only where now has
	// gone back.
	setBack := now.Before(n.last)
	n.last = now
	n.due, n.active = n.due[:0], n.active[:0]
	for _, a := range n.leaving {
		n.active = append(n.active, a)
	}
	wake := now.Add(maxWait)
	for _, e := range n.order {
		if e.run != nil {
			n.active = append(n.active, e.active())
			continue
		}
		if !e.ready {
			continue
		}
		if !e.timed || setBack {
			e.at, e.waits = job.NextWake(e.job, now)
			e.timed = true
		}
		switch {
		case !e.waits:
		case e.at.After(now):
			wake = earlier(wake, e.at)
		default:
			n.due = append(n.due, e.candidate())
		}
	}
	d := sched.Pick(n.due, n.active, n.o.Limits, now)
	for _, id := range d.Start {
		_ = n.step(n.jobs[id], job.Picked{}, now)
	}
	for _, h := range d.Held {
		if e := n.jobs[h.Job]; e.held != h.Reason {
			e.held = h.Reason
			n.reveal(e)
		}
	}
	if !d.Wake.IsZero() {
		wake = earlier(wake, d.Wake)
	}
	return max(wake.Sub(now), 0)
}

// candidate is a due job as the scheduler sees it.
func (e *entry) candidate() sched.Candidate {
	return sched.Candidate{
		Job: e.id, Target: e.conf.Target, Due: e.at, Last: e.job.Facts.LastTry,
		Manual: job.Manual(e.job), Failing: e.failing(),
		Long: e.job.Facts.LastSync.IsZero() || e.last.Duration() > sched.LongRun,
	}
}

// active is a run that goes on as the scheduler sees it.
func (e *entry) active() sched.Active {
	return sched.Active{Job: e.id, Target: e.run.target, Slow: e.run.slow}
}

func (e *entry) failing() bool {
	if r, ok := e.job.State.(job.Removing); ok {
		return r.Fails > 0
	}
	return e.job.Facts.Fails > 0
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
