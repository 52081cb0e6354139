package gossip

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
)

// passOn is how many news of one exchange are broadcast further: those of a node
// that was away for a while, not those of a whole cluster that meets another half.
const passOn = 64

// maxQueue is how many news wait to be passed on: what broadcasts carry in about a
// second. What is beyond it comes with the next exchange, which costs less than to
// say it to everybody a dozen times, and does not hold up what comes after it.
const maxQueue = 256

// delegate is what memberlist asks for our bytes. Its methods do short work in
// memory and return.
type delegate struct{ g *Gossip }

var _ memberlist.Delegate = delegate{}

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.meta.text
}

// NotifyMsg implements memberlist.Delegate.
func (d delegate) NotifyMsg(b []byte) { d.g.take(b) }

// MergeRemoteState implements memberlist.Delegate.
func (d delegate) MergeRemoteState(b []byte, _ bool) { d.g.heard(b) }

// LocalState implements memberlist.Delegate.
func (d delegate) LocalState(bool) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return encodeOffer(d.g.opts.Node, &d.g.table.digest)
}

// GetBroadcasts implements memberlist.Delegate.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// take takes in what came by broadcast.
func (g *Gossip) take(b []byte) {
	entries, err := decode(b)
	if err != nil {
		g.quiet.warn("gossip: a message that cannot be read was dropped; another version of tandemd may run somewhere", zap.Error(err))
		return
	}
	g.merge(entries)
}

// merge takes in what came of members and passes on what was news.
func (g *Gossip) merge(entries []entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var news []entry
	for _, e := range entries {
		switch {
		case e.node == g.opts.Node:
			news = append(news, g.author.outbid(&g.table, e)...)
		case g.belongs(e.node) && g.table.merge(e):
			news = append(news, e)
		}
	}
	if len(news) == 0 {
		return
	}
	poke(g.changed)
	if len(news) > passOn {
		g.crowded.Store(true)
		return
	}
	for _, e := range news {
		g.passOn(e)
	}
}

func (g *Gossip) passOn(e entry) {
	g.queue.QueueBroadcast(broadcast(e))
	if g.queue.NumQueued() > maxQueue {
		g.queue.Prune(maxQueue)
		g.crowded.Store(true)
	}
}

// message is an entry on its way; a newer one of the same key replaces it.
type message struct {
	name string
	body []byte
}

func broadcast(e entry) message {
	body, _ := encode([]entry{e}, maxReply) // one always has room
	return message{name: string(e.node) + "/" + e.key, body: body}
}

// Name implements memberlist.NamedBroadcast.
func (m message) Name() string { return m.name }

// Message implements memberlist.Broadcast.
func (m message) Message() []byte { return m.body }

// Finished implements memberlist.Broadcast.
func (message) Finished() {}

// Invalidates implements memberlist.Broadcast.
func (m message) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(memberlist.NamedBroadcast)
	return ok && o.Name() == m.name
}

// door keeps out of memberlist's list who is no member. It is asked with
// memberlist's lock held.
type door struct{ g *Gossip }

var _ memberlist.AliveDelegate = door{}

var errNoMember = errors.New("not a member")

// NotifyAlive implements memberlist.AliveDelegate.
func (d door) NotifyAlive(n *memberlist.Node) error {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	if !d.g.belongs(guest.NodeID(n.Name)) {
		return errNoMember
	}
	return nil
}

// events is where memberlist tells of nodes, holding its own lock.
type events struct{ g *Gossip }

var _ memberlist.EventDelegate = events{}

// NotifyJoin implements memberlist.EventDelegate.
func (e events) NotifyJoin(n *memberlist.Node) { e.g.note(n, Alive) }

// NotifyUpdate implements memberlist.EventDelegate.
func (e events) NotifyUpdate(n *memberlist.Node) { e.g.note(n, Alive) }

// NotifyLeave implements memberlist.EventDelegate.
func (e events) NotifyLeave(n *memberlist.Node) { e.g.note(n, Dead) }

func (g *Gossip) note(n *memberlist.Node, state State) {
	id := guest.NodeID(n.Name)
	var meta Meta
	readable := json.Unmarshal(n.Meta, &meta) == nil
	g.mu.Lock()
	defer g.mu.Unlock()
	if state == Dead && !g.belongs(id) {
		delete(g.members, id)
		return
	}
	m := g.members[id]
	if m == nil {
		m = &Member{Node: id}
		g.members[id] = m
	}
	if m.State != state {
		m.State, m.Since = state, time.Now()
		g.countAlive()
	}
	if state == Alive {
		m.Address = n.Address()
	}
	if readable {
		m.Meta = meta
	}
	poke(g.changed)
}

// countAlive keeps the number for the broadcasts, which cannot wait for the lock.
func (g *Gossip) countAlive() {
	var n int32
	for _, m := range g.members {
		if m.State == Alive {
			n++
		}
	}
	g.alive.Store(n)
}
