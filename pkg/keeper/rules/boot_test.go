package rules_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
)

func TestTurn(t *testing.T) {
	const now = time.Hour
	at := func(order, delay int) rules.Try {
		return rules.Try{Boot: guest.Boot{On: true, Order: order, Delay: delay}}
	}
	begun := func(t rules.Try, at time.Duration) rules.Try { t.Begun = at; return t }
	ran := func(t rules.Try, at time.Duration) rules.Try { t.Begun, t.Ended, t.Gone = at, at, true; return t }
	failed := func(t rules.Try, at time.Duration) rules.Try { t.Begun, t.Ended = at, at; return t }
	gone := func(t rules.Try) rules.Try { t.Gone = true; return t }
	for name, tc := range map[string]struct {
		tries map[guest.ID]rules.Try
		due   []guest.ID
		wake  time.Duration
	}{
		"nobody": {},
		"the first place starts together": {
			map[guest.ID]rules.Try{100: at(1, 0), 101: at(1, 0), 102: at(2, 0), 103: at(0, 0)}, []guest.ID{100, 101}, 0,
		},
		"without an order after all others": {map[guest.ID]rules.Try{100: at(0, 0), 101: at(7, 0)}, []guest.ID{101}, 0},
		"the delay is waited for": {
			map[guest.ID]rules.Try{100: ran(at(1, 30), now-10*time.Second), 101: at(2, 0)}, nil, now + 20*time.Second,
		},
		"and then the next": {map[guest.ID]rules.Try{100: ran(at(1, 30), now-30*time.Second), 101: at(2, 0)}, []guest.ID{101}, 0},
		"one that hangs holds up the others for a while": {
			map[guest.ID]rules.Try{100: begun(at(1, 0), now-time.Minute), 101: at(2, 0)}, []guest.ID{100}, now + time.Minute,
		},
		"and no longer":                         {map[guest.ID]rules.Try{100: begun(at(1, 0), now-2*time.Minute), 101: at(2, 0)}, []guest.ID{100, 101}, 0},
		"one that fails lets the others go on":  {map[guest.ID]rules.Try{100: failed(at(1, 0), now), 101: at(2, 0)}, []guest.ID{100, 101}, 0},
		"one that ran before holds up nobody":   {map[guest.ID]rules.Try{100: gone(at(1, 600)), 101: at(2, 0)}, []guest.ID{101}, 0},
		"the longest delay of a place is meant": {map[guest.ID]rules.Try{100: ran(at(1, 5), now), 101: ran(at(1, 9), now), 102: at(0, 0)}, nil, now + 9*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			due, wake := rules.Turn(tc.tries, now)
			if d := cmp.Diff(tc.due, due); d != "" || wake != tc.wake {
				t.Errorf("%s wake after %v, want %v", d, wake-now, tc.wake-now)
			}
		})
	}
}

func TestBackoff_GrowsToItsEnd(t *testing.T) {
	var fence, start []time.Duration
	for n := 1; n < 10; n++ {
		fence, start = append(fence, rules.Backoff(rules.Stop, n)), append(start, rules.Backoff(rules.Start, n))
	}
	s := time.Second
	if d := cmp.Diff([]time.Duration{2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s, 30 * s, 30 * s}, fence); d != "" {
		t.Error(d)
	}
	if start[8] != 5*time.Minute || start[0] != 2*s {
		t.Error(start)
	}
}
