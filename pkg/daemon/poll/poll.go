// Package poll puts one question to many nodes at once, and takes what comes.
package poll

import (
	"context"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Asker is the node that asks.
type Asker struct {
	Self guest.NodeID
	// Alive are the nodes that are held for alive.
	Alive map[guest.NodeID]bool
	// Call carries the question to another node.
	Call func(ctx context.Context, to guest.NodeID, path string, req, resp any) error
}

// Question is one that this node answers itself and the others by a call.
type Question[Q, A any] struct {
	Path string
	Ask  Q
	Here func(ctx context.Context, ask Q) (A, error)
	// Patience is how long a node that is alive may take; one that is not gets a second.
	Patience time.Duration
}

// Answer is that of one node.
type Answer[A any] struct {
	Said A
	Err  error
}

// deadPatience is for a node that is held for dead: that may be wrong.
const deadPatience = time.Second

// All puts a question to the nodes at once.
func All[Q, A any](ctx context.Context, by Asker, members []ledger.Member, q Question[Q, A]) map[guest.NodeID]Answer[A] {
	out := map[guest.NodeID]Answer[A]{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() {
			a := one(ctx, by, m.ID, q)
			mu.Lock()
			defer mu.Unlock()
			out[m.ID] = a
		})
	}
	wg.Wait()
	return out
}

func one[Q, A any](ctx context.Context, by Asker, node guest.NodeID, q Question[Q, A]) (a Answer[A]) {
	if node == by.Self {
		a.Said, a.Err = q.Here(ctx, q.Ask)
		return a
	}
	patience := q.Patience
	if !by.Alive[node] {
		patience = deadPatience
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a.Err = by.Call(ctx, node, q.Path, q.Ask, &a.Said)
	return a
}
