package gossip_test

import (
	"bytes"
	"compress/lzw"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
)

// `go test ./pkg/gossip -run Hostile -args -hostile=1000000` is what `make soak` runs.
var (
	hostilePackets = flag.Int("hostile", 3000, "how many hostile packets TestGossip_HostilePackets sends")
	hostileSeed    = flag.Uint64("hostile-seed", 0, "the seed of TestGossip_HostilePackets; 0 takes one from the clock")
)

// attacker makes what a stranger sends, and what one sends who has the key.
type attacker struct {
	*rand.Rand
	key    []byte
	victim guest.NodeID
	member guest.NodeID
}

func (a attacker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(a.Uint32())
	}
	return b
}

func labelled(label string, rest []byte) []byte {
	return append(append([]byte{244, byte(len(label))}, label...), rest...)
}

// seal encrypts like memberlist; version 0 has a padding, which is not made here.
func (a attacker) seal(version byte, plain, aad []byte) []byte {
	block, err := aes.NewCipher(a.key)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce := a.bytes(12)
	return gcm.Seal(append([]byte{version}, nonce...), nonce, plain, aad)
}

func packed(kind byte, v any) []byte {
	out := bytes.NewBuffer([]byte{kind})
	if err := codec.NewEncoder(out, &codec.MsgpackHandle{}).Encode(v); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// bomb is a compressed message that holds size zeros.
func bomb(size int) []byte {
	var buf bytes.Buffer
	w := lzw.NewWriter(&buf, lzw.LSB, 8)
	_, _ = io.CopyN(w, zeros{}, int64(size))
	w.Close()
	return packed(9, map[string]any{"Algo": 0, "Buf": buf.Bytes()})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func compound(parts ...[]byte) []byte {
	out := []byte{7, byte(len(parts))}
	for _, p := range parts {
		out = binary.BigEndian.AppendUint16(out, uint16(len(p)))
	}
	return append(out, bytes.Join(parts, nil)...)
}

// messages are what one who has the key may send in a packet.
func (a attacker) messages() [][]byte {
	name := func() string { return hex.EncodeToString(a.bytes(16)) }
	vsn := []uint8{1, 5, 2, 0, 0, 0}
	alive := func(node string, size int) []byte {
		return packed(4, map[string]any{"Incarnation": a.Uint32(), "Node": node, "Addr": a.bytes(4), "Port": 7946, "Meta": a.bytes(size), "Vsn": vsn})
	}
	entry := func(node string, keySize, valueSize int) []byte {
		id, _ := hex.DecodeString(node)
		b := append([]byte{8, 1}, id...)
		b = binary.BigEndian.AppendUint64(b, uint64(a.IntN(4)))
		b = binary.BigEndian.AppendUint64(b, a.Uint64())
		b = append(append(b, byte(a.IntN(2)), byte(keySize)), a.bytes(keySize)...)
		return append(binary.BigEndian.AppendUint16(b, uint16(valueSize)), a.bytes(valueSize)...)
	}
	ping := packed(0, map[string]any{"SeqNo": a.Uint32(), "Node": string(a.victim), "SourceAddr": a.bytes(3), "SourcePort": 53})
	out := [][]byte{
		ping, compound(ping, ping, ping), compound(compound(ping)),
		packed(1, map[string]any{"SeqNo": a.Uint32(), "Target": []byte{127, 0, 0, 1}, "Port": 9, "Nack": true, "SourceAddr": a.bytes(4), "SourcePort": 9}),
		packed(2, map[string]any{"SeqNo": a.Uint32(), "Payload": a.bytes(100)}),
		packed(3, map[string]any{"Incarnation": a.Uint32(), "Node": name(), "From": name()}),
		packed(5, map[string]any{"Incarnation": 1, "Node": string(a.member), "From": name()}),
		alive(name(), 100), alive("n1", 1), alive("", 0), alive(string(a.member), 512),
		entry(name(), 100, 800), entry(string(a.member), a.IntN(129), a.IntN(801)), entry(string(a.victim), 10, 10), entry(string(a.member), 255, 65535),
		bytes.Repeat([]byte{0x91}, 1200),
		{12, 0, 0, 0, 0},
		{7, 255},
		{8},
		{9},
		{a.bytes(1)[0]},
	}
	return out
}

// packet is one UDP packet of any kind.
func (a attacker) packet(bombs [][]byte) []byte {
	aad := []byte(clusterID)
	switch a.IntN(8) {
	case 0:
		return a.bytes(1 + a.IntN(1500))
	case 1:
		return labelled(clusterID, a.bytes(a.IntN(1500)))
	case 2:
		return labelled("fedcba9876543210fedcba9876543210", a.bytes(a.IntN(100)))
	case 3:
		return labelled(clusterID, append([]byte{1}, a.bytes(a.IntN(1500))...))
	case 4: // an older way of encrypting, whose padding is not looked at
		return labelled(clusterID, a.seal(0, a.bytes(16+a.IntN(100)), aad))
	case 5:
		return labelled(clusterID, a.seal(1, bombs[a.IntN(len(bombs))], aad))
	}
	all := a.messages()
	m := all[a.IntN(len(all))]
	if a.IntN(2) == 0 && len(m) > 0 {
		m[a.IntN(len(m))] ^= 1 << a.IntN(8)
	}
	sealed := labelled(clusterID, a.seal(1, m, aad))
	if a.IntN(4) == 0 {
		sealed[a.IntN(len(sealed))] ^= 1 << a.IntN(8)
	}
	return sealed
}

// stream is what is written to a connection.
func (a attacker) stream(bombs [][]byte) []byte {
	frame := func(plain []byte) []byte {
		head := binary.BigEndian.AppendUint32([]byte{10}, uint32(len(plain)+29))
		return labelled(clusterID, append(head, a.seal(1, plain, append(bytes.Clone(head), clusterID...))...))
	}
	exchange := func(nodes, state int) []byte {
		return packed(6, map[string]any{"Nodes": nodes, "UserStateLen": state, "Join": true})
	}
	switch a.IntN(9) {
	case 0:
		return a.bytes(1 + a.IntN(5000))
	case 1: // it announces 4 GiB, and hangs
		return labelled(clusterID, []byte{10, 255, 255, 255, 255})
	case 2: // it announces what is allowed, and hangs
		return labelled(clusterID, append([]byte{10, 0, 3, 0, 0}, a.bytes(a.IntN(100_000))...))
	case 3:
		return frame(nil)
	case 4:
		return frame(bombs[a.IntN(len(bombs))])
	case 5:
		return frame(exchange(1<<20, 0))
	case 6:
		return frame(exchange(0, 20<<20))
	case 7:
		return frame(append(exchange(3, 100), bytes.Repeat([]byte{0x81}, 5000)...))
	default:
		return frame(packed(8, map[string]any{"UserMsgLen": 20 << 20}))
	}
}

// heapPeak watches the heap until stop is called, which answers its largest size.
func heapPeak() (stop func() uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var peak uint64
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for ctx.Err() == nil {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return func() uint64 { cancel(); wg.Wait(); return peak }
}

// Whatever comes in, from strangers and from those who have the key: memory is
// bounded, no forged node is a member, and the members go on.
func TestGossip_HostilePackets(t *testing.T) {
	seed := *hostileSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d packets, -hostile-seed=%d", *hostilePackets, seed)
	w := newWorld(t)
	victim, member := w.start(w.options(newID(), 1)), w.start(w.options(newID(), 1))
	w.until(victim, "alive", func() bool { return victim.state(member.id) == gossip.Alive })
	// In a packet there is room for a bomb of 512 KiB, or for a part of a larger one.
	huge := bomb(4 << 20)
	small := [][]byte{bomb(512 << 10), huge, huge[:1500]}
	large := [][]byte{huge, bomb(1 << 20)}
	peak := heapPeak()
	var wg sync.WaitGroup
	wg.Go(func() {
		a := attacker{rand.New(rand.NewPCG(seed, 1)), w.key, victim.id, member.id}
		c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", victim.Addr())
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		tick := time.NewTicker(time.Millisecond) // else the kernel drops most of them
		defer tick.Stop()
		for i := range *hostilePackets {
			_, _ = c.Write(a.packet(small)) // too large ones are refused here already
			if i%32 == 0 {
				<-tick.C
			}
		}
	})
	wg.Go(func() {
		a := attacker{rand.New(rand.NewPCG(seed, 2)), w.key, victim.id, member.id}
		var open []net.Conn
		for range *hostilePackets / 20 {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", victim.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write(a.stream(large)) // it may be refused before the end
			open = append(open, c)
			if len(open) > 200 { // the others hang meanwhile
				open[0].Close()
				open = open[1:]
			}
		}
		for _, c := range open {
			c.Close()
		}
	})
	wg.Wait()
	if got := peak(); got > 256<<20 {
		t.Errorf("the heap grew to %d MiB", got>>20)
	} else {
		t.Logf("the heap grew to %d MiB", got>>20)
	}
	if got := victim.Members(); len(got) != 2 {
		t.Errorf("members are %+v", got)
	}
	// They hear each other, both ways, also what only an exchange brings.
	for i, pair := range [][2]*node{{victim, member}, {member, victim}} {
		value := fmt.Sprintf("after/%d", i)
		if err := pair[0].Publish("guest/100", []byte(value)); err != nil {
			t.Fatal(err)
		}
		w.until(pair[1], "an entry after it all", pair[1].hears(pair[0].id, "guest/100", value))
	}
}
