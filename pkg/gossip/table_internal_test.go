package gossip

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zapcore"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
)

func id(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

func TestTable_Merge(t *testing.T) {
	base := entry{node: id(1), boot: 2, seq: 5, key: "k", value: []byte("old")}
	change := func(f func(*entry)) entry {
		e := base
		f(&e)
		return e
	}
	for name, tc := range map[string]struct {
		e    entry
		news bool
		want map[string][]byte
	}{
		"the same again":      {base, false, map[string][]byte{"k": []byte("old")}},
		"a later change":      {change(func(e *entry) { e.seq, e.value = 6, []byte("new") }), true, map[string][]byte{"k": []byte("new")}},
		"an earlier change":   {change(func(e *entry) { e.seq, e.value = 4, []byte("new") }), false, map[string][]byte{"k": []byte("old")}},
		"deleted":             {change(func(e *entry) { e.seq, e.value, e.deleted = 6, nil, true }), true, map[string][]byte{}},
		"deleted before":      {change(func(e *entry) { e.seq, e.value, e.deleted = 4, nil, true }), false, map[string][]byte{"k": []byte("old")}},
		"an earlier boot":     {change(func(e *entry) { e.boot, e.seq = 1, 99 }), false, map[string][]byte{"k": []byte("old")}},
		"a later boot":        {change(func(e *entry) { e.boot, e.seq, e.key, e.value = 3, 1, "j", []byte("x") }), true, map[string][]byte{"j": []byte("x")}},
		"a later boot's mark": {change(func(e *entry) { e.boot, e.seq, e.key, e.value = 3, 1, "", nil }), true, map[string][]byte{}},
		"of another node":     {change(func(e *entry) { e.node, e.seq = id(2), 9 }), true, map[string][]byte{"k": []byte("old")}},
	} {
		table := newTable()
		table.merge(base)
		if news := table.merge(tc.e); news != tc.news {
			t.Errorf("%s: news is %v", name, news)
		}
		if diff := cmp.Diff(tc.want, table.values(id(1))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func entries() *rapid.Generator[[]entry] {
	return rapid.SliceOf(rapid.Custom(func(t *rapid.T) entry {
		return entry{
			node:    id(rapid.IntRange(1, 3).Draw(t, "node")),
			boot:    rapid.Uint64Range(1, 3).Draw(t, "boot"),
			seq:     rapid.Uint64Range(1, 4).Draw(t, "seq"),
			key:     rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "key"),
			value:   []byte(rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "value")),
			deleted: rapid.Bool().Draw(t, "deleted"),
		}
	}))
}

func everything(kept) bool { return true }

func state(t *table) []byte {
	b, _ := encode(t.list(everything), maxReply)
	return b
}

// recount is the digest as it is without having been kept up to date.
func recount(t *table) (d digest) {
	for _, e := range t.list(everything) {
		k := keep(e)
		d[k.bucket] ^= k.sum
	}
	return d
}

// Whatever the order, however often, whichever way round: the same table.
func TestTable_MergeConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := entries().Draw(t, "entries")
		one, other := newTable(), newTable()
		for _, e := range es {
			one.merge(e)
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for _, i := range append(r.Perm(len(es)), r.Perm(len(es))...) {
			other.merge(es[i])
		}
		if !bytes.Equal(state(&one), state(&other)) || one.size != other.size {
			t.Fatalf("another order gives another table:\n%v\n%v", one, other)
		}
		if one.digest != other.digest || one.digest != recount(&one) {
			t.Fatal("the digest is not that of the table")
		}
		// An exchange of the tables themselves brings nothing new.
		for _, e := range one.list(everything) {
			if other.merge(e) {
				t.Fatalf("%+v is news to a table that has it", e)
			}
		}
		// The newest of each node's latest boot is what stands.
		for _, e := range es {
			p := one.nodes[e.node]
			if e.boot > p.boot || e.boot == p.boot && e.newer(p.entries[e.key].entry) {
				t.Fatalf("%+v is newer than what stands: %+v", e, p)
			}
		}
	})
}

// A node whose boot counter was restored wins over what others remember of it.
func TestAuthor_OutbidsAnEarlierLife(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		others := newTable()
		for _, e := range entries().Draw(t, "remembered") {
			others.merge(e)
		}
		mine := newTable()
		a := &author{node: id(1), boot: rapid.Uint64Range(1, 3).Draw(t, "boot")}
		for _, key := range []string{"", "a", "c"} {
			mine.merge(a.next(key, []byte("now")))
		}
		want := mine.values(id(1))
		for range 2 { // they exchange twice
			for _, e := range others.list(everything) {
				if e.node == id(1) {
					a.outbid(&mine, e)
				}
			}
			for _, e := range mine.list(everything) {
				others.merge(e)
			}
		}
		if diff := cmp.Diff(want, mine.values(id(1))); diff != "" {
			t.Fatalf("own values changed (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, others.values(id(1))); diff != "" {
			t.Fatalf("others see something else (-want +got):\n%s", diff)
		}
	})
}

func TestTable_IsBounded(t *testing.T) {
	table := newTable()
	for n := range maxNodes + 10 {
		table.merge(entry{node: id(n), boot: 1, seq: 1, key: "k"})
	}
	for n := range maxKeys + 10 {
		table.merge(entry{node: id(1), boot: 1, seq: 1, key: fmt.Sprint(n)})
	}
	if len(table.nodes) != maxNodes || len(table.nodes[id(1)].entries) != maxKeys {
		t.Errorf("%d nodes and %d keys, want %d and %d", len(table.nodes), len(table.nodes[id(1)].entries), maxNodes, maxKeys)
	}
	// One node cannot take the place of the others, and all together have their limit.
	for node := range maxTableBytes/maxNodeBytes + 2 {
		for n := range 4300 {
			table.merge(entry{node: id(node), boot: 2, seq: 1, key: fmt.Sprint(n), value: make([]byte, MaxValue)})
		}
		if p := table.nodes[id(node)]; p != nil && p.size > maxNodeBytes {
			t.Fatalf("a node has %d bytes, more than %d", p.size, maxNodeBytes)
		}
	}
	if table.size > maxTableBytes || table.size < maxTableBytes-maxNodeBytes {
		t.Errorf("the table has %d bytes, of %d", table.size, maxTableBytes)
	}
	// What replaces something larger always has room.
	first := table.list(everything)[0]
	first.seq, first.value = 9, nil
	if !table.merge(first) {
		t.Error("a smaller value in place of a larger one was refused")
	}
	if table.digest != recount(&table) {
		t.Error("the digest is not that of the table")
	}
}

func messageOf(es ...entry) []byte {
	b, _ := encode(es, maxReply)
	return b
}

func TestDecode_Refusals(t *testing.T) {
	good := messageOf(entry{node: id(1), boot: 1, seq: 1, key: "key", value: []byte("value")})
	for n := range len(good) {
		if _, err := decode(good[:n]); n != 1 && err == nil { // 1: the version alone, no entries
			t.Errorf("cut at %d: accepted", n)
		}
	}
	for name, b := range map[string][]byte{
		"another version": append([]byte{9}, good[1:]...),
		"something after": append(bytes.Clone(good), 1),
		"long key":        messageOf(entry{node: id(1), key: string(make([]byte, MaxKey+1))}),
		"long value":      messageOf(entry{node: id(1), value: make([]byte, MaxValue+1)}),
		"too long":        make([]byte, maxReply+1),
	} {
		if _, err := decode(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(messageOf(entry{node: id(1), boot: 1, seq: 1, key: "key", value: []byte("value")}, entry{node: id(2), deleted: true}))
	f.Add([]byte{formatVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(messageOf(es...))
		if err != nil || !cmp.Equal(es, again, cmp.AllowUnexported(entry{})) {
			t.Errorf("%x does not come back: %v", b, err)
		}
		table := newTable()
		for _, e := range es {
			table.merge(e)
		}
		if table.digest != recount(&table) {
			t.Error("the digest is not that of the table")
		}
	})
}

func TestClassify(t *testing.T) {
	for line, want := range map[string]zapcore.Level{
		"2026/01/02 03:04:05 [DEBUG] memberlist: Stream connection from=127.0.0.1:1":                           zapcore.DebugLevel,
		"2026/01/02 03:04:05 [INFO] memberlist: Suspect x has failed, no acks received":                        zapcore.InfoLevel,
		"2026/01/02 03:04:05 [WARN] memberlist: Refuting a suspect message (from: x)":                          zapcore.InfoLevel,
		"2026/01/02 03:04:05 [WARN] memberlist: Was able to connect to x over TCP but UDP failed":              zapcore.WarnLevel,
		"2026/01/02 03:04:05 [ERR] memberlist: Decrypt packet failed: no keys from=127.0.0.1:1":                zapcore.WarnLevel,
		"2026/01/02 03:04:05 [ERR] memberlist: Push/Pull with x failed: connection refused":                    zapcore.DebugLevel,
		"2026/01/02 03:04:05 [ERR] memberlist: Failed to send gossip to 127.0.0.1:1: network is down":          zapcore.DebugLevel,
		"2026/01/02 03:04:05 [ERR] memberlist: Encryption of message failed: no key":                           zapcore.ErrorLevel,
		"2026/01/02 03:04:05 [WARN] memberlist: ignoring alive message for 'x': not a member":                  zapcore.DebugLevel,
		"2026/01/02 03:04:05 [ERR] Failed to shutdown transport: x":                                            zapcore.ErrorLevel,
		`2026/01/02 03:04:05 [ERR] memberlist: discarding stream with unacceptable label "": from=127.0.0.1:1`: zapcore.DebugLevel,
		"something else": zapcore.InfoLevel,
	} {
		if got, _ := classify(line); got != want {
			t.Errorf("%s: got %v, want %v", line, got, want)
		}
	}
}
