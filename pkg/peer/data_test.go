package peer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
)

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

// Twenty guests that are due every minute make twenty connections once, and not every minute.
func TestStream_AsManyConnectionsStandAsWereUsed(t *testing.T) {
	a, b := two(t)
	const guests = 20
	for minute := range 3 {
		var streams []*peer.SendStream
		for range guests {
			s, err := a.OpenStream(t.Context(), b.id, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
		for _, s := range streams {
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := s.Result(nil); err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		if n := b.conns.Load(); n != guests {
			t.Fatalf("after minute %d: %d connections were made, want %d", minute, n, guests)
		}
	}
}

// Guests that are due together want their connections in the same moment, more than a node takes from an address that it does not know.
func TestStream_ManyAtOnceAreAllTaken(t *testing.T) {
	list := newMembers()
	a, b := start(t, list, nil), start(t, list, func(o *peer.Options) { o.Limits.HandshakesPerHost = 8 })
	list.add(a)
	list.add(b)
	var g errgroup.Group
	for range 60 {
		g.Go(func() error {
			s, err := a.OpenStream(t.Context(), b.id, nil, nil)
			if err != nil {
				return err
			}
			defer s.Close()
			return errors.Join(s.CloseWrite(), s.Result(nil))
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
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
