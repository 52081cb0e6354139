// Package member knows who belongs to the cluster: the list of members that this
// node trusts, founding and joining, and which members vote.
//
// It decides and remembers; raft, gossip, connections and files are reached
// through small interfaces that pkg/daemon fills.
package member

import (
	"fmt"
	"sync"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// Book is the ledger as far as this node knows it from any source: what raft
// applied here, what was cached on disk before a restart, what another member
// told. The one with the highest index holds; all must be of one generation,
// until Switch.
//
// It exists because after a restart raft applies nothing until a leader tells
// what is committed, while a node must know whose key to trust before it can
// hear a leader. All methods are safe for concurrent use; its reads do no I/O.
type Book struct {
	missed, changed chan struct{}

	mu    sync.Mutex
	state *ledger.State
	byKey map[string]guest.NodeID
}

// NewBook begins with what was known before; nil: not in a cluster.
func NewBook(known *ledger.State) *Book {
	b := &Book{missed: make(chan struct{}, 1), changed: make(chan struct{}, 1), state: &ledger.State{}}
	if known != nil {
		b.put(known)
	}
	return b
}

// Learn takes a newer state of the same generation and says whether it was news.
func (b *Book) Learn(s *ledger.State) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.Founded() {
		return false
	}
	if b.state.Founded() && (s.Cluster != b.state.Cluster || s.Generation != b.state.Generation || s.Index <= b.state.Index) {
		return false
	}
	b.put(s)
	return true
}

// Switch takes the state of another generation of the same cluster, when this
// node goes over to it or forces quorum.
func (b *Book) Switch(s *ledger.State) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.Founded() || b.state.Founded() && s.Cluster != b.state.Cluster {
		return fmt.Errorf("generation %s is not one of this cluster", rules.Short(s.Generation))
	}
	b.put(s)
	return nil
}

// Forget leaves the cluster: the node was removed from it, and joins again.
func (b *Book) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.put(&ledger.State{})
}

func (b *Book) put(s *ledger.State) {
	b.state, b.byKey = s, map[string]guest.NodeID{}
	select {
	case b.changed <- struct{}{}:
	default: // one is waiting already
	}
	for id, m := range s.Members {
		b.byKey[m.Fingerprint] = id
	}
}

// Changed gets a token after Learn took a newer state; many may share one.
func (b *Book) Changed() <-chan struct{} { return b.changed }

// Current is the newest state known; it never changes.
func (b *Book) Current() *ledger.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// NodeByFingerprint finds the member that holds a key. An unknown key may be
// that of a member that joined while this node was away: see Missed.
func (b *Book) NodeByFingerprint(fp string) (guest.NodeID, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, ok := b.byKey[fp]
	if !ok && b.state.Founded() {
		select {
		case b.missed <- struct{}{}:
		default: // asked for already
		}
	}
	return id, ok
}

// Missed gets a token when an unknown key was met: ask the known members for
// their list.
func (b *Book) Missed() <-chan struct{} { return b.missed }

// Locate tells where a member takes peer connections, and its key.
func (b *Book) Locate(id guest.NodeID) (addr, fingerprint string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.state.Members[id]
	if !ok {
		return "", "", fmt.Errorf("node %s is not a member", id.Short())
	}
	return m.Peer, m.Fingerprint, nil
}
