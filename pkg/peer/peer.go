// Package peer is everything that daemons say to each other over TCP: calls (JSON
// over HTTP), raft's connections, data streams with heartbeats, and the join
// exchange, all on one port, told apart by ALPN.
//
// Every connection is TLS 1.3 with a key on both ends. There is no authority: the
// member list says which fingerprints are members, and exactly those get through. A
// stranger reaches the join exchange and nothing else. The package does not know
// what is said, keeps no member list and decides nothing; the daemon gives it Trust,
// Resolver and Handlers.
//
// On the wire, after the TLS handshake:
//
//	tandem-call/1  HTTP/1.1, POST with JSON both ways, kept alive
//	tandem-join/1  the same, one small request per connection
//	tandem-raft/1  hello with the generation, then raft's own
//	tandem-data/1  hello, then streams one after the other (package stream)
package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/limit"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// Trust says which keys are members'. It is asked at every handshake, from many
// goroutines: it answers from memory.
type Trust interface {
	NodeByFingerprint(fingerprint string) (guest.NodeID, bool)
}

// Resolver says where a member is and which key must answer there. Like Trust it
// answers from memory.
type Resolver interface {
	ResolvePeer(node guest.NodeID) (Target, error)
}

// Target is an address to dial and the key that must answer.
type Target struct {
	Address     string // HOST:PORT
	Fingerprint string // 64 hex digits
}

// Options of New. Zero durations and limits mean the default.
type Options struct {
	Node        guest.NodeID
	Certificate tls.Certificate
	Trust       Trust
	Resolver    Resolver
	// Known says whether a member is known to live at an address: its connections do
	// not wait behind strangers'. It answers from memory; nil: none is known.
	Known  func(netip.Addr) bool
	Logger *zap.Logger
	Timing Timing
	Limits Limits
}

// Timing holds the waiting times.
type Timing struct {
	// Handshake bounds connecting and proving who one is, and the header of a request
	// (5 s).
	Handshake time.Duration
	// Call is the deadline of a call whose context has none (10 s).
	Call time.Duration
	// Heartbeat is how often each end of a stream says that it lives (5 s).
	Heartbeat time.Duration
	// Stall is how long a stream may be silent before it is cut (15 s).
	Stall time.Duration
	// Idle is how long an unused connection is kept (3 min: longer than the minute after which most guests are due again).
	Idle time.Duration
	// Farewell bounds the clean end of a stream that failed (2 s).
	Farewell time.Duration
}

// Limits bounds what strangers, and mistakes of members, can use up.
type Limits struct {
	// Handshakes at a time, in all (128) and from one address (16), and how many of
	// one address may begin in a second (100, after a burst of 200). Members' addresses
	// have four times as many for themselves, and each of them as many as all strangers.
	Handshakes          int
	HandshakesPerHost   int
	HandshakesPerSecond float64
	// JoinConnections at a time, in all (32) and from one address (8); JoinsPerSecond
	// in all (10, after a burst of 50) and from one address (2, after a burst of 10).
	JoinConnections        int
	JoinConnectionsPerHost int
	JoinsPerSecond         float64
	JoinsPerSecondPerHost  float64
	// PerMember is how many connections one member may have open to here (512).
	PerMember int
	// JoinBody (16 KiB) and CallBody (16 MiB) bound a request in bytes; CallBody
	// bounds answers too.
	JoinBody int64
	CallBody int64
}

func orDefault[T int | int64 | float64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (o Options) withDefaults() (Options, error) {
	orDefault(&o.Timing.Handshake, 5*time.Second)
	orDefault(&o.Timing.Call, 10*time.Second)
	orDefault(&o.Timing.Heartbeat, 5*time.Second)
	orDefault(&o.Timing.Stall, 15*time.Second)
	orDefault(&o.Timing.Idle, 3*time.Minute)
	orDefault(&o.Timing.Farewell, 2*time.Second)
	orDefault(&o.Limits.Handshakes, 128)
	orDefault(&o.Limits.HandshakesPerHost, 16)
	orDefault(&o.Limits.HandshakesPerSecond, 100)
	orDefault(&o.Limits.JoinConnections, 32)
	orDefault(&o.Limits.JoinConnectionsPerHost, 8)
	orDefault(&o.Limits.JoinsPerSecond, 10)
	orDefault(&o.Limits.JoinsPerSecondPerHost, 2)
	orDefault(&o.Limits.PerMember, 512)
	orDefault(&o.Limits.JoinBody, 16<<10)
	orDefault(&o.Limits.CallBody, 16<<20)
	switch {
	case len(o.Certificate.Certificate) == 0 || o.Certificate.PrivateKey == nil:
		return o, errors.New("peer: no key and certificate of this node given")
	case o.Trust == nil || o.Resolver == nil || o.Logger == nil:
		return o, errors.New("peer: Trust, Resolver and Logger must be given")
	case o.Timing.Stall <= o.Timing.Heartbeat:
		return o, fmt.Errorf("peer: a stream stalls after %v, which must be longer than the heartbeat of %v", o.Timing.Stall, o.Timing.Heartbeat)
	}
	return o, o.Node.Validate()
}

// Peer is this node's end of all connections to other daemons.
type Peer struct {
	opts    Options
	log     *zap.Logger
	links   links
	calls   *http.Transport
	idle    idlePool
	turns   turns
	notices *limit.Notices
	streams *stream.Transport

	mu     sync.Mutex
	layers map[string]*RaftLayer // by generation
}

// New makes the peer. It opens nothing: calls and streams dial when they are made,
// and Serve listens.
func New(opts Options) (*Peer, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Peer{opts: opts, log: opts.Logger, notices: limit.NewNotices(), layers: map[string]*RaftLayer{}}
	p.streams = stream.NewTransport(stream.Timing{Heartbeat: opts.Timing.Heartbeat, Stall: opts.Timing.Stall, Farewell: opts.Timing.Farewell})
	p.links.all = map[*link]struct{}{}
	p.idle = newIdlePool(opts.Timing.Idle)
	p.turns.all = map[turnFor]*turn{}
	p.calls = &http.Transport{
		DialContext:         p.dialCall,
		MaxIdleConnsPerHost: maxIdle,
		IdleConnTimeout:     opts.Timing.Idle,
		DisableCompression:  true,
	}
	return p, nil
}

// Recheck cuts every connection whose key is no longer the listed one. The caller
// calls it when the member list has changed.
func (p *Peer) Recheck() {
	for _, l := range p.links.list() {
		if !p.listed(l) {
			p.log.Info("connection cut: its key is no longer a member's",
				zap.String("node", string(l.node)), zap.String("protocol", l.protocol), zap.Stringer("remote", l.RemoteAddr()))
			l.cut()
		}
	}
}

// listed tells whether a connection may go on by what the member list says now.
func (p *Peer) listed(l *link) bool {
	switch {
	case l.protocol == protocolJoin:
		return true
	case l.incoming:
		node, ok := p.opts.Trust.NodeByFingerprint(l.fingerprint)
		return ok && node == l.node
	default:
		target, err := p.opts.Resolver.ResolvePeer(l.node)
		return err == nil && target.Fingerprint == l.fingerprint
	}
}

// Close ends what Serve does not: outgoing connections and raft's layers. Calls and
// streams still under way fail.
func (p *Peer) Close() error {
	p.mu.Lock()
	layers := make([]*RaftLayer, 0, len(p.layers))
	for _, l := range p.layers {
		layers = append(layers, l)
	}
	p.mu.Unlock()
	var errs []error
	for _, l := range layers {
		errs = append(errs, l.Close())
	}
	p.idle.close()
	p.calls.CloseIdleConnections()
	for _, l := range p.links.list() {
		l.cut()
	}
	return errors.Join(errs...)
}

type callerKey struct{}

func linkOf(ctx context.Context) *link {
	l, _ := ctx.Value(callerKey{}).(*link)
	return l
}

// Caller is the member that made the call or opened the stream; empty on the join
// exchange and outside of handlers.
func Caller(ctx context.Context) guest.NodeID {
	if l := linkOf(ctx); l != nil {
		return l.node
	}
	return ""
}

// CallerFingerprint is the key at the other end of a handler's connection.
func CallerFingerprint(ctx context.Context) string {
	if l := linkOf(ctx); l != nil {
		return l.fingerprint
	}
	return ""
}

// CallerAddr is the address at the other end of a handler's connection, for logs.
func CallerAddr(ctx context.Context) string {
	if l := linkOf(ctx); l != nil {
		return l.RemoteAddr().String()
	}
	return ""
}
