package stream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/peer/stream"
)

// recorder keeps what is written to a connection.
type recorder struct {
	net.Conn
	mu      sync.Mutex
	written bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.written.Write(b)
	r.mu.Unlock()
	return r.Conn.Write(b)
}

func (r *recorder) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written.String()
}

// These bytes are what version 1 of tandemd says. Another version must understand them or
// refuse them by the number in the hello, so that they change with that number only.
func TestFrames_OnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		from, to := &recorder{Conn: a}, &recorder{Conn: b}
		near := stream.Conn{Conn: from, Node: target, Cut: func() { a.Close() }}
		far := stream.Conn{Conn: to, Node: source, Cut: func() { b.Close() }}
		received := make(chan error, 1)
		go func() {
			err := stream.Hear(far, time.Now().Add(time.Minute), func(string) error { return nil })
			if err == nil {
				_, err = stream.NewTransport(timing()).Receive(t.Context(), far, time.Minute, func(_ context.Context, s *stream.Receiver) (any, error) {
					n, err := io.Copy(io.Discard, s)
					time.Sleep(6 * time.Second) // the bubble's, for a heartbeat each
					return n, err
				})
			}
			received <- err
		}()
		if err := stream.Greet(t.Context(), near, time.Now().Add(time.Minute), "g1"); err != nil {
			t.Fatal(err)
		}
		s, err := stream.NewTransport(timing()).Open(t.Context(), near, []byte(`{"guest":100}`), nil, func(bool) {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("data")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Second + 1)
		if err := errors.Join(s.CloseWrite(), s.Result(nil), s.Close(), <-received); err != nil {
			t.Fatal(err)
		}
		a.Close()
		b.Close()
		if d := cmp.Diff("\x01\x00\x00\x00\x1c"+`{"version":1,"subject":"g1"}`+"\x03\x00\x00\x00\x0d"+`{"guest":100}`+
			"\x04\x00\x00\x00\x04data"+"\x05\x00\x00\x00\x00"+"\x06\x00\x00\x00\x00", from.said()); d != "" {
			t.Errorf("the sender (-want +got):\n%s", d)
		}
		if d := cmp.Diff("\x02\x00\x00\x00\x00"+"\x05\x00\x00\x00\x00\x05\x00\x00\x00\x00"+"\x08\x00\x00\x00\x014", to.said()); d != "" {
			t.Errorf("the receiver (-want +got):\n%s", d)
		}
	})
}

// The version before this one, and the next, are told to run the same one, in words.
func TestHear_OtherVersions(t *testing.T) {
	for _, version := range []int{0, stream.Version - 1, stream.Version + 1, 1 << 30} {
		synctest.Test(t, func(t *testing.T) {
			p := connect(t, nil)
			defer p.end()
			go stream.Hear(p.far, time.Now().Add(time.Second), func(string) error { return nil })
			// A newer one may say more than we know.
			b, err := json.Marshal(map[string]any{"version": version, "subject": "g1", "compression": "zstd"})
			if err != nil {
				t.Fatal(err)
			}
			writeFrame(t, p.near, 1, b)
			head := make([]byte, 5)
			if _, err := io.ReadFull(p.near, head); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, int(head[3])<<8|int(head[4]))
			if _, err := io.ReadFull(p.near, answer); err != nil {
				t.Fatal(err)
			}
			var w stream.WireError
			if err := json.Unmarshal(answer, &w); err != nil || w.Code != stream.CodeVersion || !bytes.Contains(answer, []byte("run the same version")) {
				t.Errorf("version %d is told %q, %v", version, answer, err)
			}
		})
	}
}

// answering is a connection on which the other end says something and goes.
func answering(in []byte) stream.Conn {
	a, b := net.Pipe()
	go io.Copy(io.Discard, a)
	go func() {
		a.Write(in)
		a.Close()
	}()
	return stream.Conn{Conn: b, Node: target, Cut: func() { b.Close() }}
}

// FuzzHello: whatever answers a hello, or says one.
func FuzzHello(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x0d" + `{"version":1}`))
	f.Add([]byte("\x01\x00\x00\x00\x0d" + `{"version":2}`))
	f.Add([]byte("\x07\x00\x00\x00\x0a" + `{"code":1}`))
	f.Add([]byte("\x02\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := answering(in)
		if err := stream.Greet(t.Context(), c, time.Now().Add(time.Minute), "g1"); err == nil && !bytes.HasPrefix(in, []byte("\x02\x00\x00\x00\x00")) {
			t.Errorf("%q was taken for a welcome", in)
		}
		c.Cut()
		c = answering(in)
		if err := stream.Hear(c, time.Now().Add(time.Minute), func(string) error { return nil }); err == nil && !bytes.Contains(in, []byte("1")) {
			t.Errorf("%q was taken for a hello", in)
		}
		c.Cut()
	})
}

// FuzzAnswer: whatever a receiver answers to a stream.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x00\x00\x08\x00\x00\x00\x014"))
	f.Add([]byte("\x07\x00\x00\x00\x02{}"))
	f.Add([]byte("\x04\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := answering(in)
		defer c.Cut()
		s, err := stream.NewTransport(timing()).Open(t.Context(), c, []byte(`{}`), nil, func(bool) {})
		if err != nil {
			return
		}
		_, _ = s.Write([]byte("data"))
		_ = s.CloseWrite()
		var n int
		if err := s.Result(&n); err == nil && !bytes.Contains(in, []byte{8, 0, 0}) {
			t.Errorf("%q was taken for a result", in)
		}
		_ = s.Close()
	})
}
