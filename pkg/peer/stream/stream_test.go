package stream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

// F62: a receiver that works for a long time between two reads is slow, not dead; and
// so is a sender that has nothing to send for a long time.
func TestStream_SlowIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, func(_ context.Context, s *stream.Receiver) (any, error) {
			time.Sleep(time.Hour) // a bubble's hour
			n, err := io.Copy(io.Discard, s)
			time.Sleep(time.Hour)
			return n, err
		})
		defer p.end()
		s := p.open(t.Context(), t, nil)
		defer s.Close()
		if _, err := s.Write(noise(1 << 20)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := s.Write(noise(1 << 20)); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := s.Result(&n); err != nil || n != 2<<20 {
			t.Errorf("got %d, %v", n, err)
		}
	})
}

// F61: the other end is there, as far as TCP knows, and silent.
func TestSender_SilentReceiverIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, nil)
		defer p.end()
		go io.CopyN(io.Discard, p.far, 600<<10) // reads a little and says nothing, ever
		s := p.open(t.Context(), t, nil)
		start := time.Now()
		_, err := io.Copy(s, bytes.NewReader(noise(4<<20)))
		if !errors.Is(err, stream.ErrStalled) || !strings.Contains(err.Error(), target.Short()) {
			t.Errorf("write: got %v, want ErrStalled that names the node", err)
		}
		if took := time.Since(start); took != timing().Stall {
			t.Errorf("noticed after %v, want %v", took, timing().Stall)
		}
		if err := s.CloseWrite(); !errors.Is(err, stream.ErrStalled) {
			t.Errorf("CloseWrite: got %v, want ErrStalled", err)
		}
		if err := s.Result(nil); !errors.Is(err, stream.ErrStalled) {
			t.Errorf("Result: got %v, want ErrStalled", err)
		}
		s.Close()
		if p.reusable.Load() {
			t.Error("a stalled connection was kept")
		}
	})
}

func TestReceiver_SilentSenderIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		p := connect(t, func(_ context.Context, s *stream.Receiver) (any, error) {
			_, err := io.Copy(io.Discard, s)
			failed <- err
			return nil, err
		})
		defer p.end()
		go io.Copy(io.Discard, p.near)
		writeFrame(t, p.near, 3, []byte(`{}`))
		writeFrame(t, p.near, 4, []byte("some data"))
		p.near.Write([]byte{4, 0, 0}) // half a head, and then nothing
		if err := <-failed; !errors.Is(err, stream.ErrStalled) || !strings.Contains(err.Error(), source.Short()) {
			t.Errorf("got %v, want ErrStalled that names the node", err)
		}
		if end := <-p.received; end.again {
			t.Error("a stalled connection was kept")
		}
	})
}

func writeFrame(t *testing.T, w io.Writer, kind byte, payload []byte) {
	t.Helper()
	frame := append([]byte{kind, 0, 0, byte(len(payload) >> 8), byte(len(payload))}, payload...)
	if _, err := w.Write(frame); err != nil {
		t.Fatal(err)
	}
}

func TestReceiver_CutIsNoEnd(t *testing.T) {
	for name, part := range map[string][]byte{
		"between frames":    nil,
		"within a head":     {4, 0},
		"within the data":   {4, 0, 0, 0, 9, 'a', 'b'},
		"within an error":   {7, 0, 0, 0, 9, '{'},
		"frame too large":   {4, 0, 255, 0, 0},
		"no such frame":     {99, 0, 0, 0, 0},
		"frame out of turn": {3, 0, 0, 0, 2, '{', '}'},
		"end with payload":  {6, 0, 0, 0, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failed := make(chan error, 1)
				p := connect(t, func(_ context.Context, s *stream.Receiver) (any, error) {
					_, err := io.Copy(io.Discard, s)
					failed <- err
					return nil, err
				})
				defer p.end()
				go io.Copy(io.Discard, p.near)
				writeFrame(t, p.near, 3, []byte(`{}`))
				writeFrame(t, p.near, 4, []byte("some data"))
				p.near.Write(part)
				p.near.Cut()
				err := <-failed
				wanted := errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "protocol error")
				if err == nil || !wanted {
					t.Errorf("got %v, want io.ErrUnexpectedEOF or a protocol error", err)
				}
				if end := <-p.received; end.again {
					t.Error("a broken connection was kept")
				}
			})
		})
	}
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

func TestHear_Refusals(t *testing.T) {
	hello := func(v int) []byte {
		b, _ := json.Marshal(stream.Hello{Version: v, Subject: "g1"})
		return b
	}
	for name, tc := range map[string]struct {
		kind    byte
		payload []byte
		code    string // the other end is told; empty: it is not spoken with
		says    string
	}{
		"another version": {1, hello(stream.Version + 1), stream.CodeVersion, "version 2"},
		"another subject": {1, hello(stream.Version), "subject", `"g1"`},
		"not JSON":        {1, []byte("GET / HTTP/1.1"), "", "cannot be read"},
		"another frame":   {3, []byte("{}"), "", "not expected"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := connect(t, nil)
			defer p.end()
			heard := make(chan error, 1)
			go func() {
				err := stream.Hear(p.far, time.Now().Add(time.Second), func(subject string) error {
					return stream.Coded("subject", "no subject of ours: %q", subject)
				})
				p.far.Cut()
				heard <- err
			}()
			writeFrame(t, p.near, tc.kind, tc.payload)
			answer, _ := io.ReadAll(p.near)
			if err := <-heard; err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: got %v, want an error with %q", name, err, tc.says)
			}
			if told := len(answer) > 0; told != (tc.code != "") || !strings.Contains(string(answer), tc.code) {
				t.Errorf("%s: the other end is told %q, want the code %q", name, answer, tc.code)
			}
		})
	}
}

// Whatever comes in: an error, no panic, and no memory for what was only announced.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x03\x00\x00\x00\x02{}\x04\x00\x00\x00\x03abc\x05\x00\x00\x00\x00\x06\x00\x00\x00\x00"))
	f.Add([]byte("\x03\x00\x00\x00\x02{}\x07\x00\x00\x00\x10{\"code\":\"x\"}"))
	f.Add([]byte("\x04\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, a)
		go func() {
			a.Write(in)
			a.Close()
		}()
		c := stream.Conn{Conn: b, Node: source, Cut: func() { b.Close() }}
		again, _ := stream.NewTransport(timing()).Receive(t.Context(), c, time.Minute, func(_ context.Context, s *stream.Receiver) (any, error) {
			return io.Copy(io.Discard, s)
		})
		if again && !bytes.Contains(in, []byte("\x00")) {
			t.Error("kept a connection on which no frame came")
		}
		c.Cut()
	})
}
