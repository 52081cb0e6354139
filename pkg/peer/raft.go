package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// RaftLayer carries the raft connections of one generation of the ledger. It
// implements raft.StreamLayer; raft's addresses are node IDs.
type RaftLayer struct {
	*queue
	peer       *Peer
	generation string
}

var _ raft.StreamLayer = (*RaftLayer)(nil)

// RaftLayer opens the layer of a generation. There is at most one for each; Close
// ends it.
func (p *Peer) RaftLayer(generation string) (*RaftLayer, error) {
	if generation == "" || len(generation) > 64 {
		return nil, fmt.Errorf("raft generation %q: must have 1 to 64 bytes", generation)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.layers[generation] != nil {
		return nil, fmt.Errorf("raft generation %s: its layer is open already", generation)
	}
	l := &RaftLayer{queue: newQueue(raftAddr(p.opts.Node)), peer: p, generation: generation}
	p.layers[generation] = l
	return l, nil
}

// Close refuses further connections of this generation. Those that raft has are
// raft's.
func (l *RaftLayer) Close() error {
	l.peer.mu.Lock()
	if l.peer.layers[l.generation] == l {
		delete(l.peer.layers, l.generation)
	}
	l.peer.mu.Unlock()
	return l.queue.Close()
}

// Dial opens a raft connection to the node that address names.
func (l *RaftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node := guest.NodeID(address)
	if err := node.Validate(); err != nil {
		return nil, fmt.Errorf("raft connection: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := l.peer.dialHello(ctx, node, protocolRaft, l.generation)
	if err != nil {
		return nil, fmt.Errorf("raft connection to node %s: %w", node.Short(), err)
	}
	return conn, nil
}

// raftAddr is a node ID in the place of an address.
type raftAddr guest.NodeID

func (raftAddr) Network() string  { return protocolRaft }
func (a raftAddr) String() string { return string(a) }

// dialHello dials and says hello, so that a refusal shows here and not in the
// middle of the work.
func (p *Peer) dialHello(ctx context.Context, node guest.NodeID, protocol, subject string) (*link, error) {
	l, err := p.dialNode(ctx, node, protocol)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(p.opts.Timing.Handshake)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := stream.Greet(ctx, l.stream(), deadline, subject); err != nil {
		l.cut()
		switch _, answered := errors.AsType[*RemoteError](err); {
		case l.refused.Load():
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		case answered:
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return l, nil
}

// acceptRaft hands a connection to the layer of its generation.
func (s *server) acceptRaft(ctx context.Context, l *link) {
	var layer *RaftLayer
	err := stream.Hear(l.stream(), time.Now().Add(s.opts.Timing.Handshake), func(generation string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if layer = s.layers[generation]; layer == nil {
			return stream.Coded(CodeGeneration, "raft generation %q is not ours, which is %s", generation, s.generations())
		}
		return nil
	})
	if err != nil {
		s.unheard(l, err)
		_ = l.Close()
		return
	}
	layer.push(ctx, l)
}

// unheard tells of a member's connection whose hello was not taken.
func (s *server) unheard(l *link, err error) {
	if leftOut, ok := s.notices.Tell(l.protocol+" "+string(l.node), time.Now()); ok {
		s.log.Info("connection of a member refused", zap.String("node", string(l.node)), zap.String("protocol", l.protocol),
			zap.Error(err), zap.Int("left_out", leftOut))
	}
}

// generations names those that are open; the caller holds the lock.
func (p *Peer) generations() string {
	var open []string
	for g := range p.layers {
		open = append(open, g)
	}
	if len(open) == 0 {
		return "none at the moment"
	}
	slices.Sort(open)
	return strings.Join(open, " and ")
}
