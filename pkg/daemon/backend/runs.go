package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
)

// handleRuns answers the other nodes' backends about runs.
func (b *Backend) handleRuns(mux *http.ServeMux) {
	peer.Handle(mux, pathRun, func(ctx context.Context, r jobRequest) (api.StartedRun, error) {
		b.catchUp(ctx, r.Index)
		return b.startRun(ctx, r.Job)
	})
	peer.Handle(mux, pathWatch, b.watch)
	peer.Handle(mux, pathExplain, func(ctx context.Context, r jobRequest) (api.Explanation, error) {
		b.catchUp(ctx, r.Index)
		return b.explain(ctx, r.Job)
	})
}

const (
	// catchUpWait is how long a node waits for the ledger that the asking one has.
	catchUpWait = 5 * time.Second
	catchUpTick = 20 * time.Millisecond
)

// catchUp waits a little until this node knows the ledger up to index. Who asks
// gets an answer in any case.
func (b *Backend) catchUp(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	tick := time.NewTicker(catchUpTick)
	defer tick.Stop()
	for b.Book.Current().Index < index {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Runs is the last n runs of a job, newest first, from the node that runs it.
func (b *Backend) Runs(ctx context.Context, id guest.JobID, n int) ([]api.Run, error) {
	runs, err := ofJob(ctx, b, id, question{pathRuns, runsRequest{Job: id, N: n}}, func() ([]history.Run, error) { return b.runs(id, n) })
	if err != nil {
		return nil, err
	}
	out := []api.Run{}
	for _, r := range runs {
		out = append(out, runOf(r))
	}
	return out, nil
}

// runs are those of a job of this node; one that goes on has its log so far.
func (b *Backend) runs(id guest.JobID, n int) ([]history.Run, error) {
	runs, err := b.History.Runs(id, n)
	if err != nil || len(runs) == 0 || runs[0].Outcome != history.Running {
		return runs, err
	}
	if c := b.Running(); c != nil {
		j, _ := c.Node.Status().Job(id)
		if live, ok := j.Live(); ok && live.Record == runs[0].ID {
			runs[0].Log, runs[0].Bytes = live.Log, int64(live.Progress.Bytes) //nolint:gosec // bytes of one run
		}
	}
	return runs, nil
}

func runOf(r history.Run) api.Run {
	out := api.Run{
		ID: r.ID, Job: r.Job, Source: r.Source, Target: r.Target, Start: r.Start, End: r.End, Duration: r.Duration().Seconds(),
		Outcome: string(r.Outcome), Kind: string(r.Kind), Bytes: r.Bytes, Base: r.BaseSnapshot, Snapshot: r.NewSnapshot, Consistency: r.Consistency,
		Volumes: r.Volumes, Error: r.Error, Hint: r.ErrorHint, Log: []api.LogLine{},
	}
	if r.Outcome == history.Interrupted && out.Error == "" {
		out.Error = "interrupted: the daemon ended"
	}
	for _, l := range r.Log {
		out.Log = append(out.Log, api.LogLine{Time: l.Time, Level: l.Level, Message: l.Message})
	}
	return out
}

// StartRun makes a job due at once and tells which run that will be.
func (b *Backend) StartRun(ctx context.Context, id guest.JobID) (api.StartedRun, error) {
	s, j, err := b.job(id)
	if err != nil {
		return api.StartedRun{}, err
	}
	if j.Removing {
		return api.StartedRun{}, &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("job %s is being removed", id),
			Hint: fmt.Sprintf("`tandem schedule-now %s` tries at once to clean up what it leaves", id),
		}
	}
	var out api.StartedRun
	if owner := s.Guests[id.Guest].Owner; owner != b.Self {
		err = b.Peers.Call(ctx, owner, pathRun, jobRequest{Job: id, Index: s.Index}, &out)
	} else {
		out, err = b.startRun(ctx, id)
	}
	if err != nil {
		return api.StartedRun{}, b.refusedOr(err)
	}
	return out, nil
}

// startRun asks for a run of a job of this node. One that goes on already is not
// the one that was asked for: that has a higher ID than all that there are.
func (b *Backend) startRun(ctx context.Context, id guest.JobID) (api.StartedRun, error) {
	next := uint64(1)
	runs, err := b.History.Runs(id, 1)
	if err != nil {
		return api.StartedRun{}, err
	}
	if len(runs) > 0 {
		next = runs[0].ID + 1
	}
	if err := b.scheduleNow(ctx, id); err != nil {
		return api.StartedRun{}, err
	}
	return api.StartedRun{Job: id, Run: next, Node: b.Name}, nil
}

const (
	// watchWait is how long Watch waits for news: progress is told as often.
	watchWait = time.Second
	// watchTick is how often it tells of lines of the log. The end is told at once.
	watchTick = 100 * time.Millisecond
)

// Watch tells what is new of a run, from the node that runs it.
func (b *Backend) Watch(ctx context.Context, r api.WatchRequest) (api.Watch, error) {
	return ofJob(ctx, b, r.Job, question{pathWatch, r}, func() (api.Watch, error) { return b.watch(ctx, r) })
}

// watch waits until the run has something to say, but not for long.
func (b *Backend) watch(ctx context.Context, r api.WatchRequest) (api.Watch, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Watch{}, err
	}
	enough := time.NewTimer(watchWait)
	defer enough.Stop()
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	for lines := true; ; {
		news := c.Node.News()
		w, err := b.look(c, r)
		if err != nil || w.Ended() || lines && w.Run != nil && len(w.Run.Log) > 0 {
			return w, err
		}
		select {
		case <-enough.C:
			return w, nil
		case <-ctx.Done():
			return w, context.Cause(ctx)
		case <-news:
			lines = false
		case <-tick.C:
			lines = true
		}
	}
}

// look is the run at this moment. Idle counts only after a while of waiting: the
// loop's status is a little older than the wish that it took.
func (b *Backend) look(c *Cluster, r api.WatchRequest) (api.Watch, error) {
	j, known := c.Node.Status().Job(r.Job)
	live, running := j.Live()
	w := api.Watch{Version: api.Version, Job: r.Job, Time: time.Now()}
	rec, ok, err := b.History.From(r.Job, r.Run)
	if err != nil {
		return w, err
	}
	if ok {
		if running && live.Record == rec.ID && rec.Outcome == history.Running {
			rec.Log, rec.Bytes = live.Log, int64(live.Progress.Bytes) //nolint:gosec // bytes of one run
			w.Progress = progressOf(live)
		}
		rec.Log = rec.Log[min(r.Lines, len(rec.Log)):]
		run := runOf(rec)
		w.Run = &run
		return w, nil
	}
	due := known && j.Ready && job.Due(j.Job, w.Time)
	why, until := putOff(j.Job.State)
	switch {
	case until.After(w.Time):
		// Of runs that are put off one after the other only the first has a record.
		w.Run = &api.Run{ID: r.Run, Job: r.Job, Start: w.Time, End: w.Time, Outcome: api.OutcomeSkipped, Error: why, Log: []api.LogLine{}}
	case running && live.Record != 0 && live.Record < r.Run:
		w.Waiting = fmt.Sprintf("run %d has to end first", live.Record)
	case running:
	case due && j.Held != "":
		w.Waiting = j.Held
	case known && !j.Ready, due:
	default:
		w.Idle = true
	}
	return w, nil
}

// putOff is until when a job's run was put off, and why.
func putOff(s job.State) (why string, until time.Time) {
	switch s := s.(type) {
	case job.OK:
		return s.Why, s.Until
	case job.Failing:
		return s.Why, s.Until
	case job.Removing:
		return s.Wait.Why, s.Wait.Until
	case job.Running, job.Disabled:
	}
	return "", time.Time{}
}

func progressOf(live node.Live) *api.Progress {
	p := live.Progress
	return &api.Progress{
		Started: live.Started, Phase: string(p.Phase), Sent: int64(p.Bytes), Total: int64(p.Total), //nolint:gosec // bytes of one run
	}
}
