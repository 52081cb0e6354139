package sim

import (
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// patience is how long an operator waits until a node has noticed that it lost
// the majority.
const patience = 20 * time.Second

// alone cuts a node off from all others, both ways.
func (c *cluster) alone(h hit) (end func()) {
	var ends []func()
	for _, w := range both(h.one(), h.others()) {
		ends = append(ends, c.net.Add(w))
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// forceOne takes a node's majority away and forces quorum on it.
func (c *cluster) forceOne(h hit) {
	defer c.alone(h)()
	if h.Split%2 == 0 { // The others are dead, and not just out of sight.
		for _, one := range h.all {
			if one != h.m && one.powerCut() {
				defer one.turnOn()
			}
		}
	}
	c.quarrel(h)
	if c.rest(patience) {
		c.expect(h.m)
		c.rest(h.For)
	}
}

// quarrel lets the node that was cut off, and those it was cut off from, give one
// guest to different nodes.
func (c *cluster) quarrel(h hit) {
	for _, m := range h.all {
		p := m.running()
		if p == nil || p.consensus() == nil || !p.cons.View().Founded() {
			continue
		}
		c.repairs.Go(func() { c.contest(p.life, c.chance(), operatorClient, p) })
	}
}

// forceTwo lets no two nodes see each other and forces quorum on two of them.
func (c *cluster) forceTwo(h hit) {
	for _, m := range h.all {
		defer c.alone(hit{m: m, all: h.all})()
	}
	if !c.rest(patience) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.expect(h.m)
	}()
	c.expect(h.other)
	<-done
	c.rest(h.For)
}

// comeBack: all but one die, that one is forced and works; the dead come back and
// see each other first.
func (c *cluster) comeBack(h hit) {
	var dead []*machine
	for _, one := range h.all {
		if one != h.m && one.powerCut() {
			dead = append(dead, one)
		}
	}
	worked := c.rest(patience)
	if worked {
		c.expect(h.m)
		worked = c.rest(h.For)
	}
	defer c.alone(h)()
	for _, one := range dead {
		one.turnOn()
	}
	if worked {
		c.rest(h.For)
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
