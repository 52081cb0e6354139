package peer_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/peer"
)

// spoiler is a wire to a node on which one byte of each connection changes.
type spoiler struct {
	net.Listener
	to string
	wg sync.WaitGroup

	mu sync.Mutex
	at int // which byte of what the client sends
}

func newSpoiler(t *testing.T, to string) *spoiler {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &spoiler{Listener: ln, to: to}
	s.wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.carry(t.Context(), near) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		s.wg.Wait()
	})
	return s
}

func (s *spoiler) carry(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.to)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })()
	s.mu.Lock()
	left := s.at
	s.mu.Unlock()
	s.wg.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	b := make([]byte, 4096)
	for {
		n, err := near.Read(b)
		if left >= 0 && left < n {
			b[left] ^= 0x10
		}
		left -= n
		if _, failed := far.Write(b[:n]); err != nil || failed != nil {
			return
		}
	}
}

// Wherever a byte changes on the wire, nobody takes what comes after it, and no stream with it ends well.
func TestStream_AByteChangedOnTheWireIsRefused(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	a, b := two(t)
	wire := newSpoiler(t, b.addr)
	a.list.mu.Lock()
	a.list.at[b.id] = peer.Target{Address: wire.Addr().String(), Fingerprint: b.fingerprint}
	a.list.mu.Unlock()
	sent := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(sent)
	var got bytes.Buffer
	var mu sync.Mutex
	ends := 0
	b.data = func(_ context.Context, s *peer.ReceiveStream) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		got.Reset()
		_, err := io.Copy(&got, s)
		if !bytes.HasPrefix(sent, got.Bytes()) {
			t.Error("something else was received than was sent")
		}
		if err == nil {
			ends++
		}
		return nil, err
	}
	try := func() error {
		s, err := a.OpenStream(t.Context(), b.id, nil, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		if _, err := io.Copy(s, bytes.NewReader(sent)); err != nil {
			return err
		}
		if err := s.CloseWrite(); err != nil {
			return err
		}
		return s.Result(nil)
	}
	for i := range 50 {
		at := rnd.IntN(len(sent))
		if i%5 == 0 {
			at = rnd.IntN(1500) // within the handshake
		}
		wire.mu.Lock()
		wire.at = at
		wire.mu.Unlock()
		if err := try(); err == nil {
			t.Errorf("byte %d was changed, and the stream ended well", at)
		}
	}
	mu.Lock()
	if ends != 0 {
		t.Errorf("%d damaged streams ended well", ends)
	}
	mu.Unlock()
	wire.mu.Lock()
	wire.at = -1
	wire.mu.Unlock()
	if err := try(); err != nil {
		t.Errorf("over a good wire: %v", err)
	}
	if !bytes.Equal(sent, got.Bytes()) {
		t.Error("not all was received")
	}
}
