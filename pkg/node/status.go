package node

import (
	"maps"
	"slices"
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
	// Last is the newest finished run; its ID is 0 where there is none.
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

// Status is the newest status; reading it does not wait for the loop.
func (n *Node) Status() *Status { return n.status.Load() }

func (n *Node) publish(time.Time) {
	s := &Status{Ledger: n.view, Peers: maps.Clone(n.peers)}
	for _, id := range slices.SortedFunc(maps.Keys(n.jobs), guest.JobID.Compare) {
		e := n.jobs[id]
		s.Jobs = append(s.Jobs, JobStatus{Conf: e.conf, Ready: e.ready, Job: e.job, Last: e.last, Held: e.held, run: e.run})
	}
	n.status.Store(s)
}

// lagGrace is what a run may take beyond its schedule before its target lags.
const lagGrace = time.Minute

// Lagging says whether a copy is older than the schedule allows for: since its
// point was taken, two runs were due, and a minute has passed on top.
func Lagging(s calendar.Schedule, lag time.Duration, now time.Time, local *time.Location) bool {
	second := s.Next(s.Next(now.Add(-lag), local), local)
	return now.After(second.Add(lagGrace))
}
