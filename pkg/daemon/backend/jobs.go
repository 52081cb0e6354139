package backend

import (
	"context"
	"errors"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Jobs is the configuration of all jobs, by ID.
func (b *Backend) Jobs(context.Context) ([]api.Job, error) {
	if _, err := b.cluster(); err != nil {
		return nil, err
	}
	s := b.Book.Current()
	out := []api.Job{}
	for _, j := range s.JobList() {
		out = append(out, jobOf(s, j))
	}
	return out, nil
}

func jobOf(s *ledger.State, j guest.Job) api.Job {
	return api.Job{
		ID: j.ID, Guest: j.ID.Guest, Source: guest.NodeName(s.NameOf(s.Guests[j.ID.Guest].Owner)),
		Target: guest.NodeName(s.NameOf(j.Target)), Schedule: j.Schedule, Rate: j.Rate, Comment: j.Comment,
		Enabled: !j.Disabled, Snapshots: j.Snapshots, Removing: j.Removing, Digest: ledger.Digest(j),
	}
}

func (b *Backend) job(id guest.JobID) (*ledger.State, guest.Job, error) {
	if _, err := b.cluster(); err != nil {
		return nil, guest.Job{}, err
	}
	s := b.Book.Current()
	j, ok := s.Jobs[id]
	if !ok {
		return nil, guest.Job{}, notFound("job %s does not exist", id)
	}
	return s, j, nil
}

// Job is the configuration of one job.
func (b *Backend) Job(_ context.Context, id guest.JobID) (api.Job, error) {
	s, j, err := b.job(id)
	if err != nil {
		return api.Job{}, err
	}
	return jobOf(s, j), nil
}

// CreateJob adds a job. What the target's storages cannot take is refused; a
// target that is away can be given a job nevertheless, and the answer says so.
func (b *Backend) CreateJob(ctx context.Context, r api.CreateJobRequest) (api.Job, error) {
	if _, err := b.cluster(); err != nil {
		return api.Job{}, err
	}
	target, err := b.member(r.Target)
	if err != nil {
		return api.Job{}, err
	}
	j := guest.Job{
		ID: r.ID, Target: target.ID, Schedule: r.Schedule, Rate: r.Rate, Comment: r.Comment,
		Disabled: r.Disabled, Snapshots: r.Snapshots,
	}
	if j.Schedule == "" {
		j.Schedule = calendar.Default
	}
	if j.Snapshots == "" {
		j.Snapshots = guest.Mirror
	}
	if err := checkJob(j); err != nil {
		return api.Job{}, err
	}
	what := "job " + j.ID.String()
	warnings, err := b.checkStorages(ctx, what, target, b.Book.Current().Guests[j.ID.Guest].Volumes)
	if err != nil {
		return api.Job{}, err
	}
	more, err := b.foresee(ctx, what, foreseeRequest{Guest: b.Book.Current().Guests[j.ID.Guest], Job: j}, nil)
	if err != nil {
		return api.Job{}, err
	}
	warnings = append(warnings, more...)
	if err := b.edit(ctx, ledger.CreateJob{Job: j}); err != nil {
		return api.Job{}, err
	}
	out := jobOf(b.Book.Current(), j)
	out.Warnings = warnings
	return out, nil
}

func checkJob(j guest.Job) error {
	if err := j.Validate(); err != nil {
		return invalid("%v", err)
	}
	if _, err := calendar.Parse(j.Schedule); err != nil {
		return invalid("job %s: %v", j.ID, err)
	}
	return nil
}

// UpdateJob changes the settings that the request names.
func (b *Backend) UpdateJob(ctx context.Context, r api.UpdateJobRequest) (api.Job, error) {
	_, j, err := b.job(r.ID)
	if err != nil {
		return api.Job{}, err
	}
	digest := ledger.Digest(j)
	if r.Digest != "" {
		digest = r.Digest
	}
	if r.Schedule != nil {
		j.Schedule = *r.Schedule
	}
	if r.Rate != nil {
		j.Rate = *r.Rate
	}
	if r.Comment != nil {
		j.Comment = *r.Comment
	}
	if r.Enabled != nil {
		j.Disabled = !*r.Enabled
	}
	if r.Snapshots != nil {
		j.Snapshots = *r.Snapshots
	}
	if err := checkJob(j); err != nil {
		return api.Job{}, err
	}
	if err := b.edit(ctx, ledger.UpdateJob{Job: j, Digest: digest}); err != nil {
		return api.Job{}, err
	}
	return b.Job(ctx, r.ID)
}

// ScheduleNow makes a job due at once, on the node that runs it.
func (b *Backend) ScheduleNow(ctx context.Context, id guest.JobID) error {
	s, _, err := b.job(id)
	if err != nil {
		return err
	}
	if owner := s.Guests[id.Guest].Owner; owner != b.Self {
		err = b.Peers.Call(ctx, owner, pathAsk, jobRequest{Job: id, Index: s.Index}, nil)
	} else {
		err = b.scheduleNow(ctx, id)
	}
	if err != nil {
		return b.refusedOr(err)
	}
	return nil
}

// scheduleNow first tells the loop the ledger: the job may have been made just now.
func (b *Backend) scheduleNow(ctx context.Context, id guest.JobID) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	for { // The node may go over to another generation just now: the last word is to be right.
		s := b.Book.Current()
		c.Node.Ledger(ctx, s)
		if b.Book.Current().Generation == s.Generation {
			break
		}
	}
	return c.Node.ScheduleNow(ctx, id)
}

// refusedOr is failure, but what a job's machine refuses is a refusal.
func (b *Backend) refusedOr(err error) error {
	f, ok := errors.AsType[*api.Error](b.failure(err))
	if ok && f.Code == api.CodeInternal {
		f.Code = api.CodeRefused
	}
	return f
}
