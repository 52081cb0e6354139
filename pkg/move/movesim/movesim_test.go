// Package movesim drives what moves guests through faults, with whole clusters in one process: the real pkg/move, pkg/keeper and
// pkg/replicate, over pools and units in memory, under the clock of testing/synctest. Machines and daemons die at any of their
// moments, messages and answers of the ledger get lost, operators work against each other, and a judge that sees all nodes holds
// every step against what must never happen. Guests write numbered records.
//
// What it does not have: raft (what is agreed on is the real ledger, whose commands may come late or not at all), gossip, and the
// connections of pkg/peer. pkg/sim has the first two. It has no code but tests: see docs/operate/sim.md.
package movesim_test

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seed   = flag.Uint64("movesim.seed", uint64(time.Now().UnixNano()), "the first seed of those by chance") //nolint:gosec // any number will do
	runs   = flag.Uint64("movesim.runs", 4, "how many seeds by chance to run")
	fixed  = flag.Uint64("movesim.fixed", 4, "how many fixed seeds to run, from 1 on")
	limit  = flag.Duration("movesim.for", 0, "run seeds by chance for so long instead, in real time")
	length = flag.Duration("movesim.length", 4*time.Minute, "for how long things go wrong in each run, in simulated time")
	shown  = flag.Int("movesim.lines", 150, "how many lines of a failed run's trace to show")
)

// hangs is how long a run may take in real time: a goroutine that waits for a mutex
// stops the simulated clock, and the run would never end.
const hangs = 3 * time.Minute

// outcome is what a run came to.
type outcome struct {
	problems                           []string
	trace                              string
	deaths, starts, moves, recoveries int
	records                            int
	settled                            time.Duration
}

// simulate runs one cluster.
func simulate(t *testing.T, seed uint64) (out outcome) {
	t.Helper()
	dog := time.AfterFunc(hangs, func() { panic(fmt.Sprintf("movesim: seed %d hangs", seed)) })
	defer dog.Stop()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, 3)
		defer w.close()
		w.open()
		w.suffer(*length)
		out = w.judged()
	})
	return out
}

// open turns all machines on, and has the guests started for the first time.
func (w *world) open() {
	for _, m := range w.machines {
		m.start()
	}
	w.wg.Go(w.judge.work)
	pause(w.life, 10*time.Second)
}

// judged lets the faults end, waits until all is well, and says how it went.
func (w *world) judged() outcome {
	if len(w.judge.trouble()) == 0 {
		w.heal()
		w.settle()
	}
	w.judge.mu.Lock()
	defer w.judge.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	return outcome{
		problems: w.judge.trouble(), trace: w.tail(*shown), deaths: w.deaths, starts: w.judge.starts, moves: w.judge.moves,
		recoveries: w.judge.recoveries, records: len(w.judge.acked), settled: w.settled,
	}
}

// TestSimulated runs fixed seeds and seeds by chance.
func TestSimulated(t *testing.T) {
	begun := time.Now()
	run := func(t *testing.T, s uint64) {
		t.Helper()
		out := simulate(t, s)
		t.Logf("seed %d: %d deaths, %d starts, %d migrations, %d recoveries, %d records, settled in %s",
			s, out.deaths, out.starts, out.moves, out.recoveries, out.records, out.settled.Round(time.Second))
		for _, p := range out.problems {
			t.Errorf("seed %d: %s", s, p)
		}
		if len(out.problems) > 0 {
			t.Fatalf("run it again with -movesim.fixed 0 -movesim.runs 1 -movesim.seed %d\n%s", s, out.trace)
		}
	}
	for worker := range uint64(2) {
		t.Run(fmt.Sprint("worker", worker), func(t *testing.T) {
			t.Parallel()
			for s := 1 + worker; s <= *fixed; s += 2 {
				run(t, s)
			}
			for n := worker; n < *runs && *limit == 0 || time.Since(begun) < *limit; n += 2 {
				run(t, *seed+n)
			}
		})
	}
}
