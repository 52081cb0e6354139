// Package gossip tells who is alive and what each node says of itself, by
// hashicorp/memberlist: it moves bytes under a key, from the node that published
// them to all others, quorate or not.
//
// It decides nothing, and nothing is decided by it alone: what it says may be late.
// It is always encrypted; the key is the cluster's, and its ID the label, so that
// two clusters never mix. memberlist forgets dead nodes and never joins again, so Run
// does, all the time; the dead are remembered here. The daemon is its only caller.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

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
	opts    Options
	log     *zap.Logger
	list    *memberlist.Memberlist
	addr    string
	keys    *memberlist.Keyring
	queue   memberlist.TransmitLimitedQueue
	alive   atomic.Int32
	changed chan struct{}
	rejoin  chan struct{}
	stop    func() error

	mu        sync.Mutex // held for short work in memory only, never while calling memberlist
	table     table
	author    author
	members   map[guest.NodeID]*Member
	forgotten map[guest.NodeID]bool
	meta      []byte
	metaSent  bool
}

// Start listens and begins to gossip. Run must follow, or Close.
func Start(opts Options) (*Gossip, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g := &Gossip{
		opts:      opts,
		log:       opts.Logger,
		changed:   make(chan struct{}, 1),
		rejoin:    make(chan struct{}, 1),
		table:     table{},
		author:    author{node: opts.Node, boot: opts.Boot},
		members:   map[guest.NodeID]*Member{},
		forgotten: map[guest.NodeID]bool{},
		metaSent:  true,
	}
	if g.meta, err = opts.Meta.encode(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if g.keys, err = opts.Keys.ring(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g.queue.RetransmitMult = retransmits
	g.queue.NumNodes = func() int { return max(1, int(g.alive.Load())) }
	// The mark makes void what others remember of our life before this one.
	g.mu.Lock()
	g.tell(g.author.next("", nil))
	g.mu.Unlock()
	config, err := opts.memberlist(g.keys, g)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if g.list, err = memberlist.Create(config); err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", opts.Bind, err)
	}
	g.addr = g.list.LocalNode().Address()
	g.stop = sync.OnceValue(g.list.Shutdown)
	return g, nil
}

// Run joins the others, and joins again those that are away, until ctx ends. Then it
// tells them that this node leaves, and closes.
func (g *Gossip) Run(ctx context.Context) error {
	rejoin := time.NewTicker(g.opts.Timing.Rejoin)
	defer rejoin.Stop()
	meta := time.NewTicker(g.opts.Timing.Meta)
	defer meta.Stop()
	var joining errgroup.Group
	joining.SetLimit(16)
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
		}
	}
	g.leave()
	err := g.stop()
	_ = joining.Wait() // it returns no error
	return err
}

// join contacts the nodes that are not alive here. When so many do not answer that
// all places are taken, others have their turn the next time.
func (g *Gossip) join(ctx context.Context, group *errgroup.Group) {
	peers := slices.Clone(g.opts.Peers())
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	for _, p := range peers {
		if p.Node == g.opts.Node || g.isAlive(p.Node) || ctx.Err() != nil {
			continue
		}
		group.TryGo(func() error {
			if _, err := g.list.Join([]string{p.Address}); err != nil {
				g.log.Debug("gossip: a node does not answer", zap.String("node", string(p.Node)), zap.String("address", p.Address), zap.Error(err))
			}
			return nil
		})
	}
}

func (g *Gossip) isAlive(node guest.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.members[node]
	return m != nil && m.State == Alive
}

func (g *Gossip) sendMeta() {
	g.mu.Lock()
	sent := g.metaSent
	g.metaSent = true
	g.mu.Unlock()
	if sent {
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

// Rejoin makes Run look for nodes that are away at once: the member list changed.
func (g *Gossip) Rejoin() { poke(g.rejoin) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// SetMeta changes what is said of this node; Run sends it, at most once a second.
func (g *Gossip) SetMeta(m Meta) error {
	b, err := m.encode()
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.metaSent = g.metaSent && string(b) == string(g.meta)
	g.meta = b
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
	old, found := g.table[g.opts.Node].entries[key]
	if found && old.deleted == kind.deleted && string(old.value) == string(value) || !found && kind.deleted {
		return nil
	}
	if !found && len(g.table[g.opts.Node].entries) >= maxKeys {
		return fmt.Errorf("gossip: key %q: %d keys were published since the daemon started, which is the limit; restart it", key, maxKeys)
	}
	e := g.author.next(key, value)
	e.deleted = kind.deleted
	g.tell(e)
	return nil
}

// tell merges an entry of ours and sends it. The caller holds the lock.
func (g *Gossip) tell(e entry) {
	g.table.merge(e)
	g.queue.QueueBroadcast(broadcast(e))
	poke(g.changed)
}

// Entries are the values that a node has published, by key, as last heard.
func (g *Gossip) Entries(node guest.NodeID) map[string][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.values(node)
}

// Members are all nodes that were heard of, this one and the dead included, by ID.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Member
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		out = append(out, g.told(g.members[id]))
	}
	return out
}

// Member is what is known of one node; ok says whether it was ever heard of.
func (g *Gossip) Member(node guest.NodeID) (m Member, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.members[node]; known != nil {
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

// Forget drops what is known of a node that was removed from the cluster, unless it
// is alive; when it comes back it is known again.
func (g *Gossip) Forget(node guest.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.members[node]; node == g.opts.Node || m != nil && m.State == Alive {
		return
	}
	delete(g.members, node)
	delete(g.table, node)
	g.forgotten[node] = true
	poke(g.changed)
}

// InstallKey adds a key that is understood, but not used to send.
func (g *Gossip) InstallKey(key []byte) error {
	if len(key) != keySize {
		return fmt.Errorf("gossip: a key of %d bytes, must have %d", len(key), keySize)
	}
	return g.keys.AddKey(slices.Clone(key))
}

// UseKey makes an installed key the one to send with.
func (g *Gossip) UseKey(key []byte) error {
	if err := g.keys.UseKey(key); err != nil {
		return errors.New("gossip: a key must be installed before it is used")
	}
	return nil
}

// RemoveKey drops a key that is not the one to send with.
func (g *Gossip) RemoveKey(key []byte) error {
	if err := g.keys.RemoveKey(key); err != nil {
		return fmt.Errorf("gossip: the key in use cannot be removed: %w", err)
	}
	return nil
}

// Keys are the installed keys, the one to send with first.
func (g *Gossip) Keys() [][]byte { return slices.Clone(g.keys.GetKeys()) }
