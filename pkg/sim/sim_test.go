package sim_test

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/sim"
)

var (
	seed    = flag.Uint64("sim.seed", 1, "the first seed")
	runs    = flag.Uint64("sim.runs", 8, "how many seeds to run; with sim.for as many as there is time for")
	limit   = flag.Duration("sim.for", 0, "run seeds for so long, in real time, and write a report")
	length  = flag.Duration("sim.length", 3*time.Minute, "for how long things go wrong in each run, in simulated time")
	profile = flag.String("sim.profile", "", "plain, forced or traps; empty: all in turn")
	logs    = flag.Bool("sim.log", false, "show the nodes' logs")
	running = flag.String("sim.running", "", "a file that tells which seeds run, for the case that a node panics")
	commit  = flag.String("sim.commit", "unknown", "the version, for the report")
)

// hangs is how long a run may take in real time: a goroutine that waits for a mutex
// stops the simulated clock, and the run would never end.
const hangs = 3 * time.Minute

// hanging is what is said of such a run: how fast the machine is says nothing of the code.
const hanging = "hangs"

func options(seed uint64) sim.Options {
	o := sim.Options{Seed: seed, Profile: sim.Profile(*profile), Length: *length, Logger: zap.NewNop()}
	if o.Profile == "" {
		o.Profile = sim.Profiles()[seed%uint64(len(sim.Profiles()))]
	}
	if *logs {
		c := zap.NewDevelopmentConfig()
		c.DisableStacktrace = true
		if l, err := c.Build(); err == nil {
			o.Logger = l
		}
	}
	return o
}

// run runs one cluster in a bubble of its own, and checks its history.
func run(t *testing.T, o sim.Options) (sim.Result, porcupine.CheckResult) {
	t.Helper()
	dog := time.AfterFunc(hangs, func() { panic(fmt.Sprintf("sim: seed %d %s %s", o.Seed, o.Profile, hanging)) })
	defer dog.Stop()
	var r sim.Result
	synctest.Test(t, func(*testing.T) { r = sim.Run(o) })
	checked := porcupine.Ok
	if len(r.History) > 0 {
		checked = sim.Linearizable(r.History)
	}
	return r, checked
}

// pool hands out seeds to workers and sums up what came of them.
type pool struct {
	mu     sync.Mutex
	next   uint64
	last   uint64
	until  time.Time
	under  map[uint64]bool
	report sim.Report
}

func (p *pool) take() (seed uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.IsZero() && p.next > p.last || !p.until.IsZero() && time.Now().After(p.until) {
		return 0, false
	}
	seed = p.next
	p.next++
	p.under[seed] = true
	p.tell()
	return seed, true
}

func (p *pool) done(r sim.Result, checked porcupine.CheckResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.under, r.Options.Seed)
	p.report.Add(r, checked)
	p.tell()
}

func (p *pool) tell() {
	if *running != "" {
		_ = os.WriteFile(*running, fmt.Appendln(nil, "seeds that run:", p.under), 0o600)
	}
}

// TestClusters runs seeds: some in `make check`, as many as ten minutes hold in `make sim`.
func TestClusters(t *testing.T) {
	begun := time.Now()
	p := &pool{next: *seed, last: *seed + *runs - 1, under: map[uint64]bool{}, report: sim.Report{Commit: *commit}}
	if *limit > 0 {
		p.until = begun.Add(*limit)
	}
	t.Run("all", func(t *testing.T) {
		for worker := range 2 {
			t.Run(fmt.Sprint("worker", worker), func(t *testing.T) {
				t.Parallel()
				for {
					s, ok := p.take()
					if !ok {
						return
					}
					r, checked := run(t, options(s))
					p.done(r, checked)
					for _, problem := range r.Failures(checked) {
						t.Errorf("seed %d %s: %s", s, r.Options.Profile, problem)
					}
					t.Log(r)
				}
			})
		}
	})
	p.report.Took = time.Since(begun)
	if *limit > 0 {
		if err := p.report.Write(os.Stdout); err != nil {
			t.Error(err)
		}
	}
}

// Reads that a node answers from its own copy are stale sooner or later, and the
// histories show it: the check can fail.
func TestLinearizable_LocalReadsAreFoundOut(t *testing.T) {
	for s := *seed; s < *seed+20; s++ {
		o := options(s)
		o.Profile, o.LocalReads, o.Length = sim.Plain, true, 10*time.Minute
		if r, checked := run(t, o); checked == porcupine.Illegal {
			t.Logf("seed %d: %d entries, not linearizable", s, len(r.History))
			return
		}
	}
	t.Error("no history shows that reads were taken from local copies")
}

// The seed fixes the faults.
func TestPlan_IsThatOfItsSeed(t *testing.T) {
	for _, p := range sim.Profiles() {
		a, b, c := sim.Plan(7, p, time.Hour), sim.Plan(7, p, time.Hour), sim.Plan(8, p, time.Hour)
		if fmt.Sprint(a) != fmt.Sprint(b) || fmt.Sprint(a) == fmt.Sprint(c) {
			t.Errorf("%s: seeds do not fix the faults", p)
		}
	}
}
