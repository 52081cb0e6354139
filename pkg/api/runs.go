package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// The outcomes of a run.
const (
	OutcomeRunning = "running"
	OutcomeOK      = "ok"
	OutcomeFailed  = "failed"
	// OutcomeSkipped could not begin, which is no failure: the guest is locked.
	OutcomeSkipped = "skipped"
	// OutcomeInterrupted was cut by the end of its daemon.
	OutcomeInterrupted = "interrupted"
)

// StartedRun is a run that an operator asked for.
type StartedRun struct {
	Job guest.JobID `json:"job"`
	// Run is the ID that it will have, or one below it.
	Run uint64 `json:"run"`
	// Node runs it.
	Node guest.NodeName `json:"node"`
}

// WatchRequest asks what is new of a run. It is a cursor: the daemon keeps
// nothing for those who watch.
type WatchRequest struct {
	Job guest.JobID `json:"job"`
	// Run is the ID of the run, or one below it: the first that is not lower is meant.
	Run uint64 `json:"run"`
	// Lines is how many lines of its log are known already.
	Lines int `json:"lines"`
}

// Watch is a run as it is now.
type Watch struct {
	Version int         `json:"version"`
	Job     guest.JobID `json:"job"`
	// Time is now, by the clock of the node that runs the job.
	Time time.Time `json:"time"`
	// Run is nil while it has not begun; its log has only the lines that were not known.
	Run *Run `json:"run,omitempty"`
	// Progress is that of a run that goes on.
	Progress *Progress `json:"progress,omitempty"`
	// Waiting is why it has not begun.
	Waiting string `json:"waiting,omitempty"`
	// Idle says that it will not begin by itself soon: the job neither runs nor is due.
	Idle bool `json:"idle,omitempty"`
}

// Ended says that nothing more will come.
func (w Watch) Ended() bool { return w.Run != nil && w.Run.Outcome != OutcomeRunning }

// StartRun is Backend's.
func (c *Client) StartRun(ctx context.Context, id guest.JobID) (StartedRun, error) {
	return ask[StartedRun](ctx, c, call{method: http.MethodPost, path: "/v1/jobs/" + id.String() + "/run"})
}

// Watch is Backend's.
func (c *Client) Watch(ctx context.Context, r WatchRequest) (Watch, error) {
	return ask[Watch](ctx, c, call{
		method: http.MethodGet, path: fmt.Sprintf("/v1/jobs/%s/runs/%d/watch", r.Job, r.Run),
		query: url.Values{"lines": {strconv.Itoa(r.Lines)}},
	})
}

func readWatch(r *http.Request) (q WatchRequest, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "lines"); err != nil {
		return q, err
	}
	if q.Job, err = guest.ParseJobID(r.PathValue("id")); err != nil {
		return q, err
	}
	if q.Run, err = strconv.ParseUint(r.PathValue("run"), 10, 64); err != nil {
		return q, fmt.Errorf("run %q: must be a number", r.PathValue("run"))
	}
	if s := params.Get("lines"); s != "" {
		if q.Lines, err = strconv.Atoi(s); err != nil || q.Lines < 0 {
			return q, fmt.Errorf("lines=%q: must be a number, at least 0", s)
		}
	}
	return q, nil
}
