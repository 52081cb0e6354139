package simnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/guest"
)

// Transport carries raft's calls of one generation, as raft's own transport does
// over pkg/peer: whoever is called refuses a generation that it does not run.
type Transport struct {
	host       *Host
	generation string
	consumer   chan raft.RPC
	closed     chan struct{}
	close      func()

	mu        sync.Mutex
	heartbeat func(raft.RPC)
}

// Transport opens the transport of a generation; there is one of each at a time.
func (h *Host) Transport(generation string) (*Transport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.transports[generation] != nil {
		return nil, fmt.Errorf("raft generation %s: its transport is open already", generation)
	}
	t := &Transport{host: h, generation: generation, consumer: make(chan raft.RPC, 16), closed: make(chan struct{})}
	t.close = sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		close(t.closed)
		delete(h.transports, generation)
	})
	h.transports[generation] = t
	return t, nil
}

// accept is the handshake of a raft connection.
func (h *Host) accept(generation string) *Transport {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.transports[generation]
}

// Close refuses further calls.
func (t *Transport) Close() error {
	t.close()
	return nil
}

// Consumer gives raft the calls of others.
func (t *Transport) Consumer() <-chan raft.RPC { return t.consumer }

// LocalAddr is the node's ID.
func (t *Transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.host.id) }

// EncodePeer is the address as it is.
func (t *Transport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

// DecodePeer is the address as it is.
func (t *Transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler takes the handler that answers heartbeats past raft's queue.
func (t *Transport) SetHeartbeatHandler(handle func(rpc raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = handle
}

// AppendEntriesPipeline is not offered: each call waits for its answer.
func (t *Transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// AppendEntries carries one call.
func (t *Transport) AppendEntries(_ raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse,
) error {
	return call(t, to, raft.RPC{Command: args}, resp)
}

// RequestVote carries one call.
func (t *Transport) RequestVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest,
	resp *raft.RequestVoteResponse,
) error {
	return call(t, to, raft.RPC{Command: args}, resp)
}

// RequestPreVote carries one call.
func (t *Transport) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest,
	resp *raft.RequestPreVoteResponse,
) error {
	return call(t, to, raft.RPC{Command: args}, resp)
}

// TimeoutNow carries one call.
func (t *Transport) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest,
	resp *raft.TimeoutNowResponse,
) error {
	return call(t, to, raft.RPC{Command: args}, resp)
}

// InstallSnapshot carries one call with all of its data.
func (t *Transport) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest,
	resp *raft.InstallSnapshotResponse, data io.Reader,
) error {
	b, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	return call(t, to, raft.RPC{Command: args, Reader: bytes.NewReader(b)}, resp)
}

// rpcTimeout bounds one of raft's calls, as in pkg/consensus.
const rpcTimeout = 10 * time.Second

// call carries one of raft's calls there and its answer back.
func call[T any](t *Transport, to raft.ServerAddress, rpc raft.RPC, resp *T) error {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	if !t.host.server.Knows(guest.NodeID(to)) {
		return ErrUnreachable
	}
	host := t.host.travel(ctx, guest.NodeID(to))
	if host == nil || !host.server.Knows(t.host.id) {
		return ErrUnreachable
	}
	dst := host.accept(t.generation)
	if dst == nil {
		return fmt.Errorf("raft generation %s is not that of %s", t.generation, to)
	}
	value, err := dst.take(ctx, rpc)
	if errors.Is(err, ErrNoAnswer) || host.travel(ctx, t.host.id) != t.host {
		return ErrNoAnswer
	}
	if v, ok := value.(*T); ok && v != nil {
		*resp = *v
	}
	return err
}

// take hands a call to raft and waits for what it says.
func (t *Transport) take(ctx context.Context, rpc raft.RPC) (any, error) {
	answered := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answered
	if handle := t.forHeartbeat(rpc); handle != nil {
		handle(rpc)
	} else {
		select {
		case t.consumer <- rpc:
		case <-t.closed:
			return nil, ErrNoAnswer
		case <-ctx.Done():
			return nil, ErrNoAnswer
		}
	}
	select {
	case a := <-answered:
		return a.Response, a.Error
	case <-t.closed:
	case <-t.host.gone.Done():
	case <-ctx.Done():
	}
	return nil, ErrNoAnswer
}

// forHeartbeat is the handler for a heartbeat, which raft's own transport tells
// from other calls in the same way; nil for any other call.
func (t *Transport) forHeartbeat(rpc raft.RPC) func(raft.RPC) {
	a, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || a.Term == 0 || a.PrevLogEntry != 0 || a.PrevLogTerm != 0 || len(a.Entries) != 0 || a.LeaderCommitIndex != 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heartbeat
}
