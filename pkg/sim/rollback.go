package sim

import (
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// rollback sets a trap for a majority of three voters. One is cut off while the two
// others go on; then the disk of one of those is put back to a time before, and it
// sees only the one that was cut off. Both together must not decide anything: what
// was confirmed since is on the third one only.
func (c *cluster) rollback(h hit) bool {
	lead := c.leader()
	if !c.whole() || lead == nil {
		return false
	}
	voters := c.voters(lead)
	if len(voters) != 3 || !c.mayRestore() {
		return false
	}
	voters = slices.DeleteFunc(voters, func(m *machine) bool { return m == lead.m })
	victim, away := voters[h.Node%2], voters[1-h.Node%2]
	done := c.puttingBack(victim)
	c.repairs.Go(func() {
		defer done()
		c.trap(h, lead, victim, away)
	})
	return true
}

func (c *cluster) voters(lead *process) []*machine {
	servers, err := lead.cons.Servers()
	if err != nil {
		return nil
	}
	var out []*machine
	for _, s := range servers {
		if m := c.machineOf(s.Node); m != nil && s.Voter {
			out = append(out, m)
		}
	}
	return out
}

func (c *cluster) trap(h hit, lead *process, victim, away *machine) {
	generation := lead.cons.Generation()
	before := victim.picture()
	_, known := victim.disk.Last(generation)
	c.works(lead)
	// The one to be cut off must have heard that the victim was further than this.
	if !c.rest(5*time.Second) || !away.remembers(victim.id, generation, known) {
		return
	}
	back := c.alone(hit{m: away, all: h.all})
	c.works(lead)
	whole := c.rest(5 * time.Second)
	if !whole || !victim.powerCut() {
		back()
		return
	}
	victim.restore(before)
	trapped := []guest.NodeID{victim.id, away.id}
	rest := slices.DeleteFunc(append(h.others(), h.m.id), func(n guest.NodeID) bool { return slices.Contains(trapped, n) })
	for _, w := range both(trapped, rest) {
		defer c.net.Add(w)()
	}
	back()
	victim.turnOn()
	c.rest(30 * time.Second)
}

// puttingBack is called before a disk is put back. Until the node has caught up after
// the function that it returns was called no other daemon ends: what the others
// remember of it is on disk once a minute only, and no cluster can bear the loss of
// both within that.
func (c *cluster) puttingBack(m *machine) (done func()) {
	add := func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.putBack += n
	}
	add(1)
	return func() {
		c.repairs.Go(func() {
			defer add(-1)
			for c.rest(time.Second) {
				if p := m.running(); p != nil && p.admitted.Load() && p.cons.Quorate() {
					return
				}
			}
		})
	}
}

// delicate says whether no daemon may end.
func (c *cluster) delicate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.putBack > 0
}

// works lets some commands be done.
func (c *cluster) works(p *process) {
	for range 4 {
		c.contest(p.life, c.chance(), operatorClient, p)
	}
}

// remembers says whether the machine's daemon has heard that another one was beyond
// an index.
func (m *machine) remembers(id guest.NodeID, generation string, index uint64) bool {
	p := m.running()
	if p == nil || p.consensus() == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.memory.Of(id).Marks, func(k rules.Mark) bool {
		return k.Generation == generation && k.Applied > index
	})
}
