package replicate_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate"
)

// slowly makes processes take as long as in a machine that is emulated: a list 0.25 s, a change 0.3 s, and receives as
// long as told. Calls are taken one after another.
func (w *world) slowly(receive func(dataset string) time.Duration) {
	var calls atomic.Int64
	trap := func(what string) error {
		fields := strings.Fields(what)
		switch {
		case strings.HasPrefix(what, "called "+replicate.PathInventory):
			time.Sleep(time.Duration(calls.Add(1)%20) * 10 * time.Millisecond)
		case len(fields) < 4 || strings.Contains(what, "effects)"):
		case fields[1] == "List" && strings.HasSuffix(what, "after=false"):
			time.Sleep(250 * time.Millisecond)
		case fields[1] == "Change" && strings.HasSuffix(what, "after=false"):
			time.Sleep(300 * time.Millisecond)
		case fields[1] == "Receive" && strings.HasSuffix(what, "after=true"):
			time.Sleep(receive(fields[2]))
		}
		return nil
	}
	for _, n := range []string{"1", "2"} {
		w.node(n).setTrap(trap)
	}
}

// Receives end one after another, and each commit alone would be a process for each guest.
func TestCost_CommitsOfReceivesThatEndOneAfterAnother(t *testing.T) {
	for _, apart := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			jobs := w.crowd(20)
			w.together(jobs)
			place, ended := map[string]int{}, make([]time.Time, len(jobs))
			for i, j := range jobs {
				place[crowdDS(j)] = i
			}
			var mu sync.Mutex
			w.slowly(func(dataset string) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				took := time.Second + time.Duration(place[dataset])*apart
				ended[place[dataset]] = time.Now().Add(took)
				return took
			})
			for round := range 3 {
				for _, j := range jobs {
					w.node("1").write(crowdDS(j), int64(round), 1)
				}
				w.processes()
				w.pass(time.Minute)
				var wg sync.WaitGroup
				for i, j := range jobs {
					wg.Go(func() {
						r, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: j})
						if err != nil || r.Kind != replicate.KindIncremental {
							t.Errorf("job %s: %s, %v", j, r.Kind, err)
						}
						mu.Lock()
						defer mu.Unlock()
						// Three seconds for others, the rest of a change that is under way, and its own.
						if late := time.Since(ended[i]); late > 3*time.Second+2*300*time.Millisecond+50*time.Millisecond {
							t.Errorf("job %s ended %s after its receive", j, late)
						}
					})
				}
				wg.Wait()
				if n, each := w.processes(); n > 50 {
					t.Errorf("%s apart: 20 guests took %d processes, want at most 50: %v", apart, n, each)
				} else {
					t.Logf("%s apart: 20 guests took %d processes: %v", apart, n, each)
				}
			}
		})
	}
}

// Nobody waits for a receive that takes long, be it that it began long before, or that it goes on for longer than
// the one that waits has taken.
func TestCost_NobodyWaitsForALongReceive(t *testing.T) {
	for name, before := range map[string]time.Duration{"that began a minute ago": time.Minute, "that began with it": 0} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			jobs := w.crowd(2)
			w.together(jobs)
			w.slowly(func(dataset string) time.Duration {
				if dataset == crowdDS(jobs[0]) {
					return 10 * time.Minute
				}
				return time.Second
			})
			for _, j := range jobs {
				w.node("1").write(crowdDS(j), 3, 1)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: jobs[0]}); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(before)
			began := time.Now()
			_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: jobs[1]})
			must(t, err)
			most := 2500 * time.Millisecond
			if before == 0 {
				most += time.Second // As long again as its own receive.
			}
			if took := time.Since(began); took > most {
				t.Errorf("beside a long receive %s, a sync took %s", name, took)
			}
			wg.Wait()
		})
	}
}

// The last sync of a move waits for nobody: the guest stands still.
func TestCost_AMoveWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(job)
		jobs := w.crowd(3)
		w.together(jobs)
		w.slowly(func(dataset string) time.Duration {
			if strings.HasPrefix(dataset, "tank/g/vm-2") {
				return 10 * time.Second
			}
			return time.Second
		})
		for _, j := range jobs {
			w.node("1").write(crowdDS(j), 3, 1)
		}
		w.node("1").write(diskDS, 3, 1)
		var wg sync.WaitGroup
		for _, j := range jobs {
			wg.Go(func() {
				if _, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: j}); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(1500 * time.Millisecond) // All of them are being received.
		h, err := w.node("1").source.Handover(t.Context(), 100, id("2"))
		must(t, err)
		defer h.Close()
		began := time.Now()
		_, err = h.Sync(t.Context(), replicate.Transfer{Locked: true})
		must(t, err)
		if took := time.Since(began); took > 2200*time.Millisecond {
			t.Errorf("the sync of a move took %s", took)
		}
		wg.Wait()
	})
}

// Two syncs of one guest that are due together do not wait for each other: one has the guest's lock.
func TestCost_TwoSyncsOfAGuestDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		second := twoTargets(w)
		w.run(job)
		w.run(second)
		w.node("1").write(diskDS, 3, 1)
		w.pass(time.Minute)
		began := time.Now()
		var wg sync.WaitGroup
		for _, j := range []guest.JobID{job, second} {
			wg.Go(func() {
				if _, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: j}); err != nil {
					t.Errorf("job %s: %v", j, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("they took %s", took)
		}
	})
}
