package sim

import (
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/sim/simnet"
)

const (
	// straggles is how late a message of a straggler may be.
	straggles = 40 * time.Second
	// sends is how long a node takes at most to send a command.
	sends = time.Second
)

// trapped says whether a trap could be set.
func (c *cluster) trapped(h hit) bool {
	switch h.Kind { //nolint:exhaustive // only these are traps
	case Rollback:
		return c.rollback(h)
	case Straggle:
		return c.straggle(h)
	default:
		return c.unheard()
	}
}

// straggle lets a node give a guest away while what it sends to the leader comes
// late, and what it sends after that does not: the node gives up, and asks, and is
// answered, before its command arrives.
func (c *cluster) straggle(h hit) bool {
	lead := c.leader()
	if lead == nil || !lead.cons.Quorate() {
		return false
	}
	view := lead.cons.View()
	away := slices.DeleteFunc(view.GuestList(), func(g guest.Guest) bool {
		return g.ID == contested || g.Owner == lead.id || c.processOf(g.Owner) == nil
	})
	members := view.MemberList()
	if len(away) == 0 || len(members) < minNodes {
		return false
	}
	g := away[h.Node%len(away)]
	to := members[h.Other%len(members)].ID
	if to == g.Owner {
		to = lead.id
	}
	p := c.processOf(g.Owner)
	if p == nil {
		return false
	}
	late := c.net.Add(simnet.Weather{From: []guest.NodeID{p.id}, To: []guest.NodeID{lead.id}, Delay: straggles})
	c.after(sends, late)
	c.repairs.Go(func() {
		w := want{id: g.ID, seenGuest: g, patience: 2 * sends, op: ledger.ChangeOwner{ID: g.ID, Owner: g.Owner, Term: g.Term, To: to}}
		p.handOver(p.life, operatorClient, w)
	})
	return true
}

// unheard lets a follower hear the leader and not be heard, until it has made a
// snapshot that ends beyond the leader's: the leader does not know how far the
// follower is, goes back to before that, and has an older snapshot to send. Then
// another one leads.
func (c *cluster) unheard() bool {
	lead := c.leader()
	if lead == nil || len(c.ready()) < minNodes {
		return false
	}
	generation := lead.cons.Generation()
	leads := lead.m.disk.Snapshot(generation)
	for _, p := range c.ready() {
		// Its log has grown for longer: it makes the next snapshot.
		if p == lead || p.m.disk.Snapshot(generation) >= leads || !c.net.Open(p.id, lead.id) {
			continue
		}
		c.repairs.Go(func() {
			heard := c.net.Add(simnet.Weather{From: []guest.NodeID{p.id}, To: []guest.NodeID{lead.id}, Cut: true})
			beyond := c.overtakes(p.m, lead, generation)
			heard()
			if beyond && c.rest(5*time.Second) && !c.delicate() && lead.m.kill(lead) {
				c.after(restartAfter, lead.m.turnOn)
			}
		})
		return true
	}
	return false
}

// overtakes lets commands be done until a follower has made a snapshot, of which the
// leader does not hear, and says whether that ends beyond the leader's.
func (c *cluster) overtakes(m *machine, lead *process, generation string) bool {
	before := m.disk.Snapshot(generation)
	_, from := m.disk.Last(generation)
	enough := max(before+c.timing.Snapshot, from+c.timing.Trailing+2)
	for range 30 {
		if _, last := m.disk.Last(generation); last < enough {
			c.works(lead)
		}
		if now := m.disk.Snapshot(generation); now > before {
			return now > lead.m.disk.Snapshot(generation)
		}
		if !c.rest(time.Second) || !lead.cons.IsLeader() {
			return false
		}
	}
	return false
}
