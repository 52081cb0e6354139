package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/limit"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// Handlers answer what comes in. None may be nil.
type Handlers struct {
	// Calls of members; register with Handle.
	Calls http.Handler
	// Join of anybody: the caller has proven the key CallerFingerprint, no more. It
	// sees at most Limits.JoinsPerSecond requests, and fewer of one address, each with
	// a body of at most Limits.JoinBody bytes.
	Join http.Handler
	// Data receives one stream of a member. Its result travels to the sender as JSON,
	// its error as *RemoteError. It stops using the stream before it returns. The
	// context ends when the connection breaks or the daemon stops.
	Data stream.Handler
}

const (
	// longestJoin bounds the answer to a stranger, which takes an agreement of the
	// members.
	longestJoin = time.Minute
	// stopGrace is for handlers that are at work when the daemon stops.
	stopGrace = 2 * time.Second
)

type server struct {
	*Peer
	handlers Handlers
	// shaking and atHome count the handshakes of strangers' and of members' addresses,
	// joining the connections on the join exchange, open those of members.
	shaking, atHome, joining *limit.Slots[limit.Host]
	open                     *limit.Slots[guest.NodeID]
	knocks                   *limit.Visits // handshakes that strangers begin
	bodies                   bodies
	calls                    *queue
	joins                    *queue
	work                     sync.WaitGroup
}

// Serve answers on ln, a plain TCP listener which it closes, until ctx ends; then it
// returns nil. Handlers' contexts end with ctx, and it waits for them for a short
// while. It is called at most once.
func (p *Peer) Serve(ctx context.Context, ln net.Listener, h Handlers) error {
	if h.Calls == nil || h.Join == nil || h.Data == nil {
		return errors.Join(errors.New("peer: a handler is missing"), ln.Close())
	}
	s := &server{
		Peer:     p,
		handlers: h,
		shaking:  limit.NewSlots[limit.Host](p.opts.Limits.Handshakes, p.opts.Limits.HandshakesPerHost),
		atHome:   limit.NewSlots[limit.Host](4*p.opts.Limits.Handshakes, p.opts.Limits.Handshakes),
		joining:  limit.NewSlots[limit.Host](p.opts.Limits.JoinConnections, p.opts.Limits.JoinConnectionsPerHost),
		open:     limit.NewSlots[guest.NodeID](math.MaxInt, p.opts.Limits.PerMember),
		knocks:   limit.NewVisits(p.opts.Limits.HandshakesPerSecond, int(2*p.opts.Limits.HandshakesPerSecond)),
		bodies:   bodies{each: 4 * p.opts.Limits.CallBody, byNode: map[guest.NodeID]*semaphore.Weighted{}},
		calls:    newQueue(ln.Addr()),
		joins:    newQueue(ln.Addr()),
	}
	calls, joins := s.callServer(ctx), s.joinServer(ctx)
	s.work.Go(func() { _ = calls.Serve(s.calls) }) // ends with the queue
	s.work.Go(func() { _ = joins.Serve(s.joins) })
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()

	err := s.accept(ctx, ln)
	_ = ln.Close() // it may be closed already
	s.shutdown(context.WithoutCancel(ctx), calls, joins)
	return err
}

// shutdown gives the handlers, whose context has ended, a moment to say so, and
// then cuts what is left.
func (s *server) shutdown(ctx context.Context, servers ...*http.Server) {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	cut := context.AfterFunc(ctx, func() {
		for _, l := range s.links.list() {
			if l.incoming {
				l.cut()
			}
		}
	})
	defer cut()
	for _, l := range s.links.list() {
		if l.incoming && l.protocol == protocolRaft {
			l.cut() // raft's own, it ends no other way
		}
	}
	for _, h := range servers {
		_ = h.Shutdown(ctx) // what it leaves is cut
	}
	s.work.Wait()
}

func (s *server) accept(ctx context.Context, ln net.Listener) error {
	pause := 5 * time.Millisecond
	for {
		raw, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = raw.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("peer: the listener was closed: %w", err)
		case err != nil:
			if _, ok := s.notices.Tell("accept", time.Now()); ok {
				s.log.Error("cannot accept connections of other nodes", zap.Error(err))
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		s.admit(ctx, raw)
	}
}

// admit starts the handshake if there is room for one more.
func (s *server) admit(ctx context.Context, raw net.Conn) {
	release, ok := s.place(raw.RemoteAddr())
	if !ok {
		s.refused(raw, zapcore.InfoLevel, errors.New("too many are in the handshake, or begin one"))
		_ = raw.Close()
		return
	}
	s.work.Go(func() {
		l, err := s.handshake(ctx, raw)
		release()
		switch {
		case errors.Is(err, errUnlisted):
			s.refused(raw, zapcore.WarnLevel, err)
		case err != nil:
			s.refused(raw, zapcore.InfoLevel, err)
		default:
			s.dispatch(ctx, l)
		}
	})
}

// place finds room for a handshake. Addresses of members have room of their own, so
// that strangers can come from as many addresses as they like.
func (s *server) place(from net.Addr) (release func(), ok bool) {
	h, addr := limit.HostOf(from)
	if s.opts.Known != nil && s.opts.Known(addr) {
		return s.atHome.Take(h)
	}
	if !s.knocks.Allow(h, time.Now()) {
		return nil, false
	}
	return s.shaking.Take(h)
}

// refused tells of a connection that came to nothing, of each address once in a while.
func (s *server) refused(raw net.Conn, level zapcore.Level, err error) {
	h, addr := limit.HostOf(raw.RemoteAddr())
	if leftOut, ok := s.notices.Tell(fmt.Sprint(level, netip.Prefix(h)), time.Now()); ok {
		s.log.Log(level, "connection refused", zap.Stringer("remote", addr), zap.Error(err), zap.Int("left_out", leftOut))
	}
}

func (s *server) handshake(ctx context.Context, raw net.Conn) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timing.Handshake)
	defer cancel()
	conn := tls.Server(raw, s.serverTLS())
	if err := conn.HandshakeContext(ctx); err != nil {
		sendOff(raw)
		return nil, err
	}
	cs := conn.ConnectionState()
	l := &link{
		Conn:        conn,
		fingerprint: Fingerprint(cs.PeerCertificates[0]),
		protocol:    cs.NegotiatedProtocol,
		incoming:    true,
	}
	ok := false
	if l.protocol == protocolJoin {
		h, _ := limit.HostOf(raw.RemoteAddr())
		l.release, ok = s.joining.Take(h)
	} else {
		l.node, _ = s.opts.Trust.NodeByFingerprint(l.fingerprint) // newLink asks again and refuses
		l.release, ok = s.open.Take(l.node)
	}
	if !ok {
		_ = raw.Close()
		return nil, fmt.Errorf("%w for %s", errTooMany, l.protocol)
	}
	tuneSocket(raw, l.protocol, s.opts.Timing.Stall)
	return s.newLink(l)
}

func (s *server) dispatch(ctx context.Context, l *link) {
	switch l.protocol {
	case protocolCall:
		s.calls.push(ctx, l)
	case protocolJoin:
		s.joins.push(ctx, l)
	case protocolRaft:
		s.acceptRaft(ctx, l)
	case protocolData:
		s.serveData(ctx, l)
	default:
		l.cut()
	}
}

func (s *server) callServer(ctx context.Context) *http.Server {
	return s.httpServer(ctx, &http.Server{
		Handler:     limitBody(s.bodies.bounded(s.handlers.Calls, s.opts.Limits.CallBody), s.opts.Limits.CallBody),
		IdleTimeout: s.opts.Timing.Idle + s.opts.Timing.Stall, // the caller closes first
	})
}

func (s *server) joinServer(ctx context.Context) *http.Server {
	limiter := rate.NewLimiter(rate.Limit(s.opts.Limits.JoinsPerSecond), max(1, int(5*s.opts.Limits.JoinsPerSecond)))
	each := limit.NewVisits(s.opts.Limits.JoinsPerSecondPerHost, int(5*s.opts.Limits.JoinsPerSecondPerHost))
	bounded := limitBody(s.handlers.Join, s.opts.Limits.JoinBody)
	h := s.httpServer(ctx, &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h, addr := limit.HostOf(linkOf(r.Context()).RemoteAddr())
			if !each.Allow(h, time.Now()) || !limiter.Allow() {
				if leftOut, ok := s.notices.Tell("join", time.Now()); ok {
					s.log.Warn("join request turned away: too many", zap.Stringer("remote", addr), zap.Int("left_out", leftOut))
				}
				writeError(w, http.StatusTooManyRequests, stream.Coded(CodeBusy, "too many join requests at the moment; try again in a few seconds"))
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), longestJoin)
			defer cancel()
			bounded.ServeHTTP(w, r.WithContext(ctx))
		}),
		WriteTimeout: longestJoin + s.opts.Timing.Handshake,
	})
	h.SetKeepAlivesEnabled(false)
	return h
}

// httpServer adds what both have in common. The context of a handler ends with ctx
// and knows the connection.
func (s *server) httpServer(ctx context.Context, h *http.Server) *http.Server {
	h.ReadHeaderTimeout = s.opts.Timing.Handshake
	h.MaxHeaderBytes = 16 << 10
	h.BaseContext = func(net.Listener) context.Context { return ctx }
	h.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, callerKey{}, c)
	}
	if warnings, err := zap.NewStdLogAt(s.log, zapcore.WarnLevel); err == nil {
		h.ErrorLog = warnings
	}
	return h
}

func limitBody(h http.Handler, most int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, most)
		h.ServeHTTP(w, r)
	})
}

// queue is the listener of a server whose connections are accepted elsewhere.
type queue struct {
	addr net.Addr
	ch   chan *link
	once sync.Once
	done chan struct{}
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, ch: make(chan *link), done: make(chan struct{})}
}

// push hands the connection over, or closes it when nobody will take it.
func (q *queue) push(ctx context.Context, l *link) {
	select {
	case q.ch <- l:
	case <-q.done:
		l.cut()
	case <-ctx.Done():
		l.cut()
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case l := <-q.ch:
		return l, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr }
