// Package ledger is the cluster's agreed state (members, guests with owner and
// term, jobs, gossip keys) and the commands that change it.
//
// It is pure and deterministic: the same commands in the same order give the
// same bytes on every node. It uses no clock (times are in the command) and
// knows nothing of raft; pkg/consensus feeds it committed commands, pkg/node and
// pkg/api read its views. Every command has preconditions and may be refused; a
// refused command changes nothing.
package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
)

// Format is the newest format of the ledger that this program knows.
const Format = 1

// Member is a node in the cluster's member list.
type Member struct {
	ID   guest.NodeID   `json:"id"`
	Name guest.NodeName `json:"name"`
	// Fingerprint is the SHA-256 of the node's public key, in hex.
	Fingerprint string `json:"fingerprint"`
	// Peer is where the daemon takes peer connections, host:port.
	Peer string `json:"peer"`
	// Gossip is where the daemon gossips, host:port.
	Gossip string `json:"gossip"`
	// Storages are the names of the node's storages; none makes it a witness.
	Storages []string `json:"storages,omitempty"`
	// Joined is when it was added, in seconds since 1970.
	Joined int64 `json:"joined"`
}

// Has says whether the member has the storage.
func (m Member) Has(storage string) bool { return slices.Contains(m.Storages, storage) }

// GossipKey is one key that encrypts gossip, with its number.
type GossipKey struct {
	Number int    `json:"number"`
	Key    []byte `json:"key"`
}

// State is what the cluster agrees on. A State that View returned is never
// changed again.
type State struct {
	Format     int    `json:"format"`
	Cluster    string `json:"cluster"`
	Generation string `json:"generation"`
	// Index is that of the last command in the log that was applied.
	Index   uint64                    `json:"index"`
	Members map[guest.NodeID]Member   `json:"members"`
	Guests  map[guest.ID]guest.Guest  `json:"guests"`
	Jobs    map[guest.JobID]guest.Job `json:"jobs"`
	Gossip  []GossipKey               `json:"gossip"`
	Removed map[string]Removal        `json:"removed"`
}

// Removal tells when and by whom a node's key was taken off the list.
type Removal struct {
	Node guest.NodeID `json:"node"`
	At   int64        `json:"at"`
	By   string       `json:"by"`
}

func newState() State {
	return State{
		Format:  Format,
		Members: map[guest.NodeID]Member{},
		Guests:  map[guest.ID]guest.Guest{},
		Jobs:    map[guest.JobID]guest.Job{},
		Removed: map[string]Removal{},
	}
}

func (s State) clone() State {
	s.Members = maps.Clone(s.Members)
	s.Guests = maps.Clone(s.Guests)
	s.Jobs = maps.Clone(s.Jobs)
	s.Removed = maps.Clone(s.Removed)
	s.Gossip = slices.Clone(s.Gossip)
	return s
}

// Founded says whether the state is that of a cluster at all.
func (s State) Founded() bool { return s.Cluster != "" }

// MemberByName finds a member by the name that people use.
func (s State) MemberByName(name guest.NodeName) (Member, bool) {
	for _, m := range s.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// MemberByFingerprint finds the member that holds a key.
func (s State) MemberByFingerprint(fp string) (Member, bool) {
	for _, m := range s.Members {
		if m.Fingerprint == fp {
			return m, true
		}
	}
	return Member{}, false
}

// NameOf is the name of a node, or the beginning of its ID where it is no member.
func (s State) NameOf(id guest.NodeID) string {
	if m, ok := s.Members[id]; ok {
		return string(m.Name)
	}
	return id.Short()
}

// Named puts members' names into a text in which an adapter, which knows only
// IDs, wrote "node 1a2b3c4d".
func (s State) Named(text string) string {
	for id, m := range s.Members {
		text = strings.ReplaceAll(text, "node "+id.Short(), "node "+string(m.Name))
	}
	return text
}

// MemberList is all members, ordered by name.
func (s State) MemberList() []Member {
	return slices.SortedFunc(maps.Values(s.Members), func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}

// GuestList is all guests, ordered by ID.
func (s State) GuestList() []guest.Guest {
	return slices.SortedFunc(maps.Values(s.Guests), func(a, b guest.Guest) int { return cmp.Compare(a.ID, b.ID) })
}

// JobList is all jobs, ordered by ID.
func (s State) JobList() []guest.Job {
	return slices.SortedFunc(maps.Values(s.Jobs), func(a, b guest.Job) int { return a.ID.Compare(b.ID) })
}

// JobsOf is the jobs of one guest, ordered by number.
func (s State) JobsOf(id guest.ID) []guest.Job {
	return slices.DeleteFunc(s.JobList(), func(j guest.Job) bool { return j.ID.Guest != id })
}

// GuestOf finds the guest that a volume belongs to. Replicas stand under the
// same name on every node, so a volume belongs to at most one guest.
func (s State) GuestOf(v guest.Volume) (guest.Guest, bool) {
	for _, g := range s.Guests {
		if g.Has(v) {
			return g, true
		}
	}
	return guest.Guest{}, false
}

// Digest identifies the content of a guest or job, against lost updates: a
// change tells the digest that its author saw.
func Digest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:20])
}
