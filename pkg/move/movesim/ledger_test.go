package movesim_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/migrate"
)

const generation = "0123456789abcdef"

// agreed is what a majority has: the real ledger, without the raft around it.
type agreed struct {
	w *world

	mu      sync.Mutex
	machine *ledger.Machine
	index   uint64
	ids     int
	// flying are commands that may still be carried out.
	flying int
	// first is what every node knows from the beginning.
	first *ledger.State
}

func newAgreed(w *world) *agreed { return &agreed{w: w, machine: ledger.NewMachine()} }

// idle is a guest without a unit, which nobody runs: nothing but a migration touches its volumes.
const idle guest.ID = 300

// found makes the cluster: a virtual machine on the first node with jobs to two
// others, a container on the second with one job, and the idle guest on the third.
func (a *agreed) found(machines []*machine) {
	member := func(m *machine) ledger.Member {
		return ledger.Member{
			ID: m.id, Name: m.name, Fingerprint: strings.Repeat(string(m.id), 2), Format: ledger.Format, Storages: []string{"local-zfs"},
			Peer: fmt.Sprintf("127.0.0.%d:7947", m.n), Gossip: fmt.Sprintf("127.0.0.%d:7946", m.n),
		}
	}
	ops := []ledger.Op{ledger.Found{
		Cluster: "c1", Generation: generation, Member: member(machines[0]), Gossip: ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)},
	}}
	for _, m := range machines[1:] {
		ops = append(ops, ledger.AddMember{Member: member(m)})
	}
	volume := func(name string) guest.Volume { return guest.Volume{Storage: "local-zfs", Name: name} }
	job := func(id guest.ID, n, to int) ledger.CreateJob {
		return ledger.CreateJob{Job: guest.Job{
			ID: guest.JobID{Guest: id, Number: n}, Target: nodeID(to), Schedule: "*/1", Snapshots: guest.Mirror,
		}}
	}
	ops = append(ops, ledger.AddGuest{Guest: guest.Guest{
		ID: 100, Type: guest.VM, Name: "web", Owner: nodeID(1), Unit: "web.service", Boot: guest.Boot{On: true},
		Volumes: []guest.Volume{volume("vm-100-disk-0"), volume("vm-100-state")},
	}}, ledger.AddGuest{Guest: guest.Guest{
		ID: 200, Type: guest.CT, Name: "db", Owner: nodeID(2), Unit: "db.service", Boot: guest.Boot{On: true},
		Volumes: []guest.Volume{volume("ct-200-root")},
	}}, ledger.AddGuest{Guest: guest.Guest{
		ID: idle, Type: guest.VM, Name: "old", Owner: nodeID(3), Volumes: []guest.Volume{volume("vm-300-disk-0"), volume("vm-300-state")},
	}}, job(100, 0, 2), job(100, 1, 3), job(200, 0, 1), job(idle, 0, 2))
	for _, op := range ops {
		if out := a.apply(ledger.Command{ID: a.newID(), Op: op}); out.Refused != "" {
			a.w.t.Fatal(out.Refused)
		}
	}
	a.first = a.view()
}

func (a *agreed) newID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids++
	return fmt.Sprintf("%032d", a.ids)
}

func (a *agreed) view() *ledger.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machine.View()
}

func (a *agreed) fly(n int) (flying int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flying += n
	return a.flying
}

// apply puts a command on the log. The judge hears of it before anybody can act on it.
func (a *agreed) apply(c ledger.Command) ledger.Outcome {
	data, err := c.Encode()
	must(a.w.t, err)
	a.w.judge.mu.Lock()
	defer a.w.judge.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.machine.View()
	a.index++
	out, err := a.machine.Apply(a.index, data)
	must(a.w.t, err)
	if out.Index == a.index && out.Refused == "" {
		a.w.judge.agreed(before, a.machine.View())
	}
	return out
}

// council is the ledger as a node sees it: what it knows, and a majority that it may
// reach.
type council struct{ *process }

// View is the newest that this node knows.
func (c council) View() *ledger.State {
	c.m.w.mu.Lock()
	defer c.m.w.mu.Unlock()
	return c.view
}

// WaitApplied waits until this node knows of it.
func (c council) WaitApplied(ctx context.Context, index uint64) error {
	for c.View().Index < index {
		if !pause(ctx, 50*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// Confirm asks a majority.
func (c council) Confirm(ctx context.Context) (*ledger.State, error) {
	w := c.m.w
	if err := c.touch("confirm"); err != nil {
		return nil, err
	}
	if !w.quorate(c.m) {
		pause(ctx, 3*time.Second)
		return nil, errNotQuorate
	}
	now := w.agreed.view() // All that was agreed before the question is in it.
	if !pause(ctx, w.upTo(100*time.Millisecond, "confirm")) {
		return nil, context.Cause(ctx)
	}
	if !w.quorate(c.m) || w.chance(w.losses(), "confirm lost") {
		pause(ctx, 3*time.Second)
		return nil, errNotQuorate
	}
	c.learn(now)
	return c.View(), c.touch("confirmed")
}

var (
	errNotQuorate = errors.New("not quorate")
	errNoAnswer   = errors.New("no answer")
)

// Propose carries a command out. Its answer, and it itself, may be lost, or late.
func (c council) Propose(ctx context.Context, cmd ledger.Command) error {
	w := c.m.w
	what := fmt.Sprintf("%T", cmd.Op)
	if err := c.touch("propose " + what); err != nil {
		return err
	}
	if !w.quorate(c.m) {
		pause(ctx, 2*time.Second)
		return fmt.Errorf("%w: %w", migrate.ErrUnsent, errNotQuorate)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	w.mu.Lock()
	doubt := w.doubt
	w.mu.Unlock()
	delay := w.upTo(50*time.Millisecond, "propose")
	fate := ""
	if w.chance(doubt, "doubt") {
		fate = []string{"request lost", "answer lost", "late", "late"}[w.draw("fate").IntN(4)]
		w.say("%s: %s: %s", c.m.name, what, fate)
	}
	if fate == "late" {
		delay = w.upTo(20*time.Second, "late")
	}
	done := make(chan ledger.Outcome, 1)
	if fate != "request lost" {
		w.agreed.fly(1)
		w.wg.Go(func() { // It goes on without who asked.
			defer w.agreed.fly(-1)
			if pause(w.life, delay) {
				done <- w.agreed.apply(cmd)
			}
		})
	}
	select {
	case out := <-done:
		pause(ctx, w.upTo(50*time.Millisecond, "outcome"))
		if fate == "answer lost" || !w.quorate(c.m) {
			<-ctx.Done()
			return errNoAnswer
		}
		c.learn(w.agreed.view())
		if out.Refused != "" {
			return &migrate.RefusedError{Reason: out.Refused}
		}
		return c.touch("proposed " + what)
	case <-ctx.Done():
		return errNoAnswer
	}
}

func (w *world) losses() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.loss
}

// moverLedger is that for migrations.
type moverLedger struct{ council }

// Confirm returns once View has all that was confirmed before.
func (l moverLedger) Confirm(ctx context.Context) error {
	_, err := l.council.Confirm(ctx)
	return err
}

// learn takes news in: those who must know are told at once.
func (p *process) learn(s *ledger.State) {
	w := p.m.w
	w.mu.Lock()
	if s.Index <= p.view.Index || p.dead {
		w.mu.Unlock()
		return
	}
	for id, g := range s.Guests {
		if p.view.Guests[id].Term != g.Term {
			p.learnt[id] = time.Now()
		}
	}
	p.view = s
	w.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// follow acts on news, and hears of them now and then.
func (p *process) follow() {
	for {
		if p.target != nil {
			p.target.EndStale()
		}
		p.keeper.Learn()
		wait := time.NewTimer(p.m.w.upTo(time.Second, "follow "+string(p.m.name)))
		select {
		case <-p.news:
		case <-wait.C:
			if p.m.w.quorate(p.m) && !p.m.w.lagging(p.m) {
				p.learn(p.m.w.agreed.view())
			}
			if p.m.w.chance(0.2, "save") {
				p.save()
			}
		case <-p.ctx.Done():
			wait.Stop()
			return
		}
		wait.Stop()
	}
}

// lagging says that a machine hears nothing now of what others agree on.
func (w *world) lagging(m *machine) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.calm && time.Now().Before(w.lags[m.n])
}

// save keeps what is known of the ledger for the next start.
func (p *process) save() {
	view := council{p}.View()
	_ = store{p.m}.Write("cluster", view)
}
