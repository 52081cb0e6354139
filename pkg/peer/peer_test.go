package peer_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
