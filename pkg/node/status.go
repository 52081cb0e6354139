package node

import (
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
)

// Status is what the loop knows, as of its last round. It is never changed.
type Status struct {
	Ledger *ledger.State
	Peers  map[guest.NodeID]Peer
	// Jobs are those whose guests this node owns, in order.
	Jobs []JobStatus
}

// JobStatus is one job as its owner knows it.
type JobStatus struct {
	Conf guest.Job
	// Ready is unset while the job's past is still being read.
	Ready bool
	Job   job.Job
	// Last is the newest finished run that was not put off; its ID is 0 where there is none.
	Last history.Run
	// Held is why a job that is due waits for its turn; empty where it does not.
	Held string
	run  *run
}

// Running tells since when a run goes on and how far it is, at this moment.
func (j JobStatus) Running() (started time.Time, p replicate.Progress, ok bool) {
	if j.run == nil {
		return time.Time{}, replicate.Progress{}, false
	}
	if now := j.run.progress.Load(); now != nil {
		p = *now
	}
	return j.run.started, p, true
}

// shown is what the loop has published. Most rounds concern one job of many, so
// that the others are shared with the round before; Status puts it together.
type shown struct {
	ledger *ledger.State
	peers  map[guest.NodeID]Peer
	jobs   []*JobStatus
	status func() *Status
}

// Status is the newest status; reading it does not wait for the loop.
func (n *Node) Status() *Status { return n.shown.Load().status() }

func (n *Node) publish() {
	if !n.news {
		return
	}
	n.news = false
	s := &shown{ledger: n.view, peers: n.peers, jobs: make([]*JobStatus, len(n.order))}
	for i, e := range n.order {
		if e.shown == nil {
			e.shown = &JobStatus{Conf: e.conf, Ready: e.ready, Job: e.job, Last: e.last, Held: e.held, run: e.run}
		}
		s.jobs[i] = e.shown
	}
	s.status = sync.OnceValue(s.whole)
	n.shown.Store(s)
	n.bell.ring()
}

func (s *shown) whole() *Status {
	out := &Status{Ledger: s.ledger, Peers: s.peers, Jobs: make([]JobStatus, len(s.jobs))}
	for i, j := range s.jobs {
		out.Jobs[i] = *j
	}
	return out
}

// lagGrace is what a run may take beyond its schedule before its target lags.
const lagGrace = time.Minute

// Lagging says whether a copy is older than the schedule allows for: since its
// point was taken, two runs were due, and a minute has passed on top.
func Lagging(s calendar.Schedule, lag time.Duration, now time.Time, local *time.Location) bool {
	second := s.Next(s.Next(now.Add(-lag), local), local)
	return now.After(second.Add(lagGrace))
}
