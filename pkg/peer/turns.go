package peer

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/tandemd/tandem/pkg/guest"
)

// maxDials is how many handshakes with one node go on at the same time for streams, and as many for calls. Guests that are due
// together need many connections in the same moment, more would not be faster, and a node refuses more than
// Limits.HandshakesPerHost where it does not know the address that they come from.
const maxDials = 6

// turns are those who want to shake hands with nodes.
type turns struct {
	mu  sync.Mutex
	all map[turnFor]*turn
}

type turnFor struct {
	node     guest.NodeID
	protocol string
}

type turn struct {
	*semaphore.Weighted
	users int
}

// take waits until fewer than maxDials shake hands with a node. release must be called.
func (t *turns) take(ctx context.Context, node guest.NodeID, protocol string) (release func(), err error) {
	key := turnFor{node, protocol}
	t.mu.Lock()
	n := t.all[key]
	if n == nil {
		n = &turn{Weighted: semaphore.NewWeighted(maxDials)}
		t.all[key] = n
	}
	n.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if n.users--; n.users == 0 {
			delete(t.all, key)
		}
	}
	if err := n.Acquire(ctx, 1); err != nil {
		leave()
		return nil, fmt.Errorf("%w: %d handshakes with it go on already: %w", ErrUnreachable, maxDials, context.Cause(ctx))
	}
	return func() {
		n.Release(1)
		leave()
	}, nil
}
