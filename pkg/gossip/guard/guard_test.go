package guard_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"log" //nolint:depguard // memberlist's transport wants this type
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/gossip/guard"
)

const label = "0123456789abcdef"

type gate struct {
	*guard.Transport
	refused chan error
}

func open(t *testing.T) gate {
	t.Helper()
	refused := make(chan error, 1000)
	tr, err := guard.New(guard.Options{
		Label: label, Bind: netip.MustParseAddrPort("127.0.0.1:0"), Nodes: 10, State: 100,
		Refused: func(_ net.Addr, why error) { refused <- why }, Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	if err := tr.SetKeys([][]byte{key(1), key(2)}); err != nil {
		t.Fatal(err)
	}
	return gate{tr, refused}
}

func key(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

func seal(key, plain, aad []byte) []byte {
	block, _ := aes.NewCipher(key)
	gcm, _ := cipher.NewGCM(block)
	nonce := make([]byte, 12)
	return gcm.Seal(append([]byte{1}, nonce...), nonce, plain, aad)
}

func packet(name string, key, plain []byte) []byte {
	return append(append([]byte{244, byte(len(name))}, name...), seal(key, plain, []byte(name))...)
}

func frame(key, plain []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{10}, uint32(len(plain)+29))
	out := append([]byte{244, byte(len(label))}, label...)
	return append(append(out, head...), seal(key, plain, append(bytes.Clone(head), label...))...)
}

func (g gate) dial(t *testing.T, network string) net.Conn {
	t.Helper()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(g.GetAutoBindPort()))
	c, err := (&net.Dialer{}).DialContext(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestTransport_Packets(t *testing.T) {
	g := open(t)
	c := g.dial(t, "udp")
	for name, tc := range map[string]struct {
		b    []byte
		want error // nil: it is let in
	}{
		"a ping":           {packet(label, key(1), []byte{0, 1}), nil},
		"the other key":    {packet(label, key(2), []byte{0, 1}), nil},
		"with checksum":    {packet(label, key(1), []byte{12, 0, 0, 0, 0, 8, 1}), nil},
		"a compound":       {packet(label, key(1), []byte{7, 2, 0, 1, 0, 1, 8, 4}), nil},
		"a dropped key":    {packet(label, key(3), []byte{0, 1}), guard.ErrKey},
		"nothing":          {packet(label, key(1), nil), guard.ErrMessage},
		"compressed":       {packet(label, key(1), []byte{9, 1}), guard.ErrMessage},
		"compressed in it": {packet(label, key(1), []byte{7, 1, 0, 1, 9}), guard.ErrMessage},
		"a cut compound":   {packet(label, key(1), []byte{7, 200, 0}), guard.ErrMessage},
		"an exchange":      {packet(label, key(1), []byte{6, 1}), guard.ErrMessage},
		"no label":         {seal(key(1), []byte{0, 1}, nil), guard.ErrMessage},
		"a cut label":      {[]byte{244, 200, 'x'}, guard.ErrMessage},
		"large":            {packet(label, key(1), make([]byte, 3000)), guard.ErrMessage},
	} {
		if _, err := c.Write(tc.b); err != nil {
			t.Fatal(err)
		}
		select {
		case p := <-g.PacketCh():
			if tc.want != nil || !bytes.Equal(p.Buf, tc.b) {
				t.Errorf("%s: let in as %x", name, p.Buf)
			}
		case err := <-g.refused:
			if tc.want == nil || !errors.Is(err, tc.want) {
				t.Errorf("%s: refused: %v", name, err)
			}
		}
	}
	if _, err := c.Write(packet("fedc", key(1), []byte{0, 1})); err != nil {
		t.Fatal(err)
	}
	var foreign *guard.ForeignError
	if err := <-g.refused; !errors.As(err, &foreign) || foreign.Label != "fedc" {
		t.Errorf("another cluster: %v", err)
	}
}

func TestTransport_Streams(t *testing.T) {
	g := open(t)
	exchange := func(nodes, state byte) []byte {
		return append([]byte{6, 0x82, 0xa5}, append(append([]byte("Nodes"), nodes, 0xac), append([]byte("UserStateLen"), state)...)...)
	}
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"a ping":         {frame(key(1), []byte{0, 1}), nil},
		"an exchange":    {frame(key(2), exchange(10, 100)), nil},
		"many nodes":     {frame(key(1), exchange(11, 0)), guard.ErrMessage},
		"a large state":  {frame(key(1), exchange(0, 101)), guard.ErrMessage},
		"no header":      {frame(key(1), []byte{6, 0xc1}), guard.ErrMessage},
		"a user message": {frame(key(1), []byte{8, 1}), guard.ErrMessage},
		"an answer":      {frame(key(1), []byte{2, 1}), guard.ErrMessage},
		"compressed":     {frame(key(1), []byte{9, 1}), guard.ErrMessage},
		"nothing":        {frame(key(1), nil), guard.ErrMessage},
		"a dropped key":  {frame(key(3), []byte{0, 1}), guard.ErrKey},
		"4 GiB":          {append([]byte{244, 16}, label+"\x0a\xff\xff\xff\xff"...), guard.ErrMessage},
		"not encrypted":  {append([]byte{244, 16}, label+"\x00\x00\x00\x00\x00"...), guard.ErrMessage},
		"no label":       {[]byte("GET / HTTP/1.1\r\n"), guard.ErrMessage},
	} {
		c := g.dial(t, "tcp")
		if _, err := c.Write(tc.b); err != nil {
			t.Fatal(err)
		}
		in := <-g.StreamCh()
		got, err := io.ReadAll(in)
		switch {
		case tc.want == nil && (err != nil || !bytes.Equal(got, tc.b)):
			t.Errorf("%s: %v, read %x", name, err, got)
		case tc.want != nil && (!errors.Is(err, tc.want) || len(got) > 0):
			t.Errorf("%s: read %x, %v", name, got, err)
		}
		in.Close()
	}
}

// Connections that say nothing do not keep a member out.
func TestTransport_SilentConnectionsGiveWay(t *testing.T) {
	g := open(t)
	for range 200 {
		g.dial(t, "tcp")
		(<-g.StreamCh()).SetDeadline(time.Now().Add(time.Minute))
	}
	c := g.dial(t, "tcp")
	b := frame(key(1), []byte{0, 1})
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	in := <-g.StreamCh()
	defer in.Close()
	if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, b) {
		t.Errorf("a member's stream after 200 silent ones: %v", err)
	}
}

func TestTransport_Refusals(t *testing.T) {
	if _, err := guard.New(guard.Options{Bind: netip.MustParseAddrPort("127.0.0.1:0")}); err == nil {
		t.Error("started without a label")
	}
	g := open(t)
	if err := g.SetKeys([][]byte{make([]byte, 5)}); err == nil {
		t.Error("a short key was taken")
	}
	for _, addr := range []string{"localhost:1", "?010203:53", "127.0.0.1"} {
		if _, err := g.WriteTo([]byte("x"), addr); err == nil {
			t.Errorf("sent to %q, which would have to be looked up", addr)
		}
	}
}
