package ledger

import (
	"fmt"
	"strconv"

	"github.com/tandemd/tandem/pkg/guest"
)

// CreateJob adds a replication job.
type CreateJob struct {
	Job guest.Job `json:"job"`
}

func (CreateJob) kind() string { return "create_job" }

func (o CreateJob) apply(s *State, _ Command) error {
	j := o.Job
	if err := j.Validate(); err != nil {
		return err
	}
	if j.Removing {
		return fmt.Errorf("job %s: a new job cannot be one that is being removed", j.ID)
	}
	if _, ok := s.Jobs[j.ID]; ok {
		return fmt.Errorf("job %s exists already: choose another number", j.ID)
	}
	if err := checkTarget(*s, j); err != nil {
		return err
	}
	s.Jobs[j.ID] = j
	return nil
}

// checkTarget holds the specification's rule "It is possible to replicate a
// guest to multiple target nodes, but not twice to the same target node", among others.
func checkTarget(s State, j guest.Job) error {
	g, ok := s.Guests[j.ID.Guest]
	if !ok {
		return noGuest(j.ID.Guest)
	}
	t, ok := s.Members[j.Target]
	if !ok {
		return fmt.Errorf("job %s: target %s is not a member", j.ID, j.Target.Short())
	}
	if j.Target == g.Owner {
		return fmt.Errorf("job %s: guest %s is on %s itself: choose another node as target", j.ID, g.ID, t.Name)
	}
	for _, other := range s.JobsOf(g.ID) {
		if other.ID != j.ID && other.Target == j.Target {
			return fmt.Errorf("job %s: guest %s is replicated to %s by job %s already", j.ID, g.ID, t.Name, other.ID)
		}
	}
	if err := checkVolumes(s, g, t); err != nil {
		return fmt.Errorf("job %s: %w", j.ID, err)
	}
	return nil
}

func (o CreateJob) what(s *State) string {
	return "job " + o.Job.ID.String() + " to " + s.NameOf(o.Job.Target) + " created"
}

// UpdateJob replaces a job's settings, unless the job is no longer what its
// author saw.
type UpdateJob struct {
	Job    guest.Job `json:"job"`
	Digest string    `json:"digest"`
}

func (UpdateJob) kind() string { return "update_job" }

func (o UpdateJob) apply(s *State, _ Command) error {
	old, ok := s.Jobs[o.Job.ID]
	if !ok {
		return noJob(o.Job.ID)
	}
	if o.Digest != "" && o.Digest != Digest(old) {
		return fmt.Errorf("job %s was changed meanwhile: look at it and try again", old.ID)
	}
	if old.Removing && !o.Job.Removing {
		return fmt.Errorf("job %s is being removed", old.ID)
	}
	if o.Job.Target != old.Target {
		return fmt.Errorf("job %s: the target cannot be changed: delete the job and create another", old.ID)
	}
	if err := o.Job.Validate(); err != nil {
		return err
	}
	s.Jobs[o.Job.ID] = o.Job
	return nil
}

func (o UpdateJob) what(*State) string {
	switch {
	case o.Job.Removing:
		return "job " + o.Job.ID.String() + " is being removed"
	case o.Job.Disabled:
		return "job " + o.Job.ID.String() + " changed, disabled"
	default:
		return "job " + o.Job.ID.String() + " changed, schedule " + strconv.Quote(o.Job.Schedule)
	}
}

// DropJob ends a job that is being removed, after its owner cleaned up.
type DropJob struct {
	ID guest.JobID `json:"id"`
}

func (DropJob) kind() string { return "drop_job" }

func (o DropJob) apply(s *State, _ Command) error {
	j, ok := s.Jobs[o.ID]
	if !ok {
		return noJob(o.ID)
	}
	if !j.Removing {
		return fmt.Errorf("job %s is not being removed", o.ID)
	}
	delete(s.Jobs, o.ID)
	return nil
}

func (o DropJob) what(*State) string { return "job " + o.ID.String() + " removed" }

func noJob(id guest.JobID) error { return fmt.Errorf("job %s does not exist", id) }
