package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/consensus/consensustest"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

const firstGeneration = "0123456789abcdef"

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

func member(n int) ledger.Member {
	return ledger.Member{
		ID: nodeID(n), Name: guest.NodeName(fmt.Sprintf("n%d", n)), Fingerprint: fmt.Sprintf("%064x", n),
		Peer: "127.0.0.1:7947", Gossip: "127.0.0.1:7946", Storages: []string{"local-zfs"}, Format: ledger.Format,
	}
}

func found() ledger.Command {
	return ledger.Command{By: "test", Op: ledger.Found{
		Cluster: strings.Repeat("c", 32), Generation: firstGeneration, Member: member(1),
		Gossip: ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)},
	}}
}

func addGuest(n int) ledger.AddGuest {
	return ledger.AddGuest{Force: true, Guest: guest.Guest{
		ID: guest.ID(n), Type: guest.VM, Name: "web", Owner: nodeID(1),
		Volumes: []guest.Volume{{Storage: "local-zfs", Name: fmt.Sprintf("vm-%d-disk-0", n)}},
	}}
}

func fork(n int, generation string) ledger.Fork {
	return ledger.Fork{Generation: generation, Parent: firstGeneration, Node: nodeID(n), By: "root", At: 7}
}

// address is one node in one generation.
type address struct {
	node       guest.NodeID
	generation string
}

// rig is a cluster in one process, on raft's in-memory transport and disks in memory.
type rig struct {
	t     *testing.T
	disks map[guest.NodeID]*consensustest.Disk
	// options changes what a node is opened with.
	options func(n int, o *consensus.Options)
	start   time.Time

	mu    sync.Mutex
	nodes map[guest.NodeID]*consensus.Consensus
	wires map[address]*raft.InmemTransport
	cut   map[guest.NodeID]bool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{
		t: t, disks: map[guest.NodeID]*consensustest.Disk{}, nodes: map[guest.NodeID]*consensus.Consensus{},
		wires: map[address]*raft.InmemTransport{}, cut: map[guest.NodeID]bool{}, start: time.Now(),
	}
}

// open starts a node, or starts it again.
func (r *rig) open(n int, generation string) *consensus.Consensus {
	r.t.Helper()
	c, err := r.tryOpen(n, generation)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) tryOpen(n int, generation string) (*consensus.Consensus, error) {
	id := nodeID(n)
	if r.disks[id] == nil {
		r.disks[id] = consensustest.NewDisk()
	}
	o := consensus.Options{
		Node: id, Generation: generation, Logger: zap.NewNop(), Forward: r.forwardFrom(id),
		Rooms:    r.disks[id].Rooms(func(generation string) (raft.Transport, error) { return r.wire(id, generation), nil }),
		Boottime: func() time.Duration { return time.Since(r.start) },
	}
	if r.options != nil {
		r.options(n, &o)
	}
	c, err := consensus.Open(o)
	if err == nil {
		r.mu.Lock()
		r.nodes[id] = c
		r.mu.Unlock()
	}
	return c, err
}

func (r *rig) node(n int) *consensus.Consensus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[nodeID(n)]
}

func (r *rig) wire(id guest.NodeID, generation string) *raft.InmemTransport {
	_, w := raft.NewInmemTransportWithTimeout(raft.ServerAddress(id), time.Second)
	r.mu.Lock()
	r.wires[address{id, generation}] = w
	r.mu.Unlock()
	r.connect()
	return w
}

func (r *rig) connect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a, wa := range r.wires {
		for b, wb := range r.wires {
			if a.node == b.node || a.generation != b.generation {
				continue
			}
			wa.Disconnect(raft.ServerAddress(b.node))
			if !r.cut[a.node] && !r.cut[b.node] {
				wa.Connect(raft.ServerAddress(b.node), wb)
			}
		}
	}
}

// isolate cuts a node off, or lets it back.
func (r *rig) isolate(n int, cut bool) {
	r.mu.Lock()
	r.cut[nodeID(n)] = cut
	r.mu.Unlock()
	r.connect()
}

var errCut = errors.New("no route")

func (r *rig) forwardFrom(from guest.NodeID) func(context.Context, guest.NodeID, []byte) (ledger.Outcome, error) {
	return func(ctx context.Context, leader guest.NodeID, data []byte) (ledger.Outcome, error) {
		r.mu.Lock()
		cut, to := r.cut[from] || r.cut[leader], r.nodes[leader]
		r.mu.Unlock()
		if cut {
			return ledger.Outcome{}, fmt.Errorf("%w: %w", consensus.ErrNotLeader, errCut)
		}
		return to.ApplyHere(ctx, data)
	}
}

// crash is a power cut of one node.
func (r *rig) crash(n int, keep func(int) int) {
	r.isolate(n, true)
	r.disks[nodeID(n)].Crash(keep)
	_ = r.node(n).Close()
	r.mu.Lock()
	delete(r.nodes, nodeID(n))
	r.mu.Unlock()
}

func (r *rig) close() {
	for _, c := range r.nodes {
		if err := c.Close(); err != nil && !errors.Is(err, consensustest.ErrCrashed) {
			r.t.Error(err)
		}
	}
	for _, w := range r.wires {
		_ = w.Close()
	}
}

// founded is a cluster whose nodes all vote, led by the first.
func founded(t *testing.T, n int) *rig {
	t.Helper()
	r := newRig(t)
	r.found(n)
	return r
}

func (r *rig) found(n int) {
	r.t.Helper()
	for i := 1; i <= n; i++ {
		r.open(i, firstGeneration)
	}
	first := r.node(1)
	if err := first.Found(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	if _, err := first.Propose(r.t.Context(), found()); err != nil {
		r.t.Fatal(err)
	}
	for i := 2; i <= n; i++ {
		r.must(first, ledger.AddMember{Member: member(i)})
		if err := first.AddNonvoter(nodeID(i)); err != nil {
			r.t.Fatal(err)
		}
		if err := first.Promote(nodeID(i)); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) propose(c *consensus.Consensus, op ledger.Op, within time.Duration) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), within)
	defer cancel()
	_, err := c.Propose(ctx, ledger.Command{By: "test", Op: op})
	return err
}

func (r *rig) must(c *consensus.Consensus, op ledger.Op) {
	r.t.Helper()
	if err := r.propose(c, op, 30*time.Second); err != nil {
		r.t.Fatalf("%T: %v", op, err)
	}
}

// eventually waits, on the test's clock, until a condition holds.
func (r *rig) eventually(what string, within time.Duration, holds func() bool) {
	r.t.Helper()
	for end := time.Now().Add(within); !holds(); {
		if time.Now().After(end) {
			r.t.Fatalf("after %s: still not so: %s", within, what)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-r.t.Context().Done():
			r.t.Fatal(r.t.Context().Err())
		}
	}
}

func (r *rig) confirm(c *consensus.Consensus) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Confirm(ctx); err != nil {
		r.t.Fatal(err)
	}
}
