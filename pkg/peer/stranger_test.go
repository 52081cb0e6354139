package peer_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/peer"
)

// A stranger gets through to nothing but the join exchange, whatever it says.
func TestStranger_ReachesOnlyTheJoinExchange(t *testing.T) {
	a, b := two(t)
	s := stranger(t, b)
	if _, err := b.RaftLayer("g1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Call(t.Context(), b.id, "/echo", nil, nil); !errors.Is(err, peer.ErrRefused) {
		t.Errorf("call: got %v, want ErrRefused", err)
	}
	if _, err := s.OpenStream(t.Context(), b.id, nil, nil); !errors.Is(err, peer.ErrRefused) {
		t.Errorf("stream: got %v, want ErrRefused", err)
	}
	layer, err := s.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Dial(raft.ServerAddress(b.id), 5*time.Second); !errors.Is(err, peer.ErrRefused) {
		t.Errorf("raft: got %v, want ErrRefused", err)
	}
	var answer map[string]string
	at := peer.Target{Address: b.addr, Fingerprint: b.fingerprint}
	if err := s.JoinCall(t.Context(), at, "/join", map[string]string{"say": "token"}, &answer); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"you": "", "key": s.fingerprint, "said": "token"}, answer); diff != "" {
		t.Errorf("join exchange (-want +got):\n%s", diff)
	}
	if err := s.JoinCall(t.Context(), at, "/echo", map[string]string{}, nil); err == nil {
		t.Error("a call went through on the join exchange")
	}
	if n := b.reached.Load(); n != 0 {
		t.Errorf("the stranger reached %d handlers", n)
	}
	mustCall(t, a, b)
}

func TestStranger_WithoutAnyKeyOrProtocol(t *testing.T) {
	_, b := two(t)
	key := newCert(t)
	for name, cfg := range map[string]*tls.Config{
		"no key, call": {NextProtos: []string{"tandem-call/1"}},
		"no key, join": {NextProtos: []string{"tandem-join/1"}},
		"no protocol":  {Certificates: []tls.Certificate{key}},
		"http":         {Certificates: []tls.Certificate{key}, NextProtos: []string{"h2", "http/1.1"}},
		"old TLS":      {Certificates: []tls.Certificate{key}, NextProtos: []string{"tandem-join/1"}, MaxVersion: tls.VersionTLS12},
	} {
		cfg.InsecureSkipVerify = true
		c, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", b.addr)
		if err != nil {
			continue
		}
		io.WriteString(c, "POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		if answer, err := io.ReadAll(c); err == nil || len(answer) > 0 {
			t.Errorf("%s: got the answer %q", name, answer)
		}
		c.Close()
	}
}

// The one who joins must not give its token to somebody else.
func TestJoinCall_OnlyToThePinnedKey(t *testing.T) {
	_, b := two(t)
	s := stranger(t, b)
	at := peer.Target{Address: b.addr, Fingerprint: s.fingerprint}
	if err := s.JoinCall(t.Context(), at, "/join", map[string]string{}, nil); !errors.Is(err, peer.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestJoin_Limits(t *testing.T) {
	list := newMembers()
	b := start(t, list, func(o *peer.Options) { o.Limits.JoinsPerSecond = 0.001 }) // a burst of one
	list.add(b)
	s := stranger(t, b)
	at := peer.Target{Address: b.addr, Fingerprint: b.fingerprint}
	large := map[string]string{"say": strings.Repeat("x", 20<<10)}
	if err := s.JoinCall(t.Context(), at, "/join", large, nil); err == nil {
		t.Error("a request of 20 KiB was accepted")
	}
	err := s.JoinCall(t.Context(), at, "/join", map[string]string{}, nil)
	if remote, _ := errors.AsType[*peer.RemoteError](err); remote == nil || remote.Code != peer.CodeBusy {
		t.Errorf("second request: got %v, want %s", err, peer.CodeBusy)
	}
}

func TestJoin_FewConnections(t *testing.T) {
	list := newMembers()
	b := start(t, list, func(o *peer.Options) { o.Limits.JoinConnections = 1 })
	list.add(b)
	entered, leave := make(chan struct{}), make(chan struct{})
	peer.Handle(b.join, "/slow", func(context.Context, struct{}) (any, error) {
		close(entered)
		<-leave
		return nil, nil
	})
	s := stranger(t, b)
	at := peer.Target{Address: b.addr, Fingerprint: b.fingerprint}
	first := make(chan error, 1)
	go func() { first <- s.JoinCall(context.Background(), at, "/slow", struct{}{}, nil) }()
	<-entered
	if err := s.JoinCall(t.Context(), at, "/join", map[string]string{}, nil); err == nil {
		t.Error("a second stranger was let in")
	}
	close(leave)
	if err := <-first; err != nil {
		t.Errorf("the first stranger: %v", err)
	}
}

// Garbage, half handshakes and silence on the port cost strangers a slot for a
// while, and members nothing.
func TestServe_Garbage(t *testing.T) {
	list := newMembers()
	short := func(o *peer.Options) {
		o.Timing.Handshake = 300 * time.Millisecond
		o.Limits.HandshakesPerHost = 4
	}
	b := start(t, list, short)
	list.add(b)
	a := start(t, list, nil)
	list.add(a)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	var wg sync.WaitGroup
	for i := range 40 {
		c, err := from.DialContext(t.Context(), "tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 4 {
		case 0: // nothing at all
		case 1:
			c.Write(bytes.Repeat([]byte{0xfe, 0x16, 0x03}, 500))
		case 2:
			c.Write([]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00}) // the start of a ClientHello
		case 3:
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		wg.Go(func() {
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
				t.Error("a stranger was kept")
			}
			c.Close()
		})
	}
	mustCall(t, a, b)
	wg.Wait()
	mustCall(t, a, b)
}

// Past the handshake, too, a stranger that says its request slowly is cut.
func TestJoin_SlowRequestIsCut(t *testing.T) {
	b := start(t, newMembers(), func(o *peer.Options) { o.Timing.Handshake = time.Second })
	cfg := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{newCert(t)}, NextProtos: []string{"tandem-join/1"}}
	c, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /join HTTP/1.1\r\nHost: ")
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Error("it was kept for 20 s")
	}
	if err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			t.Errorf("it got %s", answer.Status)
		}
	}
}
