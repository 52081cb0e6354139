package gossip

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
)

// An exchange in three steps, in each direction:
//
//	offer    both nodes send the digest of their tables (memberlist's push/pull)
//	request  where they differ a node asks for these buckets, with what it has of them
//	reply    the entries in these buckets that it does not have
//
// Request and reply go over the peer connection, by Options.Fetch and Serve. So an
// exchange of equal tables costs the same however many guests there are, and one of
// different tables little more than what differs.
const (
	// maxRequest and maxReply bound one step in bytes; the rest comes with the next.
	maxRequest = 2 << 20
	maxReply   = 4 << 20
	// maxRounds is how often one node is asked for more after one exchange.
	maxRounds = 16
	offerSize = 1 + nodeSize + 8*buckets
)

// encodeOffer writes version(1) node(16) { sum(8) }*.
func encodeOffer(node guest.NodeID, d *digest) []byte {
	out := make([]byte, 0, offerSize)
	out = append(out, formatVersion)
	out = appendNode(out, node)
	for _, sum := range d {
		out = binary.BigEndian.AppendUint64(out, sum)
	}
	return out
}

func decodeOffer(b []byte) (guest.NodeID, *digest, error) {
	if len(b) != offerSize || b[0] != formatVersion {
		return "", nil, errors.New("not an offer of this version")
	}
	node, b := guest.NodeID(hex.EncodeToString(b[1:1+nodeSize])), b[1+nodeSize:]
	var d digest
	for i := range d {
		d[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return node, &d, nil
}

// place is that of an entry in the order in which replies list them.
type place struct {
	node guest.NodeID
	key  string
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.node, o.node), cmp.Compare(p.key, o.key))
}

// request asks for buckets, from after a place on; the empty place is before all.
// The sums are those of the entries that are here already.
//
//	version(1) node(16) key length(1) key { bucket(1) number(4) { sum(8) }* }*
func (t *table) request(wanted []uint8, after place) []byte {
	var have [buckets][]uint64
	for _, p := range t.nodes {
		for _, k := range p.entries {
			have[k.bucket] = append(have[k.bucket], k.sum)
		}
	}
	if after.node == "" {
		after.node = noNode
	}
	out := appendNode([]byte{formatVersion}, after.node)
	out = append(out, byte(len(after.key)))
	out = append(out, after.key...)
	for _, b := range wanted {
		if len(out)+1+4+8*len(have[b]) > maxRequest {
			break
		}
		out = append(out, b)
		out = binary.BigEndian.AppendUint32(out, uint32(len(have[b]))) //nolint:gosec // bounded by maxRequest
		for _, sum := range have[b] {
			out = binary.BigEndian.AppendUint64(out, sum)
		}
	}
	return out
}

// noNode is before all nodes; no node has this ID.
const noNode = guest.NodeID("00000000000000000000000000000000")

// query is a request as its receiver reads it.
type query struct {
	after  place
	wanted [buckets]bool
	had    map[uint64]bool
}

func decodeRequest(b []byte) (query, error) {
	const fixed = 1 + nodeSize + 1
	q := query{had: map[uint64]bool{}}
	if len(b) < fixed || len(b) > maxRequest || b[0] != formatVersion {
		return q, errors.New("gossip: not a request of this version")
	}
	q.after.node = guest.NodeID(hex.EncodeToString(b[1 : 1+nodeSize]))
	keySize := int(b[fixed-1])
	if b = b[fixed:]; len(b) < keySize {
		return q, errCut
	}
	q.after.key, b = string(b[:keySize]), b[keySize:]
	for len(b) > 0 {
		if len(b) < 1+4 {
			return q, errCut
		}
		n := uint64(binary.BigEndian.Uint32(b[1:]))
		q.wanted[b[0]] = true
		b = b[1+4:]
		if n > uint64(len(b)/8) {
			return q, errCut
		}
		for range n {
			q.had[binary.BigEndian.Uint64(b)] = true
			b = b[8:]
		}
	}
	return q, nil
}

// reply answers a request, as cut(1) and then entries in order; cut is 1 where not
// all fit.
func (t *table) reply(q query, limit int) []byte {
	missing := t.list(func(k kept) bool {
		return q.wanted[k.bucket] && !q.had[k.sum] && k.place().compare(q.after) > 0
	})
	body, n := encode(missing, limit-1)
	cut := byte(0)
	if n < len(missing) {
		cut = 1
	}
	return append([]byte{cut}, body...)
}

func decodeReply(b []byte) (es []entry, cut bool, err error) {
	switch {
	case len(b) == 0 || len(b) > maxReply:
		return nil, false, fmt.Errorf("a reply of %d bytes, not 1 to %d", len(b), maxReply)
	case b[0] > 1:
		return nil, false, errors.New("not a reply of this version")
	}
	es, err = decode(b[1:])
	return es, b[0] == 1, err
}

// Serve answers what another node's Fetch asks of this one.
func (g *Gossip) Serve(request []byte) ([]byte, error) {
	q, err := decodeRequest(request)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.reply(q, maxReply), nil
}

// heard keeps an offer until fetchAll comes to it; a newer one of the same node
// takes its place.
func (g *Gossip) heard(b []byte) {
	node, d, err := decodeOffer(b)
	if err != nil {
		g.quiet.warn("gossip: an exchange that cannot be read was dropped; another version of tandemd may run somewhere", zap.Error(err))
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if node == g.opts.Node || !g.belongs(node) {
		return
	}
	g.offers[node] = d
	poke(g.offered)
}

// fetchAll fetches what others have and this node does not, from one node after the
// other: what the first has told need not be fetched from the next.
func (g *Gossip) fetchAll(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-g.offered:
		}
		for node, offer := range g.takeOffers() {
			if err := g.fetch(ctx, node, offer); err != nil && ctx.Err() == nil {
				g.log.Debug("gossip: what another node knows cannot be fetched yet", zap.String("node", string(node)), zap.Error(err))
			}
		}
	}
}

func (g *Gossip) takeOffers() map[guest.NodeID]*digest {
	g.mu.Lock()
	defer g.mu.Unlock()
	offers := g.offers
	g.offers = map[guest.NodeID]*digest{}
	return offers
}

func (g *Gossip) fetch(ctx context.Context, node guest.NodeID, offer *digest) error {
	ctx, cancel := context.WithTimeout(ctx, g.opts.Timing.Fetch)
	defer cancel()
	var after place
	for range maxRounds {
		request := g.request(offer, after)
		if request == nil {
			return nil
		}
		b, err := g.opts.Fetch(ctx, node, request)
		if err != nil {
			return err
		}
		entries, cut, err := decodeReply(b)
		if err != nil {
			return err
		}
		g.merge(entries)
		if !cut || len(entries) == 0 {
			return nil
		}
		after = entries[len(entries)-1].place()
	}
	return nil
}

// request is what to ask a node with this offer; nil: nothing.
func (g *Gossip) request(offer *digest, after place) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	wanted := g.table.digest.differing(offer)
	if len(wanted) == 0 {
		return nil
	}
	return g.table.request(wanted, after)
}
