package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

func member(n int) ledger.Member {
	return ledger.Member{
		ID: nodeID(n), Name: guest.NodeName(fmt.Sprintf("n%d", n)), Fingerprint: fmt.Sprintf("%064x", n),
		Peer: "127.0.0.1:7947", Gossip: "127.0.0.1:7946", Storages: []string{"local-zfs"},
	}
}

func found() ledger.Command {
	return ledger.Command{By: "test", Op: ledger.Found{
		Cluster: strings.Repeat("c", 32), Generation: "0123456789abcdef", Member: member(1),
		Gossip: ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)},
	}}
}

// rig is a cluster in one process, on raft's in-memory transport.
type rig struct {
	t     *testing.T
	nodes map[guest.NodeID]*consensus.Consensus
	wires map[guest.NodeID]*raft.InmemTransport
	cut   map[guest.NodeID]bool
}

func newRig(t *testing.T, n int) *rig {
	t.Helper()
	r := &rig{
		t: t, nodes: map[guest.NodeID]*consensus.Consensus{},
		wires: map[guest.NodeID]*raft.InmemTransport{}, cut: map[guest.NodeID]bool{},
	}
	for i := 1; i <= n; i++ {
		store := raft.NewInmemStore()
		_, wire := raft.NewInmemTransportWithTimeout(raft.ServerAddress(nodeID(i)), time.Second)
		c, err := consensus.Open(consensus.Options{
			Node: nodeID(i), Transport: wire, Logger: zap.NewNop(), Forward: r.forwardFrom(nodeID(i)),
			Stores: consensus.Stores{Log: store, Stable: store, Snapshots: raft.NewInmemSnapshotStore()},
		})
		if err != nil {
			t.Fatal(err)
		}
		r.nodes[nodeID(i)], r.wires[nodeID(i)] = c, wire
	}
	r.connect()
	return r
}

var errCut = errors.New("no route")

func (r *rig) forwardFrom(from guest.NodeID) func(context.Context, guest.NodeID, []byte) (ledger.Outcome, error) {
	return func(ctx context.Context, leader guest.NodeID, data []byte) (ledger.Outcome, error) {
		if r.cut[from] || r.cut[leader] {
			return ledger.Outcome{}, fmt.Errorf("%w: %w", consensus.ErrNotLeader, errCut)
		}
		return r.nodes[leader].ApplyHere(ctx, data)
	}
}

func (r *rig) connect() {
	for a, wa := range r.wires {
		for b, wb := range r.wires {
			if a != b && !r.cut[a] && !r.cut[b] {
				wa.Connect(raft.ServerAddress(b), wb)
			} else {
				wa.Disconnect(raft.ServerAddress(b))
			}
		}
	}
}

func (r *rig) close() {
	for _, c := range r.nodes {
		if err := c.Close(); err != nil {
			r.t.Error(err)
		}
	}
	for _, w := range r.wires {
		if err := w.Close(); err != nil {
			r.t.Error(err)
		}
	}
}

// founded is a cluster whose nodes all vote, led by the first.
func founded(t *testing.T, n int) *rig {
	t.Helper()
	r := newRig(t, n)
	first := r.nodes[nodeID(1)]
	if err := first.Found(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Propose(t.Context(), found()); err != nil {
		t.Fatal(err)
	}
	for i := 2; i <= n; i++ {
		r.must(first, ledger.AddMember{Member: member(i)})
		if err := first.AddNonvoter(nodeID(i)); err != nil {
			t.Fatal(err)
		}
		if err := first.Promote(nodeID(i)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *rig) must(c *consensus.Consensus, op ledger.Op) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Propose(ctx, ledger.Command{By: "test", Op: op}); err != nil {
		r.t.Fatalf("%T: %v", op, err)
	}
}

func addGuest(n int) ledger.AddGuest {
	return ledger.AddGuest{Guest: guest.Guest{
		ID: guest.ID(n), Type: guest.VM, Name: "web", Owner: nodeID(1),
		Volumes: []guest.Volume{{Storage: "local-zfs", Name: fmt.Sprintf("vm-%d-disk-0", n)}},
	}}
}

func TestPropose_FromAFollowerIsVisibleThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		follower := r.nodes[nodeID(3)]
		r.must(follower, addGuest(100))
		if _, ok := follower.View().Guests[100]; !ok {
			t.Error("the asking node does not see its own change")
		}
		if !follower.Quorate() {
			t.Error("a follower of a healthy leader is not quorate")
		}
		_, err := follower.Propose(t.Context(), ledger.Command{By: "test", Op: addGuest(100)})
		var refused *consensus.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "exists already") {
			t.Errorf("got %v, want a refusal", err)
		}
	})
}

func TestPropose_AMinorityChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		r.cut[nodeID(1)] = true
		r.connect()
		r.must(r.nodes[nodeID(2)], addGuest(101))

		alone := r.nodes[nodeID(1)]
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := alone.Propose(ctx, ledger.Command{By: "test", Op: addGuest(102)}); !errors.Is(err, consensus.ErrNotQuorate) {
			t.Errorf("got %v, want ErrNotQuorate", err)
		}
		if err := alone.Confirm(ctx); err == nil {
			t.Error("a node without a majority confirmed a read")
		}
		if alone.Quorate() {
			t.Error("a node without a majority says that it is quorate")
		}

		r.cut[nodeID(1)] = false
		r.connect()
		ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := alone.Confirm(ctx); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r.nodes[nodeID(2)].View(), alone.View()); d != "" {
			t.Errorf("after the partition the ledgers differ:\n%s", d)
		}
		if _, ok := alone.View().Guests[102]; ok {
			t.Error("a command that was refused as not quorate was carried out")
		}
	})
}

func TestPropose_TwiceWithOneIDHappensOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		cmd := ledger.Command{ID: consensus.NewCommandID(), By: "test", Op: addGuest(100)}
		first, err := r.nodes[nodeID(1)].Propose(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.nodes[nodeID(2)].Propose(t.Context(), cmd)
		if err != nil || second != first {
			t.Errorf("sent again: %d, %v, want the first outcome %d", second, err, first)
		}
	})
}

func TestApplyHere_RefusesWhatNobodyCouldApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 1)
		defer r.close()
		c := r.nodes[nodeID(1)]
		if _, err := c.ApplyHere(t.Context(), []byte(`{"kind":"from_the_future","op":{}}`)); !errors.Is(err, ledger.ErrUnknownCommand) {
			t.Errorf("got %v, want ErrUnknownCommand", err)
		}
		r.must(c, addGuest(100))
		if err := c.Err(); err != nil {
			t.Errorf("the node stopped following: %v", err)
		}
	})
}

func TestStores_SurviveARestart(t *testing.T) {
	dir := t.TempDir()
	open := func() (*consensus.Consensus, *raft.InmemTransport, bool) {
		stores, err := consensus.OpenStores(dir, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		empty, err := stores.Empty()
		if err != nil {
			t.Fatal(err)
		}
		_, wire := raft.NewInmemTransport(raft.ServerAddress(nodeID(1)))
		c, err := consensus.Open(consensus.Options{
			Node: nodeID(1), Stores: stores, Transport: wire, Logger: zap.NewNop(),
			Timing: consensus.Timing{Heartbeat: 100 * time.Millisecond, Commit: 5 * time.Millisecond},
		})
		if err != nil {
			t.Fatal(err)
		}
		return c, wire, empty
	}
	c, _, empty := open()
	if !empty {
		t.Error("a new folder is not empty")
	}
	if err := c.Found(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Propose(t.Context(), found()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Propose(t.Context(), ledger.Command{By: "test", Op: addGuest(100)}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	c, _, empty = open()
	if empty {
		t.Error("after a restart the stores look empty")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Confirm(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.View().Guests[100]; !ok {
		t.Error("the guest is gone after a restart")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
