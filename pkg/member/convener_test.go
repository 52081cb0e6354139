package member_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
)

// world is a cluster of conveners whose raft is scripted.
type world struct {
	mu    sync.Mutex
	nodes map[int]*fake
	cut   map[[2]int]bool
	asked map[int]int // how often a node was asked
	begun time.Time
}

// fake is one node: it fills the convener's interfaces.
type fake struct {
	w        *world
	n        int
	book     *member.Book
	convener *member.Convener
	store    *shelf

	mu      sync.Mutex
	claim   member.Claim
	since   time.Time // quorate since; zero: not
	fails   int       // how often Yield fails
	removed bool
	silent  bool
	left    []string // what it left before this test
	refusal error
	under   sync.WaitGroup // commands
}

var errCut = errors.New("no route to host")

func newWorld() *world {
	return &world{nodes: map[int]*fake{}, cut: map[[2]int]bool{}, asked: map[int]int{}, begun: time.Now()}
}

func (w *world) boottime() time.Duration { return time.Hour + time.Since(w.begun) }

// node adds a node that is in the generation that s tells.
func (w *world) node(n int, s *ledger.State) *fake {
	f := &fake{w: w, n: n, book: member.NewBook(s), store: &shelf{}}
	f.enter(s)
	f.convener = member.NewConvener(member.ConvenerOptions{
		Self: nodeID(n), Fingerprint: s.Members[nodeID(n)].Fingerprint, Book: f.book, Seat: f, Peers: f, Memory: member.NewMemory(f.store, zap.NewNop()),
		Logger: zap.NewNop(), Now: time.Now, Boottime: w.boottime, BootID: "boot",
	})
	w.nodes[n] = f
	return f
}

func (f *fake) enter(s *ledger.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claim = member.Claim{
		Node: nodeID(f.n), Cluster: s.Cluster, Generation: s.Generation, Lineage: s.Lineage, Index: s.Index, LastCommand: s.Index, LastIndex: s.Index, Boots: 1,
	}
	f.since = time.Time{}
}

func (f *fake) set(change func(c *member.Claim)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.claim)
}

// leads makes a node quorate under a leader, from now on.
func (f *fake) leads(followers ...*fake) {
	for _, o := range append(followers, f) {
		o.mu.Lock()
		o.claim.Leader, o.since = nodeID(f.n), time.Now()
		o.mu.Unlock()
	}
}

func (f *fake) generation() string { return f.Claim().Generation }

func (f *fake) Claim() member.Claim {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.claim
	if c.Quorate = !f.since.IsZero(); c.Quorate {
		c.QuorateFor = time.Since(f.since)
	}
	return c
}

func (f *fake) Refuse(reason error) {
	f.mu.Lock()
	f.refusal = reason
	f.mu.Unlock()
	if reason != nil {
		f.under.Wait()
	}
}

// command tells whether a command is taken now.
func (f *fake) command() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refusal
}

func (f *fake) Ask(_ context.Context, node guest.NodeID) (member.Answer, error) {
	o, err := f.reach(node)
	if err != nil {
		return member.Answer{}, err
	}
	time.Sleep(3 * time.Millisecond) // of the synctest bubble
	from := member.Caller{Node: nodeID(f.n), Fingerprint: f.book.Current().Members[nodeID(f.n)].Fingerprint}
	f.mu.Lock()
	if f.removed {
		from.Node = ""
	}
	f.mu.Unlock()
	a, err := o.convener.Answer(from)
	a.Claim.Left = append(a.Claim.Left, o.left...)
	time.Sleep(3 * time.Millisecond)
	return a, err
}

func (f *fake) reach(node guest.NodeID) (*fake, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	for n, o := range f.w.nodes {
		if nodeID(n) == node && !f.w.cut[[2]int{min(f.n, n), max(f.n, n)}] && !o.silent {
			f.w.asked[n]++
			return o, nil
		}
	}
	return nil, errCut
}

func (f *fake) Ledger(_ context.Context, node guest.NodeID) (*ledger.State, error) {
	o, err := f.reach(node)
	if err != nil {
		return nil, err
	}
	return o.book.Current(), nil
}

func (f *fake) Yield(_ context.Context, to *ledger.State) error {
	f.mu.Lock()
	f.fails--
	fails := f.fails >= 0
	f.mu.Unlock()
	if fails {
		return errors.New("disk full")
	}
	time.Sleep(5 * time.Millisecond)
	if err := f.book.Switch(to); err != nil {
		return err
	}
	f.enter(to)
	return nil
}

// run starts all nodes' loops and ends them with the test.
func (w *world) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, f := range w.nodes {
		wg.Go(func() { f.convener.Run(ctx) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func (w *world) setCut(cut bool, pairs ...[2]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range pairs {
		w.cut[p] = cut
	}
}

func (w *world) generations() map[int]string {
	out := map[int]string{}
	for n, f := range w.nodes {
		out[n] = f.generation()
	}
	return out
}

// shelf is a store in memory.
type shelf struct {
	mu     sync.Mutex
	read   error
	writes int
}

func (s *shelf) Read(string, any) error {
	if s.read != nil {
		return s.read
	}
	return fs.ErrNotExist
}

func (s *shelf) Write(string, any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	return nil
}

// forked is the state of a generation that was forked from s on a node.
func forked(s *ledger.State, generation string, node int) *ledger.State {
	out := *s
	out.Lineage = append(slices.Clone(s.Lineage), ledger.Fork{Generation: generation, Parent: s.Generation, Index: s.Index, Node: nodeID(node), At: time.Now().Unix()})
	out.Generation, out.Forced = generation, true
	return &out
}

func acts(c *member.Claim) { c.LastCommand += 10; c.LastIndex += 10 }

func wantGenerations(t *testing.T, w *world, want map[int]string) {
	t.Helper()
	if d := cmp.Diff(want, w.generations()); d != "" {
		t.Error(d)
	}
}

func TestConvener_TheDeadReturnToTheForcedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3)
		w := newWorld()
		n1 := w.node(1, forked(s, "x", 1))
		n1.leads()
		n1.set(acts)
		time.Sleep(time.Second)
		n2, n3 := w.node(2, s), w.node(3, s)
		n2.leads(n3) // they saw each other first
		w.run(t)
		time.Sleep(10 * time.Second)
		wantGenerations(t, w, map[int]string{1: "x", 2: "x", 3: "x"})
		if got := n2.convener.Claim(); !slices.Equal(got.Left, []string{"g"}) || got.Yielding != "" {
			t.Errorf("n2 tells %+v", got)
		}
		if err := n2.command(); err != nil {
			t.Errorf("n2 takes no commands any more: %v", err)
		}
	})
}

func TestConvener_AForcedNodeYieldsToAHealthyMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3)
		w := newWorld()
		n2, n3 := w.node(2, s), w.node(3, s)
		n2.leads(n3)
		time.Sleep(time.Minute)
		n1 := w.node(1, forked(s, "x", 1))
		n1.leads()
		n1.set(acts)
		w.setCut(true, [2]int{1, 2}, [2]int{1, 3})
		w.run(t)
		time.Sleep(time.Hour)
		wantGenerations(t, w, map[int]string{1: "x", 2: "g", 3: "g"})
		w.setCut(false, [2]int{1, 2}, [2]int{1, 3})
		time.Sleep(10 * time.Second)
		wantGenerations(t, w, map[int]string{1: "g", 2: "g", 3: "g"})
	})
}

func TestConvener_WhenBothActedAPersonChooses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3)
		w := newWorld()
		n1 := w.node(1, forked(s, "x", 1))
		n1.leads()
		n1.set(acts)
		time.Sleep(time.Second)
		n2, n3 := w.node(2, s), w.node(3, s)
		n2.leads(n3)
		n2.set(acts)
		w.run(t)
		time.Sleep(time.Minute)
		wantGenerations(t, w, map[int]string{1: "x", 2: "g", 3: "g"})
		for n, f := range w.nodes {
			if got := f.convener.Status(); !strings.Contains(got.Alarm, "generations g and x of this cluster have all changed") {
				t.Errorf("n%d shows %+v", n, got)
			}
			if err := f.convener.Cleared(t.Context()); err != nil {
				t.Errorf("n%d acted before, and may not now: %v", n, err)
			}
		}
		if err := n3.convener.Yield(t.Context(), "x"); err == nil {
			t.Error("a follower took itself out of a quorate generation")
		}
		if err := n2.convener.Yield(t.Context(), ""); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		wantGenerations(t, w, map[int]string{1: "x", 2: "x", 3: "x"})
		if got := n1.convener.Status(); got.Alarm != "" || len(got.Others) > 0 {
			t.Errorf("n1 still shows %+v", got)
		}
		if err := n1.convener.Yield(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "nothing to yield to") {
			t.Errorf("yielded to nobody: %v", err)
		}
	})
}

func TestConvener_ACommandUnderWayEndsTheDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2)
		w := newWorld()
		n1, n2 := w.node(1, forked(s, "x", 1)), w.node(2, s)
		n1.set(acts)
		n2.under.Add(1) // a command that hangs
		w.run(t)
		time.Sleep(time.Second)
		if err := n2.command(); err == nil {
			t.Error("n2 takes commands while it goes over")
		}
		if got := n2.convener.Claim().Yielding; got != "x" {
			t.Errorf("n2 tells others that it goes over to %q", got)
		}
		n2.set(acts) // the command is confirmed after all
		n2.under.Done()
		time.Sleep(10 * time.Second)
		wantGenerations(t, w, map[int]string{1: "x", 2: "g"})
		if got := n2.convener.Status(); got.Alarm == "" || got.Yielding != "" {
			t.Errorf("n2 shows %+v", got)
		}
	})
}

func TestConvener_TriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2)
		w := newWorld()
		n1, n2 := w.node(1, forked(s, "x", 1)), w.node(2, s)
		n1.set(acts)
		n2.fails = 2
		w.run(t)
		time.Sleep(time.Second)
		wantGenerations(t, w, map[int]string{1: "x", 2: "g"})
		if err := n2.command(); err != nil {
			t.Errorf("it failed to go over, and takes no commands: %v", err)
		}
		if got := n2.convener.Status().Alarm; !strings.Contains(got, "generation g yields") || !strings.Contains(got, "cannot go over: go over to generation x: disk full") {
			t.Errorf("the status shows %q", got)
		}
		time.Sleep(15 * time.Second)
		wantGenerations(t, w, map[int]string{1: "x", 2: "x"})
		if got := n2.convener.Status().Alarm; got != "" {
			t.Errorf("the status still shows %q", got)
		}
	})
}

func TestConvener_ClearedWaitsForTheSilentOnceAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3)
		w := newWorld()
		n2, n3 := w.node(2, s), w.node(3, s)
		n2.leads(n3)
		took := func() time.Duration {
			begun := time.Now()
			if err := n2.convener.Cleared(t.Context()); err != nil {
				t.Error(err)
			}
			return time.Since(begun).Round(time.Second)
		}
		if got := took(); got != 15*time.Second {
			t.Errorf("with a member that was never heard it took %v", got)
		}
		if got := took(); got != 0 {
			t.Errorf("the next time it took %v", got)
		}
		n3.set(func(c *member.Claim) { c.Generation = "" }) // as one that waits at its gate
		if got := took(); got != 0 {
			t.Errorf("a member that was heard before: it took %v", got)
		}
	})
}

func TestConvener_ClearedMeetsTheForcedOneInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3)
		w := newWorld()
		before := forked(s, "x", 1)
		time.Sleep(time.Minute)
		n2, n3 := w.node(2, s), w.node(3, s)
		n2.leads(n3)
		go func() {
			time.Sleep(5 * time.Second)
			w.late(1, before).set(acts)
		}()
		if err := n2.convener.Cleared(t.Context()); err == nil || !strings.Contains(err.Error(), "generation g yields") {
			t.Errorf("got %v", err)
		}
	})
}

func TestConvener_ANodeThatTheOtherGenerationDoesNotListStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n1, n3 := w.node(1, forked(state(50, 1, 2), "x", 1)), w.node(3, state(50, 1, 2, 3))
		n1.set(acts)
		w.run(t)
		time.Sleep(time.Minute)
		wantGenerations(t, w, map[int]string{1: "x", 3: "g"})
		if got := n3.convener.Status().Alarm; !strings.Contains(got, "it does not list this node with its key") {
			t.Errorf("the status shows %q", got)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asked[1] > 60 {
			t.Errorf("in a minute n1 was asked %d times", w.asked[1])
		}
	})
}

func TestConvener_ALeaderThatHasActedDoesNotFollowAFormerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3)
		w := newWorld()
		n1, n2, n3 := w.node(1, s), w.node(2, s), w.node(3, s)
		other := forked(s, "x", 3)
		n1.leads(n2, n3)
		n2.convener.Claim()
		n2.leads(n3)
		if err := n2.convener.Cleared(t.Context()); err != nil {
			t.Fatal(err)
		}
		n2.set(acts)
		if err := n1.Yield(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		n1.set(acts)
		n1.left = []string{"g"}
		time.Sleep(time.Minute)
		n2.leads(n3)
		w.run(t)
		time.Sleep(10 * time.Second)
		wantGenerations(t, w, map[int]string{1: "x", 2: "g", 3: "g"})
	})
}

// Two operators who choose at the same time never make the two sides change places.
func TestConvener_TwoNeverGiveWayToEachOther(t *testing.T) {
	for offset := range 20 {
		synctest.Test(t, func(t *testing.T) {
			s := state(50, 1, 2)
			w := newWorld()
			n1, n2 := w.node(1, forked(s, "x", 1)), w.node(2, s)
			n1.set(acts)
			n2.set(acts)
			var wg sync.WaitGroup
			errs := make([]error, 2)
			wg.Go(func() { errs[0] = n1.convener.Yield(t.Context(), "g") })
			wg.Go(func() {
				time.Sleep(time.Duration(offset) * time.Millisecond)
				errs[1] = n2.convener.Yield(t.Context(), "x")
			})
			wg.Wait()
			if n1.generation() == "g" && n2.generation() == "x" {
				t.Errorf("%d ms apart they changed places: %v", offset, errs)
			}
			if n1.generation() == "x" && n2.generation() == "g" && (errs[0] == nil || errs[1] == nil) {
				t.Errorf("%d ms apart: %v, and nobody yielded", offset, errs)
			}
		})
	}
}

// late adds a node while others run.
func (w *world) late(n int, s *ledger.State) *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.node(n, s)
}

func TestConvener_ARemovedNodeLearnsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3)
		w := newWorld()
		after := state(60, 1, 2)
		after.Removed = map[string]ledger.Removal{"key3": {Node: nodeID(3), Name: "n3", By: "root@n1", At: 1_800_000_000}}
		w.node(1, after).leads(w.node(2, after))
		n3 := w.node(3, s)
		n3.removed = true
		w.run(t)
		time.Sleep(5 * time.Second)
		got := n3.convener.Status().Removed
		if got == nil || !strings.Contains(got.Reason(), "was removed from the cluster on 2027-01-15T08:00:00Z by root@n1") {
			t.Errorf("n3 shows %+v", got)
		}
		if _, err := w.nodes[1].convener.Answer(member.Caller{Fingerprint: "stranger"}); err == nil {
			t.Error("a stranger was answered")
		}
	})
}

func TestConvener_ManyMembersAreAskedInTurnWhileAllIsCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state(50, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		w := newWorld()
		before := forked(s, "x", 1)
		time.Sleep(time.Minute)
		var all []*fake
		for n := range 9 {
			all = append(all, w.node(n+1, s))
		}
		all[0].leads(all[1:]...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go all[0].convener.Run(ctx)
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		clear(w.asked)
		w.mu.Unlock()
		time.Sleep(16 * time.Second)
		w.mu.Lock()
		total := 0
		for _, n := range slices.Collect(maps.Values(w.asked)) {
			total += n
		}
		if total != 8*4 || len(w.asked) != 8 {
			t.Errorf("in 16 s asked %v", w.asked)
		}
		w.mu.Unlock()
		if err := all[8].Yield(ctx, before); err != nil {
			t.Fatal(err)
		}
		all[0].convener.News()
		time.Sleep(50 * time.Millisecond)
		if got := all[0].generation(); got != "x" {
			t.Errorf("gossip told of generation x, and n1 is in %s", got)
		}
	})
}

func TestMemory_IsWrittenOnceAMinuteAndNeverOverABrokenFile(t *testing.T) {
	store := &shelf{}
	m := member.NewMemory(store, zap.NewNop())
	now := time.Unix(1_800_000_000, 0)
	for i := range 120 {
		m.Heard(member.Claim{Node: nodeID(2), Generation: "g", Term: uint64(i)})
		m.Keep(now.Add(time.Duration(i) * time.Second))
	}
	if store.writes != 2 {
		t.Errorf("%d writes in two minutes", store.writes)
	}
	m.Keep(now.Add(time.Hour))
	m.Keep(now.Add(2 * time.Hour))
	if store.writes != 3 {
		t.Errorf("%d writes, the last without anything new", store.writes)
	}
	broken := &shelf{read: errors.New("the checksum does not match")}
	m = member.NewMemory(broken, zap.NewNop())
	m.Heard(member.Claim{Node: nodeID(2), Generation: "g", Boots: 7})
	m.Keep(now)
	if broken.writes != 0 {
		t.Error("a broken file was overwritten")
	}
	if m.Of(nodeID(2)).Boots != 7 {
		t.Error("with a broken file nothing is remembered at all")
	}
	m.Only(func(guest.NodeID) bool { return false })
	if m.Of(nodeID(2)).Boots != 0 {
		t.Error("a removed node is remembered")
	}
}

// Whatever generations there are, whoever acted, led or was cut off from whom:
// when all can talk again they are in one generation within 30 s, or all alarm.
func TestConvener_OneTruthAfterAnyMeeting(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { meetAtRandom(t, rand.New(rand.NewPCG(seed, 3))) })
		})
	}
}

func meetAtRandom(t *testing.T, r *rand.Rand) {
	t.Helper()
	const nodes = 5
	base := state(50, 1, 2, 3, 4, 5)
	generations := []*ledger.State{base}
	w := newWorld()
	old := r.IntN(3) == 0 // a majority of the first generation was quorate all the time
	time.Sleep(time.Minute)
	for range 1 + r.IntN(2) {
		from := generations[r.IntN(len(generations))]
		generations = append(generations, forked(from, string(rune('h'+len(generations)+r.IntN(2)*8)), 1+r.IntN(nodes)))
		time.Sleep(time.Minute)
	}
	for n := 1; n <= nodes; n++ {
		f := w.node(n, generations[r.IntN(len(generations))])
		if r.IntN(3) == 0 {
			f.set(acts)
		}
		if f.generation() == "g" && old || r.IntN(3) == 0 {
			f.leads()
		}
		if f.generation() == "g" && old {
			f.since = w.begun
		}
		for m := 1; m < n; m++ {
			w.cut[[2]int{m, n}] = r.IntN(2) == 0
		}
	}
	before := w.generations()
	w.run(t)
	for range r.IntN(8) {
		time.Sleep(time.Duration(r.IntN(10_000)) * time.Millisecond)
		a, b := 1+r.IntN(nodes-1), nodes
		w.setCut(r.IntN(2) == 0, [2]int{a, b}, [2]int{1, 1 + a})
	}
	w.mu.Lock()
	clear(w.cut)
	w.mu.Unlock()
	time.Sleep(30 * time.Second)
	now, alarms := map[string]bool{}, 0
	for _, f := range w.nodes {
		now[f.generation()] = true
		if f.convener.Status().Alarm != "" {
			alarms++
		}
	}
	if len(now) > 1 && alarms < nodes || len(now) == 1 && alarms > 0 {
		t.Errorf("from %v to %v, %d of %d alarm", before, w.generations(), alarms, nodes)
	}
}
