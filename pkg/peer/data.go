package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// OpenStream opens a stream to a node, over a standing connection if there is one.
// header is JSON for the receiver; limit, if given, holds back the data (and nothing
// else) and may be changed while the stream runs. When ctx ends the stream fails with
// its cause. The caller closes the stream in any case.
func (p *Peer) OpenStream(ctx context.Context, node guest.NodeID, header any, limit *rate.Limiter) (*SendStream, error) {
	payload, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("stream to node %s: encode the header: %w", node.Short(), err)
	}
	l := p.idle.take(node)
	if l == nil {
		if l, err = p.dialData(ctx, node); err != nil {
			return nil, fmt.Errorf("stream to node %s: %w", node.Short(), err)
		}
	}
	s, err := p.streams.Open(ctx, l.stream(), payload, limit, func(reusable bool) {
		if reusable {
			p.idle.put(node, l)
		} else {
			_ = l.Close() // it has nothing left to tell
		}
	})
	if err != nil {
		l.cut()
		return nil, err
	}
	return s, nil
}

func (p *Peer) dialData(ctx context.Context, node guest.NodeID) (*link, error) {
	release, err := p.turns.take(ctx, node, protocolData)
	if err != nil {
		return nil, err
	}
	defer release()
	return p.dialHello(ctx, node, protocolData, "")
}

// stream is the link as package stream sees it.
func (l *link) stream() stream.Conn {
	return stream.Conn{Conn: l, Node: l.node, Cut: l.cut}
}

// serveData receives the streams of one connection, one after the other.
func (s *server) serveData(ctx context.Context, l *link) {
	defer l.cut()
	deadline := time.Now().Add(s.opts.Timing.Handshake)
	if err := stream.Hear(l.stream(), deadline, func(string) error { return nil }); err != nil {
		s.unheard(l, err)
		return
	}
	ctx = context.WithValue(ctx, callerKey{}, l)
	// The sender closes idle connections, so it waits less than we do.
	idle := s.opts.Timing.Idle + s.opts.Timing.Stall
	for ctx.Err() == nil {
		again, err := s.streams.Receive(ctx, l.stream(), idle, s.handlers.Data)
		if err != nil {
			s.log.Debug("data connection ends", zap.String("node", string(l.node)), zap.Error(err))
		}
		if !again {
			return
		}
	}
}
