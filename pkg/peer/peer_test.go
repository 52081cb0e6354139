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

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
)

func TestCall_TellsWhoCalls(t *testing.T) {
	a, b := two(t)
	for range 3 {
		mustCall(t, a, b)
		mustCall(t, b, a)
	}
	if n := b.conns.Load(); n != 1 {
		t.Errorf("three calls took %d connections, want 1", n)
	}
}

type diskError struct{ error }

func (diskError) ErrorCode() string { return "disk" }
func (diskError) Hint() string      { return "replace it" }

func TestCall_ErrorsOfTheOtherSide(t *testing.T) {
	a, b := two(t)
	peer.Handle(b.mux, "/fail", func(context.Context, struct{}) (any, error) {
		return nil, diskError{errors.New("pool is suspended")}
	})
	peer.Handle(b.mux, "/plain", func(context.Context, struct{}) (any, error) {
		return nil, errors.New("no")
	})
	peer.Handle(b.mux, "/number", func(context.Context, int) (any, error) { return 1, nil })
	for path, want := range map[string]*peer.RemoteError{
		"/fail":   {Node: b.id, Code: "disk", Message: "pool is suspended", Advice: "replace it"},
		"/plain":  {Node: b.id, Code: peer.CodeFailed, Message: "no"},
		"/absent": {Node: b.id, Code: peer.CodeUnknownCall, Message: "it answers 404 Not Found, so it may run another version of tandemd"},
		"/number": {Node: b.id, Code: peer.CodeBadRequest, Message: "decode the request: json: cannot unmarshal object into Go value of type int"},
	} {
		err := a.Call(t.Context(), b.id, path, struct{}{}, nil)
		got, _ := errors.AsType[*peer.RemoteError](err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// Whether something was sent decides whether it may have been done.
func TestCall_OwnErrors(t *testing.T) {
	a, b := two(t)
	gone := start(t, a.list, nil)
	a.list.add(gone)
	if err := gone.stop(); err != nil {
		t.Fatal(err)
	}
	if err := a.Call(t.Context(), gone.id, "/echo", nil, nil); !errors.Is(err, peer.ErrUnreachable) {
		t.Errorf("dead node: got %v, want ErrUnreachable", err)
	}
	if err := a.Call(t.Context(), newID(t), "/echo", nil, nil); !errors.Is(err, peer.ErrUnreachable) {
		t.Errorf("unknown node: got %v, want ErrUnreachable", err)
	}
	if err := a.Call(t.Context(), "n2", "/echo", nil, nil); err == nil {
		t.Error("a node ID that is none was accepted")
	}
	arrived := make(chan struct{})
	peer.Handle(b.mux, "/hang", func(ctx context.Context, _ struct{}) (any, error) {
		close(arrived)
		<-ctx.Done() // it ends when the caller goes away
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if err := a.Call(ctx, b.id, "/hang", struct{}{}, nil); !errors.Is(err, peer.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("no answer: got %v, want ErrUnknownOutcome and the context's error", err)
	}
}

func TestCall_DeadlineTravels(t *testing.T) {
	a, b := two(t)
	deadline := make(chan time.Duration, 1)
	peer.Handle(b.mux, "/when", func(ctx context.Context, _ struct{}) (any, error) {
		d, _ := ctx.Deadline()
		deadline <- time.Until(d)
		return nil, nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := a.Call(ctx, b.id, "/when", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	if d := <-deadline; d > 5*time.Minute || d < 4*time.Minute {
		t.Errorf("the handler has %v left, want a bit less than 5m", d)
	}
}

func TestCall_BodyLimit(t *testing.T) {
	list := newMembers()
	small := func(o *peer.Options) { o.Limits.CallBody = 1000 }
	a, b := start(t, list, small), start(t, list, small)
	list.add(a)
	list.add(b)
	err := a.Call(t.Context(), b.id, "/echo", map[string]string{"say": strings.Repeat("x", 2000)}, nil)
	if remote, _ := errors.AsType[*peer.RemoteError](err); remote == nil || remote.Code != peer.CodeBadRequest {
		t.Errorf("large request: got %v, want %s", err, peer.CodeBadRequest)
	}
	peer.Handle(b.mux, "/large", func(context.Context, struct{}) (any, error) { return strings.Repeat("x", 2000), nil })
	var got string
	if err := a.Call(t.Context(), b.id, "/large", struct{}{}, &got); err == nil || !strings.Contains(err.Error(), "larger than 1000") {
		t.Errorf("large answer: got %v", err)
	}
}

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

func TestRecheck_CutsARemovedMember(t *testing.T) {
	a, b := two(t)
	c := start(t, a.list, nil)
	a.list.add(c)
	entered, blocked := make(chan struct{}), make(chan error, 1)
	b.data = func(_ context.Context, s *peer.ReceiveStream) (any, error) {
		close(entered)
		_, err := io.Copy(io.Discard, s)
		blocked <- err
		return nil, err
	}
	mustCall(t, a, b)
	mustCall(t, c, b)
	s, err := a.OpenStream(t.Context(), b.id, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	<-entered

	a.list.remove(a)
	b.Recheck()

	if err := <-blocked; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream under way: got %v, want io.ErrUnexpectedEOF", err)
	}
	if err := a.Call(t.Context(), b.id, "/echo", nil, nil); err == nil {
		t.Error("a call of the removed member went through")
	}
	mustCall(t, c, b)

	// And nobody calls it any more, also over a connection that is open.
	mustCall(t, b, c)
	b.list.remove(c)
	b.Recheck()
	if err := b.Call(t.Context(), c.id, "/echo", nil, nil); !errors.Is(err, peer.ErrUnreachable) {
		t.Errorf("call to a removed member: got %v, want ErrUnreachable", err)
	}
}

func TestCall_AnotherKeyAtTheAddress(t *testing.T) {
	a, b := two(t)
	c := start(t, newMembers(), nil)
	c.id, c.fingerprint = b.id, b.fingerprint // what the list says of b, at the address of c
	a.list.add(c)
	if err := a.Call(t.Context(), b.id, "/echo", nil, nil); !errors.Is(err, peer.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestRaftLayer_CarriesRaft(t *testing.T) {
	a, b := two(t)
	from, err := a.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	to, err := b.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	// raft itself, on top.
	client := raft.NewNetworkTransport(from, 2, 5*time.Second, io.Discard)
	defer client.Close()
	server := raft.NewNetworkTransport(to, 2, 5*time.Second, io.Discard)
	defer server.Close()
	if got := server.LocalAddr(); got != raft.ServerAddress(b.id) {
		t.Errorf("raft's address is %q, want the node ID", got)
	}
	go func() {
		rpc := <-server.Consumer()
		rpc.Respond(&raft.RequestVoteResponse{Term: 7, Granted: true}, nil)
	}()
	var answer raft.RequestVoteResponse
	if err := client.RequestVote(raft.ServerID(b.id), raft.ServerAddress(b.id), &raft.RequestVoteRequest{Term: 7}, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Term != 7 || !answer.Granted {
		t.Errorf("answer is %+v", answer)
	}
}

func TestRaftLayer_OtherGenerationIsRefused(t *testing.T) {
	a, b := two(t)
	if _, err := b.RaftLayer("g2"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.RaftLayer("g2"); err == nil {
		t.Error("two layers of one generation")
	}
	layer, err := a.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = layer.Dial(raft.ServerAddress(b.id), 5*time.Second)
	remote, _ := errors.AsType[*peer.RemoteError](err)
	if remote == nil || remote.Code != peer.CodeGeneration || !strings.Contains(remote.Message, "g2") {
		t.Errorf("got %v, want a refusal that names g2", err)
	}
	// A layer that is closed is no layer.
	second, err := b.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Dial(raft.ServerAddress(b.id), 5*time.Second); err == nil {
		t.Error("a closed layer took a connection")
	}
	if _, err := layer.Dial("n2:7947", 5*time.Second); err == nil {
		t.Error("an address that is no node ID was dialled")
	}
}

func TestStream_StandingConnectionIsUsedAgain(t *testing.T) {
	a, b := two(t)
	for n := range 4 {
		s, err := a.OpenStream(t.Context(), b.id, n, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := int64(n * 300_000)
		if _, err := io.Copy(s, bytes.NewReader(make([]byte, want))); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		var got int64
		if err := s.Result(&got); err != nil || got != want {
			t.Fatalf("got %d, %v, want %d", got, err, want)
		}
		s.Close()
	}
	if n := b.conns.Load(); n != 1 {
		t.Errorf("four streams took %d connections, want 1", n)
	}
	// The other daemon starts anew; the connection that stood is not used.
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.OpenStream(t.Context(), b.id, nil, nil); !errors.Is(err, peer.ErrUnreachable) {
		t.Errorf("after the other end has gone: got %v, want ErrUnreachable", err)
	}
}

func TestStream_HandlerKnowsTheSender(t *testing.T) {
	a, b := two(t)
	b.data = func(ctx context.Context, s *peer.ReceiveStream) (any, error) {
		if _, err := io.Copy(io.Discard, s); err != nil {
			return nil, err
		}
		return []guest.NodeID{s.Sender(), peer.Caller(ctx)}, nil
	}
	s, err := a.OpenStream(t.Context(), b.id, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var got []guest.NodeID
	if err := s.Result(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]guest.NodeID{a.id, a.id}, got); diff != "" {
		t.Errorf("sender (-want +got):\n%s", diff)
	}
}

// A daemon that stops tells the one who sends, and does not wait for the end.
func TestServe_StopsInTheMiddleOfAStream(t *testing.T) {
	a, b := two(t)
	entered := make(chan struct{})
	b.data = func(ctx context.Context, s *peer.ReceiveStream) (any, error) {
		close(entered)
		<-ctx.Done()
		return nil, errors.New("the daemon stops")
	}
	s, err := a.OpenStream(t.Context(), b.id, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	_, err = io.Copy(s, zeros{})
	if remote, _ := errors.AsType[*peer.RemoteError](err); remote == nil || remote.Message != "the daemon stops" {
		t.Errorf("sender: got %v, want the receiver's reason", err)
	}
	s.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

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

func TestNew_Refusals(t *testing.T) {
	for name, opts := range map[string]peer.Options{
		"nothing": {},
		"no list": {Node: newID(t), Certificate: newCert(t)},
	} {
		if _, err := peer.New(opts); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
