package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
)

// report is what one node alone knows; the asked node puts those of all
// together.
type report struct {
	Jobs     []api.JobStatus     `json:"jobs"`
	Copies   map[guest.ID]copied `json:"copies"`
	Storages []api.Storage       `json:"storages"`
	Warnings []string            `json:"warnings"`
}

// copied is how a target fares with a guest.
type copied struct {
	Point string `json:"point,omitempty"`
	// Lag is in seconds, by the target's own clock; nil: it has no complete point.
	Lag *float64 `json:"lag,omitempty"`
}

func (c *cluster) report(ctx context.Context) report {
	r := report{Copies: map[guest.ID]copied{}, Storages: c.d.storages(ctx)}
	st := c.node.Status()
	for _, j := range st.Jobs {
		r.Jobs = append(r.Jobs, c.jobStatus(st.Ledger, j))
	}
	for _, s := range r.Storages {
		if s.Error != "" {
			r.Warnings = append(r.Warnings, fmt.Sprintf("node %s: storage %s: %s", c.d.conf.NodeName, s.Name, s.Error))
		}
	}
	replicas, err := c.target.Replicas(ctx)
	if err != nil && len(r.Warnings) == 0 { // else it is told already
		r.Warnings = append(r.Warnings, fmt.Sprintf("node %s: its replicas cannot be read: %v", c.d.conf.NodeName, err))
	}
	for _, rep := range replicas {
		if rep.Point == nil {
			continue
		}
		lag := rep.Point.Lag(time.Now()).Seconds()
		r.Copies[rep.Guest] = copied{Point: rep.Point.Name, Lag: &lag}
	}
	if err := c.cons.Err(); err != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("node %s follows the ledger no longer: %v", c.d.conf.NodeName, err))
	}
	return r
}

// blankStatus is what the ledger alone tells of a job.
func blankStatus(s *ledger.State, j guest.Job) api.JobStatus {
	g := s.Guests[j.ID.Guest]
	return api.JobStatus{
		ID: j.ID, Guest: j.ID.Guest, GuestName: g.Name, Enabled: !j.Disabled,
		Source: guest.NodeName(s.NameOf(g.Owner)), Target: guest.NodeName(s.NameOf(j.Target)),
		Schedule: j.Schedule, State: api.StateUnknown,
	}
}

// jobStatus is what the owner knows of a job.
func (c *cluster) jobStatus(s *ledger.State, j node.JobStatus) api.JobStatus {
	out := blankStatus(s, j.Conf)
	if !j.Ready {
		return out
	}
	now := time.Now()
	out.State = stateName(j.Job.State)
	out.FailCount = j.Job.Facts.Fails
	out.LastSync, out.LastTry = j.Job.Facts.LastSync, j.Job.Facts.LastTry
	if at, ok := job.NextWake(j.Job, now); ok {
		out.NextSync = at
	}
	if j.Last.ID != 0 {
		out.Duration = j.Last.End.Sub(j.Last.Start).Seconds()
		out.Bytes, out.Kind = j.Last.Bytes, string(j.Last.Kind)
	}
	reason := j.Job.Facts.LastError
	if r, ok := j.Job.State.(job.Removing); ok {
		out.FailCount, reason = r.Fails, r.LastError
	}
	if out.FailCount > 0 {
		out.Error, out.Hint = reason, j.Last.ErrorHint
	}
	if !j.Job.DownSince.IsZero() {
		out.Waiting = fmt.Sprintf("waiting for %s (down since %s)", out.Target, j.Job.DownSince.Format(time.RFC3339))
	}
	if started, p, ok := j.Running(); ok {
		out.Progress = &api.Progress{
			Started: started, Phase: string(p.Phase), Sent: int64(p.Bytes), Total: int64(p.Total), //nolint:gosec // bytes of one run
		}
	}
	return out
}

func stateName(s job.State) string {
	switch s.(type) {
	case job.OK:
		return api.StateOK
	case job.Running:
		return api.StateRunning
	case job.Failing:
		return api.StateError
	case job.Disabled:
		return api.StateDisabled
	case job.Removing:
		return api.StateRemoving
	default:
		return api.StateUnknown
	}
}

// storages is this node's storages as they are now.
func (d *Daemon) storages(ctx context.Context) []api.Storage {
	var out []api.Storage
	for _, name := range storageNames(d.conf) {
		s := api.Storage{Name: name, Dataset: d.conf.Storages[name]}
		got, err := d.zfs.Storage(ctx, s.Dataset)
		if err != nil {
			s.Error = err.Error()
		} else {
			s.Health, s.Available, s.Used = got.Health, got.Available, got.Used
		}
		out = append(out, s)
	}
	return out
}

func storageNames(c config.Config) []string { return slices.Sorted(maps.Keys(c.Storages)) }

const (
	// reportTimeout bounds how long status waits for a node: slow is not dead.
	reportTimeout = 10 * time.Second
	// deadReportTimeout is the same for one that gossip calls dead: it may be wrong.
	deadReportTimeout = time.Second
)

// reports asks all members at once; nil stands for those that did not answer.
func (c *cluster) reports(ctx context.Context) map[guest.NodeID]*report {
	alive := c.peers()
	out := map[guest.NodeID]*report{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range c.d.book.Current().MemberList() {
		wg.Go(func() {
			var r *report
			if m.ID == c.d.id.Node {
				own := c.report(ctx)
				r = &own
			} else {
				timeout := deadReportTimeout
				if alive[m.ID].Alive {
					timeout = reportTimeout
				}
				r = c.ask(ctx, m.ID, timeout)
			}
			mu.Lock()
			defer mu.Unlock()
			out[m.ID] = r
		})
	}
	wg.Wait()
	return out
}

func (c *cluster) ask(ctx context.Context, id guest.NodeID, timeout time.Duration) *report {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var r report
	if err := c.d.peer.Call(ctx, id, pathReport, struct{}{}, &r); err != nil {
		return nil
	}
	return &r
}

// status is the whole cluster as this node can see it.
func (c *cluster) status(ctx context.Context, f api.Filter) api.Status {
	s := c.d.book.Current()
	all := c.reports(ctx)
	out := api.Status{
		Version: api.Version, Node: c.d.conf.NodeName, Time: time.Now(), Cluster: c.describe(all),
		Jobs: []api.JobStatus{}, Silent: []guest.NodeName{}, Warnings: []string{},
	}
	for _, m := range s.MemberList() {
		r := all[m.ID]
		if r == nil {
			out.Silent = append(out.Silent, m.Name)
			continue
		}
		out.Warnings = append(out.Warnings, r.Warnings...)
	}
	for _, j := range s.JobList() {
		js := c.merge(s, j, all)
		if f.Guest != 0 && js.Guest != f.Guest || f.Node != "" && js.Source != f.Node && js.Target != f.Node {
			continue
		}
		out.Jobs = append(out.Jobs, js)
	}
	if f == (api.Filter{}) {
		out.Warnings = append(out.Warnings, node.Disagreements(s, c.entries())...)
	}
	return out
}

// merge joins what the owner and the target tell of a job.
func (c *cluster) merge(s *ledger.State, j guest.Job, all map[guest.NodeID]*report) api.JobStatus {
	js := blankStatus(s, j)
	if r := all[s.Guests[j.ID.Guest].Owner]; r != nil {
		for _, own := range r.Jobs {
			if own.ID == j.ID {
				js = own
			}
		}
	}
	r := all[j.Target]
	if r == nil {
		return js
	}
	if cp, ok := r.Copies[j.ID.Guest]; ok {
		js.Point, js.Lag = cp.Point, cp.Lag
	}
	if sched, err := calendar.Parse(j.Schedule); err == nil && js.Lag != nil && js.Enabled {
		lag := time.Duration(*js.Lag * float64(time.Second))
		js.Lagging = node.Lagging(sched, lag, time.Now(), time.Local)
	}
	return js
}

func (c *cluster) entries() map[guest.NodeID]map[string][]byte {
	out := map[guest.NodeID]map[string][]byte{}
	for _, m := range c.gossip.Members() {
		if m.State == gossip.Alive {
			out[m.Node] = c.gossip.Entries(m.Node)
		}
	}
	return out
}

// describe is the cluster itself; reports, where there are any, tell of storages.
func (c *cluster) describe(all map[guest.NodeID]*report) api.Cluster {
	s := c.d.book.Current()
	out := api.Cluster{
		Version: api.Version, ID: s.Cluster, Generation: s.Generation, Index: s.Index, Quorate: c.cons.Quorate(),
	}
	if l := c.cons.Leader(); l != "" {
		out.Leader = guest.NodeName(s.NameOf(l))
	}
	votes := map[guest.NodeID]bool{}
	servers, err := c.cons.Servers()
	if err == nil {
		for _, v := range servers {
			votes[v.Node] = v.Voter
		}
	}
	seen := map[guest.NodeID]gossip.Member{}
	for _, m := range c.gossip.Members() {
		seen[m.Node] = m
	}
	for _, m := range s.MemberList() {
		am := api.Member{
			Name: m.Name, ID: m.ID, Peer: m.Peer, Gossip: m.Gossip, Voter: votes[m.ID], State: "unknown", Storages: []api.Storage{},
		}
		if g, ok := seen[m.ID]; ok {
			am.State, am.Since = string(g.State), g.Since
		}
		if m.ID == c.d.id.Node {
			am.State = "self"
		}
		am.Storages = storagesOf(m, all[m.ID])
		if am.Voter {
			out.Voters++
			if am.State == "self" || am.State == string(gossip.Alive) {
				out.Votes++
			}
		}
		out.Members = append(out.Members, am)
	}
	out.Quorum = out.Voters/2 + 1
	return out
}

func storagesOf(m ledger.Member, r *report) []api.Storage {
	if r != nil && r.Storages != nil {
		return r.Storages
	}
	out := []api.Storage{}
	for _, name := range m.Storages {
		out = append(out, api.Storage{Name: name})
	}
	return out
}
