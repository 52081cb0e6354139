package gossip

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

const (
	// maxNodes and maxKeys bound what is kept of others. What exceeds them is
	// ignored; real clusters stay far below.
	maxNodes = 256
	maxKeys  = 16384
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

// table is what is known of all nodes' entries. For each node it keeps the entries
// of its latest boot, deleted ones included; an entry of a later boot makes all the
// earlier ones void. Merging is commutative, associative and idempotent, so that it
// does not matter which way and how often something comes.
type table map[guest.NodeID]*published

type published struct {
	boot    uint64
	entries map[string]entry
}

// merge takes an entry in and answers whether it was news.
func (t table) merge(e entry) bool {
	p := t[e.node]
	switch {
	case p == nil && len(t) >= maxNodes:
		return false
	case p == nil || e.boot > p.boot:
		p = &published{boot: e.boot, entries: map[string]entry{}}
		t[e.node] = p
	case e.boot < p.boot:
		return false
	}
	old, found := p.entries[e.key]
	if found && !e.newer(old) || !found && len(p.entries) >= maxKeys {
		return false
	}
	p.entries[e.key] = e
	return true
}

// values are the live entries of a node.
func (t table) values(node guest.NodeID) map[string][]byte {
	out := map[string][]byte{}
	if p := t[node]; p != nil {
		for key, e := range p.entries {
			if key != "" && !e.deleted {
				out[key] = bytes.Clone(e.value)
			}
		}
	}
	return out
}

// mark is the value of a node's mark in its latest boot.
func (t table) mark(node guest.NodeID) string {
	if p := t[node]; p != nil {
		return string(p.entries[""].value)
	}
	return ""
}

// all returns every entry, those of first before the others, in a fixed order.
func (t table) all(first guest.NodeID) []entry {
	nodes := slices.Sorted(maps.Keys(t))
	if i := slices.Index(nodes, first); i > 0 {
		nodes = slices.Insert(slices.Delete(nodes, i, i+1), 0, first)
	}
	var out []entry
	for _, node := range nodes {
		p := t[node]
		for _, key := range slices.Sorted(maps.Keys(p.entries)) {
			out = append(out, p.entries[key])
		}
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
func (a *author) outbid(t table, e entry) (again []entry) {
	var ours []entry
	if p := t[a.node]; p != nil {
		own, found := p.entries[e.key]
		if e.boot < a.boot || e.boot == a.boot && found && !e.newer(own) {
			return nil
		}
		ours = slices.Collect(maps.Values(p.entries))
	}
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
