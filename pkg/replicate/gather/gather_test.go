package gather_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/replicate/gather"
)

// desk serves numbers: each lot takes a second, and 13 spoils a lot.
type desk struct {
	gather.Group[int, string]
	// near is how many are about to come.
	near atomic.Int64
	mu   sync.Mutex
	lots [][]int
	hang chan struct{}
}

var errSpoilt = errors.New("spoilt")

func newDesk() *desk {
	d := &desk{}
	d.Weight = func(n int) int { return n / 100 }
	d.Most = 4
	d.Apart = func(err error) bool { return errors.Is(err, errSpoilt) }
	d.Serve = func(ctx context.Context, lot []int) ([]string, error) {
		d.mu.Lock()
		d.lots = append(d.lots, lot)
		d.mu.Unlock()
		var out []string
		for _, n := range lot {
			if n == 13 {
				return nil, errSpoilt
			}
			if n == 7 {
				select {
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				case <-d.hang:
				}
			}
			out = append(out, fmt.Sprint("#", n))
		}
		time.Sleep(time.Second)
		return out, nil
	}
	return d
}

// all calls at once and waits for all answers.
func (d *desk) all(ctx context.Context, key string, numbers ...int) map[int]string {
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := map[int]string{}
	for _, n := range numbers {
		wg.Go(func() {
			out, err := d.Call(ctx, key, n, gather.Wait{})
			mu.Lock()
			defer mu.Unlock()
			if got[n] = out; err != nil {
				got[n] = err.Error()
			}
		})
	}
	wg.Wait()
	return got
}

func (d *desk) sizes() (out []int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, lot := range d.lots {
		out = append(out, len(lot))
	}
	return out
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestGroup_ServesTogetherWhatComesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		equal(t, d.all(t.Context(), "tank", 1, 2, 3), map[int]string{1: "#1", 2: "#2", 3: "#3"})
		equal(t, d.sizes(), []int{3})
		d.all(t.Context(), "tank", 1, 2, 3, 4, 5, 6)
		equal(t, d.sizes(), []int{3, 4, 2})
		d.all(t.Context(), "tank", 300, 301)
		equal(t, d.sizes(), []int{3, 4, 2, 1, 1})
	})
}

func TestGroup_WhatComesLateIsServedNextAndKeysNeverMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		var wg sync.WaitGroup
		wg.Go(func() { d.all(t.Context(), "tank", 1) })
		time.Sleep(100 * time.Millisecond)
		wg.Go(func() { d.all(t.Context(), "tank", 2, 3) })
		wg.Go(func() { d.all(t.Context(), "other", 4) })
		wg.Wait()
		equal(t, d.sizes(), []int{1, 1, 2})
	})
}

// comes calls after a while with patience for those that are near.
func (d *desk) comes(t *testing.T, after, patience time.Duration, n int) (took time.Duration) {
	t.Helper()
	time.Sleep(after)
	began := time.Now()
	wait := gather.Wait{Most: patience, Near: func() bool { return d.near.Load() > 0 }, Came: func() { d.near.Add(-1); d.Look("tank") }}
	if _, err := d.Call(t.Context(), "tank", n, wait); err != nil {
		t.Error(err)
	}
	return time.Since(began)
}

func TestGroup_WaitsForThoseWhoAreNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		d.near.Store(3)
		var wg sync.WaitGroup
		for n := range 3 {
			wg.Go(func() {
				if took := d.comes(t, time.Duration(n)*700*time.Millisecond, 2*time.Second, n); took > 2500*time.Millisecond {
					t.Errorf("%d took %s", n, took)
				}
			})
		}
		wg.Wait()
		equal(t, d.sizes(), []int{3})
		d.near.Store(1)
		if took := d.comes(t, 0, 2*time.Second, 1); took != time.Second+gather.LeastWait {
			t.Errorf("a call that nobody is near took %s", took)
		}
	})
}

func TestGroup_WaitsNoLongerThanItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		d.near.Store(2)
		if took := d.comes(t, 0, 500*time.Millisecond, 1); took != 1500*time.Millisecond {
			t.Errorf("a call with patience for 0.5 s took %s", took)
		}
		// The second waits for a quarter of what that took: who comes too late waits for a whole lot.
		d.near.Store(2)
		if took := d.comes(t, 0, 0, 1); took != 1250*time.Millisecond {
			t.Errorf("a call without patience took %s", took)
		}
	})
}

// One that waits for nobody takes those with it that would have waited.
func TestGroup_TheLeastPatientDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		d.near.Store(2)
		var wg sync.WaitGroup
		wg.Go(func() { d.comes(t, 0, 2*time.Second, 1) })
		time.Sleep(300 * time.Millisecond)
		began := time.Now()
		equal(t, d.all(t.Context(), "tank", 2), map[int]string{2: "#2"})
		if took := time.Since(began); took != time.Second+gather.LeastWait {
			t.Errorf("the call in a hurry took %s", took)
		}
		wg.Wait()
		equal(t, d.sizes(), []int{2})
	})
}

// Who was waited for and does not come is waited for no longer once that is known.
func TestGroup_AsksAgainWhoIsNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		d.near.Store(2)
		var wg sync.WaitGroup
		wg.Go(func() {
			if took := d.comes(t, 0, 2*time.Second, 1); took != 1100*time.Millisecond {
				t.Errorf("it took %s", took)
			}
		})
		time.Sleep(100 * time.Millisecond)
		d.near.Add(-1)
		d.Look("tank")
		wg.Wait()
	})
}

// A lot that is full waits for nobody.
func TestGroup_AFullLotGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		d.near.Store(5)
		var wg sync.WaitGroup
		for n := range 4 {
			wg.Go(func() {
				if took := d.comes(t, 0, 2*time.Second, n); took != time.Second {
					t.Errorf("%d took %s", n, took)
				}
			})
		}
		wg.Wait()
		equal(t, d.sizes(), []int{4})
	})
}

func TestGroup_OneCallsErrorIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		equal(t, d.all(t.Context(), "tank", 1, 13, 3), map[int]string{1: "#1", 13: "spoilt", 3: "#3"})
	})
}

func TestGroup_ACallerThatGivesUpLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		d.hang = make(chan struct{})
		gone, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { equal(t, d.all(gone, "tank", 7), map[int]string{7: "gone home"}) })
		wg.Go(func() { equal(t, d.all(t.Context(), "tank", 1), map[int]string{1: "#1"}) })
		time.Sleep(10 * time.Millisecond)
		cancel(errors.New("gone home"))
		synctest.Wait()
		close(d.hang) // The lot goes on for the other.
		wg.Wait()
		equal(t, d.sizes(), []int{2})

		// One that is left by all is ended; one that waits is not served at all.
		d.hang = make(chan struct{})
		gone, cancel = context.WithCancelCause(t.Context())
		wg.Go(func() { d.all(gone, "tank", 7) })
		time.Sleep(10 * time.Millisecond)
		before, leave := context.WithCancel(t.Context())
		wg.Go(func() { d.all(before, "tank", 8) })
		synctest.Wait()
		leave()
		synctest.Wait()
		cancel(errors.New("gone home"))
		wg.Wait()
		synctest.Wait()
		equal(t, d.sizes(), []int{2, 1})
	})
}

func TestGroup_ALotThatTakesLongHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		d.hang = make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { d.all(t.Context(), "tank", 7) })
		time.Sleep(10 * time.Millisecond)
		began := time.Now()
		d.all(t.Context(), "tank", 1, 2)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("waited %s for a lot that hangs", took)
		}
		d.all(t.Context(), "tank", 3)
		close(d.hang)
		wg.Wait()
		d.all(t.Context(), "tank", 4)
		equal(t, d.sizes(), []int{1, 2, 1, 1})
	})
}
