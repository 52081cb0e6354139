package peer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
)

// hostileFor is longer in a soak: go test ./pkg/peer -run Hostile -args -hostile 10m.
var hostileFor = flag.Duration("hostile", 2*time.Second, "how long the hostile tests last")

// dialFrom dials from another loopback address.
func dialFrom(ctx context.Context, host byte, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, host)}}
	return d.DialContext(ctx, "tcp", addr)
}

func shake(ctx context.Context, raw net.Conn, key tls.Certificate, protocols ...string) (net.Conn, error) {
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{key}, NextProtos: protocols})
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// usage samples goroutines and heap while a test hurts a node.
type usage struct {
	goroutines atomic.Int64
	heap       atomic.Int64 // bytes in use after a collection
}

func (u *usage) sample() {
	u.goroutines.Store(max(u.goroutines.Load(), int64(runtime.NumGoroutine())))
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.heap.Store(max(u.heap.Load(), int64(m.HeapAlloc)))
}

// hurt runs attack with seeded chance from a few goroutines for a while, with a call of
// a member every moment, and checks what all of it costs. It returns how many of these
// calls there were.
func hurt(t *testing.T, good func() error, attack func(ctx context.Context, r *rand.Rand)) (calls int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithTimeout(t.Context(), *hostileFor)
	defer cancel()
	const attackers = 8
	var wg sync.WaitGroup
	var attacks atomic.Int64
	for i := range attackers {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for ctx.Err() == nil {
				attack(ctx, r)
				attacks.Add(1)
			}
		})
	}
	var u usage
	for ctx.Err() == nil {
		if err := good(); err != nil {
			t.Errorf("a member is not served: %v", err)
		}
		calls++
		u.sample()
	}
	wg.Wait()
	t.Logf("%d attacks, %d calls of a member, %d goroutines at most, heap from %d to %d KiB",
		attacks.Load(), calls, u.goroutines.Load(), before.HeapAlloc>>10, u.heap.Load()>>10)
	if n := u.goroutines.Load(); n > 2000 {
		t.Errorf("%d goroutines", n)
	}
	if grown := u.heap.Load() - int64(before.HeapAlloc); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if err := good(); err != nil {
		t.Errorf("afterwards a member is not served: %v", err)
	}
	return calls + 1
}

// mutated is a valid beginning with some bytes changed, cut or followed by noise.
func mutated(r *rand.Rand, valid []byte) []byte {
	b := bytes.Clone(valid)
	for range r.IntN(4) {
		if len(b) > 0 {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
	}
	if r.IntN(2) == 0 {
		b = b[:r.IntN(len(b)+1)]
	}
	noise := make([]byte, r.IntN(2000))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	return append(b, noise...)
}

// clientHello is what a real client says first.
func clientHello(t *testing.T, key tls.Certificate) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go shake(t.Context(), a, key, "tandem-call/1")
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

func TestHostile_Strangers(t *testing.T) {
	list := newMembers()
	b := start(t, list, func(o *peer.Options) {
		o.Timing.Handshake = 5 * time.Second // a busy machine takes its time
		o.Known = func(a netip.Addr) bool { return a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
	})
	a := start(t, list, nil)
	list.add(a)
	list.add(b)
	stranger := newCert(t)
	hello := clientHello(t, stranger)
	said := func(c net.Conn, r *rand.Rand, what []byte) {
		c.SetDeadline(time.Now().Add(time.Duration(r.IntN(200)) * time.Millisecond))
		c.Write(what)
		if r.IntN(2) == 0 {
			io.Copy(io.Discard, c)
		}
		c.Close()
	}
	calls := hurt(t, func() error { return a.Call(t.Context(), b.id, "/echo", map[string]string{}, nil) }, func(ctx context.Context, r *rand.Rand) {
		c, err := dialFrom(ctx, byte(2+r.IntN(100)), b.addr)
		if err != nil {
			return
		}
		switch r.IntN(4) {
		case 0:
			said(c, r, mutated(r, nil))
		case 1:
			said(c, r, mutated(r, hello))
		case 2: // a key that nobody knows, and every protocol there is and is not
			protocols := []string{"tandem-call/1", "tandem-raft/1", "tandem-data/1", "tandem-call/2", "h2"}
			if c, err := shake(ctx, c, stranger, protocols[r.IntN(len(protocols))]); err == nil {
				said(c, r, mutated(r, []byte("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")))
			}
		case 3:
			if c, err := shake(ctx, c, stranger, "tandem-join/1"); err == nil {
				said(c, r, mutated(r, []byte("POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nX: "+strings.Repeat("y", r.IntN(40000))+"\r\n\r\n{")))
			}
		}
	})
	if n := int(b.reached.Load()); n != calls {
		t.Errorf("%d calls reached a handler, and a member made %d", n, calls)
	}
}

// A member gone wild is root on every node anyway, but its garbage ends nothing.
func TestHostile_Member(t *testing.T) {
	list := newMembers()
	b := start(t, list, func(o *peer.Options) { o.Timing.Handshake = time.Second })
	layer, err := b.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: layer, MaxPool: 3, Timeout: time.Second, Logger: hclog.NewNullLogger()})
	defer transport.Close()
	go func() {
		for rpc := range transport.Consumer() {
			rpc.Respond(nil, errors.New("no"))
		}
	}()
	a, wild := start(t, list, nil), start(t, list, nil)
	for _, n := range []*node{a, b, wild} {
		list.add(n)
	}
	frame := func(kind byte, size uint32, payload string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, size), payload...)
	}
	hello := func(subject string) []byte {
		payload := fmt.Sprintf(`{"version":1,"subject":%q}`, subject)
		return frame(1, uint32(len(payload)), payload)
	}
	begin := map[string]func(r *rand.Rand) []byte{
		"tandem-call/1": func(r *rand.Rand) []byte {
			return []byte(fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX: %s\r\n\r\n{", r.Uint64(), strings.Repeat("y", r.IntN(40000))))
		},
		"tandem-data/1": func(r *rand.Rand) []byte {
			return append(hello(""), append(frame(3, 2, "{}"), frame(byte(r.IntN(10)), r.Uint32(), "forged")...)...)
		},
		"tandem-raft/1": func(r *rand.Rand) []byte {
			return append(hello("g1"), byte(r.IntN(7)), 0xc6, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()))
		},
	}
	hurt(t, func() error { return a.Call(t.Context(), b.id, "/echo", map[string]string{}, nil) }, func(ctx context.Context, r *rand.Rand) {
		for protocol, valid := range begin {
			raw, err := dialFrom(ctx, 1, b.addr)
			if err != nil {
				return
			}
			c, err := shake(ctx, raw, wild.cert, protocol)
			if err != nil {
				continue
			}
			c.SetDeadline(time.Now().Add(time.Duration(r.IntN(100)) * time.Millisecond))
			c.Write(mutated(r, valid(r)))
			io.Copy(io.Discard, c)
			c.Close()
		}
	})
}

// However many addresses strangers come from, members' have room of their own.
func TestServe_StrangersDoNotKeepMembersOut(t *testing.T) {
	list := newMembers()
	b := start(t, list, func(o *peer.Options) {
		o.Limits.Handshakes, o.Limits.HandshakesPerHost = 20, 2
		o.Timing.Handshake = 20 * time.Second
		o.Known = func(a netip.Addr) bool { return a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
	})
	a := start(t, list, nil)
	list.add(a)
	list.add(b)
	silent := make([]int, 0, 40)
	for i := range 40 { // two of each address get a place, until all are taken
		c, err := dialFrom(t.Context(), byte(10+i/2), b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			continue
		}
		silent = append(silent, i)
	}
	if len(silent) != 20 {
		t.Errorf("%d silent strangers were kept, want 20", len(silent))
	}
	mustCall(t, a, b)
}

func TestServe_OneAddressCannotBeginHandshakesWithoutEnd(t *testing.T) {
	b := start(t, newMembers(), func(o *peer.Options) { o.Limits.HandshakesPerSecond = 0.5 }) // a burst of one
	ok := 0
	for range 5 {
		raw, err := dialFrom(t.Context(), 9, b.addr)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := shake(t.Context(), raw, newCert(t), "tandem-join/1"); err == nil {
			ok++
			c.Close()
		}
	}
	raw, err := dialFrom(t.Context(), 10, b.addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := shake(t.Context(), raw, newCert(t), "tandem-join/1")
	if err != nil {
		t.Errorf("another address: %v", err)
	} else {
		c.Close()
	}
	if ok < 1 || ok > 2 {
		t.Errorf("%d handshakes of one address, want 1", ok)
	}
}

func TestServe_ConnectionsOfOneMemberAreBounded(t *testing.T) {
	list := newMembers()
	b := start(t, list, func(o *peer.Options) { o.Limits.PerMember = 3 })
	a, wild := start(t, list, nil), start(t, list, nil)
	for _, n := range []*node{a, b, wild} {
		list.add(n)
	}
	open := 0
	for range 6 {
		raw, err := dialFrom(t.Context(), 1, b.addr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := shake(t.Context(), raw, wild.cert, "tandem-call/1")
		if err != nil {
			continue
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				open++ // it waits for a request
			}
		}
	}
	if open != 3 {
		t.Errorf("%d connections of one member are open, want 3", open)
	}
	mustCall(t, a, b)
}

// Large requests that never come to their end use up the memory of the one who sends
// them, and no other member waits for it.
func TestServe_UnfinishedRequestsOfOneMember(t *testing.T) {
	list := newMembers()
	b := start(t, list, nil)
	a, wild := start(t, list, nil), start(t, list, nil)
	for _, n := range []*node{a, b, wild} {
		list.add(n)
	}
	for range 20 {
		raw, err := dialFrom(t.Context(), 1, b.addr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := shake(t.Context(), raw, wild.cert, "tandem-call/1")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{", 16<<20)
	}
	mustCall(t, a, b)
}

func TestJoin_OneAddressLeavesRoomForOthers(t *testing.T) {
	list := newMembers()
	b := start(t, list, func(o *peer.Options) { o.Limits.JoinsPerSecondPerHost = 0.001 }) // a burst of one
	list.add(b)
	ask := func(host byte) string {
		raw, err := dialFrom(t.Context(), host, b.addr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := shake(t.Context(), raw, newCert(t), "tandem-join/1")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer, _ := io.ReadAll(c)
		return string(answer)
	}
	for _, tc := range []struct {
		host byte
		want string
	}{{21, "200 OK"}, {21, "too many join requests"}, {22, "200 OK"}} {
		if got := ask(tc.host); !strings.Contains(got, tc.want) {
			t.Errorf("127.0.0.%d got %q, want %q", tc.host, got, tc.want)
		}
	}
}

// A stranger who knocks all the time is told of once, and so is a member at whose
// address somebody else answers.
func TestLog_WhatGoesOnIsToldOnce(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	list := newMembers()
	b := start(t, list, func(o *peer.Options) { o.Logger = zap.New(core) })
	list.add(b)
	other := start(t, newMembers(), nil)
	wrong := &members{byFP: map[string]guest.NodeID{}, at: map[guest.NodeID]peer.Target{
		other.id: {Address: b.addr, Fingerprint: other.fingerprint},
	}}
	s := start(t, wrong, func(o *peer.Options) { o.Logger = zap.New(core) })
	wrong.at[b.id] = peer.Target{Address: b.addr, Fingerprint: b.fingerprint}
	for range 5 {
		if err := s.Call(t.Context(), b.id, "/echo", nil, nil); !errors.Is(err, peer.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
		if err := s.Call(t.Context(), other.id, "/echo", nil, nil); !errors.Is(err, peer.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
	}
	if n := logs.FilterMessage("connection refused").FilterLevelExact(zapcore.WarnLevel).Len(); n != 1 {
		t.Errorf("%d lines on the stranger, want 1", n)
	}
	if n := logs.FilterMessageSnippet("another node answers at the address of a member").Len(); n != 1 {
		t.Errorf("%d lines on the address, want 1", n)
	}
}
