package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// confirmation is the last read that a majority confirmed. All who wait share one.
type confirmation struct {
	mu   sync.Mutex
	view *ledger.State
	// at is when it was asked for, by CLOCK_BOOTTIME: what was agreed before that is in it.
	at     time.Duration
	flight *flight
}

// flight is a question that is being asked.
type flight struct {
	begun time.Duration
	done  chan struct{}
	view  *ledger.State
	err   error
	// left: who asked has left; the others ask again.
	left bool
}

// confirmed is the last confirmed view, if it holds still and was asked for later
// than after.
func (k *Keeper) confirmed(after time.Duration) (*ledger.State, bool) {
	k.asking.mu.Lock()
	defer k.asking.mu.Unlock()
	if k.asking.view == nil || k.asking.at <= after || k.o.Boottime()-k.asking.at >= confirmedFor {
		return nil, false
	}
	return k.asking.view, true
}

// given is when a guest was last given back by whoever moved it. What was asked
// before that does not count for it: the move may have given it to another node, which
// this node's copy of the ledger need not know yet.
func (k *Keeper) given(id guest.ID) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[id]; e != nil {
		return e.given
	}
	return 0
}

// confirm returns once this node has a view that a majority confirmed within the last
// seconds, and that was asked for later than after. It asks, unless that was done just now; those who come
// meanwhile wait for that answer.
func (k *Keeper) confirm(ctx context.Context, after time.Duration) error {
	for {
		if _, ok := k.confirmed(after); ok {
			return nil
		}
		k.asking.mu.Lock()
		f := k.asking.flight
		if f == nil {
			f = &flight{done: make(chan struct{}), begun: k.o.Boottime()}
			k.asking.flight = f
			k.asking.mu.Unlock()
			k.ask(ctx, f)
			if f.err != nil || f.begun > after {
				return f.err
			}
			continue // the clock has not moved on since
		}
		k.asking.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !f.left && f.begun > after {
			return f.err
		}
	}
}

// ask asks for all who wait.
func (k *Keeper) ask(ctx context.Context, f *flight) {
	limited, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	f.view, f.err = k.o.Ledger.Confirm(limited)
	f.left = f.err != nil && ctx.Err() != nil
	k.asking.mu.Lock()
	k.asking.flight = nil
	if f.err == nil {
		k.asking.view, k.asking.at = f.view, f.begun
	}
	k.asking.mu.Unlock()
	if f.err == nil {
		k.list(f.view)
	}
	close(f.done)
}

// newest is what is known of a guest, and whether a majority has confirmed lately
// that its owner and term are these.
func (k *Keeper) newest(id guest.ID) (view *ledger.State, g guest.Guest, known, sure bool) {
	view = k.o.Ledger.View()
	c, ok := k.confirmed(k.given(id))
	if ok && c.Generation == view.Generation && c.Index > view.Index {
		view = c
	}
	g, known = view.Guests[id]
	if !ok || c.Generation != view.Generation {
		return view, g, known, false
	}
	then, was := c.Guests[id]
	return view, g, known, known && was && then.Owner == g.Owner && then.Term == g.Term
}

// assure has a majority confirm what is known of a guest. A read that is young, and says
// something else, is not taken for an answer: it was asked before the guest changed.
func (k *Keeper) assure(ctx context.Context, id guest.ID) error {
	after := k.given(id)
	for range 3 {
		if _, _, known, sure := k.newest(id); sure || !known {
			return nil
		}
		if err := k.confirm(ctx, after); err != nil {
			return err
		}
		k.asking.mu.Lock()
		after = max(after, k.asking.at)
		k.asking.mu.Unlock()
	}
	if _, _, known, sure := k.newest(id); known && !sure {
		return errors.New("this node's copy of the ledger changes just now")
	}
	return nil
}

// Refusal is why a guest is not started or stopped.
type Refusal struct {
	Text, Advice string
	Err          error
}

// Error says what was refused, and why.
func (r *Refusal) Error() string {
	if r.Err != nil {
		return fmt.Sprintf("%s: %v", r.Text, r.Err)
	}
	return r.Text
}

// Unwrap is the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// ErrorCode is that of the interface.
func (r *Refusal) ErrorCode() string { return "refused" }

// ErrorHint is what an operator can do.
func (r *Refusal) ErrorHint() string {
	if r.Advice != "" || r.Err == nil {
		return r.Advice
	}
	return advice.Of(r.Err)
}
