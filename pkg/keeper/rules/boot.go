package rules

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Try is how far the start of a guest is that is due since the machine has booted.
// Times are of a clock that is never set.
type Try struct {
	Boot guest.Boot
	// Begun is when it was first tried, zero: not yet. Ended is when that first try
	// had an outcome, zero: not yet.
	Begun, Ended time.Duration
	// Gone says that it is not due any more: it runs, or somebody stopped it.
	Gone bool
}

// Patience is how long the guests of a place in the row may take to start until the
// next place's turn comes all the same: one that hangs does not hold up the node.
const Patience = 2 * time.Minute

// Turn is whose turn it is to be started: "order" and "delay" of a guest's Boot. wake
// is when to ask again without news; 0: news only.
func Turn(tries map[guest.ID]Try, now time.Duration) (due []guest.ID, wake time.Duration) {
	places := map[int][]guest.ID{}
	for id, t := range tries {
		places[t.Boot.Order] = append(places[t.Boot.Order], id)
	}
	last := func(order int) int {
		if order == 0 {
			return guest.MaxOrder + 1
		}
		return order
	}
	for _, place := range slices.SortedFunc(maps.Keys(places), func(a, b int) int { return cmp.Compare(last(a), last(b)) }) {
		passed := now
		for _, id := range places[place] {
			t := tries[id]
			if !t.Gone {
				due = append(due, id)
			}
			passed = max(passed, passes(t, now))
		}
		if passed > now {
			wake = passed
			break
		}
	}
	slices.Sort(due)
	if wake == never {
		wake = 0
	}
	return due, wake
}

// never is later than everything.
const never = time.Duration(1<<63 - 1)

// passes is when a guest holds up those after it no longer.
func passes(t Try, now time.Duration) time.Duration {
	delay := time.Duration(t.Boot.Delay) * time.Second
	switch {
	case t.Ended != 0:
		return t.Ended + delay
	case t.Begun != 0:
		return t.Begun + Patience + delay
	case t.Gone:
		return now
	default:
		return never
	}
}

// Backoff is how long to wait after so many failures in a row of a step.
func Backoff(do Do, fails int) time.Duration {
	most := 30 * time.Second
	if do == Start {
		most = 5 * time.Minute // systemd's unit has its own ideas of when to try again
	}
	wait := 2 * time.Second
	for range fails - 1 {
		if wait *= 2; wait >= most {
			return most
		}
	}
	return wait
}
