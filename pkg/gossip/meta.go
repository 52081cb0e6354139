package gossip

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/tandemd/tandem/pkg/guest"
)

// Meta is what a node says of itself all the time.
type Meta struct {
	Name       guest.NodeName `json:"n"`
	Peer       string         `json:"p,omitempty"` // HOST:PORT of its peer port
	Generation string         `json:"g,omitempty"` // of its ledger
	Applied    uint64         `json:"a,omitempty"` // index that its ledger has reached
	Version    string         `json:"v,omitempty"` // of tandemd
	Boot       uint64         `json:"b,omitempty"` // how often its daemon has started
}

// metadata is this node's Meta and when it is to be sent. Each time costs a packet's
// worth from every node to some others, so that an index which changes all the time,
// on all nodes, would leave no room for other news.
type metadata struct {
	meta Meta
	text []byte
	due  time.Time // zero: it was sent
}

// set changes it; where only the index did it may wait.
func (d *metadata) set(m Meta, now time.Time, wait time.Duration) error {
	if m == d.meta {
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > memberlist.MetaMaxSize {
		return fmt.Errorf("what this node says of itself has %d bytes, more than %d: %s", len(b), memberlist.MetaMaxSize, b)
	}
	same := m
	same.Applied = d.meta.Applied
	switch {
	case same != d.meta:
		d.due = now
	case d.due.IsZero():
		d.due = now.Add(wait)
	}
	d.meta, d.text = m, b
	return nil
}

// take says whether it is to be sent now, and then takes it for sent.
func (d *metadata) take(now time.Time) bool {
	if d.due.IsZero() || now.Before(d.due) {
		return false
	}
	d.due = time.Time{}
	return true
}
