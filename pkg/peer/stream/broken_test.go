package stream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/peer/stream"
)

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
