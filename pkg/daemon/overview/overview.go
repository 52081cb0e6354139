// Package overview tells how a node and the whole cluster fare: each node reports
// what it alone knows, the asked node puts the reports together.
//
// It decides nothing and changes nothing; pkg/daemon fills it and serves what it
// says.
package overview

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Overview is where this node looks; all fields are required.
type Overview struct {
	Self     guest.NodeID
	Name     guest.NodeName
	Storages Storages
	Book     *member.Book
	Cons     *consensus.Consensus
	Gossip   *gossip.Gossip
	Node     *node.Node
	Target   *replicate.Target
	// Standing tells of generations and of this node's removal; what the ledger says
	// is added. Nil: nothing.
	Standing func() api.Standing
	// Ask fetches the report of another node.
	Ask func(ctx context.Context, id guest.NodeID) (*Report, error)

	pace atomic.Pointer[node.Pace]
	// Plan plans a job's next sync and does nothing of it.
	Plan func(ctx context.Context, id guest.JobID, patience time.Duration) (replicate.Preview, error)
	// Spread is that of the node's limits now.
	Spread func() time.Duration
	// Now is the node's clock.
	Now func() time.Time
	// Aside finds diverged data that was set aside on this node.
	Aside interface {
		All(ctx context.Context, cluster string) ([]aside.Copy, error)
	}
	// Moving are the migrations that this node does now.
	Moving func() []api.Migration
	// Troubles are sentences on what of this node's own is not in order.
	Troubles func() []string
	// Verified is what comparing a job's replica with its source has found.
	Verified func(j guest.Job) *api.Verified
	// Drilled is what is known of the drills of replicas on this node.
	Drilled func() map[guest.ID]api.Drilled
}

// Storages are the storages of a node's configuration.
type Storages struct {
	// Datasets by the storages' names.
	Datasets map[string]string
	ZFS      interface {
		Storage(ctx context.Context, dataset string) (zfs.Storage, error)
	}
}

// Report is what one node alone knows; the asked node puts those of all
// together.
type Report struct {
	Jobs     []api.JobStatus   `json:"jobs"`
	Copies   map[guest.ID]Copy `json:"copies"`
	Storages []api.Storage     `json:"storages"`
	Warnings []string          `json:"warnings"`
	// Migrations are those that go on.
	Migrations []api.Migration `json:"migrations,omitempty"`
	// Kept are its replicas to which no job points.
	Kept []api.KeptCopy `json:"kept,omitempty"`
	// Drills are what is known of those of its replicas.
	Drills map[guest.ID]api.Drilled `json:"drills,omitempty"`
}

// Copy is how a target fares with a guest.
type Copy struct {
	Point string `json:"point,omitempty"`
	// Consistency is the point's.
	Consistency guest.Consistency `json:"consistency,omitempty"`
	// Lag is in seconds, by the target's own clock; nil: it has no complete point, or
	// its clock tells nothing about it.
	Lag *float64 `json:"lag,omitempty"`
}

// clockSlack is how far a time of this node's own may lie ahead of its clock.
const clockSlack = time.Minute

// Report is what this node alone knows.
func (o *Overview) Report(ctx context.Context) Report {
	r := Report{Copies: map[guest.ID]Copy{}, Storages: o.Storages.Look(ctx)}
	st := o.Node.Status()
	for _, j := range st.Jobs {
		js := o.jobStatus(st.Ledger, j)
		r.Jobs = append(r.Jobs, js)
		if js.Verified != nil && js.Verified.Alarm {
			r.Warnings = append(r.Warnings, differs(js))
		}
	}
	for _, s := range r.Storages {
		if s.Error != "" {
			r.Warnings = append(r.Warnings, fmt.Sprintf("node %s: storage %s: %s", o.Name, s.Name, s.Error))
		}
	}
	unread := len(r.Warnings) > 0
	r.Warnings = append(r.Warnings, o.warnFull(st.Ledger, r.Storages)...)
	apart := make(chan []string, 1)
	go func() { apart <- o.setAside(ctx) }()
	replicas, err := o.Target.Replicas(ctx)
	if err != nil && !unread { // else it is told already
		r.Warnings = append(r.Warnings, fmt.Sprintf("node %s: its replicas cannot be read: %v", o.Name, err))
	}
	r.Kept = o.kept(replicas)
	for _, rep := range replicas {
		if rep.Point == nil {
			continue
		}
		now := o.Now()
		if rep.Point.Arrived.After(now.Add(clockSlack)) {
			r.Copies[rep.Guest] = Copy{Point: rep.Point.Name, Consistency: rep.Point.Consistency}
			r.Warnings = append(r.Warnings, fmt.Sprintf(
				"node %s: the newest point of guest %s arrived on %s by its clock, which is now %s: the clock was set back, so the lag is not known until the next sync",
				o.Name, rep.Guest, rep.Point.Arrived.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
			continue
		}
		lag := rep.Point.Lag(now).Seconds()
		r.Copies[rep.Guest] = Copy{Point: rep.Point.Name, Consistency: rep.Point.Consistency, Lag: &lag}
	}
	r.Migrations = o.Moving()
	r.Warnings = append(r.Warnings, inDoubt(r.Migrations)...)
	r.Drills = o.Drilled()
	r.Warnings = append(r.Warnings, o.failedDrills(r.Drills)...)
	r.Warnings = append(r.Warnings, <-apart...)
	for _, t := range o.Troubles() {
		r.Warnings = append(r.Warnings, fmt.Sprintf("node %s: %s", o.Name, t))
	}
	return r
}

// blankStatus is what the ledger alone tells of a job.
func blankStatus(s *ledger.State, j guest.Job) api.JobStatus {
	g := s.Guests[j.ID.Guest]
	return api.JobStatus{
		ID: j.ID, Guest: j.ID.Guest, GuestName: g.Name, Enabled: !j.Disabled,
		Source: guest.NodeName(s.NameOf(g.Owner)), Target: guest.NodeName(s.NameOf(j.Target)),
		Schedule: j.Schedule, Rate: j.Rate, Comment: j.Comment, State: api.StateUnknown,
	}
}

// jobStatus is what the owner knows of a job.
func (o *Overview) jobStatus(s *ledger.State, j node.JobStatus) api.JobStatus {
	out := blankStatus(s, j.Conf)
	if !j.Ready {
		return out
	}
	now := o.Now()
	out.Verified = o.Verified(j.Conf)
	out.State = stateName(j.Job.State)
	out.FailCount = j.Job.Facts.Fails
	out.LastSync, out.LastTry = j.Job.Facts.LastSync, j.Job.Facts.LastTry
	if at, ok := job.NextWake(j.Job, now); ok {
		out.NextSync = at
	}
	if j.Last.ID != 0 {
		out.Duration = j.Last.Duration().Seconds()
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
	if out.Waiting == "" {
		out.Waiting = waiting(s, j, now)
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

// Look reads the storages as they are now, by name.
func (s Storages) Look(ctx context.Context) []api.Storage {
	var out []api.Storage
	for _, name := range s.Names() {
		st := api.Storage{Name: name, Dataset: s.Datasets[name]}
		st.Pool, _, _ = strings.Cut(st.Dataset, "/")
		got, err := s.ZFS.Storage(ctx, st.Dataset)
		if err != nil {
			st.Error = err.Error()
		} else {
			st.Health, st.Available, st.Used = got.Health, got.Available, got.Used
			st.PoolSize, st.PoolFree = got.PoolSize, got.PoolFree
		}
		out = append(out, st)
	}
	return out
}

// Names are the storages' names, in order.
func (s Storages) Names() []string { return slices.Sorted(maps.Keys(s.Datasets)) }

const (
	// ReportTimeout bounds how long status waits for a node: slow is not dead.
	ReportTimeout = 10 * time.Second
	// deadReportTimeout is the same for one that gossip calls dead: it may be wrong.
	deadReportTimeout = time.Second
)

func patience(alive map[guest.NodeID]bool, id guest.NodeID) time.Duration {
	if alive[id] {
		return ReportTimeout
	}
	return deadReportTimeout
}

// Patience is how long a node has to answer: less where gossip calls it dead.
func (o *Overview) Patience(id guest.NodeID) time.Duration { return patience(o.Alive(), id) }

// reports asks all members at once; nil stands for those that did not answer.
func (o *Overview) reports(ctx context.Context) map[guest.NodeID]*Report {
	alive := o.Alive()
	out := map[guest.NodeID]*Report{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range o.Book.Current().MemberList() {
		wg.Go(func() {
			var r *Report
			if m.ID == o.Self {
				own := o.Report(ctx)
				r = &own
			} else {
				r = o.ask(ctx, m.ID, patience(alive, m.ID))
			}
			mu.Lock()
			defer mu.Unlock()
			out[m.ID] = r
		})
	}
	wg.Wait()
	return out
}

func (o *Overview) ask(ctx context.Context, id guest.NodeID, timeout time.Duration) *Report {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := o.Ask(ctx, id)
	if err != nil {
		return nil
	}
	return r
}

// Status is the whole cluster as this node can see it.
func (o *Overview) Status(ctx context.Context, f api.Filter) api.Status {
	s := o.Book.Current()
	all := o.reports(ctx)
	out := api.Status{
		Version: api.Version, Node: o.Name, Time: o.Now(), Cluster: o.describe(all),
		Jobs: []api.JobStatus{}, Silent: []guest.NodeName{}, Warnings: []string{},
	}
	for _, m := range s.MemberList() {
		r := all[m.ID]
		if r == nil {
			out.Silent = append(out.Silent, m.Name)
			continue
		}
		out.Warnings = append(out.Warnings, r.Warnings...)
		kept, migrations := r.wanted(f)
		out.Kept, out.Migrations = append(out.Kept, kept...), append(out.Migrations, migrations...)
	}
	for _, j := range s.JobList() {
		js := o.merge(s, j, all)
		if f.Guest != 0 && js.Guest != f.Guest || f.Node != "" && js.Source != f.Node && js.Target != f.Node {
			continue
		}
		out.Jobs = append(out.Jobs, js)
	}
	if f == (api.Filter{}) {
		out.Warnings = append(out.Warnings, o.disagreements(s, out.Time)...)
		out.Warnings = append(out.Warnings, out.Cluster.Alarms...)
	}
	return out
}

// wanted are what of the report is not of jobs, and was asked for.
func (r *Report) wanted(f api.Filter) (kept []api.KeptCopy, migrations []api.Migration) {
	for _, k := range r.Kept {
		if (f.Guest == 0 || k.Guest == f.Guest) && (f.Node == "" || k.Node == f.Node) {
			kept = append(kept, k)
		}
	}
	for _, x := range r.Migrations {
		if f.Guest == 0 || x.Guest == f.Guest {
			migrations = append(migrations, x)
		}
	}
	return kept, migrations
}

// merge joins what the owner and the target tell of a job.
func (o *Overview) merge(s *ledger.State, j guest.Job, all map[guest.NodeID]*Report) api.JobStatus {
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
		js.Point, js.Consistency, js.Lag = cp.Point, cp.Consistency, cp.Lag
	}
	if d, ok := r.Drills[j.ID.Guest]; ok {
		js.Drilled = &d
	}
	if sched, err := calendar.Parse(j.Schedule); err == nil && js.Lag != nil && js.Enabled {
		lag := time.Duration(*js.Lag * float64(time.Second))
		js.Lagging = node.Lagging(sched, lag, o.Now(), time.Local)
	}
	return js
}
