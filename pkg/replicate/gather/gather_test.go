package gather_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/replicate/gather"
)

// desk serves numbers: each lot takes a second, and 13 spoils a lot.
type desk struct {
	gather.Group[int, string]
	mu   sync.Mutex
	lots [][]int
	hang chan struct{}
}

var errSpoilt = errors.New("spoilt")

func newDesk(company int) *desk {
	d := &desk{}
	d.Weight = func(n int) int { return n / 100 }
	d.Most = 4
	d.Apart = func(err error) bool { return errors.Is(err, errSpoilt) }
	d.Company = func() int { return company }
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
			out, err := d.Call(ctx, key, n)
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
		d := newDesk(0)
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
		d := newDesk(0)
		var wg sync.WaitGroup
		wg.Go(func() { d.all(t.Context(), "tank", 1) })
		time.Sleep(100 * time.Millisecond)
		wg.Go(func() { d.all(t.Context(), "tank", 2, 3) })
		wg.Go(func() { d.all(t.Context(), "other", 4) })
		wg.Wait()
		equal(t, d.sizes(), []int{1, 1, 2})
	})
}

func TestGroup_WaitsForThoseWhoAreAboutToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(3)
		d.all(t.Context(), "tank", 1, 2, 3) // It now knows what a lot takes.
		var wg sync.WaitGroup
		for n := range 3 {
			wg.Go(func() {
				time.Sleep(time.Duration(n) * 50 * time.Millisecond)
				began := time.Now()
				d.all(t.Context(), "tank", n)
				if took := time.Since(began); took > 1200*time.Millisecond {
					t.Errorf("%d took %s", n, took)
				}
			})
		}
		wg.Wait()
		equal(t, d.sizes(), []int{3, 3})
		began := time.Now()
		d.all(t.Context(), "tank", 1) // Nobody comes.
		if took := time.Since(began); took > 1300*time.Millisecond {
			t.Errorf("a single call took %s", took)
		}
	})
}

func TestGroup_OneCallsErrorIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(0)
		equal(t, d.all(t.Context(), "tank", 1, 13, 3), map[int]string{1: "#1", 13: "spoilt", 3: "#3"})
	})
}

func TestGroup_ACallerThatGivesUpLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(0)
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
		d := newDesk(0)
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
