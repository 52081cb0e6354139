package node

import "sync"

// bell tells those who listen that there is something new. Ringing costs nothing while nobody listens.
type bell struct {
	mu    sync.Mutex
	heard chan struct{}
}

// listen is closed when it rings next.
func (b *bell) listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heard == nil {
		b.heard = make(chan struct{})
	}
	return b.heard
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heard != nil {
		close(b.heard)
		b.heard = nil
	}
}
