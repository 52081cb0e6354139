// Package node is the single event loop of a node: timers, news of the ledger
// and of peers, results of runs and commands of operators go in; effects go out
// as goroutines that report back. It publishes an immutable status.
//
// The loop does no I/O: no disk, no network, no process. It owns the machines of
// the jobs whose guests this node owns (pkg/job), asks pkg/sched which of the due
// ones run now, and hands them to pkg/replicate. pkg/daemon builds and runs it.
//
// A round costs little whatever the number of jobs: when a job is due is worked
// out when something happened to it, and what is published is put together from
// what was published before.
package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/sched"
)

// Syncer carries out what the loop decided; pkg/replicate's Source.
type Syncer interface {
	Run(ctx context.Context, t replicate.Task) (replicate.Result, error)
	Remove(ctx context.Context, t replicate.Task) (replicate.RemoveResult, error)
}

// History keeps the records of runs; pkg/history's Store.
type History interface {
	Append(r history.Run) (uint64, error)
	Update(r history.Run) error
	Last(id guest.JobID) (history.Run, bool, error)
	Facts(id guest.JobID) (job.Facts, error)
	Forget(id guest.JobID) error
}

// Options say what the loop works with; all are required.
type Options struct {
	Self    guest.NodeID
	Name    guest.NodeName
	Limits  sched.Limits
	Retries []time.Duration
	// Local is the zone of schedules that name none.
	Local   *time.Location
	Syncer  Syncer
	History History
	// Drop takes a job off the ledger, after its removal.
	Drop   func(ctx context.Context, id guest.JobID) error
	Logger *zap.Logger
	Now    func() time.Time
}

// Peer is what gossip tells of another node.
type Peer struct {
	Alive bool
	// Since is when it entered that state, as this node saw it.
	Since time.Time
	// Boot grows with each start of its daemon; 0 where it is not known.
	Boot uint64
}

// Node is the loop. New builds it, Run works.
type Node struct {
	o     Options
	inbox chan func(now time.Time)
	shown atomic.Pointer[shown]
	born  time.Time
	beat  atomic.Int64 // of the last round: nanoseconds since born
	bell  bell
	wg    sync.WaitGroup

	// What follows belongs to the loop alone.
	ctx   context.Context //nolint:containedctx // the life of the loop, for the goroutines that its effects start
	view  *ledger.State
	peers map[guest.NodeID]Peer
	jobs  map[guest.JobID]*entry
	order []*entry // the same, by ID
	// leaving are the runs that have not ended yet of jobs that were let go; they
	// count for the limits.
	leaving map[*run]sched.Active
	// forgets are the jobs whose past is being dropped; each is closed when it is.
	forgets map[guest.JobID]chan struct{}
	last    time.Time // the round before
	news    bool      // something is to be published
	// due and active are room for the scheduler's questions.
	due    []sched.Candidate
	active []sched.Active
}

// maxWait is the longest the loop sleeps: it shows that it lives, and meets a
// clock that was set.
const maxWait = 5 * time.Second

// New builds a loop that knows nothing yet.
func New(o Options) *Node {
	o.Limits.Self = o.Self
	n := &Node{
		o: o, inbox: make(chan func(time.Time), 256), born: time.Now(), view: &ledger.State{},
		peers: map[guest.NodeID]Peer{}, jobs: map[guest.JobID]*entry{},
		leaving: map[*run]sched.Active{}, forgets: map[guest.JobID]chan struct{}{}, news: true,
	}
	n.publish()
	return n
}

// now is the time by the wall clock alone. With Go's monotonic reading in it, a
// comparison with what happened before would not tell that the clock was set, or
// that the machine slept.
func (n *Node) now() time.Time { return n.o.Now().Round(0) }

// Run works until ctx ends and every run it started has ended too.
func (n *Node) Run(ctx context.Context) {
	n.ctx = ctx
	defer n.wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-n.inbox:
			f(n.now())
		case <-timer.C:
		}
		n.drain()
		wake := n.round(n.now())
		n.publish()
		n.beat.Store(int64(time.Since(n.born)))
		timer.Reset(wake)
	}
}

// drain takes what else has come, so that a storm of news costs one round.
func (n *Node) drain() {
	for range cap(n.inbox) {
		select {
		case f := <-n.inbox:
			f(n.now())
		default:
			return
		}
	}
}

// News is closed at the next change of what [Node.Status] and the history tell of the runs here: also a line of a run's log, and
// the record of its end.
func (n *Node) News() <-chan struct{} { return n.bell.listen() }

// Healthy says whether the loop went round lately, for the watchdog.
func (n *Node) Healthy(within time.Duration) bool {
	return time.Since(n.born)-time.Duration(n.beat.Load()) < within
}

// post gives the loop something to do; it is lost when the loop has ended.
func (n *Node) post(ctx context.Context, f func(now time.Time)) error {
	select {
	case n.inbox <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ledger tells the loop what the cluster agreed on.
func (n *Node) Ledger(ctx context.Context, s *ledger.State) {
	_ = n.post(ctx, func(now time.Time) { n.follow(s, now) })
}

// Peers tells the loop who is alive; the map is the loop's from then on.
func (n *Node) Peers(ctx context.Context, peers map[guest.NodeID]Peer) {
	_ = n.post(ctx, func(now time.Time) {
		n.peers, n.news = peers, true
		for _, e := range n.order {
			n.see(e, now)
		}
	})
}

// SetLimits changes how much runs at the same time. Runs that go on are left alone.
func (n *Node) SetLimits(ctx context.Context, l sched.Limits) {
	l.Self = n.o.Self
	_ = n.post(ctx, func(time.Time) { n.o.Limits = l })
}

// ErrNotHere means that the job's guest is not owned by this node.
var ErrNotHere = errors.New("the job does not run on this node")

// ScheduleNow makes a job due at once, also in error.
func (n *Node) ScheduleNow(ctx context.Context, id guest.JobID) error {
	answer := make(chan error, 1)
	err := n.post(ctx, func(now time.Time) {
		switch e, ok := n.jobs[id]; {
		case !ok:
			answer <- fmt.Errorf("job %s: %w", id, ErrNotHere)
		case !e.ready:
			e.asked = append(e.asked, answer) // It was made just now.
		default:
			answer <- n.step(e, job.Ask{}, now)
		}
	})
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
