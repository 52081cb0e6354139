package node_test

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/sched"
)

// member of a fleet: one job and how its runs go.
type member struct {
	job guest.Job
	// run does one sync, the n-th, from 1; nil takes two seconds.
	run func(ctx context.Context, n int, t replicate.Task) error
}

// fleet is many jobs on one node, and the syncer that carries them out.
type fleet struct {
	members map[guest.JobID]member
	// file is the history's; empty keeps it in memory.
	file string
	// now is the loop's clock; nil is that of the bubble.
	now     func() time.Time
	volumes []guest.Volume
	// disk is how long the beginning of a run takes to be written.
	disk time.Duration

	mu      sync.Mutex
	started map[guest.JobID][]time.Time
	running map[guest.NodeID]int
	most    map[guest.NodeID]int // at the same time, to a target
	mostAll int
}

func newFleet(members ...member) *fleet {
	f := &fleet{
		members: map[guest.JobID]member{}, started: map[guest.JobID][]time.Time{},
		running: map[guest.NodeID]int{}, most: map[guest.NodeID]int{},
	}
	for _, m := range members {
		f.members[m.job.ID] = m
	}
	return f
}

// each is a member that runs every minute.
func each(g, number, target int, run func(ctx context.Context, n int, t replicate.Task) error) member {
	return member{guest.Job{ID: jobID(g, number), Target: nodeID(target), Schedule: "*", Snapshots: guest.Mirror}, run}
}

// state has all the jobs.
func (f *fleet) state() *ledger.State { return f.part(func(member) bool { return true }) }

func (f *fleet) part(which func(member) bool) *ledger.State {
	s := state()
	for id, m := range f.members {
		if !which(m) {
			continue
		}
		s.Guests[id.Guest] = guest.Guest{ID: id.Guest, Owner: nodeID(1), Volumes: f.volumes}
		s.Jobs[id] = m.job
	}
	return s
}

func (f *fleet) enter(id guest.JobID) (n int, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := f.members[id].job.Target
	f.started[id] = append(f.started[id], time.Now())
	f.running[target]++
	f.most[target] = max(f.most[target], f.running[target])
	all := 0
	for _, n := range f.running {
		all += n
	}
	f.mostAll = max(f.mostAll, all)
	return len(f.started[id]), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running[target]--
	}
}

func (f *fleet) Run(ctx context.Context, t replicate.Task) (replicate.Result, error) {
	n, leave := f.enter(t.Job)
	defer leave()
	run := f.members[t.Job].run
	if run == nil {
		run = takes(2*time.Second, nil)
	}
	err := run(ctx, n, t)
	if replicate.ClassOf(err) == replicate.ClassBusy {
		return replicate.Result{}, err
	}
	return replicate.Result{Kind: replicate.KindIncremental, Bytes: 4096, Base: "old", Point: "p"}, err
}

func (f *fleet) Remove(context.Context, replicate.Task) (replicate.RemoveResult, error) {
	return replicate.RemoveResult{}, nil
}

// takes is a sync that takes a while and then ends in this way.
func takes(d time.Duration, err error) func(context.Context, int, replicate.Task) error {
	return func(ctx context.Context, _ int, _ replicate.Task) error {
		select {
		case <-time.After(d):
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// starts are the beginnings of a job's runs.
func (f *fleet) starts(id guest.JobID) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Time{}, f.started[id]...)
}

// keepTheirMinute lets time pass, and checks that every job whose runs are
// ordinary ones ran in each of the minutes.
func (f *fleet) keepTheirMinute(t *testing.T, minutes int) {
	t.Helper()
	begin := time.Now().Truncate(time.Minute).Add(time.Minute)
	pass(time.Until(begin.Add(time.Duration(minutes)*time.Minute - time.Nanosecond)))
	for id, m := range f.members {
		ran := make([]int, minutes)
		for _, at := range f.starts(id) {
			if m := int(at.Sub(begin) / time.Minute); !at.Before(begin) && m < minutes {
				ran[m]++
			}
		}
		for minute, n := range ran {
			if n != 1 && m.run == nil {
				t.Errorf("job %s ran %d times in minute %d", id, n, minute)
			}
		}
	}
}

func historyFile(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(tb.TempDir(), "history.db")
}

// store opens a history that is in good order.
func store(tb testing.TB, path string) *history.Store {
	tb.Helper()
	s, aside, err := history.Open(path, history.Options{})
	if err != nil || aside != "" {
		tb.Fatalf("%v, set aside: %q", err, aside)
	}
	return s
}

// sail runs a loop of node 1 until the script ends. The fleet's ordinary jobs are
// known already and have synced; the others are new.
func (f *fleet) sail(t *testing.T, limits sched.Limits, script func(t *testing.T, ctx context.Context, n *node.Node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var s node.History = &world{}
		if f.file != "" {
			kept := store(t, f.file)
			defer kept.Close()
			s = slowDisk{kept, f.disk}
		}
		if f.now == nil {
			f.now = time.Now
		}
		n := node.New(node.Options{
			Self: nodeID(1), Name: "n1", Limits: limits, Local: time.UTC,
			Syncer: f, History: s, Logger: zap.NewNop(), Now: f.now,
			Drop: func(context.Context, guest.JobID) error { return nil },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); n.Run(ctx) }()
		n.Ledger(ctx, f.part(func(m member) bool { return m.run == nil }))
		pass(2 * time.Minute)
		n.Ledger(ctx, f.state())
		synctest.Wait()
		script(t, ctx, n)
		cancel()
		<-done
	})
}

// slowDisk takes its time with the beginning of a run.
type slowDisk struct {
	node.History
	takes time.Duration
}

func (d slowDisk) Append(r history.Run) (uint64, error) {
	time.Sleep(d.takes)
	return d.History.Append(r)
}

// atomicDuration is how far the clock was set.
type atomicDuration struct{ n atomic.Int64 }

func (d *atomicDuration) Store(v time.Duration) { d.n.Store(int64(v)) }

func (d *atomicDuration) Load() time.Duration { return time.Duration(d.n.Load()) }
