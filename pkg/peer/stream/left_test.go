package stream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/tandemd/tandem/pkg/peer/stream"
)

// leave is a handler that gives up after n bytes while somebody still reads the stream for it, as zfs.Receive does when it is
// canceled: that one reads until it may not, and says why.
func leave(n int, why error, left chan<- error) stream.Handler {
	return func(_ context.Context, s *stream.Receiver) (any, error) {
		enough := make(chan struct{})
		go func() {
			b := make([]byte, 1000)
			for total := 0; ; {
				m, err := s.Read(b)
				if err != nil {
					left <- err
					return
				}
				if total < n && total+m >= n {
					close(enough)
				}
				total += m
			}
		}()
		<-enough
		return nil, why
	}
}

// F68, F69: a receive is ended here while its sender goes on.
func TestReceiver_IsReadByNobodyAfterItsHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, why := make(chan error, 1), errors.New("the guest has another owner")
		handle := leave(100<<10, why, left)
		var got bytes.Buffer
		p := connect(t, func(ctx context.Context, s *stream.Receiver) (any, error) { return handle(ctx, s) })
		defer p.end()
		for range 50 {
			s := p.open(t.Context(), t, nil)
			_, err := io.Copy(s, neverEnds{})
			if remote, ok := errors.AsType[*stream.RemoteError](err); !ok || remote.Message != why.Error() {
				t.Fatalf("the sender is told %v, want %q", err, why)
			}
			s.Close()
			if end := <-p.received; !end.again || end.err != nil {
				t.Fatalf("the receiver gave the connection up: %v", end.err)
			}
			if err := <-left; err == nil || errors.Is(err, io.EOF) {
				t.Fatalf("who still reads is told %v, want why it may not", err)
			}
		}
		// Nothing of the next stream is lost to anybody.
		handle = collect(&got)
		s := p.open(t.Context(), t, nil)
		defer s.Close()
		want := noise(1 << 20)
		if _, err := s.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.CloseWrite(), s.Result(nil)); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("the next stream: %v, %d bytes arrived", err, got.Len())
		}
	})
}

// A sender that has nothing to send is told at once; who reads is not waited for first.
func TestReceiver_TellsASilentSenderThatItsHandlerHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, why := make(chan error, 1), errors.New("the guest has another owner")
		p := connect(t, leave(1000, why, left))
		defer p.end()
		writeFrame(t, p.near, 3, []byte(`{}`))
		writeFrame(t, p.near, 4, noise(1000))
		head := make([]byte, 5)
		if _, err := io.ReadFull(p.near, head); err != nil || head[0] != 7 {
			t.Fatalf("got a frame of kind %d, %v; want an error", head[0], err)
		}
		said := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(p.near, said); err != nil || !bytes.Contains(said, []byte(why.Error())) {
			t.Errorf("the sender is told %s, %v, want %q", said, err, why)
		}
		writeFrame(t, p.near, 7, []byte(`{"message":"I stop"}`))
		if end := <-p.received; !end.again || end.err != nil {
			t.Errorf("the receiver gave the connection up: %v", end.err)
		}
		if err := <-left; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("who still reads is told %v, want why it may not", err)
		}
	})
}
