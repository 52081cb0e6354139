package daemon

import (
	"context"
	"io"

	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
)

// link carries pkg/replicate's calls and streams over pkg/peer.
type link struct {
	peer *peer.Peer
	// limit is what all streams of this node share.
	limit *rate.Limiter
}

// Call is one question to another node.
func (l link) Call(ctx context.Context, to guest.NodeID, path string, req, resp any) error {
	return l.peer.Call(ctx, to, path, req, resp)
}

// Open begins one stream to another node. The stream keeps to its own limit and to
// the one that it shares.
func (l link) Open(ctx context.Context, to guest.NodeID, header any, limit *rate.Limiter) (replicate.Sink, error) {
	s, err := l.peer.OpenStream(ctx, to, header, limit)
	if err != nil {
		return nil, err
	}
	return sink{SendStream: s, ctx: ctx, shared: l.limit}, nil
}

// sink ends a stream in one call, and holds it to the limit that all streams share.
type sink struct {
	*peer.SendStream
	ctx    context.Context //nolint:containedctx // the stream's, as in peer.SendStream
	shared *rate.Limiter
}

// Write sends p, piece by piece, as its share comes.
func (s sink) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), s.shared.Burst())]
		if err := s.shared.WaitN(s.ctx, len(piece)); err != nil {
			return n, err
		}
		m, err := s.SendStream.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}

// ReadFrom sends what r has until its end; io.Copy finds it. The stream reads
// straight into its frames.
func (s sink) ReadFrom(r io.Reader) (int64, error) {
	return s.SendStream.ReadFrom(share{r, s})
}

// share lets what was read wait for its share before it is sent.
type share struct {
	r io.Reader
	s sink
}

// Read is called by the stream that sends.
func (r share) Read(p []byte) (int, error) {
	n, err := r.r.Read(p[:min(len(p), r.s.shared.Burst())])
	if n > 0 {
		if err := r.s.shared.WaitN(r.s.ctx, n); err != nil {
			return 0, err
		}
	}
	return n, err
}

// Finish ends the stream properly and waits for the receiver's result.
func (s sink) Finish(result any) error {
	defer s.Close() //nolint:errcheck // the stream has said what there is to say
	if err := s.CloseWrite(); err != nil {
		return err
	}
	return s.Result(result)
}

// Abort tells the receiver why the stream ends early.
func (s sink) Abort(err error) {
	s.SendStream.Abort(err)
	_ = s.Close()
}
