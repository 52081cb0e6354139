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

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/move/migrate"
)

var (
	kills = flag.Int("movesim.kills", 16, "at how many moments by chance a migration is ended, besides each phase; 0: at all")
	ways  = flag.Int("movesim.ways", 1, "in how many of its six ways, by chance, it is ended at each moment of a phase; 0: in all")
)

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
	return journey{guest: 100, from: 1, to: 2, counts: func(_ *world, m *machine) bool { return m.n <= 2 }}.make(t, k)
}

// journey is a migration of a guest from a node to another.
type journey struct {
	guest    guest.ID
	from, to int
	// counts says whether what a machine does now is one of the moments. The world's lock is held.
	counts func(w *world, m *machine) bool
}

func (j journey) make(t *testing.T, k kill) (out outcome, moments []string, how migrate.Outcome) {
	t.Helper()
	dog := time.AfterFunc(hangs, func() { panic(fmt.Sprintf("movesim: %s hangs", k)) })
	defer dog.Stop()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.open()
		pause(w.life, 20*time.Second) // The replicas are there.
		counts := map[string]int{}
		w.mu.Lock()
		w.reap = func(m *machine, what string) (end, []*machine) {
			if !j.counts(w, m) {
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
		m := w.machines[j.from-1].running().mover
		if _, err := m.Start(migrate.Request{Guest: j.guest, To: nodeID(j.to), By: "operator"}); err != nil && k.moment == "" {
			t.Error(err)
		}
		for range 600 {
			pause(w.life, 500*time.Millisecond)
			if v, ok := m.Look(j.guest); ok && v.Over() {
				how = v.Outcome
				break
			}
			if w.died() {
				pause(w.life, 20*time.Second)
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

// sample is n of them by chance, or all.
func sample(rng *rand.Rand, all []kill, n int) []kill {
	rng.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
	if n > 0 {
		all = all[:min(len(all), n)]
	}
	return all
}

// TestKill_AMigrationInEveryPhase ends the daemon, or the power, of source, target or both, before and after each phase is
// written down and each command is sent, and at some of all other moments; `make soak` in all ways and at all. Afterwards the guest has one owner, runs there once,
// has lost nothing, and its replicas follow, without help.
func TestKill_AMigrationInEveryPhase(t *testing.T) {
	out, moments, how := migration(t, kill{})
	if len(out.problems) > 0 || how != migrate.Moved {
		t.Fatalf("without a kill: %s, %s\n%s", how, out.problems, out.trace)
	}
	rng := rand.New(rand.NewPCG(*seed, 1)) //nolint:gosec // it is to be the same again
	phases := map[migrate.Phase]bool{}
	var sure, others []kill
	for _, moment := range moments {
		list, some := &others, 0
		if strings.Contains(moment, " move-100 ") || strings.Contains(moment, "propose") {
			list, some = &sure, *ways
			for _, p := range migrate.Phases() {
				phases[p] = phases[p] || strings.Contains(moment, " move-100 "+string(p))
			}
		}
		var each []kill
		for _, victims := range []string{"n1", "n2", "n1 n2"} {
			each = append(each, kill{moment, killed, victims}, kill{moment, powerCut, victims})
		}
		*list = append(*list, sample(rng, each, some)...)
	}
	for _, p := range migrate.Phases() {
		if !phases[p] && p != migrate.Back {
			t.Errorf("the migration is not killed in phase %s", p)
		}
	}
	all := append(sure, sample(rng, others, *kills)...)
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
	t.Logf("seed %d: %d moments, %d kills, of which %d came about; %d moved", *seed, len(moments), len(all), came.Load(), moved.Load())
	if came.Load() < int64(len(all))*3/4 {
		t.Error("too few kills came about: a run does not repeat what the one before did")
	}
}

// TestKill_AFormerOwnerWithoutAJob ends the former owner, or its power, at each change that it makes to the only volume of a guest
// that it gave away, and to which no job brings it back: no sync repairs there what a retirement leaves half done.
func TestKill_AFormerOwnerWithoutAJob(t *testing.T) {
	j := journey{guest: 200, from: 2, to: 3, counts: func(w *world, m *machine) bool {
		return m.n == 2 && w.agreed.view().Guests[200].Owner == nodeID(3)
	}}
	out, moments, how := j.make(t, kill{})
	if len(out.problems) > 0 || how != migrate.Moved {
		t.Fatalf("without a kill: %s, %s\n%s", how, out.problems, out.trace)
	}
	came, rng := 0, rand.New(rand.NewPCG(*seed, 2)) //nolint:gosec // it is to be the same again
	for _, moment := range moments {
		if !strings.Contains(moment, "tank/g/ct-200-root") || !strings.Contains(moment, "SetProps") && !strings.Contains(moment, "Inherit") {
			continue
		}
		for _, k := range sample(rng, []kill{{moment, killed, "n2"}, {moment, powerCut, "n2"}}, min(*ways, 2)) {
			out, _, _ := j.make(t, k)
			if len(out.problems) > 0 {
				t.Fatalf("-movesim.seed %d: %s: %s\n%s", *seed, k, out.problems, out.trace)
			}
			came += min(out.deaths, 1)
		}
	}
	if came < 4 {
		t.Errorf("only %d kills came about, of %d moments: %q", came, len(moments), moments)
	}
}
