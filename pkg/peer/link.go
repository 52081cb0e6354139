package peer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/guest"
)

// The protocols of the peer port, told apart by ALPN.
const (
	protocolCall = "tandem-call/1"
	protocolJoin = "tandem-join/1"
	protocolRaft = "tandem-raft/1"
	protocolData = "tandem-data/1"
)

// Fingerprint is the SHA-256 of the certificate's SubjectPublicKeyInfo, 64 hex
// digits: what the member list knows a node's key by.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// link is one connection with both keys proven.
type link struct {
	net.Conn // a *tls.Conn, or a pipe under test

	node        guest.NodeID // empty for a stranger on the join exchange
	fingerprint string
	protocol    string
	incoming    bool

	// refused is set when the other end answered with a TLS alert: it completes the
	// handshake after us and then may not like our key.
	refused atomic.Bool
	closed  sync.Once
	release func() // what to do once when it is closed, or nil
	book    *links
}

// Read remembers a refusal, which arrives in place of the first answer.
func (l *link) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if err != nil && isAlert(err) {
		l.refused.Store(true)
	}
	return n, err
}

// isAlert tells a TLS alert of the other end from a broken connection.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// forget runs once, however the connection ends.
func (l *link) forget() {
	l.closed.Do(func() {
		l.book.remove(l)
		if l.release != nil {
			l.release()
		}
	})
}

// Close says goodbye and closes.
func (l *link) Close() error {
	l.forget()
	return l.Conn.Close()
}

// cut closes at once, also under a write that is stuck.
func (l *link) cut() {
	l.forget()
	if c, ok := l.Conn.(*tls.Conn); ok {
		_ = c.NetConn().Close() // nothing is expected of it any more
		return
	}
	_ = l.Conn.Close()
}

// quiet tells whether an idle connection is open and has nothing to say: a closed
// one would take the header of the next stream and lose it.
func (l *link) quiet() bool {
	c, ok := l.Conn.(*tls.Conn)
	if !ok {
		return false
	}
	sc, ok := c.NetConn().(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = errors.Is(err, unix.EAGAIN)
		return true
	})
	return err == nil && quiet
}

// links knows all open connections.
type links struct {
	mu  sync.Mutex
	all map[*link]struct{}
}

func (s *links) add(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[l] = struct{}{}
}

func (s *links) remove(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, l)
}

func (s *links) list() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*link, 0, len(s.all))
	for l := range s.all {
		list = append(list, l)
	}
	return list
}

// newLink takes a connection whose handshake is done into the books. The list may
// have changed since the handshake looked at it, and Recheck has not seen this
// connection, so it is looked at again.
func (p *Peer) newLink(l *link) (*link, error) {
	l.book = &p.links
	p.links.add(l)
	if !p.listed(l) {
		l.cut()
		return nil, errUnlisted
	}
	return l, nil
}

func (p *Peer) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{p.opts.Certificate},
		ClientAuth:                  tls.RequireAnyClientCert,
		NextProtos:                  []string{protocolCall, protocolRaft, protocolData, protocolJoin},
		SessionTicketsDisabled:      true, // a resumed session would outlive a removal
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			switch cs.NegotiatedProtocol {
			case protocolJoin:
				return nil
			case "":
				return errors.New("the client names no protocol")
			}
			if _, ok := p.opts.Trust.NodeByFingerprint(Fingerprint(cs.PeerCertificates[0])); !ok {
				return errUnlisted
			}
			return nil
		},
	}
}

func (p *Peer) clientTLS(protocol, fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &p.opts.Certificate, nil
		},
		NextProtos:                  []string{protocol},
		DynamicRecordSizingDisabled: true,
		// The key itself is compared below; names, dates and issuers mean nothing here.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			got := Fingerprint(cs.PeerCertificates[0])
			if subtle.ConstantTimeCompare([]byte(got), []byte(fingerprint)) != 1 {
				return fmt.Errorf("%w: it answers with the key %s instead of %s", ErrRefused, got, fingerprint)
			}
			return nil
		},
	}
}

// dial opens a connection to a node, or with node empty to a stranger's target on
// the join exchange.
func (p *Peer) dial(ctx context.Context, node guest.NodeID, target Target, protocol string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Timing.Handshake)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.Address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	tuneSocket(raw, protocol, p.opts.Timing.Stall)
	conn := tls.Client(raw, p.clientTLS(protocol, target.Fingerprint))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // it is of no use, and the handshake's error says why
		switch {
		case errors.Is(err, ErrRefused):
			p.mistaken(node, target, err)
			return nil, err
		case isAlert(err):
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil, fmt.Errorf("%w: no TLS handshake with %s: %w", ErrUnreachable, target.Address, err)
	}
	p.notices.Over(mistakenKind(node))
	l, err := p.newLink(&link{Conn: conn, node: node, fingerprint: target.Fingerprint, protocol: protocol})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return l, nil
}

func mistakenKind(node guest.NodeID) string { return "mistaken " + string(node) }

// mistaken tells that somebody else answers at a member's address: a node of another
// cluster, or a member that was set up anew.
func (p *Peer) mistaken(node guest.NodeID, target Target, err error) {
	if node == "" {
		return // who joins is told
	}
	if _, ok := p.notices.Tell(mistakenKind(node), time.Now()); ok {
		p.log.Warn("another node answers at the address of a member: it may have been set up anew, or belong to another cluster",
			zap.String("node", string(node)), zap.String("address", target.Address), zap.Error(err))
	}
}

// dialNode resolves and dials a member.
func (p *Peer) dialNode(ctx context.Context, node guest.NodeID, protocol string) (*link, error) {
	target, err := p.opts.Resolver.ResolvePeer(node)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return p.dial(ctx, node, target, protocol)
}

// tuneSocket makes the kernel notice a dead peer. A user timeout also ends a
// connection whose window stays closed, which on a data stream is a slow disk
// and no fault, so there the heartbeats alone decide.
func tuneSocket(conn net.Conn, protocol string, limit time.Duration) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	// Failures here leave slower detection, by the deadlines above this.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: limit, Interval: limit / 3, Count: 3})
	if protocol == protocolData {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		})
	}
}

// sendOff ends a refused handshake so that the alert arrives: closing with unread
// bytes would make the kernel take it back.
func sendOff(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_ = tcp.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, _ = io.CopyN(io.Discard, tcp, 64<<10)
	}
	_ = raw.Close()
}
