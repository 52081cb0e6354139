// Package simnet is the network of a simulated cluster: calls between nodes and
// raft's own calls, in memory, with what a real network does to them. Messages
// take time and get lost, either way; weather (cuts, loss, delay) lies over some
// of the links; a host can stand still or be gone.
//
// It knows nothing of members or guests, and does not model bytes or
// connections: a lost message shows as an error after a while, as a connection
// does that was given up. Only pkg/sim uses it.
package simnet

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// ErrUnreachable means that the message was not delivered, for certain.
var ErrUnreachable = errors.New("simulated network: unreachable")

// ErrStranger means that the other node does not know the caller.
var ErrStranger = errors.New("simulated network: the key is not on the member list")

// ErrNoAnswer means that no answer came: the message may have been delivered or not.
var ErrNoAnswer = errors.New("simulated network: no answer")

// Weather lies over the messages from some nodes to others.
type Weather struct {
	// From and To say over which links; nil means all nodes.
	From, To []guest.NodeID
	// Cut lets nothing through.
	Cut bool
	// Loss is the share of messages that get lost, from 0 to 1.
	Loss float64
	// Delay is the most that a message is late, drawn for each.
	Delay time.Duration
}

func (w *Weather) over(from, to guest.NodeID) bool {
	return (w.From == nil || slices.Contains(w.From, from)) && (w.To == nil || slices.Contains(w.To, to))
}

// Network joins hosts.
type Network struct {
	mu      sync.Mutex
	rng     *rand.Rand
	weather []*Weather
	hosts   map[guest.NodeID]*Host
	sent    uint64
	lost    uint64
}

// New is a network with good weather; what chance decides comes from seed.
func New(seed uint64) *Network {
	return &Network{rng: rand.New(rand.NewPCG(seed, 1)), hosts: map[guest.NodeID]*Host{}}
}

// Add begins a kind of weather; the function that it returns ends it.
func (n *Network) Add(w Weather) (end func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = append(n.weather, &w)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.weather = slices.DeleteFunc(n.weather, func(x *Weather) bool { return x == &w })
	}
}

// Sent is how many messages were sent, and how many of them got lost.
func (n *Network) Sent() (sent, lost uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent, n.lost
}

// Open says whether messages from one node to another get through more often than not.
func (n *Network) Open(from, to guest.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if from == to {
		return true
	}
	for _, id := range []guest.NodeID{from, to} {
		if h := n.hosts[id]; h == nil || h.still != nil {
			return false
		}
	}
	through := 1.0
	for _, w := range n.weather {
		if w.over(from, to) {
			if w.Cut {
				return false
			}
			through *= 1 - w.Loss
		}
	}
	return through > 0.5
}

const (
	// usual and spread bound how long a message takes in good weather.
	usual  = 100 * time.Microsecond
	spread = 2 * time.Millisecond
	// giveUp and giveUpSpread bound how long a lost message goes unnoticed.
	giveUp       = 200 * time.Millisecond
	giveUpSpread = 2 * time.Second
)

// draw decides over one message: how long it takes, and whether it arrives.
func (n *Network) draw(from, to guest.NodeID) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	late, arrives := usual+time.Duration(n.rng.Int64N(int64(spread))), true
	for _, w := range n.weather {
		if !w.over(from, to) {
			continue
		}
		if w.Cut || w.Loss > 0 && n.rng.Float64() < w.Loss {
			arrives = false
		}
		if w.Delay > 0 {
			late += time.Duration(n.rng.Int64N(int64(w.Delay)))
		}
	}
	if !arrives {
		n.lost++
		late = giveUp + time.Duration(n.rng.Int64N(int64(giveUpSpread)))
	}
	return late, arrives
}

// failure draws whether the sender of a lost message knows that it was lost.
func (n *Network) failure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rng.IntN(2) == 0 {
		return ErrUnreachable
	}
	return ErrNoAnswer
}

func (n *Network) host(id guest.NodeID) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[id]
}

// Server is what a host does with messages of others.
type Server struct {
	// Knows says whether a node's key is trusted: a host calls, and is called by, such nodes only.
	Knows func(node guest.NodeID) bool
	// Call answers a call; ctx ends when the host leaves.
	Call func(ctx context.Context, from guest.NodeID, request any) (any, error)
	// Stranger answers a call that any node may make.
	Stranger func(ctx context.Context, from guest.NodeID, request any) (any, error)
}

// Host is one running node on the network, until Leave.
type Host struct {
	net    *Network
	id     guest.NodeID
	server Server
	gone   context.Context
	leave  context.CancelFunc

	mu         sync.Mutex
	transports map[string]*Transport // by generation

	still chan struct{} // guarded by net.mu; not nil: stands still until it is closed
}

// Join puts a node on the network. It may be called at once.
func (n *Network) Join(id guest.NodeID, server Server) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{net: n, id: id, server: server, transports: map[string]*Transport{}}
	h.gone, h.leave = context.WithCancel(context.Background())
	n.hosts[id] = h
	return h
}

// Leave takes the node off the network: from now on it neither sends nor hears.
func (h *Host) Leave() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.hosts[h.id] == h {
		delete(h.net.hosts, h.id)
	}
	h.leave()
}

// Gone is closed once the node left.
func (h *Host) Gone() <-chan struct{} { return h.gone.Done() }

// Freeze lets the node stand still until the function that it returns is called:
// nothing leaves it, and what arrives waits.
func (h *Host) Freeze() (thaw func()) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.still != nil {
		return func() {}
	}
	still := make(chan struct{})
	h.still = still
	return sync.OnceFunc(func() {
		h.net.mu.Lock()
		defer h.net.mu.Unlock()
		h.still = nil
		close(still)
	})
}

// Awake returns once the node does not stand still; false if it is gone, or ctx
// ended first.
func (h *Host) Awake(ctx context.Context) bool {
	for {
		h.net.mu.Lock()
		still := h.still
		h.net.mu.Unlock()
		if still == nil {
			return h.gone.Err() == nil
		}
		select {
		case <-still:
		case <-h.gone.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// travel is one message from h: it returns the host that it reached, or nil after
// the time in which the sender gives up.
func (h *Host) travel(ctx context.Context, to guest.NodeID) *Host {
	if !h.Awake(ctx) {
		return nil
	}
	late, arrives := h.net.draw(h.id, to)
	if !h.wait(ctx, late) || !arrives {
		return nil
	}
	dst := h.net.host(to)
	if dst == nil || !dst.Awake(ctx) {
		return nil
	}
	return dst
}

// wait sleeps; false if ctx or the host ended first.
func (h *Host) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-h.gone.Done():
		return false
	}
}

type answer struct {
	value any
	err   error
}

// Call asks another node that both know each other. ErrUnreachable says that it
// was not asked, ErrNoAnswer that it may have been; any other error is its own.
// What was sent may arrive after the caller gave up.
func (h *Host) Call(ctx context.Context, to guest.NodeID, request any) (any, error) {
	if !h.server.Knows(to) {
		return nil, ErrUnreachable
	}
	return h.ask(ctx, to, func(dst *Host) (any, error) {
		if !dst.server.Knows(h.id) {
			return nil, ErrStranger
		}
		return dst.server.Call(dst.gone, h.id, request)
	})
}

// CallStranger asks a node that need not know the caller.
func (h *Host) CallStranger(ctx context.Context, to guest.NodeID, request any) (any, error) {
	return h.ask(ctx, to, func(dst *Host) (any, error) {
		return dst.server.Stranger(dst.gone, h.id, request)
	})
}

func (h *Host) ask(ctx context.Context, to guest.NodeID, serve func(dst *Host) (any, error)) (any, error) {
	done := make(chan answer, 1)
	go func() {
		dst := h.travel(h.gone, to)
		if dst == nil {
			done <- answer{err: h.net.failure()}
			return
		}
		v, err := serve(dst)
		if back := dst.travel(dst.gone, h.id); back != h {
			err = ErrNoAnswer
		}
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		return nil, errors.Join(ErrNoAnswer, context.Cause(ctx))
	case <-h.gone.Done():
		return nil, ErrNoAnswer
	}
}
