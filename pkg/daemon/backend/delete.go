package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// DeleteJob marks a job as being removed; its owner cleans up and drops it. With
// Force it is dropped at once, and what it leaves is named.
func (b *Backend) DeleteJob(ctx context.Context, r api.DeleteJobRequest) (api.DeletedJob, error) {
	s, j, err := b.job(r.ID)
	if err != nil {
		return api.DeletedJob{}, err
	}
	out := api.DeletedJob{ID: r.ID, Left: []string{}}
	if !j.Removing || !r.Force {
		next := j
		next.Removing, next.KeepReplica = true, r.Keep || r.Force
		if err := b.edit(ctx, ledger.UpdateJob{Job: next, Digest: ledger.Digest(j)}); err != nil {
			return api.DeletedJob{}, err
		}
	}
	if !r.Force {
		return out, nil
	}
	if err := b.drop(ctx, r.ID); err != nil {
		return api.DeletedJob{}, err
	}
	out.Dropped, out.Left = true, b.leftBy(ctx, s, j)
	return out, nil
}

// drop takes a job that is being removed off the ledger, unless its owner has
// done so meanwhile.
func (b *Backend) drop(ctx context.Context, id guest.JobID) error {
	err := b.edit(ctx, ledger.DropJob{ID: id})
	if err == nil {
		return nil
	}
	if _, there := b.Book.Current().Jobs[id]; !there {
		return nil
	}
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	return &api.Error{
		Code: e.Code, Message: fmt.Sprintf("job %s is being removed, but could not be dropped at once: %s", id, e.Message),
		Hint: fmt.Sprintf("try `tandem delete %s --force` again", id),
	}
}

// leftBy names what a job that was dropped at once leaves on its target and on
// its owner.
func (b *Backend) leftBy(ctx context.Context, s *ledger.State, j guest.Job) []string {
	g := s.Guests[j.ID.Guest]
	roots := b.datasets(ctx, j.Target)
	var left []string
	for _, v := range g.Volumes {
		what := "volume " + v.String()
		if root := roots[v.Storage]; root != "" {
			what = fmt.Sprintf("%s/%s (volume %s)", root, v.Name, v)
		}
		left = append(left, fmt.Sprintf("on %s: the replica %s, as far as it was brought there", s.NameOf(j.Target), what))
	}
	owner := s.NameOf(g.Owner)
	var others []string
	for _, o := range s.JobsOf(g.ID) {
		if o.ID != j.ID && !o.Removing {
			others = append(others, o.ID.String())
		}
	}
	if len(others) > 0 {
		return append(left, fmt.Sprintf("on %s: nothing for long; the next sync of job %s removes the snapshots that only job %s needed",
			owner, strings.Join(others, " or "), j.ID))
	}
	for _, v := range g.Volumes {
		left = append(left, fmt.Sprintf("on %s: the snapshots tandem_* of volume %s", owner, v))
	}
	return left
}

// datasets are those of a node's storages, as far as it answers.
func (b *Backend) datasets(ctx context.Context, id guest.NodeID) map[string]string {
	var storages []api.Storage
	if id == b.Self {
		storages = b.Own.Look(ctx)
	} else if c, err := b.cluster(); err == nil {
		ctx, cancel := context.WithTimeout(ctx, c.Overview.Patience(id))
		defer cancel()
		if err := b.Peers.Call(ctx, id, pathStorages, struct{}{}, &storages); err != nil {
			return nil // They are named by their volumes then.
		}
	}
	out := map[string]string{}
	for _, st := range storages {
		out[st.Name] = st.Dataset
	}
	return out
}
