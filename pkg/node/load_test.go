package node_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/sched"
)

const load = 1000

// crowd is a thousand jobs at "*" to three targets, each run of which takes 200 ms.
func crowd() *fleet {
	var all []member
	for n := range load {
		all = append(all, each(100+n, 0, 2+n%3, takes(200*time.Millisecond, nil)))
	}
	return newFleet(all...)
}

// check wants every job to have run once in each of the minutes from begin on,
// within the limits.
func (f *fleet) check(tb testing.TB, limits sched.Limits, begin time.Time, minutes int) (latest time.Duration) {
	tb.Helper()
	wrong := 0
	for id := range f.members {
		ran := make([]int, minutes)
		for _, at := range f.starts(id) {
			since := at.Sub(begin)
			if m := int(since / time.Minute); since >= 0 && m < minutes {
				ran[m]++
				latest = max(latest, since-time.Duration(m)*time.Minute)
			}
		}
		for _, n := range ran {
			if n != 1 {
				wrong++
			}
		}
	}
	if wrong > 0 {
		tb.Errorf("%d of %d minutes of the %d jobs without exactly one run", wrong, minutes*load, load)
	}
	if f.mostAll > limits.Node {
		tb.Errorf("%d runs at the same time, the limit is %d", f.mostAll, limits.Node)
	}
	for target, most := range f.most {
		if most > limits.Target {
			tb.Errorf("%d runs at the same time to %s, the limit is %d", most, target, limits.Target)
		}
	}
	return latest
}

// "1,000 jobs at `*` on one node with a fake that takes 200 ms: all run every
// minute, limits never exceeded", here in simulated time.
func TestNode_AThousandJobsRunEveryMinute(t *testing.T) {
	f := crowd()
	limits := sched.DefaultLimits()
	f.sail(t, limits, func(t *testing.T, _ context.Context, _ *node.Node) {
		t.Helper()
		pass(90 * time.Second) // their first syncs, which leave places free
		const minutes = 2
		begin := time.Now().Truncate(time.Minute).Add(time.Minute)
		pass(time.Until(begin.Add(minutes*time.Minute - time.Nanosecond)))
		latest := f.check(t, limits, begin, minutes)
		t.Logf("%d runs at the same time at most; the latest start %s after its minute", f.mostAll, latest.Round(time.Millisecond))
	})
}

// BenchmarkNode_AThousandJobs is that for real: each op is a minute of the
// machine's time, with the history on disk.
//
//	go test -bench AThousandJobs -benchtime 3x -run '^$' ./pkg/node
func BenchmarkNode_AThousandJobs(b *testing.B) {
	f, limits := crowd(), sched.DefaultLimits()
	s := store(b, filepath.Join(b.TempDir(), "history.db"))
	defer s.Close()
	synced := make(chan struct{}, load)
	n := node.New(node.Options{
		Self: nodeID(1), Name: "n1", Limits: limits, Local: time.UTC, Syncer: f, History: established{s, synced},
		Drop:   func(context.Context, guest.JobID) error { return nil },
		Logger: zap.NewNop(), Now: time.Now,
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	n.Ledger(ctx, f.state())
	for range load {
		<-synced
	}
	// A whole minute first, so that nothing of the beginning is measured.
	begin := time.Now().Truncate(time.Minute).Add(time.Minute)
	time.Sleep(time.Until(begin))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuTime(b)
	b.ResetTimer()
	minutes := 0
	for b.Loop() {
		minutes++
		time.Sleep(time.Until(begin.Add(time.Duration(minutes) * time.Minute)))
	}
	runtime.ReadMemStats(&after)
	per := func(x float64) float64 { return x / float64(minutes) }
	b.ReportMetric(per((cpuTime(b)-cpu).Seconds()*1e3), "cpu-ms/min")
	b.ReportMetric(per(float64(after.Mallocs-before.Mallocs)), "allocs/min")
	b.ReportMetric(per(float64(after.TotalAlloc-before.TotalAlloc))/1e6, "MB/min")
	b.ReportMetric(f.check(b, limits, begin, minutes).Seconds(), "latest-start-s")
	b.ReportMetric(float64(f.mostAll), "runs-at-once")
	cancel()
	<-done
}

// established tells that every job has synced before, so that none is new.
type established struct {
	*history.Store
	asked chan<- struct{}
}

func (e established) Facts(id guest.JobID) (job.Facts, error) {
	defer func() { e.asked <- struct{}{} }()
	now := time.Now()
	return job.Facts{Known: now, LastTry: now, LastEnd: now, LastSync: now}, nil
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkNode_Round is what one piece of news costs a loop with so many jobs.
func BenchmarkNode_Round(b *testing.B) {
	for _, jobs := range []int{10, 1000} {
		b.Run(fmt.Sprint(jobs), func(b *testing.B) {
			f := newFleet()
			for g := range jobs {
				m := each(100+g, 0, 2, nil)
				m.job.Schedule = "weekly"
				f.members[m.job.ID] = m
			}
			n := node.New(node.Options{
				Self: nodeID(1), Name: "n1", Limits: sched.DefaultLimits(), Local: time.UTC, Syncer: f, History: &world{},
				Logger: zap.NewNop(), Now: time.Now,
			})
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan struct{})
			go func() { defer close(done); n.Run(ctx) }()
			n.Ledger(ctx, f.state())
			b.ReportAllocs()
			for b.Loop() { // its answer comes out of the loop
				if err := n.ScheduleNow(ctx, jobID(99, 0)); err == nil {
					b.Fatal("a job that does not exist was asked for")
				}
			}
			cancel()
			<-done
		})
	}
}
