package daemon

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// endless is what a zfs process has to say, a pipe's buffer at a time.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return min(len(p), 64<<10), nil }

// flow is a stream that goes on and on, by the way that a sync's data takes.
type flow struct{ arrived atomic.Int64 }

// begin opens the stream over a connection in memory; it ends with ctx.
func (f *flow) begin(ctx context.Context, t *testing.T, job, shared *rate.Limiter) {
	t.Helper()
	a, b := net.Pipe()
	timing := stream.Timing{Heartbeat: 5 * time.Second, Stall: 15 * time.Second, Farewell: time.Second}
	end := func(c net.Conn, id string) stream.Conn {
		return stream.Conn{Conn: c, Node: guest.NodeID(id), Cut: func() { _ = c.Close() }}
	}
	go func() {
		_, _ = stream.NewTransport(timing).Receive(ctx, end(b, "n1"), time.Hour, func(_ context.Context, r *stream.Receiver) (any, error) {
			p := make([]byte, 64<<10)
			for {
				n, err := r.Read(p)
				f.arrived.Add(int64(n))
				if err != nil {
					return nil, err
				}
			}
		})
		_ = b.Close()
	}()
	s, err := stream.NewTransport(timing).Open(ctx, end(a, "n2"), []byte("{}"), job, func(bool) {})
	if err != nil {
		t.Fatal(err)
	}
	to := sink{SendStream: s, ctx: ctx, shared: shared}
	go func() {
		_, err := io.Copy(to, endless{})
		to.Abort(err)
		_ = a.Close()
	}()
}

// Rate limits per job in MB/s (10^6, fractions allowed, at least 1) and one per
// node: token buckets, exact within 5 % over 10 s, changeable while a sync runs.
func TestSink_RatesAreExactAndCanBeChanged(t *testing.T) {
	const none = 0
	for _, c := range []struct {
		streams           int
		job, shared       float64 // MB/s
		wants             float64 // all streams together
		thenJob, thenNode float64
		thenWants         float64
	}{
		{1, 1, none, 1, 2, none, 2},
		{1, 1.5, none, 1.5, 1, none, 1},
		{1, 10, none, 10, 2.25, none, 2.25},
		{1, none, 1, 1, none, 4, 4},
		{1, 3, 2, 2, 3, 7, 3},
		{4, none, 6, 6, none, 3, 3},
		{4, 1.25, 20, 5, 1.25, 2, 2},
		{1, none, 25, 25, 1, 25, 1},
	} {
		t.Run(fmt.Sprintf("%d streams of %v, node %v", c.streams, c.job, c.shared), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				shared := node.NewLimiter(c.shared)
				var jobs []*rate.Limiter
				var f flow
				for range c.streams {
					jobs = append(jobs, node.NewLimiter(c.job))
					f.begin(ctx, t, jobs[len(jobs)-1], shared)
				}
				f.measure(t, "first", c.wants)
				f.measure(t, "then", c.wants)
				for _, j := range jobs {
					node.SetRate(j, c.thenJob)
				}
				node.SetRate(shared, c.thenNode)
				f.measure(t, "after the change", c.thenWants)
				f.measure(t, "and on", c.thenWants)
				cancel()
				synctest.Wait()
			})
		})
	}
}

// measure counts what arrives in ten seconds.
func (f *flow) measure(t *testing.T, when string, want float64) {
	t.Helper()
	before := f.arrived.Load()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	got := float64(f.arrived.Load()-before) / 10 / 1e6
	t.Logf("%s: %.3f MB/s, want %v", when, got, want)
	if math.Abs(got-want) > want*0.05 {
		t.Errorf("%s: %.3f MB/s over 10 s, want %v within 5 %%", when, got, want)
	}
}

// A fair share: a stream that came later gets as much as one that was there.
func TestSink_StreamsShareTheNodesLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		shared := node.NewLimiter(6)
		flows := make([]flow, 3)
		for i := range flows {
			flows[i].begin(ctx, t, node.NewLimiter(0), shared)
			time.Sleep(time.Second)
		}
		for i := range flows {
			flows[i].arrived.Store(0)
		}
		time.Sleep(10 * time.Second)
		for i := range flows {
			if got := float64(flows[i].arrived.Load()) / 10 / 1e6; math.Abs(got-2) > 0.2 {
				t.Errorf("stream %d has %.2f MB/s of 6, want 2", i, got)
			}
		}
		cancel()
		synctest.Wait()
	})
}
