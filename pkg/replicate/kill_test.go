package replicate_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	killPoints = flag.Int("kill-points", 240, "at how many of the kill points machines are ended, evenly over the scenarios; 0: at all")
	killSeed   = flag.Uint64("kill-seed", uint64(time.Now().UnixNano()), "which ones") //nolint:gosec // any number will do
)

// anyName is a name that is made by chance.
var anyName = regexp.MustCompile(`(tandem-reading-)[0-9a-f]+`)

var errKilled = errors.New("killed")

// moment is when a machine can end: before or after one of its effects.
type moment struct {
	node *node
	what string
	nth  int // of that name
}

// key says the same in another world.
func (m moment) key() string { return fmt.Sprintf("%s: %s #%d", m.node.name, m.what, m.nth) }

// kill is one way to end machines at a moment.
type kill struct {
	moment  string // the key
	how     end
	victims []string
}

// end is how a machine ends.
type end string

const (
	// daemonKilled leaves its children to see the end of their streams, allKilled kills them as well.
	daemonKilled end = "daemon killed on"
	allKilled    end = "processes killed on"
	powerCut     end = "power cut of"
)

func (k kill) String() string {
	return fmt.Sprintf("%s n%s at %s", k.how, strings.Join(k.victims, ", n"), k.moment)
}

// reaper counts what the daemons of a world do and ends some of them at one moment: from then on nothing that they try has
// an effect.
type reaper struct {
	w    *world
	kill kill

	mu     sync.Mutex
	counts map[string]int
	seen   []string
	dead   map[*node]bool
}

// reap sets the reaper on all nodes. An empty kill only counts.
func (w *world) reap(k kill) *reaper {
	r := &reaper{w: w, kill: k, counts: map[string]int{}, dead: map[*node]bool{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		n.reap = func(what string) error { return r.at(n, what) }
	}
	w.reaper = r
	return r
}

// died says whether the reaper has ended somebody.
func (w *world) died() bool {
	w.mu.Lock()
	r := w.reaper
	w.mu.Unlock()
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.dead) > 0
}

func (r *reaper) at(n *node, what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	what = anyName.ReplaceAllString(what, "$1…")
	name := string(n.name) + ": " + what
	if !r.dead[n] {
		r.counts[name]++
		key := moment{node: n, what: what, nth: r.counts[name]}.key()
		r.seen = append(r.seen, key)
		if key == r.kill.moment {
			r.end()
		}
	}
	if r.dead[n] {
		return fmt.Errorf("%w at %s", errKilled, what)
	}
	return nil
}

func (r *reaper) end() {
	for _, name := range r.kill.victims {
		n := r.w.node(name)
		r.dead[n] = true
		switch r.kill.how {
		case daemonKilled:
		case allKilled:
			n.pool.Kill()
		case powerCut:
			n.pool.PowerCut()
			n.files.powerCut()
		}
	}
}

// revive takes the reaper away and starts again what it ended. It says whether it came to that.
func (r *reaper) revive() bool {
	r.w.mu.Lock()
	for _, n := range r.w.nodes {
		n.reap = nil
	}
	r.w.reaper = nil
	r.w.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range r.dead {
		n.restart()
	}
	return len(r.dead) > 0
}

// TestKill_AnywhereConverges ends processes and machines before and after each effect of each scenario: ZFS operations, file
// writes, calls, frames of streams. The next runs must converge without help, send nothing again that has arrived, and leave
// nothing behind.
func TestKill_AnywhereConverges(t *testing.T) {
	t.Logf("seed %d", *killSeed)
	all := scenarios()
	var total, done atomic.Int64
	t.Cleanup(func() { t.Logf("%d of %d kill points covered", done.Load(), total.Load()) })
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			kills := s.kills(t)
			total.Add(int64(len(kills)))
			if *killPoints > 0 {
				rnd := rand.New(rand.NewPCG(*killSeed, uint64(i)))
				rnd.Shuffle(len(kills), func(a, b int) { kills[a], kills[b] = kills[b], kills[a] })
				kills = kills[:min(len(kills), *killPoints/len(all))]
			}
			missed := 0
			for _, k := range kills {
				if s.survive(t, k) {
					done.Add(1)
				} else {
					missed++
				}
				if t.Failed() {
					t.Fatalf("%s; -kill-seed %d", k, *killSeed)
				}
			}
			if missed > 1+len(kills)/50 { // What goes on side by side does not come to the same moments each time.
				t.Errorf("it did not come to %d of %d moments; -kill-seed %d", missed, len(kills), *killSeed)
			}
		})
	}
}

// kills are all that can be done to the scenario.
func (s scenario) kills(t *testing.T) []kill {
	t.Helper()
	var seen []string
	synctest.Test(t, func(t *testing.T) { // What is done together depends on no machine's pace.
		w := s.world(t)
		r := w.reap(kill{})
		must(t, s.act(w))
		r.revive()
		seen = r.seen
	})
	if len(seen) < 10 {
		t.Errorf("only %d moments: %s", len(seen), strings.Join(seen, ", "))
	}
	var out []kill
	for _, key := range slices.Sorted(slices.Values(seen)) {
		for _, victims := range s.victims() {
			for _, how := range []end{daemonKilled, allKilled, powerCut} {
				out = append(out, kill{moment: key, how: how, victims: victims})
			}
		}
	}
	return out
}

// survive does the scenario once, with one kill. It says whether it came to that moment.
func (s scenario) survive(t *testing.T, k kill) (came bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := s.world(t)
		r := w.reap(k)
		err := s.act(w)
		if came = r.revive(); !came {
			must(t, err)
		}
		s.converge(w)
	})
	return came
}
