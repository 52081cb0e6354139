package movesim_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// world is a cluster: machines, what they agreed on, the network between them, and a
// judge that sees all. Of its locks mu comes first, then those of the units, the
// judge's, the ledger's, the pools'. Nobody sleeps with one of them.
type world struct {
	t     testing.TB
	seed  uint64
	begun time.Time
	life  context.Context //nolint:containedctx // of all that goes on beside the machines
	end   context.CancelFunc
	wg    sync.WaitGroup

	machines []*machine
	agreed   *agreed
	judge    *judge

	mu sync.Mutex
	// counts numbers what is drawn by its name, so that one draw does not shift another.
	counts map[string]uint64
	// cut are pairs that do not hear each other.
	cut map[[2]int]int
	// loss is the share of calls that get lost, doubt that of commands whose answer does.
	loss, doubt float64
	calm        bool
	// reap is asked at each moment of a machine whether somebody dies of it.
	reap   func(m *machine, what string) (how end, who []*machine)
	deaths int
	// disks numbers those that were added.
	disks int

	// lags is until when a machine hears nothing of what others agree on.
	lags    map[int]time.Time
	settled time.Duration

	tracing sync.Mutex
	trace   []string
}

// end is how a machine's daemon ends.
type end string

const (
	killed   end = "killed"
	powerCut end = "power cut"
)

// machine is what outlives its daemon.
type machine struct {
	w     *world
	n     int
	id    guest.NodeID
	name  guest.NodeName
	pool  *zfstest.Pool
	units *unittest.Manager

	// The world's lock guards these.
	files  map[string][]byte
	boot   int
	fenced int
	daemon *process
	// power ends with the machine's power.
	power    context.Context //nolint:containedctx // of what the daemon's end does not end
	powerOff context.CancelFunc
}

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

func newWorld(tb testing.TB, seed uint64, nodes int) *world {
	tb.Helper()
	w := &world{t: tb, seed: seed, begun: time.Now(), counts: map[string]uint64{}, cut: map[[2]int]int{}, lags: map[int]time.Time{}}
	w.life, w.end = context.WithCancel(context.Background())
	w.judge = newJudge(w)
	w.agreed = newAgreed(w)
	for n := 1; n <= nodes; n++ {
		m := &machine{w: w, n: n, id: nodeID(n), name: guest.NodeName(fmt.Sprintf("n%d", n)), files: map[string][]byte{}}
		m.pool = zfstest.New(zfstest.Options{Node: string(m.name), Volatile: true, Hook: m.moment})
		m.units = unittest.New()
		m.units.MayStart = m.mayStart
		must(tb, m.pool.Create("tank/g", 0, map[string]string{"canmount": "off"}))
		m.pool.Sync()
		w.machines = append(w.machines, m)
	}
	w.agreed.found(w.machines)
	for _, g := range w.agreed.view().GuestList() {
		for _, m := range w.machines {
			if g.Unit != "" {
				m.install(g.ID, g.Unit)
			}
		}
		owner := w.machine(g.Owner)
		for _, v := range g.Volumes {
			owner.create(v)
		}
	}
	return w
}

// create makes a new disk, as an operator does.
func (m *machine) create(v guest.Volume) {
	size := uint64(0)
	if strings.Contains(v.Name, "disk") {
		size = blocks * blockSize
	}
	must(m.w.t, m.pool.Create("tank/g/"+v.Name, size, nil))
	m.pool.Sync()
}

func (m *machine) install(id guest.ID, unit string) {
	starts := m.w.upTo(4*time.Second, "starts "+unit+string(m.name))
	stops := m.w.upTo(6*time.Second, "stops "+unit+string(m.name))
	m.units.Add(unit, unittest.Spec{
		Starts: starts, Stops: stops,
		OnStart: func() { m.w.judge.started(m, id) }, OnStop: func() { m.w.judge.stopped(m, id) },
	})
}

func (w *world) machine(id guest.NodeID) *machine {
	for _, m := range w.machines {
		if m.id == id {
			return m
		}
	}
	return nil
}

// say adds a line to the trace.
func (w *world) say(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs ", time.Since(w.begun).Seconds()) + fmt.Sprintf(format, args...)
	w.tracing.Lock()
	defer w.tracing.Unlock()
	w.trace = append(w.trace, line)
}

// tail is the end of the trace.
func (w *world) tail(n int) string {
	w.tracing.Lock()
	defer w.tracing.Unlock()
	return strings.Join(w.trace[max(0, len(w.trace)-n):], "\n")
}

// draw is chance that depends on the seed, a name, and how often that was drawn.
func (w *world) draw(name string) *rand.Rand {
	w.tracing.Lock()
	n := w.counts[name]
	w.counts[name]++
	w.tracing.Unlock()
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(w.seed^n*0x9e3779b97f4a7c15, h.Sum64())) //nolint:gosec // it is to be the same again
}

func (w *world) upTo(d time.Duration, name string) time.Duration {
	return time.Millisecond + time.Duration(w.draw(name).Int64N(int64(d)))
}

func (w *world) chance(share float64, name string) bool {
	return share > 0 && w.draw(name).Float64() < share
}

// pause is false where ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var errKilled = errors.New("the process was killed")

// quick are operations that engines do with a lock: they take no time.
var quick = []string{"Version", "PoolFacts", "TokenInfo"}

// moment is before and after each operation of the pool.
func (m *machine) moment(e zfstest.Event) error {
	what := fmt.Sprintf("%s %s after=%v", e.Op, e.Name, e.After)
	if e.Op == "Receive" && e.After {
		m.took(e.Name)
	}
	if err := m.touch(what); err != nil {
		return err
	}
	if !slices.Contains(quick, e.Op) {
		time.Sleep(m.w.upTo(8*time.Millisecond, string(m.name)+e.Op))
	}
	return m.touch("")
}

// touch is a moment of the daemon: it may die of it. Once it is dead nothing that it
// does has an effect. An empty moment is no new one.
func (m *machine) touch(what string) error {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	p := m.daemon
	if p == nil || p.dead {
		return fmt.Errorf("%w at %s", errKilled, what)
	}
	if what == "" || w.reap == nil {
		return nil
	}
	how, who := w.reap(m, what)
	for _, victim := range who {
		w.say("%s at %s: %s", m.name, what, how)
		victim.dies(how, 0)
	}
	if p.dead {
		return fmt.Errorf("%w at %s", errKilled, what)
	}
	return nil
}

// dies ends the daemon, and with the power all that runs here. It starts again by
// itself, after the delay. The caller holds the world's lock.
func (m *machine) dies(how end, delay time.Duration) {
	p := m.daemon
	if p == nil || p.dead {
		return
	}
	w := m.w
	w.deaths++
	w.say("%s: %s", m.name, how)
	p.dead = true
	p.cancel(errKilled)
	if how == powerCut {
		m.boot++
		m.powerOff()
		m.units.Reboot()
		m.pool.PowerCut()
	} else {
		m.pool.Kill()
	}
	if delay == 0 {
		delay = w.upTo(15*time.Second, "returns")
	}
	w.wg.Go(func() {
		p.wg.Wait()
		for pause(w.life, delay) && !m.start() {
			delay = time.Second
		}
	})
}

// ends has a machine die now.
func (m *machine) ends(how end, delay time.Duration) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.dies(how, delay)
}

// start turns the machine on, if it is off, and starts its daemon.
// It is false while the machine is fenced.
func (m *machine) start() bool {
	w := m.w
	w.mu.Lock()
	if fenced := m.fenced > 0; w.life.Err() != nil || fenced || m.daemon != nil && !m.daemon.dead {
		w.mu.Unlock()
		return w.life.Err() != nil || !fenced
	}
	if m.power == nil || m.power.Err() != nil {
		m.power, m.powerOff = context.WithCancel(w.life)
	}
	p := newProcess(m)
	m.daemon = p
	w.mu.Unlock()
	w.say("%s: its daemon starts, boot %d", m.name, p.boot)
	if err := p.build(); err != nil {
		w.mu.Lock()
		if !p.dead {
			w.judge.blame("%s does not start: %v", m.name, err)
		}
		w.mu.Unlock()
		return true
	}
	p.run()
	return true
}

// running is the machine's daemon, if it serves.
func (m *machine) running() *process {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if p := m.daemon; p != nil && !p.dead && p.ready {
		return p
	}
	return nil
}

// mayStart is what the guards of units ask.
func (m *machine) mayStart(ctx context.Context, id guest.ID) error {
	p := m.running()
	if p == nil {
		return errors.New("there is no daemon to ask")
	}
	return p.keeper.MayStart(ctx, id)
}

// reaches says whether two machines hear each other. The caller holds the world's lock.
func (w *world) reaches(a, b int) bool {
	return a == b || w.calm || w.cut[[2]int{min(a, b), max(a, b)}] == 0
}

// alive says whether a machine's daemon can be heard from another. The caller holds the world's lock.
func (w *world) alive(from, of *machine) bool {
	return of.daemon != nil && !of.daemon.dead && w.reaches(from.n, of.n)
}

// quorate says whether a machine hears a majority.
func (w *world) quorate(m *machine) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, other := range w.machines {
		if w.alive(m, other) {
			n++
		}
	}
	return n > len(w.machines)/2
}

// part cuts a pair for a while.
func (w *world) part(a, b int, d time.Duration) {
	pair := [2]int{min(a, b), max(a, b)}
	w.mu.Lock()
	w.cut[pair]++
	w.mu.Unlock()
	w.wg.Go(func() {
		pause(w.life, d)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cut[pair]--
	})
}

// close ends all; nothing of the world runs any more then.
func (w *world) close() {
	w.mu.Lock()
	w.end()
	var last []*process
	for _, m := range w.machines {
		m.dies(killed, time.Second)
		last = append(last, m.daemon)
	}
	w.mu.Unlock()
	for _, p := range last {
		if p != nil {
			p.wg.Wait()
		}
	}
	w.wg.Wait()
	// Whoever gathers calls waits a moment for more of them, also where the last caller has left.
	pause(w.t.Context(), time.Second)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
