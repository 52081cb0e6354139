package sim

import (
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/member/rules"
	"github.com/tandemd/tandem/pkg/sim/simnet"
)

// patience is how long an operator waits until a node has noticed that it lost
// the majority.
const patience = 20 * time.Second

// force takes a node's majority away and forces quorum on it.
func (c *cluster) force(f Fault, m, other *machine, all []*machine) bool {
	switch f.Kind {
	case Force:
		// Some of the others stay with it, never a majority.
		c.repairs.Go(func() { c.forceOne(f, m, all) })
	case ForceTwo:
		if m == other {
			return false
		}
		c.repairs.Go(func() { c.forceTwo(f, m, other, all) })
	case Return:
		c.repairs.Go(func() { c.comeBack(f, m, all) })
	default:
		return false
	}
	return true
}

// alone cuts one node off from all others, both ways.
func (c *cluster) alone(m *machine, all []*machine) (end func()) {
	one, rest := []guest.NodeID{m.id}, others(all, m.id)
	there, back := c.net.Add(simnet.Weather{From: one, To: rest, Cut: true}), c.net.Add(simnet.Weather{From: rest, To: one, Cut: true})
	return func() { there(); back() }
}

func (c *cluster) forceOne(f Fault, m *machine, all []*machine) {
	defer c.alone(m, all)()
	if f.Split%2 == 0 { // The others are dead, and not just out of sight.
		for _, one := range all {
			if one != m && one.powerCut() {
				defer one.turnOn()
			}
		}
	}
	if c.rest(patience) {
		c.expect(m)
		c.rest(f.For)
	}
}

func (c *cluster) forceTwo(f Fault, a, b *machine, all []*machine) {
	for _, m := range all {
		defer c.alone(m, all)()
	}
	if !c.rest(patience) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.expect(a)
	}()
	c.expect(b)
	<-done
	c.rest(f.For)
}

// comeBack: all but one die, that one is forced and works; the dead come back and
// see each other first.
func (c *cluster) comeBack(f Fault, m *machine, all []*machine) {
	var dead []*machine
	for _, one := range all {
		if one != m && one.powerCut() {
			dead = append(dead, one)
		}
	}
	worked := c.rest(patience)
	if worked {
		c.expect(m)
		worked = c.rest(f.For)
	}
	defer c.alone(m, all)()
	for _, one := range dead {
		one.turnOn()
	}
	if worked {
		c.rest(f.For)
	}
}

// expect is `tandem cluster expected` on a node.
func (c *cluster) expect(m *machine) {
	p := m.running()
	if p == nil || p.consensus() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(p.life, patience)
	defer cancel()
	done := make(chan struct{})
	if p.spawn(func() { p.forks(ctx); close(done) }) {
		<-done
	}
}

// forks forces quorum on this node, if the rules let it.
func (p *process) forks(ctx context.Context) {
	state := p.book.Current()
	facts := rules.ExpectedFacts{
		State: state, Answers: p.convener.Survey(ctx), Ours: p.convener.Claim(), Removed: p.convener.Status().Removed,
	}
	facts.Voters, _ = council{p.cons}.Suffrage() // Not known while it waits at its gate.
	if !forcible(facts) {
		return
	}
	f := member.NewFork(state, p.id, "operator", p.m.wall())
	to := *state
	to.Generation, to.Lineage, to.Forced = f.Generation, append(slices.Clone(state.Lineage), f), true
	err := p.goTo(ctx, &to, func() error {
		if p.cons.Generation() != f.Parent {
			return errDaemonEnded
		}
		// What stands in the log counts as done: the judge holds the fork to it.
		p.c.judge.forks(f.Parent, f.Generation, tagged(p.m.disk.Commands(f.Parent)))
		return p.cons.Fork(ctx, f, state)
	})
	if err == nil {
		p.gate.Override()
	}
}

// forcible says whether quorum can be forced with any number of expected votes; the
// refusals tell an operator the right one.
func forcible(f rules.ExpectedFacts) bool {
	for votes := range maxNodes {
		if rules.CheckExpected(votes+1, f) == nil {
			return true
		}
	}
	return false
}

// tagged are the tags of the commands in a log, by index.
func tagged(log map[uint64][]byte) map[uint64]string {
	out := map[uint64]string{}
	for index, data := range log {
		if cmd, err := ledger.DecodeCommand(data); err == nil && isTag(cmd.By) {
			out[index] = cmd.By
		}
	}
	return out
}
