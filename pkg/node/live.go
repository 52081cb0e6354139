package node

import (
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/replicate"
)

// Live is a run that goes on, as it is at this moment.
type Live struct {
	// Record is the ID of its record in the history; 0 until there is one.
	Record   uint64
	Started  time.Time
	Progress replicate.Progress
	// Log is what it has said so far; the record has no lines before the run ends.
	Log []history.LogLine
}

// Live is the run of the job that goes on; false where none does.
func (j JobStatus) Live() (Live, bool) {
	started, p, ok := j.Running()
	if !ok {
		return Live{}, false
	}
	return Live{Record: j.run.record.Load(), Started: started, Progress: p, Log: j.run.lines()}, true
}

// Job is what the status tells of one job; false where this node does not run it.
func (s *Status) Job(id guest.JobID) (JobStatus, bool) {
	for _, j := range s.Jobs {
		if j.Conf.ID == id {
			return j, true
		}
	}
	return JobStatus{}, false
}
