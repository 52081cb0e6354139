package sim

import (
	"context"
	"maps"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// sighting is what one node's gossip tells of another.
type sighting struct {
	alive      bool
	since      time.Time
	heard      time.Time
	generation string
	applied    uint64
	setAside   bool
}

const (
	// gossipEvery is how often gossip looks, deadAfter how long a node is silent
	// until others take it for dead.
	gossipEvery = time.Second
	deadAfter   = 5 * time.Second
)

// gossip lets every node see who is alive, as the network has it, until ctx ends.
func (c *cluster) gossip(ctx context.Context) {
	tick := time.NewTicker(gossipEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.gossipOnce(time.Now())
		}
	}
}

func (c *cluster) gossipOnce(now time.Time) {
	up := c.running()
	for _, p := range up {
		for _, q := range up {
			if p != q && c.net.Open(p.id, q.id) && c.net.Open(q.id, p.id) {
				p.hears(q, now)
			}
		}
		p.misses(now)
	}
}

// hears takes what another node says of itself.
func (p *process) hears(q *process, now time.Time) {
	word := q.word()
	p.mu.Lock()
	s := p.sight[q.id]
	if !s.alive {
		s.since = now
	}
	s.alive, s.heard = true, now
	s.generation, s.applied, s.setAside = word.generation, word.applied, word.setAside
	p.sight[q.id] = s
	p.mu.Unlock()
	if s.generation != "" {
		p.metGeneration(s.generation)
	}
}

// misses takes for dead who was silent for too long.
func (p *process) misses(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range p.sight {
		if s.alive && now.Sub(s.heard) > deadAfter {
			s.alive, s.since = false, now
			p.sight[id] = s
		}
	}
}

// seen is what this node's gossip tells of all others.
func (p *process) seen() map[guest.NodeID]sighting {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.sight)
}
