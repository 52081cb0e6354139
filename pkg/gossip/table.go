package gossip

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// What is kept of others is bounded, in number and in bytes, for each node and in
// all. What exceeds it is ignored; real clusters stay far below.
const (
	maxNodes      = 256
	maxKeys       = 16384
	maxNodeBytes  = 4 << 20
	maxTableBytes = 48 << 20
	// entryOverhead is about what an entry takes up besides its key and value.
	entryOverhead = 200
)

// entry is one value that a node has published. Only that node makes entries with
// its ID; all others pass them on.
type entry struct {
	node guest.NodeID
	// boot and seq order the entries of one node: boot grows with each start of its
	// daemon, seq with each change. No clock is involved.
	boot, seq uint64
	key       string // empty: the mark, which tells the boot and how it ends
	value     []byte
	deleted   bool
}

// newer orders entries of one node and key. Two that differ and have the same
// version (a restored boot counter) are ordered by content, so that all nodes agree.
func (e entry) newer(o entry) bool {
	if c := cmp.Or(cmp.Compare(e.boot, o.boot), cmp.Compare(e.seq, o.seq)); c != 0 {
		return c > 0
	}
	if e.deleted != o.deleted {
		return e.deleted
	}
	return bytes.Compare(e.value, o.value) > 0
}

func (e entry) place() place { return place{e.node, e.key} }

func (e entry) size() int { return entryOverhead + len(e.key) + len(e.value) }

// buckets is how many parts the entries are divided into, by node and key.
const buckets = 256

// digest tells two tables apart: for each bucket the sums of its entries, combined.
// Equal tables have equal digests, and where digests are equal so are the entries,
// but for a chance of one in 2^64.
type digest [buckets]uint64

// differing are the buckets in which two digests differ.
func (d *digest) differing(o *digest) []uint8 {
	var out []uint8
	for i := range d {
		if d[i] != o[i] {
			out = append(out, uint8(i))
		}
	}
	return out
}

// kept is an entry in a table, with what its digest is made of.
type kept struct {
	entry
	sum    uint64
	bucket uint8
}

func keep(e entry) kept {
	h := fnv.New32a()
	_, _ = h.Write([]byte(e.node)) // a hash takes everything
	_, _ = h.Write([]byte(e.key))
	sum := sha256.Sum256(appendEntry(nil, e))
	return kept{entry: e, sum: binary.BigEndian.Uint64(sum[:]), bucket: uint8(h.Sum32() % buckets)}
}

// table is what is known of all nodes' entries. For each node it keeps the entries
// of its latest boot, deleted ones included; an entry of a later boot makes all the
// earlier ones void. Merging is commutative, associative and idempotent, so that it
// does not matter which way and how often something comes.
type table struct {
	nodes  map[guest.NodeID]*published
	digest digest
	size   int // of all entries
}

type published struct {
	boot    uint64
	entries map[string]kept
	size    int
}

func newTable() table { return table{nodes: map[guest.NodeID]*published{}} }

// merge takes an entry in and answers whether it was news.
func (t *table) merge(e entry) bool {
	p, all := t.nodes[e.node], t.size
	switch {
	case p == nil && len(t.nodes) >= maxNodes:
		return false
	case p == nil:
		p = &published{boot: e.boot, entries: map[string]kept{}}
	case e.boot < p.boot:
		return false
	case e.boot > p.boot:
		all -= p.size
		p = &published{boot: e.boot, entries: map[string]kept{}}
	}
	old, found := p.entries[e.key]
	grows := e.size()
	switch {
	case found && !e.newer(old.entry):
		return false
	case found:
		grows -= old.size()
	case len(p.entries) >= maxKeys:
		return false
	}
	if grows > 0 && (p.size+grows > maxNodeBytes || all+grows > maxTableBytes) {
		return false
	}
	if t.nodes[e.node] != p {
		t.drop(e.node)
		t.nodes[e.node] = p
	}
	now := keep(e)
	p.entries[e.key] = now
	p.size += grows
	t.size += grows
	t.digest[now.bucket] ^= now.sum
	if found {
		t.digest[old.bucket] ^= old.sum
	}
	return true
}

// drop forgets a node.
func (t *table) drop(node guest.NodeID) {
	p := t.nodes[node]
	if p == nil {
		return
	}
	for _, k := range p.entries {
		t.digest[k.bucket] ^= k.sum
	}
	t.size -= p.size
	delete(t.nodes, node)
}

// entry finds an entry of a node's latest boot.
func (t *table) entry(node guest.NodeID, key string) (kept, bool) {
	p := t.nodes[node]
	if p == nil {
		return kept{}, false
	}
	k, ok := p.entries[key]
	return k, ok
}

// values are the live entries of a node.
func (t *table) values(node guest.NodeID) map[string][]byte {
	out := map[string][]byte{}
	if p := t.nodes[node]; p != nil {
		for key, e := range p.entries {
			if key != "" && !e.deleted {
				out[key] = bytes.Clone(e.value)
			}
		}
	}
	return out
}

// mark is the value of a node's mark in its latest boot.
func (t *table) mark(node guest.NodeID) string {
	k, _ := t.entry(node, "")
	return string(k.value)
}

// list returns the entries that match, in a fixed order.
func (t *table) list(match func(kept) bool) []entry {
	var out []entry
	for _, node := range slices.Sorted(maps.Keys(t.nodes)) {
		p := t.nodes[node]
		from := len(out)
		for _, k := range p.entries {
			if match(k) {
				out = append(out, k.entry)
			}
		}
		slices.SortFunc(out[from:], func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	}
	return out
}

// author makes this node's own entries.
type author struct {
	node      guest.NodeID
	boot, seq uint64
}

// next is the entry for a change of ours.
func (a *author) next(key string, value []byte) entry {
	a.seq++
	return entry{node: a.node, boot: a.boot, seq: a.seq, key: key, value: value}
}

// outbid is told each entry that comes with our ID. One that is not ours is of a
// life that we do not remember (a boot counter that was restored): then this life
// gets a later boot, and all of ours is to be said again.
func (a *author) outbid(t *table, e entry) (again []entry) {
	own, found := t.entry(a.node, e.key)
	if e.boot < a.boot || e.boot == a.boot && found && !e.newer(own.entry) {
		return nil
	}
	ours := t.list(func(k kept) bool { return k.node == a.node })
	slices.SortFunc(ours, func(x, y entry) int { return cmp.Compare(x.seq, y.seq) })
	a.boot = e.boot + 1
	for _, old := range ours {
		e := a.next(old.key, old.value)
		e.deleted = old.deleted
		t.merge(e)
		again = append(again, e)
	}
	return again
}
