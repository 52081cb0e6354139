package overview

import (
	"time"

	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
)

// waiting tells what a job waits for besides its calendar: a run that could not begin and is tried again soon, or a transfer that
// stands still although both sides are alive.
func waiting(s *ledger.State, j node.JobStatus, now time.Time) string {
	if _, p, ok := j.Running(); ok {
		return s.Named(p.Slow)
	}
	var w job.Wait
	switch st := j.Job.State.(type) {
	case job.OK:
		w = st.Wait
	case job.Failing:
		w = st.Wait
	case job.Removing:
		w = st.Wait
	case job.Running, job.Disabled:
	}
	if w.Why == "" || !w.Until.After(now) {
		return ""
	}
	return "put off: " + s.Named(w.Why)
}
