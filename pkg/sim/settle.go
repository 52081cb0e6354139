package sim

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/ledger"
)

const (
	// settleWithin is how soon a cluster is one again after faults ended.
	settleWithin = 60 * time.Second
)

// heal ends all faults and turns everything on.
func (c *cluster) heal() {
	close(c.healing)
	c.repairs.Wait()
	for _, m := range c.present() {
		m.turnOn()
	}
}

// settle waits until the cluster is one again, and audits it. A conflict of
// generations that no rule decides is decided by an operator.
func (c *cluster) settle() {
	defer c.gossiping()()
	begun := c.now()
	for c.now()-begun < settleWithin {
		if why := c.torn(); why == "" {
			c.settled = c.now() - begun
			c.audit()
			return
		}
		late := c.now()-begun > settleWithin/2
		if c.decideConflict() || late && (c.dismiss() || c.o.Profile == Forced && c.rescue()) {
			begun = c.now()
		}
		select {
		case <-time.After(time.Second):
		case <-c.judge.broken:
			return
		}
	}
	c.judge.blame("not one cluster again within %s: %s\n%s", settleWithin, c.torn(), c.scene())
}

// scene is how each node sees it, for people.
func (c *cluster) scene() string {
	var b strings.Builder
	for _, p := range c.running() {
		fmt.Fprintf(&b, "  %s: ", short(p.id))
		if p.consensus() == nil {
			b.WriteString("in no cluster\n")
			continue
		}
		s, at := p.convener.Status(), p.cons.Progress()
		fmt.Fprintf(&b, "generation %s, term %d, index %d, applied %d, command %d/%d, leader %q, quorate for %s, waiting %q, alarm %q, reason %q, others %v, removed %v\n",
			at.Generation, at.Term, at.LastIndex, at.Applied, at.LastCommandTerm, at.LastCommand, at.Leader, at.QuorateFor.Round(time.Second),
			p.gate.Waiting(), s.Alarm, s.Reason, s.Others, s.Removed)
	}
	return b.String()
}

// torn says why the cluster is not one; empty: it is.
func (c *cluster) torn() string {
	var first *process
	var state *ledger.State
	for _, m := range c.present() {
		p := m.running()
		if p == nil || p.consensus() == nil {
			return short(m.id) + " does not run"
		}
		if err := p.cons.Err(); err != nil {
			return fmt.Sprintf("%s does not follow: %v", short(m.id), err)
		}
		view := p.cons.View()
		if _, listed := view.Members[m.id]; !listed {
			return short(m.id) + " is not in its own list"
		}
		if !p.cons.Quorate() {
			return fmt.Sprintf("%s is not quorate (generation %s, applied %d)", short(m.id), p.cons.Generation(), view.Index)
		}
		if first == nil {
			first, state = p, view
		}
		if view.Generation != state.Generation || view.Changed != state.Changed || c.judge.fingerprint(view) != c.judge.fingerprint(state) {
			return fmt.Sprintf("%s has generation %s changed at %d, %s has %s changed at %d",
				short(m.id), view.Generation, view.Changed, short(first.id), state.Generation, state.Changed)
		}
	}
	if first == nil {
		return "nothing runs"
	}
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	if err := first.cons.Confirm(ctx); err != nil {
		return fmt.Sprintf("%s confirms no read: %v", short(first.id), err)
	}
	return ""
}

// camps are the daemons by their generation, and the generations in the order in
// which an operator would give them up: the last one is worth most.
func (c *cluster) camps() (map[string][]*process, []string) {
	in := map[string][]*process{}
	for _, p := range c.ready() {
		in[p.cons.Generation()] = append(in[p.cons.Generation()], p)
	}
	worth := func(generation string) int {
		if slices.ContainsFunc(in[generation], func(p *process) bool { return p.cons.Quorate() }) {
			return maxNodes + len(in[generation])
		}
		return len(in[generation])
	}
	return in, slices.SortedFunc(maps.Keys(in), func(a, b string) int {
		return cmp.Or(cmp.Compare(worth(a), worth(b)), cmp.Compare(a, b))
	})
}

// dismiss is an operator who turns off what is no member: its removal was done
// after all, or it joined a generation that was given up. Such nodes do not meet
// the others, who do not know them.
func (c *cluster) dismiss() bool {
	in, generations := c.camps()
	if len(generations) == 0 {
		return false
	}
	best := in[generations[len(generations)-1]]
	// Not the list of a member that was removed: its ledger ends before that.
	newest := slices.MaxFunc(best, func(a, b *process) int { return cmp.Compare(a.book.Current().Index, b.book.Current().Index) })
	members := newest.book.Current().Members
	gone := false
	for _, p := range c.running() {
		if _, listed := members[p.id]; !listed {
			p.m.leave()
			gone = true
		}
	}
	return gone
}

// rescue is an operator who sees that nothing is quorate, because disks were put
// back or lost, and forces quorum where the rules let it.
func (c *cluster) rescue() bool {
	up := c.ready()
	if slices.ContainsFunc(up, func(p *process) bool { return p.cons.Quorate() }) {
		return false
	}
	for _, p := range up {
		before := p.cons.Generation()
		if c.expect(p.m); p.cons.Generation() != before {
			c.rescues++
			return true
		}
	}
	return false
}

// decideConflict is an operator who sees the alarm and lets the generation yield
// that fewer nodes are in.
func (c *cluster) decideConflict() bool {
	in, generations := c.camps()
	if len(generations) < 2 || !slices.ContainsFunc(c.ready(), func(p *process) bool { return p.convener.Status().Alarm != "" }) {
		return false
	}
	winner := generations[len(generations)-1]
	for _, loser := range generations[:len(generations)-1] {
		for _, p := range in[loser] {
			ctx, cancel := context.WithTimeout(p.life, patience)
			err := p.convener.Yield(ctx, winner)
			cancel()
			if err == nil {
				c.alarms++
				return true
			}
		}
	}
	return false
}

// audit holds what all nodes have in the end against what clients were told.
func (c *cluster) audit() {
	var all [][]ledger.Change
	common := uint64(math.MaxUint64)
	for _, p := range c.ready() {
		view, history := p.cons.View(), p.cons.History()
		c.judge.audit(short(p.id), view, history)
		all, common = append(all, history), min(common, view.Changed)
		for _, h := range history {
			c.tags[h.By] = true
		}
	}
	for i, history := range all {
		all[i] = slices.DeleteFunc(history, func(h ledger.Change) bool { return h.Index > common })
		if !slices.Equal(all[i], all[0]) {
			c.judge.blame("the nodes agree on the ledger, and not on its history up to index %d", common)
		}
	}
}
