package replicate_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

var planCommit = flag.String("plan.commit", "unknown", "the version, for the page of BenchmarkPlan")

// crowded makes a world of guests with so many volumes and operators' snapshots each, all replicated to n2, where only the
// newest tenth of the snapshots is missing.
func crowded(b *testing.B, guests, volumes, snapshots int) (w *world, jobs []guest.JobID) {
	b.Helper()
	w = newWorld(b)
	for _, n := range w.nodes {
		n.pool = zfstest.New(zfstest.Options{Node: string(n.name), Now: w.clock, Size: 1 << 40})
		must(b, n.pool.Create("tank/g", 0, map[string]string{"canmount": "off"}))
		n.restart()
	}
	pool := w.node("1").pool
	var names []string
	w.change(func(s *ledger.State) {
		s.Guests, s.Jobs = map[guest.ID]guest.Guest{}, map[guest.JobID]guest.Job{}
		for n := range guests {
			g := guest.Guest{ID: guest.ID(1001 + n), Type: guest.VM, Name: fmt.Sprint("g", n), Owner: id("1"), Term: term}
			for v := range volumes {
				g.Volumes = append(g.Volumes, guest.Volume{Storage: "local-zfs", Name: fmt.Sprintf("vm-%s-disk-%d", g.ID, v)})
			}
			j := guest.Job{ID: guest.JobID{Guest: g.ID}, Target: id("2"), Schedule: "4:00", Snapshots: guest.Mirror}
			s.Guests[g.ID], s.Jobs[j.ID] = g, j
			jobs = append(jobs, j.ID)
			for _, v := range g.Volumes {
				names = append(names, "tank/g/"+v.Name)
			}
		}
	})
	for _, name := range names {
		must(b, pool.Create(name, 1<<20, nil))
		must(b, pool.Write(name, 0, make([]byte, 4096)))
	}
	snap := func(from, to int) {
		for n := from; n < to; n++ {
			var all []string
			for _, name := range names {
				all = append(all, fmt.Sprintf("%s@autosnap_%05d", name, n))
			}
			must(b, pool.Snapshot(b.Context(), all, nil))
		}
	}
	snap(0, snapshots*9/10)
	for _, j := range jobs {
		w.run(j)
	}
	snap(snapshots*9/10, snapshots)
	return w, jobs
}

// planAll plans one sync of each job.
func planAll(b *testing.B, w *world, jobs []guest.JobID) time.Duration {
	b.Helper()
	began := time.Now()
	for _, j := range jobs {
		p, err := w.node("1").source.Preview(b.Context(), j, time.Minute)
		must(b, err)
		if len(p.Refusals) > 0 || p.Silent != nil {
			b.Fatalf("%s: %v, %v", j, p.Refusals, p.Silent)
		}
	}
	return time.Since(began)
}

// BenchmarkPlan plans syncs of volumes with many snapshots, from the question to the target to the list of steps.
func BenchmarkPlan(b *testing.B) {
	rows := []string{}
	for _, c := range []struct {
		guests, volumes, snapshots int
		aim                        string
	}{{1, 1, 10_000, ""}, {1, 1, 60_000, ""}, {200, 3, 100, "< 5 s"}} {
		name := fmt.Sprintf("%dx%dx%d", c.guests, c.volumes, c.snapshots)
		b.Run(name, func(b *testing.B) {
			w, jobs := crowded(b, c.guests, c.volumes, c.snapshots)
			var took []time.Duration
			var memory uint64
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				took = append(took, planAll(b, w, jobs))
				runtime.ReadMemStats(&after)
				memory = after.TotalAlloc - before.TotalAlloc
			}
			beside := "-"
			if c.guests == 1 {
				beside = besides(b, w, jobs)
			}
			slices.Sort(took)
			rows = append(rows, fmt.Sprintf("| %d guests × %d volumes × %d snapshots | %s | %s | %.0f MiB | %s |",
				c.guests, c.volumes, c.snapshots, c.aim, took[len(took)/2].Round(time.Millisecond), float64(memory)/(1<<20), beside))
		})
	}
	if len(rows) < 3 {
		return
	}
	lines := append([]string{
		"# Planning with many snapshots (`make bench-plan`)", "",
		"From the question to the target to the list of steps, for one job after another, with ZFS in memory: what zfs itself takes to list is not in it.",
		"Of the snapshots the newest tenth has to be sent.", "",
		"| | |", "| --- | --- |",
		"| version | " + *planCommit + " |",
		"| measured | " + time.Now().UTC().Format(time.RFC3339) + " |",
		fmt.Sprintf("| machine | %d cores, %s, %s |", runtime.NumCPU(), runtime.GOARCH, runtime.Version()), "",
		"| | aim | all of them | allocated | another guest's plan beside it |", "| --- | --- | --- | --- | --- |",
	}, rows...)
	fmt.Fprintln(os.Stdout, strings.Join(lines, "\n"))
}

// besides is how long a small guest's plan takes alone, and while the large one's is made again and again.
func besides(b *testing.B, w *world, large []guest.JobID) string {
	b.Helper()
	small := w.crowd(1)
	w.run(small[0])
	alone := planAll(b, w, small)
	var over atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !over.Load() {
			_, err := w.node("1").source.Preview(b.Context(), large[0], time.Minute)
			if err != nil {
				b.Error(err)
			}
		}
	}()
	var worst time.Duration
	for range 5 {
		worst = max(worst, planAll(b, w, small))
	}
	over.Store(true)
	<-done
	return fmt.Sprintf("%s, alone %s", worst.Round(time.Millisecond), alone.Round(time.Millisecond))
}
