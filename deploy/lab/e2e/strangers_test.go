//go:build lab

package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/tandemd/tandem/deploy/lab"
)

// wire is a TCP connection that a machine makes: what this process writes goes out there.
type wire struct {
	net.Conn // the reading end
	to       *os.File
}

func (w wire) Write(p []byte) (int, error) { return w.to.Write(p) }

func (w wire) Close() error {
	_ = w.to.Close()
	return w.Conn.Close()
}

func (w wire) SetDeadline(t time.Time) error {
	_ = w.to.SetWriteDeadline(t)
	return w.SetReadDeadline(t)
}

func (w wire) SetWriteDeadline(t time.Time) error { return w.to.SetWriteDeadline(t) }

// dial connects from the machine to an address on the cluster's network.
func (o node) dial(address string) (net.Conn, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go func() {
		_, _ = o.Stream(world.ctx, "socat -T 60 STDIO TCP:"+address, lab.Streams{Stdin: reader, Stdout: far})
		_ = reader.Close()
		_ = far.Close()
	}()
	return wire{near, writer}, nil
}

// stranger is a key that no member list has.
func stranger(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stranger"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// knock sends bytes to the peer port of n1 after a handshake and returns everything that came back.
func knock(t *testing.T, protocol string, send []byte, certificates ...tls.Certificate) (answer []byte, err error) {
	t.Helper()
	raw, err := n("n3").dial(n("n1").Address().String() + ":7947")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	config := &tls.Config{
		Certificates: certificates, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // the stranger takes whoever answers
	}
	if protocol != "" {
		config.NextProtos = []string{protocol}
	}
	ctx, cancel := context.WithTimeout(world.ctx, 30*time.Second)
	defer cancel()
	conn := tls.Client(raw, config)
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if _, err := conn.Write(send); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	answer, err = io.ReadAll(io.LimitReader(conn, mib))
	return answer, err
}

func post(path string, body any) []byte {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // only for values that this file writes
	}
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: tandem\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		path, len(text), text)
}

// refuseStrangers checks what somebody has of the ports who is on the network and in no member list.
func refuseStrangers(t *testing.T) {
	t.Parallel()
	tokens := world.spent
	certificate := stranger(t)
	for _, protocol := range []string{"tandem-call/1", "tandem-raft/1", "tandem-data/1", "http/1.1", "h2", ""} {
		answer, err := knock(t, protocol, post("/", struct{}{}), certificate)
		if len(answer) > 0 || err == nil {
			t.Errorf("peer port, protocol %q: the stranger has %d bytes: %q (%v)", protocol, len(answer), answer, err)
		}
	}
	if answer, err := knock(t, "tandem-join/1", post("/join", struct{}{})); len(answer) > 0 || err == nil {
		t.Errorf("peer port without any key: %q (%v)", answer, err)
	}
	for _, path := range []string{"/", "/report", "/replicate/inventory", "/status", "/v1/status"} {
		answer, err := knock(t, "tandem-join/1", post(path, struct{}{}), certificate)
		if err != nil {
			t.Errorf("join exchange, %s: %v", path, err)
			continue
		}
		if code, body := parse(t, answer); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
			t.Errorf("join exchange, %s: status %d: %s", path, code, body)
		}
	}
	t.Run("gossip", refuseGossip)
	secret := secrets(t)
	eventually(t, "the token of a minute has expired", 2*time.Minute, time.Second, func() (bool, string) {
		return n("n1").clock(t).After(tokens.expires.Add(time.Second)), tokens.expires.String()
	})
	before := n("n1").members(t)
	said := map[string]string{}
	for name, token := range map[string]string{"wrong": tokens.wrong, "used": tokens.used, "expired": tokens.expiring, "empty": ""} {
		request := map[string]any{"token": token, "member": map[string]any{
			"id": strings.Repeat("ab", 16), "name": "n4", "peer": "10.89.0.13:7947", "gossip": "10.89.0.13:7946", "joined": 1,
		}}
		answer, err := knock(t, "tandem-join/1", post("/join", request), certificate)
		if err != nil {
			t.Errorf("join with a token that is %s: %v", name, err)
			continue
		}
		code, body := parse(t, answer)
		t.Logf("join with a token that is %s: status %d: %s", name, code, body)
		if code < 400 {
			t.Errorf("join with a token that is %s: status %d: %s", name, code, body)
		}
		for _, word := range secret {
			if bytes.Contains(answer, []byte(word)) {
				t.Errorf("join with a token that is %s: the answer tells %q: %s", name, word, answer)
			}
		}
		said[name] = body
	}
	// Whoever has the secret is told why it is too late; nobody else learns which tokens there are.
	if said["wrong"] != said["empty"] || !strings.Contains(said["used"], "used before") || !strings.Contains(said["expired"], "has expired") {
		t.Errorf("what is said of tokens: %q", said)
	}
	if after := n("n1").members(t); after != before {
		t.Errorf("members after the refused joins: %s, before: %s", after, before)
	}
}

// parse reads an HTTP answer.
func parse(t *testing.T, answer []byte) (code int, body string) {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil {
		t.Fatalf("no HTTP: %v: %q", err, answer)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(text))
}

// known is what n1 has on its disk of the cluster.
type known struct {
	Cluster string
	Members map[string]struct{ Name, Fingerprint string }
	Gossip  []struct{ Key []byte }
}

func ledgerOnDisk(t *testing.T) known {
	t.Helper()
	var k known
	if err := json.Unmarshal([]byte(n("n1").sh(t, "tail -n +2 /var/lib/tandem/cluster.json")), &k); err != nil {
		t.Fatal(err)
	}
	if k.Cluster == "" || len(k.Members) != 3 || len(k.Gossip) == 0 {
		t.Fatalf("cluster.json of n1: %+v", k)
	}
	return k
}

// secrets are words that no stranger may read.
func secrets(t *testing.T) []string {
	t.Helper()
	k := ledgerOnDisk(t)
	words := []string{k.Cluster, base64.StdEncoding.EncodeToString(k.Gossip[0].Key)}
	for id, member := range k.Members {
		words = append(words, id, member.Fingerprint)
	}
	return words
}

// refuseGossip tries to learn the members by gossip, as anybody could who knows memberlist and even the cluster's ID.
func refuseGossip(t *testing.T) {
	k := ledgerOnDisk(t)
	wrong := make([]byte, len(k.Gossip[0].Key))
	_, _ = rand.Read(wrong) // it cannot fail
	for _, try := range []struct {
		name  string
		label string
		key   []byte
		learn bool
	}{
		{"no key", k.Cluster, nil, false},
		{"no key, no label", "", nil, false},
		{"a wrong key", k.Cluster, wrong, false},
		{"the right key, another label", "other", k.Gossip[0].Key, false},
		// The one that must work, or the others prove nothing.
		{"the right key", k.Cluster, k.Gossip[0].Key, true},
	} {
		learned, err := gossipWith(t, try.label, try.key)
		t.Logf("gossip with %s: %d members, %v", try.name, learned, err)
		if got := err == nil && learned > 0; got != try.learn {
			t.Errorf("gossip with %s: learned %d members (%v), want any: %v", try.name, learned, err, try.learn)
		}
	}
}

// listener notes what a push and pull of states brings, and tells nothing.
type listener struct{ seen int }

func (*listener) NodeMeta(int) []byte             { return nil }
func (*listener) NotifyMsg([]byte)                {}
func (*listener) GetBroadcasts(int, int) [][]byte { return nil }
func (*listener) LocalState(bool) []byte          { return nil }
func (*listener) MergeRemoteState([]byte, bool)   {}

// NotifyMerge sees the members of the other side, and keeps this one from going on.
func (l *listener) NotifyMerge(peers []*memberlist.Node) error {
	l.seen = len(peers)
	return nil
}

// gossipWith exchanges states with n1 once and returns how many members that told.
func gossipWith(t *testing.T, label string, key []byte) (int, error) {
	t.Helper()
	transport := &dialOnly{packets: make(chan *memberlist.Packet), streams: make(chan net.Conn)}
	seen := &listener{}
	config := memberlist.DefaultLANConfig()
	config.Name, config.Label, config.SecretKey = "stranger", label, key
	config.Transport, config.Merge, config.Delegate = transport, seen, seen
	config.EnableCompression = false // members do not compress, and take nothing that is
	config.TCPTimeout = 20 * time.Second
	config.LogOutput = io.Discard
	list, err := memberlist.Create(config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = list.Shutdown() }()
	_, err = list.Join([]string{n("n1").Address().String() + ":7946"})
	return seen.seen, err
}

// dialOnly carries memberlist's TCP exchanges through n3, and no packets.
type dialOnly struct {
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (*dialOnly) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IPv4(10, 89, 0, 99), 7946, nil
}

func (*dialOnly) WriteTo([]byte, string) (time.Time, error)               { return time.Now(), nil }
func (d *dialOnly) PacketCh() <-chan *memberlist.Packet                   { return d.packets }
func (*dialOnly) DialTimeout(a string, _ time.Duration) (net.Conn, error) { return n("n3").dial(a) }
func (d *dialOnly) StreamCh() <-chan net.Conn                             { return d.streams }
func (*dialOnly) Shutdown() error                                         { return nil }

// spoil makes a well-formed token with another secret of a good one.
func spoil(token string) string {
	const prefix, idSize, sumSize = "tandem1-", 8, 4
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, prefix))
	if err != nil {
		return token
	}
	raw[idSize] ^= 1
	sum := sha256.Sum256(raw[:len(raw)-sumSize])
	copy(raw[len(raw)-sumSize:], sum[:])
	return prefix + base64.RawURLEncoding.EncodeToString(raw)
}
