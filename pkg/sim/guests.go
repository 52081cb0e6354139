package sim

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

const (
	// tendEvery is how often a node looks for guests that it should run.
	tendEvery = 3 * time.Second
	// holds is for how long a confirmed read may start guests.
	holds = 10 * time.Second
)

// tend starts the guests that this node owns by a confirmed read, until the
// daemon ends.
func (p *process) tend() {
	for pause(p.life, tendEvery) {
		if !p.host.Awake(p.life) {
			return
		}
		if len(p.due()) == 0 {
			continue
		}
		at := time.Now()
		if !p.confirm(p.life) {
			continue
		}
		for _, id := range p.due() {
			if time.Since(at) < holds {
				p.launch(id, at)
			}
			// A unit takes its time to start.
			pause(p.life, time.Second)
		}
	}
}

// due are the guests that belong here, by this node's copy of the ledger, and do
// not run.
func (p *process) due() []guest.ID {
	view := p.cons.View()
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []guest.ID
	for id, g := range view.Guests {
		if _, runs := p.m.guests[id]; g.Owner == p.id && !runs && !p.busy[id] && id != contested {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// launch starts one guest, if it still belongs here by a read that was asked at a
// time after this node last tried to give it away: what came of that may not be in
// this node's copy yet.
func (p *process) launch(id guest.ID, asked time.Time) {
	view := p.cons.View()
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	g, ok := view.Guests[id]
	if !ok || g.Owner != p.id || p.busy[id] || p.m.daemon != p || !asked.After(p.given[id]) {
		return
	}
	p.m.guests[id] = g.Term
	p.c.judge.starts(p.id, g)
	p.log.Debug("guest started", zap.Stringer("guest", id), zap.Stringer("term", g.Term))
}

// stopOthers stops the guests that belong to others by now.
func (p *process) stopOthers(view *ledger.State) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.daemon != p || !view.Founded() {
		return
	}
	for id := range p.m.guests {
		if g, ok := view.Guests[id]; !ok || g.Owner != p.id {
			delete(p.m.guests, id)
			p.c.judge.stops(p.id, id)
			p.log.Debug("guest stopped: it belongs to another node", zap.Stringer("guest", id))
		}
	}
}

// confirm is a confirmed read, held against what the judge knows.
func (p *process) confirm(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	generation := p.cons.Generation()
	floor := p.c.judge.floor(generation)
	if err := p.cons.Confirm(ctx); err != nil || !p.host.Awake(ctx) || !p.alive() {
		return false
	}
	p.c.judge.confirmed(short(p.id), p.cons.View(), generation, floor)
	return true
}

// doubt is a guest that was given away, or removed, and nobody knows whether.
type doubt struct {
	Owner guest.NodeID `json:"owner"`
	Term  guest.Term   `json:"term"`
}

// handOver stops a guest and asks for a change that takes it from this node. While
// the outcome is in doubt it stays stopped, also over a restart: only a command
// that the other one excludes ends the doubt, never a read.
func (p *process) handOver(ctx context.Context, client int, w want) {
	g := w.seenGuest
	if !p.take(g) {
		return
	}
	verdict := p.c.command(ctx, client, p, w)
	if verdict == Unknown && !p.endDoubt(ctx, client, g.ID, doubt{g.Owner, g.Term}) {
		return
	}
	p.give(g.ID)
}

// take stops a guest that is to be given away, and writes that down.
func (p *process) take(g guest.Guest) bool {
	p.m.mu.Lock()
	p.mu.Lock()
	taken := p.m.daemon == p && g.Owner == p.id && !p.busy[g.ID]
	if taken {
		p.busy[g.ID] = true
		delete(p.m.guests, g.ID)
		p.c.judge.stops(p.id, g.ID)
	}
	p.mu.Unlock()
	p.m.mu.Unlock()
	if !taken {
		return false
	}
	if p.noteDoubts(func(all map[guest.ID]doubt) { all[g.ID] = doubt{g.Owner, g.Term} }) != nil {
		p.give(g.ID)
		return false
	}
	return true
}

// give lets a guest run again where it belongs.
func (p *process) give(id guest.ID) {
	// Where it cannot be written down it is found at the next start, and ended by a
	// command that is refused.
	_ = p.noteDoubts(func(all map[guest.ID]doubt) { delete(all, id) })
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, id)
	p.given[id] = time.Now()
}

func (p *process) noteDoubts(change func(all map[guest.ID]doubt)) error {
	all, err := p.doubts()
	if err != nil {
		return err
	}
	change(all)
	if !p.alive() {
		return errDaemonEnded
	}
	return p.m.Write(fileDoubts, all)
}

func (p *process) doubts() (map[guest.ID]doubt, error) {
	all := map[guest.ID]doubt{}
	if err := p.m.Read(fileDoubts, &all); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return all, nil
}

// endDoubt asks for a new term of the same owner until that is done or refused.
func (p *process) endDoubt(ctx context.Context, client int, id guest.ID, d doubt) bool {
	for {
		w := want{id: id, op: ledger.Retain{ID: id, Owner: d.Owner, Term: d.Term}}
		switch p.c.command(ctx, client, p, w) {
		case Done, Refused:
			return true
		case NotSent, Unknown:
		}
		if !pause(ctx, 2*time.Second) || !p.alive() {
			return false
		}
	}
}

// resolveDoubts takes up what was in doubt when the daemon before this one ended.
func (p *process) resolveDoubts() {
	all, err := p.doubts()
	if err != nil {
		return
	}
	p.mu.Lock()
	for id := range all {
		p.busy[id] = true
	}
	p.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(all)) {
		p.spawn(func() {
			if p.endDoubt(p.life, daemonClient, id, all[id]) {
				p.give(id)
			}
		})
	}
}
