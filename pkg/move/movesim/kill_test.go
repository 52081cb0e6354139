package movesim_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/move/migrate"
)

var kills = flag.Int("movesim.kills", 60, "at how many moments by chance a migration is ended, besides each phase; 0: at all")

// kill ends machines at a moment of a migration.
type kill struct {
	moment  string
	how     end
	victims string // names
}

// String is the kill in words.
func (k kill) String() string { return fmt.Sprintf("%s of %s at %s", k.how, k.victims, k.moment) }

// migration is one of guest 100 from n1 to n2, with the guest at work. It tells the
// moments of both, and ends who the kill says at its moment.
func migration(t *testing.T, k kill) (out outcome, moments []string, how migrate.Outcome) {
	t.Helper()
	dog := time.AfterFunc(hangs, func() { panic(fmt.Sprintf("movesim: %s hangs", k)) })
	defer dog.Stop()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.open()
		pause(w.life, time.Minute) // The replicas are there.
		counts := map[string]int{}
		w.mu.Lock()
		w.reap = func(m *machine, what string) (end, []*machine) {
			if m.n > 2 {
				return "", nil
			}
			name := string(m.name) + ": " + what
			counts[name]++
			name = fmt.Sprintf("%s #%d", name, counts[name])
			moments = append(moments, name)
			if name != k.moment {
				return "", nil
			}
			var who []*machine
			for _, m := range w.machines {
				if strings.Contains(k.victims, string(m.name)) {
					who = append(who, m)
				}
			}
			return k.how, who
		}
		w.mu.Unlock()
		m := w.machines[0].running().mover
		if _, err := m.Start(migrate.Request{Guest: 100, To: nodeID(2), By: "operator"}); err != nil && k.moment == "" {
			t.Error(err)
		}
		for range 600 {
			pause(w.life, 500*time.Millisecond)
			if v, ok := m.Look(100); ok && v.Over() {
				how = v.Outcome
				break
			}
			if w.died() {
				pause(w.life, time.Minute)
				break
			}
		}
		w.mu.Lock()
		w.reap = nil
		w.mu.Unlock()
		out = w.judged()
	})
	return out, moments, how
}

func (w *world) died() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deaths > 0
}

// TestKill_AMigrationInEveryPhase ends the daemon, or the power, of source, target or both, before and after each phase is
// written down and each command is sent, and at some of all other moments. Afterwards the guest has one owner, runs there once,
// has lost nothing, and its replicas follow, without help.
func TestKill_AMigrationInEveryPhase(t *testing.T) {
	out, moments, how := migration(t, kill{})
	if len(out.problems) > 0 || how != migrate.Moved {
		t.Fatalf("without a kill: %s, %s\n%s", how, out.problems, out.trace)
	}
	phases := map[migrate.Phase]bool{}
	var sure, others []kill
	for _, moment := range moments {
		list := &others
		if strings.Contains(moment, " move-100 ") || strings.Contains(moment, "propose") {
			list = &sure
			for _, p := range migrate.Phases() {
				phases[p] = phases[p] || strings.Contains(moment, " move-100 "+string(p))
			}
		}
		for _, victims := range []string{"n1", "n2", "n1 n2"} {
			*list = append(*list, kill{moment, killed, victims}, kill{moment, powerCut, victims})
		}
	}
	for _, p := range migrate.Phases() {
		if !phases[p] && p != migrate.Back {
			t.Errorf("the migration is not killed in phase %s", p)
		}
	}
	rng := rand.New(rand.NewPCG(*seed, 1)) //nolint:gosec // it is to be the same again
	rng.Shuffle(len(others), func(a, b int) { others[a], others[b] = others[b], others[a] })
	if *kills > 0 {
		others = others[:min(len(others), *kills)]
	}
	all := append(sure, others...)
	var next, came, moved atomic.Int64
	t.Run("all", func(t *testing.T) {
		for worker := range 2 {
			t.Run(fmt.Sprint("worker", worker), func(t *testing.T) {
				t.Parallel()
				for n := next.Add(1); int(n) <= len(all); n = next.Add(1) {
					k := all[n-1]
					out, _, _ := migration(t, k)
					if len(out.problems) > 0 {
						t.Fatalf("-movesim.seed %d: %s: %s\n%s", *seed, k, out.problems, out.trace)
					}
					came.Add(int64(min(out.deaths, 1)))
					moved.Add(int64(min(out.moves, 1)))
				}
			})
		}
	})
	t.Logf("%d moments, %d kills, of which %d came about; %d moved", len(moments), len(all), came.Load(), moved.Load())
	if came.Load() < int64(len(all))*3/4 {
		t.Error("too few kills came about: a run does not repeat what the one before did")
	}
}
