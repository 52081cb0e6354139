package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/member/rules"
	"github.com/tandemd/tandem/pkg/sim/simnet"
)

// process is one run of a node's daemon, wired as pkg/daemon does it.
type process struct {
	c      *cluster
	m      *machine
	id     guest.NodeID
	log    *zap.Logger
	host   *simnet.Host
	life   context.Context
	end    context.CancelCauseFunc
	wg     sync.WaitGroup
	joined chan *ledger.State
	boots  atomic.Uint64
	booted string
	book   *member.Book
	// admitted is set once the gate is passed.
	admitted atomic.Bool

	// turn is held by whoever changes the generation, or fileLedger.
	turn     chan struct{}
	kept     *ledger.State // what fileLedger holds
	entering *ledger.State // that of the generation to which the node is going

	mu       sync.Mutex
	sight    map[guest.NodeID]sighting
	memory   *member.Memory
	gate     *member.Gate
	cons     *consensus.Consensus // nil: in no cluster
	convener *member.Convener
	busy     map[guest.ID]bool // guests that are being moved or removed
	// given is when this node last ended trying to give a guest away.
	given map[guest.ID]time.Time
}

// newProcess starts a daemon; the machine's lock is held.
func newProcess(m *machine) *process {
	p := &process{
		c: m.c, m: m, id: m.id, log: m.c.log.Named(short(m.id)), sight: map[guest.NodeID]sighting{},
		busy: map[guest.ID]bool{}, given: map[guest.ID]time.Time{},
		turn: make(chan struct{}, 1), joined: make(chan *ledger.State, 1), booted: fmt.Sprint(m.boot),
	}
	p.life, p.end = context.WithCancelCause(context.Background())
	// What the server needs is there before the first call can arrive.
	p.book = member.NewBook(nil)
	p.host = m.c.net.Join(m.id, simnet.Server{Knows: p.knows, Call: p.serve, Stranger: p.serveStranger})
	p.wg.Go(p.run)
	return p
}

// dies ends the process at once: nothing of it is seen or heard any more. What is
// left of it in memory ends later.
func (p *process) dies() {
	p.host.Leave()
	p.mu.Lock()
	p.end(errDaemonEnded)
	p.mu.Unlock()
	p.c.ended.Go(func() {
		p.wg.Wait()
		if cons := p.consensus(); cons != nil {
			_ = cons.Close() // Its disk is gone: it cannot end well.
		}
	})
}

func (p *process) alive() bool { return p.life.Err() == nil }

func (p *process) consensus() *consensus.Consensus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cons
}

// spawn runs something as part of the process; false if that has ended.
func (p *process) spawn(work func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.alive() {
		return false
	}
	p.wg.Go(work)
	return true
}

// run is the daemon's life.
func (p *process) run() {
	state, err := p.remembered()
	if errors.Is(err, fs.ErrNotExist) { // It is in no cluster.
		select {
		case state = <-p.joined:
			err = nil
		case <-p.life.Done():
			return
		}
	}
	if err == nil {
		err = p.open(state)
	}
	if err != nil {
		p.fails()
		return
	}
	p.loops()
}

// restartAfter is how soon systemd starts a daemon again that gave up.
const restartAfter = 2 * time.Second

// fails ends a daemon that cannot start; it is started again.
func (p *process) fails() {
	p.c.ended.Go(func() {
		if p.m.kill(p) {
			time.Sleep(restartAfter)
			p.m.turnOn()
		}
	})
}

// remembered is the ledger that was kept for the start.
func (p *process) remembered() (*ledger.State, error) {
	var boots uint64
	if err := p.m.Read(fileBoots, &boots); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p.boots.Store(boots + 1)
	if err := p.m.Write(fileBoots, boots+1); err != nil {
		return nil, err
	}
	var state ledger.State
	if err := p.m.Read(fileLedger, &state); err != nil {
		return nil, err
	}
	return &state, nil
}

// open builds the node's parts; raft does not run yet.
func (p *process) open(state *ledger.State) error {
	if err := p.book.Switch(state); err != nil {
		return err
	}
	memory := member.NewMemory(p.m, p.log)
	rooms := p.m.disk.Rooms(func(generation string) (raft.Transport, error) { return p.host.Transport(generation) })
	mark, err := consensus.Look(rooms, state.Generation)
	if err != nil {
		return err
	}
	gate := member.NewGate(member.GateOptions{
		Self: p.id, State: state, Ask: peers{p}.Ask, Logger: p.log,
		Own: rules.Own{Boots: p.boots.Load(), Generation: state.Generation, Term: mark.Term, LastIndex: mark.LastIndex},
	})
	convener := member.NewConvener(member.ConvenerOptions{
		Self: p.id, Fingerprint: fingerprintOf(p.id), Book: p.book, Seat: seat{p}, Peers: peers{p}, Memory: memory,
		Logger: p.log, Now: p.m.wall, Boottime: p.c.now, BootID: p.booted,
	})
	cons, err := consensus.Open(consensus.Options{
		Node: p.id, Generation: state.Generation, Rooms: rooms, Forward: p.forward, Clear: convener.Cleared, Entered: p.entered,
		Boottime: p.c.now, Hold: true, Logger: p.log, Timing: p.c.timing,
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept, p.memory, p.gate, p.convener, p.cons = state, memory, gate, convener, cons
	return nil
}

// admit starts raft once the gate is passed: as it is, or with an empty folder
// where others remember more than this one's disk.
func (p *process) admit() error {
	v, err := p.gate.Wait(p.life)
	if err != nil {
		return err
	}
	if v.Kind != rules.GateSetAside {
		err = p.changing(p.life, p.cons.Start)
	} else {
		if v.Boots != 0 {
			p.boots.Store(v.Boots)
			if err := p.m.Write(fileBoots, v.Boots); err != nil {
				return err
			}
		}
		err = p.changing(p.life, func() error { return p.cons.SetAside(p.life) })
	}
	if err == nil {
		p.admitted.Store(true)
	}
	return err
}

// loops does what a daemon does all the time, until it ends.
func (p *process) loops() {
	steward := &member.Steward{
		Self: p.id, Council: council{p.cons}, Sight: p.sightings, Propose: p.ownPropose, Logger: p.log,
	}
	p.spawn(func() { steward.Run(p.life) })
	p.spawn(p.catchUp)
	p.spawn(p.tend)
	p.spawn(func() {
		if !p.admitted.Load() {
			if err := p.admit(); err != nil {
				p.fails()
				return
			}
		}
		p.convener.Run(p.life)
	})
	p.resolveDoubts()
	p.follow()
}

// follow carries news of the ledger to the book, the disk and the guests.
func (p *process) follow() {
	known := p.book.Current()
	var seen *ledger.State
	for {
		view := p.cons.View()
		if p.alive() && (seen == nil || view.Generation != seen.Generation || view.Index != seen.Index) {
			p.c.judge.sees(short(p.id), view)
			seen = view
		}
		p.book.Learn(view)
		known = p.holdBook(known)
		p.save()
		p.stopOthers(view)
		select {
		case <-p.life.Done():
			return
		case <-p.cons.Changed():
		case <-p.book.Changed():
		}
		if !p.host.Awake(p.life) {
			return
		}
	}
}

// holdBook holds that the book never goes back within a generation.
func (p *process) holdBook(known *ledger.State) *ledger.State {
	now := p.book.Current()
	if now.Generation == known.Generation && now.Index < known.Index {
		p.c.judge.blame("the book of %s went back from index %d to %d", short(p.id), known.Index, now.Index)
	}
	return now
}

// save keeps the ledger for the next start.
func (p *process) save() {
	_ = p.changing(p.life, func() error {
		s := p.book.Current()
		if s.Generation == p.kept.Generation && s.Index <= p.kept.Index || !p.alive() {
			return nil
		}
		err := p.m.Write(fileLedger, s)
		if err == nil {
			p.kept = s
		}
		return err
	})
}

// catchUpEvery bounds how often the members' lists are fetched.
const catchUpEvery = 5 * time.Second

// catchUp fetches the ledger from the members at the start, and when a key is met
// that may be a newer member's.
func (p *process) catchUp() {
	for {
		for id := range p.book.Current().Members {
			if id == p.id {
				continue
			}
			call, cancel := context.WithTimeout(p.life, catchUpEvery)
			s, err := peers{p}.Ledger(call, id)
			cancel()
			if err == nil {
				p.book.Learn(s)
			}
		}
		if !pause(p.life, catchUpEvery) {
			return
		}
		select {
		case <-p.life.Done():
			return
		case <-p.book.Missed():
		}
	}
}

// pause sleeps; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
