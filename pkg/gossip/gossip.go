// Package gossip tells who is alive and what each node says of itself, by
// hashicorp/memberlist: it moves bytes under a key, from the node that published
// them to all others, quorate or not. Changes are broadcast; what a broadcast missed
// is found by comparing digests, and fetched (exchange.go).
//
// It decides nothing, and nothing is decided by it alone: what it says may be late.
// It is always encrypted; the key is the cluster's, and its ID the label, so that
// two clusters never mix. Only members are heard, and what they can make this node
// keep is bounded. memberlist forgets dead nodes and never joins again, so Run
// does, all the time; the dead are remembered here. The daemon is its only caller.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/tandemd/tandem/pkg/gossip/guard"
	"github.com/tandemd/tandem/pkg/guest"
)

// State is what gossip believes of a node.
type State string

// The states. A node that memberlist suspects is alive until it is dead.
const (
	Alive State = "alive"
	Dead  State = "dead"
	// Left is a daemon that was stopped properly.
	Left State = "left"
)

// leaving is the value of the mark of a node that stops.
const leaving = "left"

// Member is what is known of a node.
type Member struct {
	Node    guest.NodeID
	Meta    Meta   // as last heard
	Address string // HOST:PORT of its gossip
	State   State
	// Since is when this node learned the state, by its own clock.
	Since time.Time
}

// Peer is a node to gossip with.
type Peer struct {
	Node    guest.NodeID
	Address string // HOST:PORT of its gossip
}

// Gossip is this node's part in it.
type Gossip struct {
	opts      Options
	log       *zap.Logger
	quiet     *quiet
	list      *memberlist.Memberlist
	guard     *guard.Transport
	addr      string
	keys      *memberlist.Keyring
	keysMu    sync.Mutex
	queue     memberlist.TransmitLimitedQueue
	strangers strangers
	alive     atomic.Int32
	crowded   atomic.Bool // there is more news than broadcasts carry
	changed   chan struct{}
	rejoin    chan struct{}
	offered   chan struct{}
	stop      func() error

	mu      sync.Mutex // held for short work in memory only, never while calling memberlist
	table   table
	author  author
	members map[guest.NodeID]*Member
	known   map[guest.NodeID]bool // the others that are members
	offers  map[guest.NodeID]*digest
	meta    metadata
}

// Start listens and begins to gossip. Run must follow, or Close.
func Start(opts Options) (*Gossip, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g := &Gossip{
		opts:    opts,
		log:     opts.Logger,
		quiet:   newQuiet(opts.Logger),
		changed: make(chan struct{}, 1),
		rejoin:  make(chan struct{}, 1),
		offered: make(chan struct{}, 1),
		table:   newTable(),
		author:  author{node: opts.Node, boot: opts.Boot},
		members: map[guest.NodeID]*Member{},
		offers:  map[guest.NodeID]*digest{},
	}
	if err := g.meta.set(opts.Meta, time.Time{}, 0); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	keys, err := opts.Keys.list()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if g.keys, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g.queue.RetransmitMult = retransmits
	g.queue.NumNodes = func() int { return max(10, int(g.alive.Load())) }
	g.recall(opts.Peers())
	// The mark makes void what others remember of our life before this one.
	g.mu.Lock()
	g.tell(g.author.next("", nil))
	g.mu.Unlock()
	if err := g.listen(keys); err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", opts.Bind, err)
	}
	g.addr = g.list.LocalNode().Address()
	g.stop = sync.OnceValue(g.list.Shutdown)
	return g, nil
}

// listen starts memberlist behind its guard.
func (g *Gossip) listen(keys [][]byte) error {
	bind, err := netip.ParseAddrPort(g.opts.Bind)
	if err != nil {
		return fmt.Errorf("address %q to listen on: must be IP:PORT", g.opts.Bind)
	}
	lines := newLineLog(g.opts.Logger)
	g.guard, err = guard.New(guard.Options{
		Label: g.opts.Cluster, Bind: bind, Nodes: maxNodes, State: offerSize, Refused: g.refused, Logger: lines.logger(),
	})
	if err != nil {
		return err
	}
	if err := g.guard.SetKeys(keys); err != nil {
		return errors.Join(err, g.guard.Shutdown())
	}
	config, err := g.opts.memberlist(g)
	if err != nil {
		return errors.Join(err, g.guard.Shutdown())
	}
	config.LogOutput = lines
	if g.list, err = memberlist.Create(config); err != nil {
		return errors.Join(err, g.guard.Shutdown())
	}
	return nil
}

// Run joins the others, and joins again those that are away, until ctx ends. Then it
// tells them that this node leaves, and closes.
func (g *Gossip) Run(ctx context.Context) error {
	rejoin := time.NewTicker(g.opts.Timing.Rejoin)
	defer rejoin.Stop()
	meta := time.NewTicker(g.opts.Timing.Meta)
	defer meta.Stop()
	crowd := time.NewTicker(g.opts.Timing.Crowd)
	defer crowd.Stop()
	var joining errgroup.Group
	joining.SetLimit(16)
	var fetching sync.WaitGroup
	fetching.Go(func() { g.fetchAll(ctx) })
	g.join(ctx, &joining)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-rejoin.C:
			g.join(ctx, &joining)
		case <-g.rejoin:
			g.join(ctx, &joining)
		case <-meta.C:
			g.sendMeta()
		case <-crowd.C:
			if g.crowded.CompareAndSwap(true, false) {
				g.exchange(&joining)
			}
		}
	}
	g.leave()
	err := g.stop()
	_ = joining.Wait() // it returns no error
	fetching.Wait()
	return err
}

// join contacts the nodes that are not alive here. When so many do not answer that
// all places are taken, others have their turn the next time.
func (g *Gossip) join(ctx context.Context, group *errgroup.Group) {
	peers := slices.Clone(g.opts.Peers())
	g.recall(peers)
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	for _, p := range peers {
		if p.Node == g.opts.Node || g.isAlive(p.Node) || ctx.Err() != nil {
			continue
		}
		g.contact(group, p)
	}
}

// exchange compares with some nodes at once, instead of with one after a while.
func (g *Gossip) exchange(group *errgroup.Group) {
	const some = 3
	members := g.Members()
	rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	left := some
	for _, m := range members {
		if left == 0 {
			return
		}
		if m.Node != g.opts.Node && m.State == Alive {
			g.contact(group, Peer{Node: m.Node, Address: m.Address})
			left--
		}
	}
}

// contact compares with one node, unless all places are taken.
func (g *Gossip) contact(group *errgroup.Group, p Peer) {
	group.TryGo(func() error {
		if _, err := g.list.Join([]string{p.Address}); err != nil {
			g.log.Debug("gossip: a node does not answer", zap.String("node", string(p.Node)), zap.String("address", p.Address), zap.Error(err))
		}
		return nil
	})
}

// recall takes over who the members are, and forgets what the others have said.
func (g *Gossip) recall(peers []Peer) {
	known := map[guest.NodeID]bool{}
	for _, p := range peers[:min(len(peers), maxNodes)] {
		known[p.Node] = true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if maps.Equal(known, g.known) {
		return
	}
	g.known = known
	for node := range g.table.nodes {
		if !g.belongs(node) {
			g.table.drop(node)
		}
	}
	for node, m := range g.members {
		if !g.belongs(node) && m.State == Dead {
			delete(g.members, node) // else memberlist will tell of its death
		}
	}
	poke(g.changed)
}

// belongs says whether a node is a member. The caller holds the lock.
func (g *Gossip) belongs(node guest.NodeID) bool { return node == g.opts.Node || g.known[node] }

func (g *Gossip) isAlive(node guest.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[node]
	return m != nil && m.State == Alive
}

func (g *Gossip) sendMeta() {
	g.mu.Lock()
	due := g.meta.take(time.Now())
	g.mu.Unlock()
	if !due {
		return
	}
	// When nobody is there to hear it they hear it when they join.
	if err := g.list.UpdateNode(g.opts.Timing.Meta); err != nil {
		g.log.Debug("gossip: own data sent to nobody", zap.Error(err))
	}
}

func (g *Gossip) leave() {
	g.mu.Lock()
	g.tell(g.author.next("", []byte(leaving)))
	g.mu.Unlock()
	if err := g.list.Leave(g.opts.Timing.Leave); err != nil {
		g.log.Debug("gossip: left without anybody hearing it", zap.Error(err))
	}
}

// Close stops without a word, as a crash does; the end of Run does better. It may be
// called twice.
func (g *Gossip) Close() error { return g.stop() }

// Addr is the address that others reach this node at.
func (g *Gossip) Addr() string { return g.addr }

// Changed gets an element after members or entries changed; many changes make one.
func (g *Gossip) Changed() <-chan struct{} { return g.changed }

// Rejoin makes Run ask for the members and look for those that are away at once:
// the member list changed.
func (g *Gossip) Rejoin() { poke(g.rejoin) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// SetMeta changes what is said of this node. Run sends it within a second, the index
// alone within 5 s.
func (g *Gossip) SetMeta(m Meta) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.meta.set(m, time.Now(), g.opts.Timing.Applied); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// Publish tells all nodes a value of this node, in place of what it was.
func (g *Gossip) Publish(key string, value []byte) error {
	switch {
	case key == "" || len(key) > MaxKey:
		return fmt.Errorf("gossip: key %q: must have 1 to %d bytes", key, MaxKey)
	case len(value) > MaxValue:
		return fmt.Errorf("gossip: key %q: a value of %d bytes, more than %d", key, len(value), MaxValue)
	}
	return g.say(key, slices.Clone(value), entry{})
}

// Delete takes a value of this node back.
func (g *Gossip) Delete(key string) error { return g.say(key, nil, entry{deleted: true}) }

// say publishes unless it says what it says already.
func (g *Gossip) say(key string, value []byte, kind entry) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	old, found := g.table.entry(g.opts.Node, key)
	if found && old.deleted == kind.deleted && string(old.value) == string(value) || !found && kind.deleted {
		return nil
	}
	e := g.author.next(key, value)
	e.deleted = kind.deleted
	if !g.tell(e) {
		return fmt.Errorf("gossip: key %q: there is no room for it: at most %d keys and %d MiB can be published between two starts of the daemon; restart it",
			key, maxKeys, maxNodeBytes>>20)
	}
	return nil
}

// tell merges an entry of ours and sends it, and answers whether there was room for
// it. The caller holds the lock.
func (g *Gossip) tell(e entry) bool {
	if !g.table.merge(e) {
		return false
	}
	g.passOn(e)
	poke(g.changed)
	return true
}

// Entries are the values that a node has published, by key, as last heard.
func (g *Gossip) Entries(node guest.NodeID) map[string][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.values(node)
}

// Members are all members that were heard of, this one and the dead included, by ID.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Member
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		if g.belongs(id) {
			out = append(out, g.told(g.members[id]))
		}
	}
	return out
}

// Member is what is known of one node; ok says whether it was ever heard of.
func (g *Gossip) Member(node guest.NodeID) (m Member, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.members[node]; known != nil && g.belongs(node) {
		return g.told(known), true
	}
	return Member{}, false
}

// told is a member as others are told of it. The caller holds the lock.
func (g *Gossip) told(known *Member) Member {
	m := *known
	if m.State == Dead && g.table.mark(m.Node) == leaving {
		m.State = Left
	}
	return m
}
