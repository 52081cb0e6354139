// Package guard is memberlist's network with a door: it lets through what a member
// of the cluster would send, and nothing else.
//
// memberlist bounds what one message costs, but not what many cost, and trusts
// whoever holds the key: a compressed packet of 60 KB grows to 40 MB, a stream may
// announce a million nodes, and an empty message that is well encrypted ends the
// process. So each packet and stream is decrypted and looked at here first, sizes
// and the number of connections are bounded, and memory does not depend on what
// strangers send. memberlist itself goes on encrypting and decrypting; nothing is
// changed on the wire. pkg/gossip is the only caller.
package guard

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"log" //nolint:depguard // memberlist's transport wants this type
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"
)

// Limits of what is let in. A member stays far below: memberlist fills packets of
// 1,400 bytes, and a stream carries some 300 bytes for each member.
const (
	maxPacket  = 2 << 10
	maxStream  = 256 << 10
	maxStreams = 64
	// indirectPings is how many pings on behalf of others are answered in a second;
	// each takes a goroutine of memberlist's for as long as the answer may take.
	indirectPings = 256
)

// Options of New; all are required.
type Options struct {
	// Label is the cluster's.
	Label string
	// Bind is where to listen, TCP and UDP; port 0 takes a free one.
	Bind netip.AddrPort
	// Nodes and State bound what a stream may announce: how many nodes, how many
	// bytes of the delegate's state.
	Nodes, State int
	// Refused is told what was not let in, and why: see ForeignError and ErrKey. It
	// is called often under attack and must be quick.
	Refused func(from net.Addr, why error)
	Logger  *log.Logger
}

// Transport is a memberlist.NodeAwareTransport.
type Transport struct {
	*memberlist.NetTransport
	opts     Options
	label    []byte // with its header, as it stands before each packet and stream
	keys     atomic.Pointer[[]cipher.AEAD]
	indirect *rate.Limiter

	packets chan *memberlist.Packet
	conns   chan net.Conn
	streams streams
	done    chan struct{}
	stop    func() error
	pumps   sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// New listens. Nothing is let in before SetKeys.
func New(o Options) (*Transport, error) {
	if o.Label == "" || len(o.Label) > memberlist.LabelMaxSize {
		return nil, fmt.Errorf("label %q: must have 1 to %d bytes", o.Label, memberlist.LabelMaxSize)
	}
	inner, err := listen(o)
	if err != nil {
		return nil, err
	}
	t := &Transport{
		NetTransport: inner, opts: o, label: append([]byte{hasLabel, byte(len(o.Label))}, o.Label...),
		indirect: rate.NewLimiter(indirectPings, indirectPings),
		packets:  make(chan *memberlist.Packet), conns: make(chan net.Conn), done: make(chan struct{}),
	}
	t.keys.Store(&[]cipher.AEAD{})
	t.stop = sync.OnceValue(func() error {
		err := inner.Shutdown() // its listeners end first, and the pumps take what they still have
		close(t.done)
		t.pumps.Wait()
		t.streams.closeAll()
		return err
	})
	t.pumps.Go(t.pumpPackets)
	t.pumps.Go(t.pumpStreams)
	return t, nil
}

// listen takes a port for TCP and UDP; a free one for TCP may be in use for UDP.
func listen(o Options) (*memberlist.NetTransport, error) {
	tries := 1
	if o.Bind.Port() == 0 {
		tries = 10
	}
	var err error
	for range tries {
		var t *memberlist.NetTransport
		t, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{o.Bind.Addr().String()}, BindPort: int(o.Bind.Port()), Logger: o.Logger,
		})
		if err == nil {
			return t, nil
		}
	}
	return nil, err
}

// SetKeys makes these the keys under which messages are let in; all others are
// dropped from now on.
func (t *Transport) SetKeys(keys [][]byte) error {
	var all []cipher.AEAD
	for _, key := range keys {
		a, err := newAEAD(key)
		if err != nil {
			return err
		}
		all = append(all, a)
	}
	t.keys.Store(&all)
	return nil
}

// PacketCh implements memberlist.Transport.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *Transport) StreamCh() <-chan net.Conn { return t.conns }

// Shutdown implements memberlist.Transport. It may be called twice.
func (t *Transport) Shutdown() error { return t.stop() }

// WriteTo implements memberlist.Transport.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. Addresses come from
// packets, so one that would have to be looked up is refused.
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if _, err := netip.ParseAddrPort(a.Addr); err != nil {
		return time.Time{}, fmt.Errorf("no packet is sent to %q: %w", a.Addr, err)
	}
	return t.NetTransport.WriteToAddress(b, a)
}

// DialTimeout implements memberlist.Transport.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport; what the other end
// answers is looked at like what strangers send.
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := t.NetTransport.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	return &stream{Conn: conn, t: t, answer: true}, nil
}

// pumpPackets passes good packets on. memberlist reads them into buffers of 64 KiB
// and keeps messages in a queue, so each gets a buffer of its own size.
func (t *Transport) pumpPackets() {
	for {
		select {
		case p := <-t.NetTransport.PacketCh():
			if err := t.checkPacket(p.Buf); err != nil {
				t.opts.Refused(p.From, err)
				continue
			}
			p.Buf = append(make([]byte, 0, len(p.Buf)), p.Buf...)
			select {
			case t.packets <- p:
			case <-t.done:
				return
			}
		case <-t.done:
			return
		}
	}
}

func (t *Transport) pumpStreams() {
	for {
		select {
		case conn := <-t.NetTransport.StreamCh():
			s := &stream{Conn: conn, t: t}
			if !t.streams.add(s) {
				t.opts.Refused(conn.RemoteAddr(), errCrowd)
				_ = conn.Close() // nothing was said on it
				continue
			}
			select {
			case t.conns <- s:
			case <-t.done:
				_ = s.Close() // nothing was said on it
				return
			}
		case <-t.done:
			return
		}
	}
}

var errCrowd = errors.New("too many connections at a time")
