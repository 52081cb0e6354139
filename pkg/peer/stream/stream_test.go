package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

const (
	source = guest.NodeID("0123456789abcdef0123456789abcdef")
	target = guest.NodeID("fedcba9876543210fedcba9876543210")
)

func timing() stream.Timing {
	return stream.Timing{Heartbeat: 5 * time.Second, Stall: 15 * time.Second, Farewell: 2 * time.Second}
}

// pair is a connection with a receiver at its end, in a bubble with its own clock.
type pair struct {
	near, far stream.Conn
	sender    *stream.Transport
	reusable  atomic.Bool
	received  chan ended
}

// ended is how one call of Receive ended.
type ended struct {
	again bool
	err   error
}

func connect(t *testing.T, handle stream.Handler) *pair {
	t.Helper()
	a, b := net.Pipe()
	p := &pair{
		near:     stream.Conn{Conn: a, Node: target, Cut: func() { a.Close() }},
		far:      stream.Conn{Conn: b, Node: source, Cut: func() { b.Close() }},
		sender:   stream.NewTransport(timing()),
		received: make(chan ended, 10),
	}
	if handle != nil {
		go func() {
			receiver := stream.NewTransport(timing())
			for again := true; again; {
				var err error
				again, err = receiver.Receive(t.Context(), p.far, time.Hour, handle)
				p.received <- ended{again, err}
			}
		}()
	}
	return p
}

func (p *pair) open(ctx context.Context, t *testing.T, limit *rate.Limiter) *stream.Sender {
	t.Helper()
	s, err := p.sender.Open(ctx, p.near, []byte(`{"guest":100}`), limit, p.reusable.Store)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// end closes what a test leaves, so that the bubble's goroutines end.
func (p *pair) end() {
	p.near.Cut()
	p.far.Cut()
}

type summary struct {
	Guest int    `json:"guest"`
	Bytes int    `json:"bytes"`
	Sum   string `json:"sum,omitempty"`
}

// collect receives everything.
func collect(into *bytes.Buffer) stream.Handler {
	return func(_ context.Context, s *stream.Receiver) (any, error) {
		var result summary
		if err := s.Header(&result); err != nil {
			return nil, err
		}
		into.Reset()
		n, err := io.Copy(into, s)
		result.Bytes = int(n)
		return result, err
	}
}

func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func TestStream_CarriesDataAndResultAndTheNextStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		p := connect(t, collect(&got))
		defer p.end()
		for _, size := range []int{0, 1, 5000, 256 << 10, 3<<20 + 7} {
			s := p.open(t.Context(), t, nil)
			want := noise(size)
			if n, err := io.Copy(s, bytes.NewReader(want)); err != nil || n != int64(size) {
				t.Fatalf("%d bytes: sent %d, %v", size, n, err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			var result summary
			if err := s.Result(&result); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(summary{Guest: 100, Bytes: size}, result); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%d bytes: something else arrived", size)
			}
			if s.Sent() != int64(size) {
				t.Errorf("%d bytes: counted %d", size, s.Sent())
			}
			s.Close()
			if !p.reusable.Load() {
				t.Fatal("the connection is not good for another stream")
			}
		}
	})
}

// F63: what failed first is what both ends report.
func TestStream_SendersErrorReachesTheReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		p := connect(t, func(_ context.Context, s *stream.Receiver) (any, error) {
			_, err := io.Copy(io.Discard, s)
			failed <- err
			return nil, errors.New("zfs receive: incomplete stream")
		})
		defer p.end()
		s := p.open(t.Context(), t, nil)
		s.Write(noise(1000))
		s.Abort(stream.Coded("io", "zfs send: I/O error"))
		want := &stream.RemoteError{Node: source, Code: "io", Message: "zfs send: I/O error"}
		if diff := cmp.Diff(error(want), <-failed); diff != "" {
			t.Errorf("receiver's error (-want +got):\n%s", diff)
		}
		if err := s.Result(nil); err == nil || err.Error() != "zfs send: I/O error" {
			t.Errorf("sender's own error: got %v", err)
		}
		s.Close()
		if !p.reusable.Load() {
			t.Error("the connection is fine and was not kept")
		}
		if end := <-p.received; !end.again {
			t.Error("the receiver did not keep the connection")
		}
	})
}

func TestToWire_TakesTheHintByBothNames(t *testing.T) {
	for _, err := range []error{hinted{errors.New("x")}, fmt.Errorf("wrapped: %w", errorHinted{errors.New("x")})} {
		if got := stream.ToWire(err).Hint; got != "replace the disk" {
			t.Errorf("%T: the hint is %q", err, got)
		}
	}
}

type errorHinted struct{ error }

func (errorHinted) ErrorHint() string { return "replace the disk" }

type hinted struct{ error }

func (hinted) Hint() string      { return "replace the disk" }
func (hinted) ErrorCode() string { return "disk" }

func TestStream_ReceiversErrorReachesTheSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, func(_ context.Context, s *stream.Receiver) (any, error) {
			if _, err := io.ReadFull(s, make([]byte, 300<<10)); err != nil {
				return nil, err
			}
			return nil, hinted{errors.New("out of space")}
		})
		defer p.end()
		s := p.open(t.Context(), t, nil)
		endless := io.MultiReader(bytes.NewReader(noise(8<<20)), neverEnds{})
		_, err := io.Copy(s, endless)
		want := &stream.RemoteError{Node: target, Code: "disk", Message: "out of space", Advice: "replace the disk"}
		if diff := cmp.Diff(error(want), err); diff != "" {
			t.Errorf("sender's error (-want +got):\n%s", diff)
		}
		s.Close()
		if !p.reusable.Load() {
			t.Error("the connection is fine and was not kept")
		}
	})
}

type neverEnds struct{}

func (neverEnds) Read(b []byte) (int, error) { return len(b), nil }

func TestSender_WaitingForTheResultEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, func(ctx context.Context, s *stream.Receiver) (any, error) {
			if _, err := io.Copy(io.Discard, s); err != nil {
				return nil, err
			}
			<-ctx.Done() // a commit that takes long, and ends when the sender has gone
			return nil, context.Cause(ctx)
		})
		defer p.end()
		ctx, cancel := context.WithCancelCause(t.Context())
		s := p.open(ctx, t, nil)
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		removed := errors.New("the job was removed")
		time.AfterFunc(time.Minute, func() { cancel(removed) })
		if err := s.Result(nil); !errors.Is(err, removed) {
			t.Errorf("got %v, want the context's cause", err)
		}
		start := time.Now()
		s.Close()
		if took := time.Since(start); took > timing().Farewell {
			t.Errorf("closing took %v", took)
		}
	})
}

// A sender that is told to stop tells why, and does not wait for a receiver that
// hangs.
func TestSender_ContextEndsAStuckWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, func(ctx context.Context, s *stream.Receiver) (any, error) {
			<-ctx.Done() // a disk that hangs
			return nil, context.Cause(ctx)
		})
		defer p.end()
		ctx, cancel := context.WithCancelCause(t.Context())
		s := p.open(ctx, t, nil)
		stopping := errors.New("the daemon stops")
		time.AfterFunc(time.Minute, func() { cancel(stopping) })
		start := time.Now()
		if _, err := io.Copy(s, neverEnds{}); !errors.Is(err, stopping) {
			t.Errorf("got %v, want the context's cause", err)
		}
		s.Close()
		if took := time.Since(start); took > time.Minute+3*timing().Farewell {
			t.Errorf("it took %v to stop", took)
		}
	})
}

func TestReceiver_MustReadToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, func(context.Context, *stream.Receiver) (any, error) { return "fine", nil })
		defer p.end()
		s := p.open(t.Context(), t, nil)
		s.Write(noise(1000))
		s.CloseWrite()
		remote, ok := errors.AsType[*stream.RemoteError](s.Result(nil))
		if !ok || !strings.Contains(remote.Message, "before the end") {
			t.Errorf("got %v, want that the receiver stopped before the end", remote)
		}
		s.Close()
	})
}

func TestReceiver_ResultThatCannotBeSent(t *testing.T) {
	for name, result := range map[string]any{
		"too large": strings.Repeat("x", 2<<20),
		"not JSON":  func() {},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := connect(t, func(_ context.Context, s *stream.Receiver) (any, error) {
				_, err := io.Copy(io.Discard, s)
				return result, err
			})
			defer p.end()
			s := p.open(t.Context(), t, nil)
			defer s.Close()
			s.CloseWrite()
			remote, ok := errors.AsType[*stream.RemoteError](s.Result(nil))
			if !ok || !strings.Contains(remote.Message, "result cannot be sent") {
				t.Errorf("%s: got %v", name, remote)
			}
		})
	}
}

// F64: the limit holds back data and no heartbeat, and can be changed on the way.
func TestSender_RateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		p := connect(t, collect(&got))
		defer p.end()
		limit := rate.NewLimiter(1<<10, 64<<10) // a frame takes a minute, a heartbeat is due every 5 s
		s := p.open(t.Context(), t, limit)
		defer s.Close()
		start := time.Now()
		if _, err := s.Write(noise(256 << 10)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start).Round(time.Second); took != 192*time.Second {
			t.Errorf("256 KiB at 1 KiB/s after a burst of 64 KiB took %v, want 192s", took)
		}
		limit.SetLimit(1 << 20)
		start = time.Now()
		if _, err := s.Write(noise(4 << 20)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("4 MiB at 1 MiB/s took %v", took)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := s.Result(nil); err != nil || got.Len() != 4<<20+256<<10 {
			t.Errorf("%d bytes arrived, %v", got.Len(), err)
		}
	})
}
