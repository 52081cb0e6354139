package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// Expected makes this node quorate by itself.
func (b *Backend) Expected(ctx context.Context, r api.ExpectedRequest) (api.Expectation, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Expectation{}, err
	}
	if r.Votes < 1 {
		return api.Expectation{}, invalid("%d expected votes: must be at least 1", r.Votes)
	}
	warnings, err := c.Members.Expected(ctx, r.Votes, b.caller(ctx))
	if err != nil {
		return api.Expectation{}, b.failure(err)
	}
	return api.Expectation{Version: api.Version, Cluster: c.Overview.Cluster(ctx), Warnings: some(warnings)}, nil
}

// Yield gives this node's generation up for another.
func (b *Backend) Yield(ctx context.Context, r api.YieldRequest) (api.Cluster, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Cluster{}, err
	}
	if err := c.Members.Yield(ctx, r.Generation); err != nil {
		return api.Cluster{}, b.failure(err)
	}
	return c.Overview.Cluster(ctx), nil
}

// Log is the newest changes of the ledger.
func (b *Backend) Log(_ context.Context, n int) ([]api.Change, error) {
	c, err := b.cluster()
	if err != nil {
		return nil, err
	}
	out := []api.Change{}
	for _, h := range slices.Backward(c.History()) {
		if n > 0 && len(out) == n {
			break
		}
		out = append(out, api.Change{Index: h.Index, Time: time.Unix(h.At, 0), By: h.By, What: h.What})
	}
	return out, nil
}

// SetCluster changes the cluster's settings.
func (b *Backend) SetCluster(ctx context.Context, r api.SetClusterRequest) (api.Cluster, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Cluster{}, err
	}
	settings := b.Book.Current().Settings
	digest := ledger.Digest(settings)
	if r.Digest != "" {
		digest = r.Digest
	}
	if r.Name != nil {
		settings.Name = *r.Name
	}
	if err := b.edit(ctx, ledger.SetSettings{Settings: settings, Digest: digest}); err != nil {
		return api.Cluster{}, err
	}
	return c.Overview.Cluster(ctx), nil
}

// RemoveMember takes a node off the member list: first its jobs, then the node.
func (b *Backend) RemoveMember(ctx context.Context, r api.RemoveMemberRequest) (api.Removal, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Removal{}, err
	}
	m, err := b.member(r.Node)
	if err != nil {
		return api.Removal{}, err
	}
	if m.ID == b.Self {
		return api.Removal{}, &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("node %s cannot remove itself", m.Name),
			Hint: fmt.Sprintf("run `tandem cluster remove %s` on another member", m.Name),
		}
	}
	p, err := b.planRemoval(c, m, r)
	if err != nil || r.DryRun {
		return p.removal, err
	}
	if err := b.endJobs(ctx, p.end, r.Keep); err != nil {
		return api.Removal{}, err
	}
	if p.handOver { // Afterwards the others refuse its key.
		if err := c.Members.HandOver(ctx, m.ID); err != nil {
			return api.Removal{}, b.failure(err)
		}
	}
	if err := b.edit(ctx, p.op); err != nil {
		return api.Removal{}, err
	}
	p.removal.Done = true
	return p.removal, nil
}

// removalPlan is what the removal of a member does.
type removalPlan struct {
	removal api.Removal
	// end are jobs whose owners clean up after them before op is given.
	end []guest.Job
	// handOver: the node leads.
	handOver bool
	op       ledger.RemoveMember
}

// planRemoval has jobs ended by their owners, where those and the node are alive,
// and the rest dropped.
func (b *Backend) planRemoval(c *Cluster, m ledger.Member, r api.RemoveMemberRequest) (p removalPlan, err error) {
	s, now := b.Book.Current(), c.Overview.Votes()
	facts := rules.RemovalFacts{Quorate: now.Quorate, Alive: c.Overview.Alive(), Force: r.Force}
	if l, ok := s.MemberByName(now.Leader); ok {
		facts.Leader = l.ID
	}
	if facts.Voters, err = c.Members.Voters(); err != nil {
		return p, b.failure(err)
	}
	out := api.Removal{Version: api.Version, Node: m.Name, ID: m.ID, Steps: []string{}, Leaves: []string{}, Warnings: []string{}}
	after := *s
	after.Jobs = maps.Clone(s.Jobs)
	for _, j := range s.JobList() {
		owner := s.Guests[j.ID.Guest].Owner
		switch {
		case j.Target != m.ID:
		case facts.Alive[m.ID] && facts.Alive[owner] && !r.Force:
			p.end = append(p.end, j)
			delete(after.Jobs, j.ID)
			step := fmt.Sprintf("end job %s (%s to %s)", j.ID, s.NameOf(owner), m.Name)
			if r.Keep {
				out.Leaves = append(out.Leaves, fmt.Sprintf("on %s: the replica of guest %s", m.Name, j.ID.Guest))
			} else {
				step += " and remove its replica there"
			}
			out.Steps = append(out.Steps, step)
		case len(s.JobsOf(j.ID.Guest)) == 1: // Else the guest's other jobs clean up.
			out.Leaves = append(out.Leaves, fmt.Sprintf("on %s: the snapshots tandem_* of guest %s, until it has a job again", s.NameOf(owner), j.ID.Guest))
		}
	}
	plan := rules.PlanRemoval(&after, m.Name, facts)
	if plan.Refusal != nil {
		return p, b.failure(plan.Refusal)
	}
	out.Steps, out.Leaves = append(out.Steps, plan.Steps...), append(out.Leaves, plan.Leaves...)
	if !facts.Alive[m.ID] {
		out.Warnings = append(out.Warnings, fmt.Sprintf("node %s is not alive: it learns of its removal when it comes back", m.Name))
	}
	p.removal, p.op, p.handOver = out, plan.Op, plan.HandOver
	return p, nil
}

const (
	// endPoll is how often the ledger is looked at for jobs that are being removed.
	endPoll = 500 * time.Millisecond
	// endTimeout is how long their owners have: a replica of many snapshots takes minutes.
	endTimeout = 10 * time.Minute
)

// endJobs deletes jobs as `tandem delete` does, and waits until their owners have
// cleaned up after them.
func (b *Backend) endJobs(ctx context.Context, jobs []guest.Job, keep bool) error {
	if len(jobs) == 0 {
		return nil
	}
	for _, j := range jobs {
		if j.Removing {
			continue
		}
		if _, err := b.DeleteJob(ctx, api.DeleteJobRequest{ID: j.ID, Keep: keep}); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	for {
		var left []string
		s := b.Book.Current()
		for _, j := range jobs {
			if _, ok := s.Jobs[j.ID]; ok {
				left = append(left, j.ID.String())
			}
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &api.Error{
				Code:    api.CodeRefused,
				Message: "the node was not removed: these jobs to it are still being removed: " + strings.Join(left, ", "),
				Hint:    "`tandem status` tells why; try again, or leave their replicas where they are with --force",
			}
		}
	}
}

// some makes JSON say [] where there is none.
func some[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
