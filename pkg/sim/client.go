package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

const (
	// thinks is how long a client waits between two things that it does, on average.
	thinks = 5 * time.Second
	// firstGuest and guests are the IDs that clients fight over.
	firstGuest = guest.MinID
	guests     = 5
	// contested is the ID of a guest that has no unit, so that nobody runs it: its
	// owner is changed from anywhere.
	contested = firstGuest + guests
	// daemonClient is the number under which daemons end doubts.
	daemonClient = 99
	// operatorClient is that of the person who works on the cluster.
	operatorClient = 98
)

// want is one command with what its author saw.
type want struct {
	id        guest.ID
	op        ledger.Op
	seenGuest guest.Guest
	seenJob   guest.Job
	// tag is set to send a command again.
	tag string
	// patience is how long the author waits for the answer; 0: as long as a daemon.
	patience time.Duration
}

// client works until ctx ends.
func (c *cluster) client(ctx context.Context, number int) {
	rng := stream(c.o.Seed, fmt.Sprint("client", number))
	for pause(ctx, time.Duration(rng.ExpFloat64()*float64(thinks))) {
		p, ok := pick(rng, c.ready())
		if !ok || !p.host.Awake(ctx) {
			continue
		}
		c.act(ctx, rng, number, p)
	}
}

// act is one thing that a client does at a node.
func (c *cluster) act(ctx context.Context, rng *rand.Rand, number int, p *process) {
	id := firstGuest + guest.ID(rng.IntN(guests))
	view := p.cons.View()
	if !view.Founded() {
		return
	}
	switch n := rng.IntN(120); {
	case n >= 100:
		c.contest(ctx, rng, number, p)
	case n < 25:
		c.read(ctx, number, p, id)
	case n < 45:
		c.takeAway(ctx, rng, number, view, id)
	case n < 50:
		c.recoverGuest(ctx, rng, number, view, id)
	case n < 55:
		c.again(ctx, rng, p)
	default:
		if w, ok := edit(rng, view, id); ok {
			c.command(ctx, number, p, w)
		}
	}
}

// contest gives the contested guest to some node.
func (c *cluster) contest(ctx context.Context, rng *rand.Rand, number int, p *process) {
	view := p.cons.View()
	if !view.Founded() {
		return // The daemon has just begun, or has ended: it knows nothing.
	}
	g, ok := view.Guests[contested]
	members := view.MemberList()
	to := members[rng.IntN(len(members))].ID
	w := want{id: contested, seenGuest: g, op: ledger.ChangeOwner{ID: contested, Owner: g.Owner, Term: g.Term, To: to}}
	if !ok {
		w.op = ledger.AddGuest{Force: view.Forced, Guest: newGuest(contested, to)}
	}
	c.command(ctx, number, p, w)
}

func newGuest(id guest.ID, owner guest.NodeID) guest.Guest {
	return guest.Guest{
		ID: id, Type: guest.VM, Name: "web", Owner: owner,
		Volumes: []guest.Volume{{Storage: "local-zfs", Name: fmt.Sprintf("vm-%d-disk-0", id)}},
	}
}

// edit draws a change of a guest or of its jobs, by what the node shows.
func edit(rng *rand.Rand, view *ledger.State, id guest.ID) (want, bool) {
	g, ok := view.Guests[id]
	w := want{id: id, seenGuest: g}
	members := view.MemberList()
	someone := members[rng.IntN(len(members))].ID
	if !ok || rng.IntN(10) == 0 {
		w.op = ledger.AddGuest{Force: view.Forced, Guest: newGuest(id, someone)}
		return w, true
	}
	switch rng.IntN(4) {
	case 0:
		w.op = ledger.Retain{ID: id, Owner: g.Owner, Term: g.Term}
		return w, true
	case 1:
		changed := g
		changed.Config = fmt.Sprintf("memory: %d\n", rng.IntN(1000))
		w.op = ledger.SetGuest{Guest: changed, Digest: ledger.Digest(g)}
		return w, true
	default:
		return w.editJob(rng, view, someone)
	}
}

func (w want) editJob(rng *rand.Rand, view *ledger.State, target guest.NodeID) (want, bool) {
	id := guest.JobID{Guest: w.id, Number: rng.IntN(2)}
	j, ok := view.Jobs[id]
	w.seenJob = j
	switch {
	case !ok:
		w.op = ledger.CreateJob{Job: guest.Job{ID: id, Target: target, Schedule: "*/15", Snapshots: guest.Mirror}}
	case j.Removing:
		w.op = ledger.DropJob{ID: id}
	case rng.IntN(3) == 0:
		j.Removing = true
		w.op = ledger.UpdateJob{Job: j, Digest: ledger.Digest(w.seenJob)}
	default:
		j.Comment = fmt.Sprint("edit ", rng.IntN(1000))
		w.op = ledger.UpdateJob{Job: j, Digest: ledger.Digest(w.seenJob)}
	}
	return w, true
}

// takeAway moves or removes a guest, on the node that owns it.
func (c *cluster) takeAway(ctx context.Context, rng *rand.Rand, number int, view *ledger.State, id guest.ID) {
	g, ok := view.Guests[id]
	if !ok {
		return
	}
	owner := c.processOf(g.Owner)
	if owner == nil || !owner.host.Awake(ctx) {
		return
	}
	if view = owner.cons.View(); view.Guests[id].Owner != owner.id {
		return
	}
	g = view.Guests[id]
	w := want{id: id, seenGuest: g, patience: time.Duration(1+rng.IntN(10)) * time.Second}
	if rng.IntN(8) == 0 && len(view.JobsOf(id)) == 0 {
		w.op = ledger.RemoveGuest{ID: id, Digest: ledger.Digest(g)}
	} else {
		members := view.MemberList()
		w.op = ledger.ChangeOwner{ID: id, Owner: g.Owner, Term: g.Term, To: members[rng.IntN(len(members))].ID}
	}
	owner.handOver(ctx, number, w)
}

// settledAfter is how long a command that was sent may be on its way at most.
const settledAfter = 90 * time.Second

// recoverGuest takes a guest from a node that is off. The operator keeps that node
// off until it is known what became of the command.
func (c *cluster) recoverGuest(ctx context.Context, rng *rand.Rand, number int, view *ledger.State, id guest.ID) {
	g, ok := view.Guests[id]
	if !ok {
		return
	}
	m := c.machineOf(g.Owner)
	if m == nil {
		return
	}
	unfence := m.fence()
	if unfence == nil {
		return
	}
	defer unfence()
	members := view.MemberList()
	w := want{id: id, seenGuest: g, op: ledger.ChangeOwner{ID: id, Owner: g.Owner, Term: g.Term, To: members[rng.IntN(len(members))].ID}}
	w.tag = c.tag(number)
	e := c.enter(number, w)
	a := answer{verdict: NotSent}
	for a.verdict == NotSent || a.verdict == Unknown {
		if p, ok := pick(rng, c.ready()); ok {
			next := c.send(ctx, p, w)
			if a.verdict != Unknown || next.verdict != NotSent {
				a = next
			}
		}
		if !pause(ctx, 3*time.Second) {
			break
		}
	}
	c.leave(e, w, a)
	if a.verdict == Unknown { // And nobody tries any more: wait until nothing is on its way.
		time.Sleep(settledAfter)
	}
}

// tag names a client's next command.
func (c *cluster) tag(number int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	return fmt.Sprintf("%s%d-%d", tagMark, number, c.serial)
}

// command carries one command to the ledger by a node, and tells history and judge.
func (c *cluster) command(ctx context.Context, number int, p *process, w want) Verdict {
	w.tag = c.tag(number)
	e := c.enter(number, w)
	a := c.send(ctx, p, w)
	c.leave(e, w, a)
	return a.verdict
}

func (c *cluster) enter(number int, w want) *Entry {
	return c.history.call(&Entry{Client: number, Guest: w.id, Tag: w.tag, Op: w.op, SeenGuest: w.seenGuest, SeenJob: w.seenJob})
}

func (c *cluster) leave(e *Entry, w want, a answer) {
	c.history.end(e, a.verdict, a.reason, Shown{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commands[a.verdict]++
	if a.generation != "" {
		c.outcomes = append(c.outcomes, outcome{w, a})
	}
}

// answer is what a client was told of a command.
type answer struct {
	index   uint64
	verdict Verdict
	reason  string
	// generation is the one in which it was done or refused; empty: not known.
	generation string
}

// outcome is a command with its answer, for sending it again.
type outcome struct {
	w want
	a answer
}

func (c *cluster) send(ctx context.Context, p *process, w want) (told answer) {
	p.log.Debug("command", zap.String("tag", w.tag), zap.Any("op", w.op))
	defer func() {
		p.log.Debug("command ended", zap.String("tag", w.tag), zap.String("verdict", string(told.verdict)), zap.Uint64("index", told.index),
			zap.String("reason", told.reason))
	}()
	patient, cancel := context.WithTimeout(ctx, cmp.Or(w.patience, proposeTimeout))
	defer cancel()
	generation, begun := p.cons.Generation(), time.Now()
	index, err := p.cons.Propose(patient, ledger.Command{ID: w.tag, By: w.tag, At: p.m.wall().Unix(), Op: w.op})
	took := time.Since(begun)
	// A client of a node that stands still or died hears nothing.
	if !p.host.Awake(p.life) || !p.alive() {
		return answer{verdict: Unknown}
	}
	var refused *consensus.RefusedError
	a := answer{index: index, verdict: Done, generation: generation}
	switch {
	case errors.As(err, &refused):
		a.verdict, a.reason = Refused, refused.Reason
	case errors.Is(err, consensus.ErrNotQuorate):
		return answer{verdict: NotSent}
	case err != nil:
		return answer{verdict: Unknown}
	}
	view := p.cons.View()
	if p.cons.Generation() != generation || view.Generation != generation {
		a.generation = ""
		return a
	}
	if a.verdict == Done {
		c.judge.acknowledged(generation, index, w.tag)
	}
	if view.Index < index && took < visible && patient.Err() == nil {
		c.judge.blame("answered too early: %s told the outcome of %s at index %d when it had applied %d", short(p.id), w.tag, index, view.Index)
	}
	return a
}

// visible is how long a node waits at most until it shows what was done.
const visible = 5 * time.Second

// again sends a command whose outcome is known a second time: nothing may come of it.
func (c *cluster) again(ctx context.Context, rng *rand.Rand, p *process) {
	c.mu.Lock()
	first, ok := pick(rng, c.outcomes)
	c.mu.Unlock()
	generation := p.cons.Generation()
	if !ok || generation != first.a.generation && !c.judge.inherited(generation, first.a.index, first.w.tag) {
		return
	}
	a := c.send(ctx, p, first.w)
	if a.generation == generation && (a.index != first.a.index || a.verdict != first.a.verdict) {
		c.judge.blame("%s, sent again, was %s at index %d; the first time it was %s at %d",
			first.w.tag, a.verdict, a.index, first.a.verdict, first.a.index)
	}
}

// read is a confirmed read of one guest.
func (c *cluster) read(ctx context.Context, number int, p *process, id guest.ID) {
	e := c.history.call(&Entry{Client: number, Guest: id})
	verdict := Unknown
	if c.o.LocalReads || p.confirm(ctx) {
		verdict = Done
	}
	c.history.end(e, verdict, "", show(p.cons.View(), id))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads[verdict]++
}
