package peer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
)

// members is a member list that all nodes of a test share.
type members struct {
	mu   sync.Mutex
	byFP map[string]guest.NodeID
	at   map[guest.NodeID]peer.Target
}

func newMembers() *members {
	return &members{byFP: map[string]guest.NodeID{}, at: map[guest.NodeID]peer.Target{}}
}

func (m *members) NodeByFingerprint(fp string) (guest.NodeID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.byFP[fp]
	return id, ok
}

func (m *members) ResolvePeer(node guest.NodeID) (peer.Target, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	target, ok := m.at[node]
	if !ok {
		return peer.Target{}, fmt.Errorf("node %s is not a member", node.Short())
	}
	return target, nil
}

func (m *members) add(n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byFP[n.fingerprint] = n.id
	m.at[n.id] = peer.Target{Address: n.addr, Fingerprint: n.fingerprint}
}

func (m *members) remove(n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byFP, n.fingerprint)
	delete(m.at, n.id)
}

// node is a daemon's peer with handlers that count who reached them.
type node struct {
	*peer.Peer
	id          guest.NodeID
	cert        tls.Certificate
	fingerprint string
	addr        string
	list        *members
	reached     atomic.Int32
	mux         *http.ServeMux
	join        *http.ServeMux
	data        func(context.Context, *peer.ReceiveStream) (any, error)
	conns       atomic.Int32
	stop        func() error
}

func newID(tb testing.TB) guest.NodeID {
	tb.Helper()
	var b [16]byte
	rand.Read(b[:])
	return guest.NodeID(hex.EncodeToString(b[:]))
}

func newCert(tb testing.TB) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	// Long expired, and nobody minds.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// start makes a node, listening, not yet in the list.
func start(tb testing.TB, list *members, change func(*peer.Options)) *node {
	tb.Helper()
	cert := newCert(tb)
	n := &node{id: newID(tb), cert: cert, fingerprint: peer.Fingerprint(cert.Leaf), list: list, mux: http.NewServeMux(), join: http.NewServeMux()}
	n.data = func(_ context.Context, s *peer.ReceiveStream) (any, error) {
		return io.Copy(io.Discard, s)
	}
	peer.Handle(n.mux, "/echo", func(ctx context.Context, req map[string]string) (map[string]string, error) {
		n.reached.Add(1)
		return map[string]string{"you": string(peer.Caller(ctx)), "key": peer.CallerFingerprint(ctx), "said": req["say"]}, nil
	})
	peer.Handle(n.join, "/join", func(ctx context.Context, req map[string]string) (map[string]string, error) {
		return map[string]string{"you": string(peer.Caller(ctx)), "key": peer.CallerFingerprint(ctx), "said": req["say"]}, nil
	})
	opts := peer.Options{Node: n.id, Certificate: cert, Trust: list, Resolver: list, Logger: zap.NewNop()}
	if change != nil {
		change(&opts)
	}
	p, err := peer.New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	n.Peer = p
	ln, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- p.Serve(ctx, countingListener{ln, &n.conns}, peer.Handlers{
			Calls: n.mux,
			Join:  n.join,
			Data: func(ctx context.Context, s *peer.ReceiveStream) (any, error) {
				n.reached.Add(1)
				return n.data(ctx, s)
			},
		})
	}()
	n.stop = sync.OnceValue(func() error {
		cancel()
		err := <-served
		p.Close()
		return err
	})
	tb.Cleanup(func() {
		if err := n.stop(); err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return n
}

// two members of one cluster.
func two(tb testing.TB) (a, b *node) {
	tb.Helper()
	list := newMembers()
	a, b = start(tb, list, nil), start(tb, list, nil)
	list.add(a)
	list.add(b)
	return a, b
}

// stranger is a node that knows where n is, and is not in n's list.
func stranger(t *testing.T, n *node) *node {
	t.Helper()
	list := newMembers()
	s := start(t, list, nil)
	list.add(n)
	return s
}

type countingListener struct {
	net.Listener
	n *atomic.Int32
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func mustCall(t *testing.T, from, to *node) {
	t.Helper()
	var got map[string]string
	if err := from.Call(t.Context(), to.id, "/echo", map[string]string{"say": "hi"}, &got); err != nil {
		t.Fatal(err)
	}
	if got["you"] != string(from.id) || got["key"] != from.fingerprint || got["said"] != "hi" {
		t.Fatalf("answer is %v", got)
	}
}
