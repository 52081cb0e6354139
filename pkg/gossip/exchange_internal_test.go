package gossip

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
)

// pull is one direction of an exchange: into takes what from has and it does not. It
// answers how many bytes went to and fro.
func pull(t interface{ Fatal(...any) }, into, from *table, limit int) int {
	node, offer, err := decodeOffer(encodeOffer(id(1), &from.digest))
	if err != nil || node != id(1) {
		t.Fatal(node, err)
	}
	cost := offerSize
	var after place
	for range 1000 {
		wanted := into.digest.differing(offer)
		if len(wanted) == 0 {
			return cost
		}
		request := into.request(wanted, after)
		q, err := decodeRequest(request)
		if err != nil {
			t.Fatal(err)
		}
		reply := from.reply(q, limit)
		es, cut, err := decodeReply(reply)
		if err != nil {
			t.Fatal(err)
		}
		cost += len(request) + len(reply)
		for _, e := range es {
			into.merge(e)
		}
		if !cut {
			return cost
		}
		after = es[len(es)-1].place()
	}
	t.Fatal("there is always more")
	return 0
}

// Any two tables are equal after each has pulled from the other, whatever they
// held, also when the replies are cut.
func TestExchange_Converges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tables := [2]table{newTable(), newTable()}
		union := newTable()
		for i := range tables {
			for _, e := range entries().Draw(t, "entries") {
				tables[i].merge(e)
			}
		}
		for i := range tables {
			for _, e := range tables[i].list(everything) {
				union.merge(e)
			}
		}
		limit := rapid.SampledFrom([]int{100, 1000, maxReply}).Draw(t, "limit")
		pull(t, &tables[0], &tables[1], limit)
		pull(t, &tables[1], &tables[0], limit)
		for i := range tables {
			if !bytes.Equal(state(&tables[i]), state(&union)) {
				t.Fatalf("table %d is not the union of both:\n%v\n%v", i, tables[i], union)
			}
		}
	})
}

func guests(node guest.NodeID, n int) table {
	t := newTable()
	for i := range n {
		t.merge(entry{node: node, boot: 1, seq: uint64(i), key: fmt.Sprintf("guest/%d", 100+i), value: []byte(`{"term":"1-0123456789abcdef"}`)})
	}
	return t
}

func TestExchange_CostsWhatDiffers(t *testing.T) {
	for _, n := range []int{0, 10, 10_000} {
		a, b := guests(id(2), n), guests(id(2), n)
		if got := pull(t, &a, &b, maxReply); got != offerSize {
			t.Errorf("%d guests, equal tables: %d bytes, want %d", n, got, offerSize)
		}
	}
	// One change among 10,000 guests costs a small part of all of them.
	a, b := guests(id(2), 10_000), guests(id(2), 10_000)
	b.merge(entry{node: id(2), boot: 1, seq: 20_000, key: "guest/500", value: []byte("changed")})
	if got := pull(t, &a, &b, maxReply); got > offerSize+1000 {
		t.Errorf("one change: %d bytes", got)
	}
	if got := string(a.values(id(2))["guest/500"]); got != "changed" {
		t.Errorf("it did not arrive: %q", got)
	}
}

// messageStart is a request that asks for nothing.
func messageStart() []byte {
	empty := newTable()
	return empty.request(nil, place{})
}

func TestExchange_HostileRequests(t *testing.T) {
	table := guests(id(2), 50)
	good := table.request([]uint8{0, 1, 2, 3}, place{id(2), "guest/1"})
	if _, err := decodeRequest(good); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing":          {},
		"another version":  append([]byte{9}, good[1:]...),
		"a cut bucket":     append(messageStart(), 1, 0, 0),
		"more than it has": append(messageStart(), 1, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8),
		"a cut key":        append(bytes.Clone(good[:1+nodeSize]), 200, 'k'),
		"cut":              good[:len(good)-1],
		"too large":        make([]byte, maxRequest+1),
	} {
		if _, err := decodeRequest(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Large tables make requests and replies of bounded size.
	large := newTable()
	for n := range 6000 {
		large.merge(entry{node: id(n % 20), boot: 1, seq: 1, key: fmt.Sprint(n), value: make([]byte, MaxValue)})
	}
	all := make([]uint8, buckets)
	for i := range all {
		all[i] = uint8(i)
	}
	if got := len(large.request(all, place{})); got > maxRequest {
		t.Errorf("a request of %d bytes", got)
	}
	empty := newTable()
	q, err := decodeRequest(empty.request(all, place{}))
	if err != nil {
		t.Fatal(err)
	}
	reply := large.reply(q, maxReply)
	if es, cut, err := decodeReply(reply); err != nil || !cut || len(es) == 0 || len(reply) > maxReply {
		t.Errorf("a reply of %d bytes with %d entries, cut %v: %v", len(reply), len(es), cut, err)
	}
}

func TestExchange_HostileOffersAndReplies(t *testing.T) {
	var d digest
	offer := encodeOffer(id(1), &d)
	for name, b := range map[string][]byte{
		"nothing": {}, "cut": offer[:len(offer)-1], "longer": append(bytes.Clone(offer), 0), "another version": append([]byte{9}, offer[1:]...),
	} {
		if _, _, err := decodeOffer(b); err == nil {
			t.Errorf("offer, %s: accepted", name)
		}
	}
	for name, b := range map[string][]byte{
		"nothing": {}, "no entries": {0}, "another version": {0, 9}, "no flag": {2, formatVersion}, "too large": make([]byte, maxReply+1),
		"cut": append([]byte{0}, messageOf(entry{node: id(1), key: "k"})[:20]...),
	} {
		if _, _, err := decodeReply(b); err == nil {
			t.Errorf("reply, %s: accepted", name)
		}
	}
}

func FuzzExchange(f *testing.F) {
	var d digest
	table := guests(id(2), 20)
	f.Add(encodeOffer(id(1), &d))
	f.Add(table.request([]uint8{1, 2, 3}, place{}))
	f.Add(append([]byte{1}, messageOf(entry{node: id(1), key: "k", value: []byte("v")})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if node, d, err := decodeOffer(b); err == nil && !cmp.Equal(encodeOffer(node, d), b) {
			t.Error("an offer does not come back")
		}
		if q, err := decodeRequest(b); err == nil {
			if reply := table.reply(q, maxReply); len(reply) > maxReply {
				t.Errorf("a reply of %d bytes", len(reply))
			}
		}
		if es, _, err := decodeReply(b); err == nil {
			into := newTable()
			for _, e := range es {
				into.merge(e)
			}
		}
	})
}
