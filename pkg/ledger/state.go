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
	"fmt"
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
	// Format is the newest format of the ledger that its tandemd knows.
	Format int `json:"format"`
}

// Has says whether the member has the storage.
func (m Member) Has(storage string) bool { return slices.Contains(m.Storages, storage) }

// State is what the cluster agrees on. A State that View returned is never
// changed again.
type State struct {
	Format     int    `json:"format"`
	Cluster    string `json:"cluster"`
	Generation string `json:"generation"`
	// Lineage tells how this generation came about, oldest fork first; it is empty
	// where quorum was never forced.
	Lineage []Fork `json:"lineage,omitempty"`
	// Forced is set until enough members follow a generation that was forced.
	Forced bool `json:"forced,omitempty"`
	// Index is that of the last command in the log that was applied, Changed that
	// of the last one that changed something.
	Index   uint64                    `json:"index"`
	Changed uint64                    `json:"changed"`
	Members map[guest.NodeID]Member   `json:"members"`
	Guests  map[guest.ID]guest.Guest  `json:"guests"`
	Jobs    map[guest.JobID]guest.Job `json:"jobs"`
	// Volumes tells whose a volume is, in the state that commands are applied to; it is
	// nil in all others, and made anew from the guests.
	Volumes map[guest.Volume]guest.ID `json:"-"`
	// LastTerm is the highest term of a guest that was removed. A guest that is added
	// begins beyond it: no term of a guest has two owners, though its ID comes again.
	LastTerm uint64 `json:"last_term,omitempty"`
	// Gossip are the keys of gossip, the one to speak with first.
	Gossip []GossipKey `json:"gossip"`
	// Rotate is set while the key of gossip is to be changed.
	Rotate bool `json:"rotate,omitempty"`
	// Removed tells of the keys that were taken off the list.
	Removed  map[string]Removal `json:"removed"`
	Settings Settings           `json:"settings"`
}

// Settings are the cluster's own.
type Settings struct {
	// Name is what people call the cluster; it may be empty.
	Name string `json:"name,omitempty"`
}

func (s Settings) validate() error {
	if s.Name == "" {
		return nil
	}
	if _, err := guest.ParseNodeName(s.Name); err != nil {
		return fmt.Errorf("name of the cluster %q: must be 1 to 63 of a-z, 0-9 and inner hyphens", s.Name)
	}
	return nil
}

// Removal tells when and by whom a node's key was taken off the list.
type Removal struct {
	Node guest.NodeID   `json:"node"`
	Name guest.NodeName `json:"name"`
	// At is in seconds since 1970.
	At int64  `json:"at"`
	By string `json:"by"`
	// Forced: it happened while the cluster ran on forced quorum.
	Forced bool `json:"forced,omitempty"`
}

func newState() State {
	return State{
		Format:  Format,
		Members: map[guest.NodeID]Member{},
		Guests:  map[guest.ID]guest.Guest{},
		Jobs:    map[guest.JobID]guest.Job{},
		Removed: map[string]Removal{},
		Volumes: map[guest.Volume]guest.ID{},
	}
}

// indexed is the state with its Volumes.
func (s State) indexed() State {
	s.Volumes = map[guest.Volume]guest.ID{}
	for _, g := range s.GuestList() {
		s.index(g)
	}
	return s
}

func (s State) index(g guest.Guest) {
	for _, v := range g.Volumes {
		s.Volumes[v] = g.ID
	}
}

// putGuest takes a guest in, in the place of what it was.
func (s *State) putGuest(g guest.Guest) {
	s.dropGuest(g.ID)
	s.Guests[g.ID] = g
	s.index(g)
}

func (s *State) dropGuest(id guest.ID) {
	for _, v := range s.Guests[id].Volumes {
		delete(s.Volumes, v)
	}
	delete(s.Guests, id)
}

// clone is a copy to show.
func (s State) clone() State {
	s.Volumes = nil
	s.Members = maps.Clone(s.Members)
	s.Guests = maps.Clone(s.Guests)
	s.Jobs = maps.Clone(s.Jobs)
	s.Removed = maps.Clone(s.Removed)
	s.Gossip = slices.Clone(s.Gossip)
	s.Lineage = slices.Clone(s.Lineage)
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
	var out []guest.Job
	for _, j := range s.Jobs {
		if j.ID.Guest == id {
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(a, b guest.Job) int { return a.ID.Compare(b.ID) })
	return out
}

// GuestOf finds the guest that a volume belongs to. Replicas stand under the
// same name on every node, so a volume belongs to at most one guest.
func (s State) GuestOf(v guest.Volume) (guest.Guest, bool) {
	if s.Volumes != nil {
		id, ok := s.Volumes[v]
		return s.Guests[id], ok
	}
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
