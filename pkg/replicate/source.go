package replicate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Source runs the syncs of the guests that this node owns.
type Source struct {
	o       local.Options
	link    Link
	locks   *local.Locks
	bases   *bases
	version local.Version
	pools   local.Pools

	mu sync.Mutex
	// doubts are jobs whose last run failed.
	doubts map[guest.JobID]bool
	// tokens counts how often a partial receive was met unchanged.
	tokens map[tokenKey]tokenSeen
	// seqs are the numbers of the newest points taken by this process.
	seqs map[guest.ID]uint64
	// handovers are the guests that are being moved, and where to.
	handovers map[guest.ID]guest.NodeID
}

type tokenKey struct {
	target guest.NodeID
	volume guest.Volume
}

type tokenSeen struct {
	guid, bytes uint64
	times       int
}

// NewSource makes the source side of a node.
func NewSource(o Options, link Link) (*Source, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	if link == nil {
		return nil, errors.New("replicate: a source needs a link to the other nodes")
	}
	return &Source{
		o: o, link: link, locks: o.Locks, bases: newBases(o),
		tokens: map[tokenKey]tokenSeen{}, seqs: map[guest.ID]uint64{}, doubts: map[guest.JobID]bool{},
		handovers: map[guest.ID]guest.NodeID{},
	}, nil
}

// Task is one sync to run. Guest, target, mode and term are the ledger's.
type Task struct {
	Job guest.JobID
	// Limiter is in bytes per second; nil is no limit.
	Limiter *rate.Limiter
	// Progress and Log may be nil. They are not called concurrently and must not block.
	Progress func(Progress)
	Log      func(line string)
}

// Phase is what a sync is doing.
type Phase string

// The phases, in their order; after PhaseResume it begins again with PhasePlan.
const (
	PhasePlan     Phase = "plan"
	PhaseResume   Phase = "resume"
	PhaseSnapshot Phase = "snapshot"
	PhaseSend     Phase = "send"
	PhaseCommit   Phase = "commit"
	PhaseClean    Phase = "clean"
)

// Progress is how far a sync is. Total is an estimate, in bytes, and 0 before there is one.
type Progress struct {
	Phase Phase  `json:"phase"`
	Bytes uint64 `json:"bytes"`
	Total uint64 `json:"total"`
	// Slow says that a transfer stands still although the other side is alive, and who is waited for; else empty.
	Slow string `json:"slow,omitempty"`
}

// Kind says what a sync was.
type Kind string

// The kinds of syncs.
const (
	KindFull        Kind = "full"
	KindIncremental Kind = "incremental"
	KindResumed     Kind = "resumed"
	KindNothing     Kind = "nothing"
)

// Result is what a sync did. Beside an error it tells what was done until then.
type Result struct {
	Kind Kind `json:"kind"`
	// Bytes went over the wire.
	Bytes uint64 `json:"bytes"`
	// Base and Point are names of snapshots; Base is empty on a full sync.
	Base  string `json:"base,omitempty"`
	Point string `json:"point"`
	// Taken is when the point was taken, by this node's clock.
	Taken time.Time `json:"taken"`
	// Consistency is how the point was taken.
	Consistency guest.Consistency `json:"consistency,omitempty"`
	Volumes     []VolumeResult    `json:"volumes"`
	Warnings    []string          `json:"warnings,omitempty"`
}

// VolumeResult is a sync's part for one volume.
type VolumeResult struct {
	Volume guest.Volume `json:"volume"`
	Kind   Kind         `json:"kind"`
	Bytes  uint64       `json:"bytes"`
	Base   string       `json:"base,omitempty"`
	Steps  int          `json:"steps"`
}

// Run does one sync. Its error is an *Error. If it ends anywhere, by an error or
// with the process, the next run goes on from what is on the disks.
func (s *Source) Run(ctx context.Context, task Task) (Result, error) {
	r, err := s.begin(task)
	if err != nil {
		return Result{}, fault.Final(ctx, err)
	}
	if r.job.Removing {
		return Result{}, fault.Final(ctx, fault.Never("", "job %s is being removed", task.Job))
	}
	if to, ok := s.handover(r.guest.ID); ok && to == r.job.Target {
		return Result{}, fault.Busy("the move brings what the job would; see it with `tandem guest show "+r.guest.ID.String()+"`",
			"guest %s is being moved to %s", r.guest.ID, r.target)
	}
	release, err := s.job(task.Job)
	if err != nil {
		return Result{}, fault.Final(ctx, err)
	}
	defer release()
	r.near = s.o.Together.Near(local.StepList, r.names...)
	defer r.near.Leave()
	err = r.rounds(ctx)
	s.doubt(task.Job, err)
	if w := s.bases.warning(r.guest); w != "" {
		r.warn("%s", w)
	}
	return r.finish(), fault.Final(ctx, err)
}

// call asks a node, within a deadline.
func (s *Source) call(ctx context.Context, node guest.NodeID, path string, req, resp any) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.CallTimeout)
	defer cancel()
	return s.link.Call(ctx, node, path, req, resp)
}

// job keeps a second run of the same job out.
func (s *Source) job(id guest.JobID) (release func(), err error) {
	turn := s.locks.Turn("job-" + id.String())
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	default:
		return nil, fault.Busy("", "job %s is already running", id)
	}
}

// lockGuest lets one run at a time take or clean the guest's points; a move takes
// the same lock. A run that does not get it in time has not begun, which is no failure.
func (s *Source) lockGuest(ctx context.Context, id guest.ID) (release func(), err error) {
	wait, cancel := context.WithTimeout(ctx, s.o.LockWait)
	defer cancel()
	release, err = s.locks.Lock(wait, local.GuestLock(id))
	if err != nil && wait.Err() != nil {
		return nil, fault.Busy("it passes by itself, and the sync is tried again every minute",
			"guest %s is locked: it is being moved, or another of its syncs takes long with a snapshot", id)
	}
	return release, err
}

// run is one sync that is running.
type run struct {
	s      *Source
	task   Task
	view   *ledger.State
	job    guest.Job
	guest  guest.Guest
	target string   // its name
	names  []string // datasets of the volumes, in their order
	zfs    string   // version
	// anew: the job's last run failed, and nobody has looked yet at what seldom changes.
	anew bool
	// preview: nothing is counted, because nothing follows.
	preview bool
	// ahead: job and volumes need not be on the ledger yet.
	ahead bool
	// hand is set where the sync is a part of a move.
	hand *handing
	// near is set where others may wait for it, and it for them.
	near *local.Near

	own []zfs.Dataset
	// unwritten is when nothing had been written since the point, where that is an older one; zero: it is not.
	unwritten time.Time
	inv       wire.Inventory
	pairs     []plan.Pair

	mu       sync.Mutex
	progress Progress
	told     time.Time
	result   Result
	volumes  map[guest.Volume]*VolumeResult
}

// begin reads the ledger: this node must own the guest.
func (s *Source) begin(task Task) (*run, error) {
	view := s.o.Ledger.View()
	job, ok := view.Jobs[task.Job]
	if !ok {
		return nil, fault.Never("", "there is no job %s", task.Job)
	}
	g, ok := view.Guests[job.ID.Guest]
	if !ok {
		return nil, fault.Never("", "job %s: there is no guest %s", job.ID, job.ID.Guest)
	}
	if g.Owner != s.o.Node {
		return nil, fault.Never("", "job %s: this node does not own guest %s, %s does", job.ID, g.ID, view.NameOf(g.Owner))
	}
	if job.Target == s.o.Node {
		return nil, fault.Never("", "job %s: its target is the owner itself", job.ID)
	}
	names, err := s.o.Datasets(g.Volumes)
	if err != nil {
		return nil, err
	}
	return &run{
		s: s, task: task, view: view, job: job, guest: g, target: view.NameOf(job.Target), names: names,
		anew: s.doubted(job.ID), volumes: map[guest.Volume]*VolumeResult{},
	}, nil
}

func (r *run) request() wire.Request {
	return wire.Request{Version: wire.Version, Job: r.job.ID, Term: r.guest.Term, Index: r.view.Index, Move: r.hand != nil}
}

// rounds repeats "after a resume, plan again", at most as often as each volume
// can need it.
func (r *run) rounds(ctx context.Context) error {
	for range 3 + 4*len(r.guest.Volumes) {
		again, err := r.round(ctx)
		if err != nil && ctx.Err() == nil && fault.ClassOf(err) == fault.ClassAgain {
			r.log("%v: looking again", err)
			continue
		}
		if err != nil || !again {
			return err
		}
	}
	return fault.Retry("", "the target's state changes faster than it can be planned for")
}

func (r *run) round(ctx context.Context) (again bool, err error) {
	if err := r.look(ctx); err != nil {
		return false, err
	}
	p, err := r.plan(r.nextName().String())
	if err != nil {
		return false, err
	}
	if p.Again() {
		r.near.Rest()
		p = p.First()
		r.phase(PhaseResume, p.Bytes())
		return true, r.perform(ctx, p)
	}
	if shared, marked, ok := plan.Shared(r.pairs); ok && !marked {
		r.near.Rest()
		r.log("%s has all of %s, which was not marked complete", r.target, shared.Name)
		return true, r.finishPoint(ctx, shared.Name)
	}
	if name, ok := plan.Current(r.pairs); ok {
		r.near.Rest()
		return false, r.nothing(ctx, name)
	}
	r.warnings(p)
	return false, r.send(ctx)
}

// send is the body of a sync: snapshot, send, commit, and clean where that does not
// wait for the next one's snapshot.
func (r *run) send(ctx context.Context) error {
	p, point, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	r.phase(PhaseSend, p.Bytes())
	if err := r.perform(ctx, p); err != nil {
		if ctx.Err() == nil {
			r.clean(ctx) // A target that fails again and again must not let points pile up.
		}
		return err
	}
	if err := r.commit(ctx, p, point); err != nil {
		return err
	}
	r.dropBookmarks(ctx)
	r.tidy(ctx)
	return nil
}

// finishPoint marks a point that arrived in a sync that was cut before its commit.
func (r *run) finishPoint(ctx context.Context, name string) error {
	p, err := r.plan(name)
	if err != nil {
		return err
	}
	r.warnings(p)
	return r.commit(ctx, p, name)
}

// nothing tells the target that its newest point is current, and removes what
// went at the source.
func (r *run) nothing(ctx context.Context, name string) error {
	p, err := r.plan(name)
	if err != nil {
		return err
	}
	r.warnings(p)
	r.log("nothing was written since %s, which %s has", name, r.target)
	r.note(func() { r.result.Kind = KindNothing })
	if err := r.commit(ctx, p, name); err != nil {
		return err
	}
	r.dropBookmarks(ctx)
	r.tidy(ctx)
	return nil
}

// plan decides, and turns refusals into errors.
func (r *run) plan(point string) (plan.Plan, error) {
	p := plan.Make(r.input(point))
	if len(p.Refusals) == 0 {
		return p, nil
	}
	for _, refusal := range p.Refusals {
		r.log("refused: volume %s: %s", refusal.Volume, refusal.Reason)
	}
	first := p.Refusals[0]
	return plan.Plan{}, &fault.Error{Class: fault.ClassOf(first), Volume: first.Volume, Hint: first.Hint, Err: first}
}

// input is all that the plan depends on, with the point to bring to the target.
func (r *run) input(point string) plan.Input {
	return plan.Input{
		Cluster: r.view.Cluster, Guest: r.guest, Mode: r.job.Snapshots, TargetName: r.target, Point: point,
		Needed: r.needed(), SourceZFS: r.zfs, TargetZFS: r.inv.ZFS, Pairs: r.pairs,
	}
}

// needed are points that the other targets need: this target is to have them too.
func (r *run) needed() map[uint64]bool {
	out := map[uint64]bool{}
	for _, h := range r.s.bases.targets(r.guest, r.targets()) {
		for _, held := range h.Volumes {
			for _, guid := range held.Pins {
				out[guid] = out[guid] || h.Node != r.job.Target
			}
		}
	}
	return out
}

// targets are those of all jobs of the guest, as the ledger says now, and the node
// that it is being moved to. One that is being removed counts until its replica is
// gone: that the owner has what it builds on proves that it has not diverged.
func (r *run) targets() []guest.NodeID {
	var out []guest.NodeID
	for _, j := range r.s.o.Ledger.View().JobsOf(r.guest.ID) {
		if !j.Removing || !r.s.bases.forgotten(r.guest, j.Target) {
			out = append(out, j.Target)
		}
	}
	if to, ok := r.s.handover(r.guest.ID); ok && !slices.Contains(out, to) {
		out = append(out, to)
	}
	return out
}
