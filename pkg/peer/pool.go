package peer

import (
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// maxIdle is how many unused connections of a kind are kept to one node, for data and for calls: as many as a node has syncs at the
// same time (max_jobs), for what is due together is due together again.
const maxIdle = 32

// idlePool keeps data connections between streams, so that a small sync needs no
// handshake.
type idlePool struct {
	keep time.Duration

	mu     sync.Mutex
	closed bool
	idle   map[guest.NodeID][]*idleLink // newest last
}

type idleLink struct {
	*link
	expire *time.Timer
}

func newIdlePool(keep time.Duration) idlePool {
	return idlePool{keep: keep, idle: map[guest.NodeID][]*idleLink{}}
}

// take returns the connection that was used last and is still good, or nil.
func (p *idlePool) take(node guest.NodeID) *link {
	for {
		c := p.pop(node)
		if c == nil {
			return nil
		}
		c.expire.Stop()
		if c.quiet() {
			return c.link
		}
		c.cut()
	}
}

func (p *idlePool) pop(node guest.NodeID) *idleLink {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[node]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	p.set(node, list[:len(list)-1])
	return c
}

// put keeps the connection for a while, or closes it when there are enough.
func (p *idlePool) put(node guest.NodeID, l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle[node]) >= maxIdle {
		l.cut()
		return
	}
	c := &idleLink{link: l}
	c.expire = time.AfterFunc(p.keep, func() { p.drop(node, c) })
	p.idle[node] = append(p.idle[node], c)
}

func (p *idlePool) drop(node guest.NodeID, c *idleLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.idle[node] {
		if other == c {
			p.set(node, append(p.idle[node][:i:i], p.idle[node][i+1:]...))
			c.cut()
			return
		}
	}
}

// set forgets a node without connections, so that removed members leave nothing.
func (p *idlePool) set(node guest.NodeID, list []*idleLink) {
	if len(list) == 0 {
		delete(p.idle, node)
		return
	}
	p.idle[node] = list
}

func (p *idlePool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, list := range p.idle {
		for _, c := range list {
			c.expire.Stop()
			c.cut()
		}
	}
	clear(p.idle)
}
