package gossip_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
)

// fast makes everything happen soon, with room for a machine that is busy.
func fast() gossip.Timing {
	return gossip.Timing{
		Probe:    200 * time.Millisecond,
		Answer:   150 * time.Millisecond,
		Spread:   10 * time.Millisecond,
		Exchange: 500 * time.Millisecond,
		Connect:  2 * time.Second,
		Rejoin:   200 * time.Millisecond,
		Meta:     50 * time.Millisecond,
		Applied:  50 * time.Millisecond,
	}
}

// directory is where nodes find each other, the member list and the peer connections
// in one.
type directory struct {
	mu      sync.Mutex
	peers   map[guest.NodeID]string
	nodes   map[guest.NodeID]*gossip.Gossip
	fetched int // bytes, of requests and replies
}

// fetch is Options.Fetch.
func (d *directory) fetch(_ context.Context, id guest.NodeID, request []byte) ([]byte, error) {
	d.mu.Lock()
	g := d.nodes[id]
	d.mu.Unlock()
	if g == nil {
		return nil, errors.New("there is no such node")
	}
	reply, err := g.Serve(request)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fetched += len(request) + len(reply)
	return reply, err
}

func (d *directory) bytesFetched() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fetched
}

func (d *directory) list() []gossip.Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []gossip.Peer
	for id, addr := range d.peers {
		out = append(out, gossip.Peer{Node: id, Address: addr})
	}
	return out
}

func (d *directory) set(id guest.NodeID, g *gossip.Gossip) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peers[id], d.nodes[id] = g.Addr(), g
}

func (d *directory) remove(id guest.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.peers, id)
}

type node struct {
	*gossip.Gossip
	id    guest.NodeID
	leave func() error
}

type world struct {
	*testing.T
	dir *directory
	key []byte
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t, &directory{peers: map[guest.NodeID]string{}, nodes: map[guest.NodeID]*gossip.Gossip{}}, key()}
}

func key() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

const clusterID = "0123456789abcdef0123456789abcdef"

func newID() guest.NodeID { return guest.NodeID(hex.EncodeToString(key()[:16])) }

func (w *world) options(id guest.NodeID, boot uint64) gossip.Options {
	return gossip.Options{
		Node:    id,
		Cluster: clusterID,
		Bind:    "127.0.0.1:0",
		Keys:    gossip.Keys{Primary: w.key},
		Boot:    boot,
		Meta:    gossip.Meta{Name: "n1", Peer: "127.0.0.1:7947", Version: "1.0"},
		Peers:   w.dir.list,
		Fetch:   w.dir.fetch,
		Logger:  zap.NewNop(),
		Timing:  fast(),
	}
}

func (w *world) start(opts gossip.Options) *node {
	w.Helper()
	g, err := gossip.Start(opts)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	n := &node{Gossip: g, id: opts.Node}
	n.leave = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	w.Cleanup(func() {
		if err := n.leave(); err != nil {
			w.Errorf("Run: %v", err)
		}
	})
	w.dir.set(n.id, g)
	return n
}

// until waits for a condition that n's changes may make true.
func (w *world) until(n *node, what string, condition func() bool) {
	w.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for !condition() {
		select {
		case <-n.Changed():
		case <-limit.C:
			w.Fatalf("%s: not within a minute; members are %+v", what, n.Members())
		}
	}
}

func (n *node) state(of guest.NodeID) gossip.State {
	for _, m := range n.Members() {
		if m.Node == of {
			return m.State
		}
	}
	return ""
}

func (n *node) hears(of guest.NodeID, key, value string) func() bool {
	return func() bool { return string(n.Entries(of)[key]) == value }
}

func TestGossip_NodesSeeEachOtherAndTheirEntries(t *testing.T) {
	w := newWorld(t)
	nodes := make([]*node, 3)
	for i := range nodes {
		opts := w.options(newID(), 1)
		opts.Meta.Name = guest.NodeName(fmt.Sprintf("n%d", i+1))
		nodes[i] = w.start(opts)
		if err := nodes[i].Publish("guest/100", []byte(opts.Meta.Name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		for i, other := range nodes {
			w.until(n, "alive", func() bool { return n.state(other.id) == gossip.Alive })
			w.until(n, "entry", n.hears(other.id, "guest/100", fmt.Sprintf("n%d", i+1)))
			for _, m := range n.Members() {
				want := gossip.Meta{Name: guest.NodeName(fmt.Sprintf("n%d", i+1)), Peer: "127.0.0.1:7947", Version: "1.0"}
				if m.Node == other.id && (m.Meta != want || m.Address != other.Addr()) {
					t.Errorf("seen as %+v at %s, want %+v at %s", m.Meta, m.Address, want, other.Addr())
				}
			}
		}
	}
	// A change, a deletion and new metadata arrive.
	if err := nodes[0].Publish("guest/100", []byte("changed")); err != nil {
		t.Fatal(err)
	}
	if err := nodes[1].Delete("guest/100"); err != nil {
		t.Fatal(err)
	}
	if err := nodes[2].SetMeta(gossip.Meta{Name: "n3", Applied: 7}); err != nil {
		t.Fatal(err)
	}
	w.until(nodes[2], "change", nodes[2].hears(nodes[0].id, "guest/100", "changed"))
	w.until(nodes[2], "deletion", func() bool { return len(nodes[2].Entries(nodes[1].id)) == 0 })
	w.until(nodes[0], "metadata", func() bool {
		for _, m := range nodes[0].Members() {
			if m.Node == nodes[2].id && m.Meta.Applied == 7 {
				return true
			}
		}
		return false
	})
}

func TestGossip_DeathAndReturn(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(w.options(newID(), 1)), w.start(w.options(newID(), 1))
	// c is not run, so that it dies without a word.
	opts := w.options(newID(), 1)
	c, err := gossip.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	w.dir.set(opts.Node, c)
	if err := c.Publish("guest/100", []byte("here")); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish("guest/200", []byte("here")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{a, b} {
		w.until(n, "alive", func() bool { return n.state(opts.Node) == gossip.Alive })
		w.until(n, "entry", n.hears(opts.Node, "guest/200", "here"))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{a, b} {
		w.until(n, "dead", func() bool { return n.state(opts.Node) == gossip.Dead })
		if !n.hears(opts.Node, "guest/200", "here")() {
			t.Error("what the dead node said last is forgotten")
		}
	}
	// It returns elsewhere, under its name, with another story.
	opts.Boot = 2
	again := w.start(opts)
	if err := again.Publish("guest/100", []byte("moved")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{a, b} {
		w.until(n, "alive again", func() bool { return n.state(opts.Node) == gossip.Alive })
		w.until(n, "new entries", n.hears(opts.Node, "guest/100", "moved"))
		if got := n.Entries(opts.Node); len(got) != 1 {
			t.Errorf("entries of its earlier life are left: %v", got)
		}
	}
}

// What a node says in one go is more than broadcasts carry: it is fetched, by all, and
// each fetches it about once.
func TestGossip_LargeNewsIsFetched(t *testing.T) {
	w := newWorld(t)
	nodes := []*node{w.start(w.options(newID(), 1)), w.start(w.options(newID(), 1)), w.start(w.options(newID(), 1))}
	for _, n := range nodes {
		for _, other := range nodes {
			w.until(n, "alive", func() bool { return n.state(other.id) == gossip.Alive })
		}
	}
	const guests = 3000
	for i := range guests {
		if err := nodes[0].Publish(fmt.Sprintf("guest/%d", i), []byte("1-0123456789abcdef")); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		w.until(n, "all entries", func() bool { return len(n.Entries(nodes[0].id)) == guests })
	}
	const entry = 16 + 8 + 8 + 1 + 1 + 10 + 2 + 18
	if got := w.dir.bytesFetched(); got < guests*entry/2 || got > 6*guests*entry {
		t.Errorf("%d bytes were fetched, of %d for each node", got, guests*entry)
	}
}

func TestGossip_LeavingIsNotDying(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(w.options(newID(), 1)), w.start(w.options(newID(), 1))
	w.until(a, "alive", func() bool { return a.state(b.id) == gossip.Alive })
	w.until(b, "alive", func() bool { return b.state(a.id) == gossip.Alive })
	if err := b.leave(); err != nil {
		t.Fatal(err)
	}
	w.until(a, "left", func() bool { return a.state(b.id) == gossip.Left })
	// One that is no member any more is forgotten.
	if err := b.Publish("guest/100", []byte("late")); err != nil {
		t.Fatal(err)
	}
	w.dir.remove(b.id)
	a.Rejoin()
	w.until(a, "forgotten", func() bool { return a.state(b.id) == "" && len(a.Entries(b.id)) == 0 })
	// And it may come back.
	w.start(w.options(b.id, 2))
	a.Rejoin()
	w.until(a, "alive again", func() bool { return a.state(b.id) == gossip.Alive })
}

// The state folder may have been restored, boot counter included.
func TestGossip_RestoredBootCounter(t *testing.T) {
	w := newWorld(t)
	a := w.start(w.options(newID(), 1))
	id := newID()
	first := w.start(w.options(id, 9))
	for n := range 5 {
		if err := first.Publish("guest/100", fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	w.until(a, "entry", a.hears(id, "guest/100", "4"))
	if err := first.leave(); err != nil {
		t.Fatal(err)
	}
	second := w.start(w.options(id, 3))
	if err := second.Publish("guest/200", []byte("here")); err != nil {
		t.Fatal(err)
	}
	w.until(a, "entry of the new life", func() bool {
		return cmp.Equal(map[string][]byte{"guest/200": []byte("here")}, a.Entries(id))
	})
}

// Without the key, or in another cluster, there is nothing to see and nobody comes in.
func TestGossip_StrangersSeeNothing(t *testing.T) {
	for name, change := range map[string]func(*gossip.Options){
		"another key":     func(o *gossip.Options) { o.Keys.Primary = key() },
		"another cluster": func(o *gossip.Options) { o.Cluster = "fedcba9876543210fedcba9876543210" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.start(w.options(newID(), 1))
			b := w.start(w.options(newID(), 1))
			if err := a.Publish("guest/100", []byte("secret")); err != nil {
				t.Fatal(err)
			}
			opts := w.options(newID(), 1)
			change(&opts)
			tried := make(chan struct{}, 100)
			peers := opts.Peers
			opts.Peers = func() []gossip.Peer {
				tried <- struct{}{}
				return peers()
			}
			stranger := w.start(opts)
			for range 5 { // it knows the addresses and tries them again and again
				<-tried
			}
			w.until(b, "entry", b.hears(a.id, "guest/100", "secret"))
			if got := stranger.Members(); len(got) != 1 || len(stranger.Entries(a.id)) != 0 {
				t.Errorf("the stranger sees %+v", got)
			}
			if got := a.state(stranger.id); got != "" {
				t.Errorf("the stranger is a member that is %q", got)
			}
			cluster := ""
			if opts.Cluster != clusterID {
				cluster = opts.Cluster
			}
			got := a.Strangers()
			if len(got) != 1 || got[0].Address != "127.0.0.1" || got[0].Cluster != cluster || got[0].First.IsZero() {
				t.Errorf("strangers are %+v, want one that gossips for cluster %q", got, cluster)
			}
		})
	}
}

func TestGossip_GarbageOnThePort(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(w.options(newID(), 1)), w.start(w.options(newID(), 1))
	w.until(a, "alive", func() bool { return a.state(b.id) == gossip.Alive })
	for _, network := range []string{"udp", "tcp"} {
		for size := range 50 {
			c, err := (&net.Dialer{}).DialContext(t.Context(), network, a.Addr())
			if err != nil {
				t.Fatal(err)
			}
			junk := make([]byte, 1+size*20)
			rand.Read(junk)
			c.Write(junk)
			c.Close()
		}
	}
	if err := a.Publish("guest/100", []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.until(b, "entry", b.hears(a.id, "guest/100", "x"))
	if got := a.Members(); len(got) != 2 {
		t.Errorf("members are %+v", got)
	}
}
