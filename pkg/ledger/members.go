package ledger

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

var errNotFounded = errors.New("there is no cluster yet: run tandem cluster init, or tandem cluster join")

// forcedHint ends a refusal that --force overcomes.
const forcedHint = "the cluster runs on forced quorum: bring the other members back first, or insist with --force"

// Found makes a new cluster with its first member.
type Found struct {
	Cluster    string    `json:"cluster"`
	Generation string    `json:"generation"`
	Member     Member    `json:"member"`
	Gossip     GossipKey `json:"gossip"`
	Settings   Settings  `json:"settings"`
}

func (Found) kind() string { return "found" }

func (o Found) apply(s *State, c Command) error {
	if s.Founded() {
		return fmt.Errorf("the cluster %s exists already", s.Cluster)
	}
	if o.Cluster == "" || o.Generation == "" {
		return errors.New("a cluster needs an ID and a generation")
	}
	if err := errors.Join(o.Gossip.validate(), o.Settings.validate(), checkMember(*s, o.Member)); err != nil {
		return err
	}
	s.Cluster, s.Generation = o.Cluster, o.Generation
	s.Settings = o.Settings
	s.Gossip = []GossipKey{o.Gossip}
	putMember(s, o.Member, c.At)
	return nil
}

func (o Found) what(*State) string { return "cluster founded by " + string(o.Member.Name) }

// AddMember takes a node into the cluster, or lets one with a known ID come
// again with a new key or address.
type AddMember struct {
	Member Member `json:"member"`
	// Force allows it while the cluster runs on forced quorum.
	Force bool `json:"force,omitempty"`
}

func (AddMember) kind() string { return "add_member" }

func (o AddMember) apply(s *State, c Command) error {
	if !s.Founded() {
		return errNotFounded
	}
	if err := checkMember(*s, o.Member); err != nil {
		return err
	}
	if s.Forced && !o.Force {
		return fmt.Errorf("node %s cannot join now: %s", o.Member.Name, forcedHint)
	}
	delete(s.Removed, o.Member.Fingerprint)
	putMember(s, o.Member, c.At)
	return nil
}

func (o AddMember) what(*State) string { return "member " + string(o.Member.Name) + " joined" }

func putMember(s *State, m Member, at int64) {
	m.Joined = at
	s.Members[m.ID] = m
}

func checkMember(s State, m Member) error {
	if err := m.ID.Validate(); err != nil {
		return err
	}
	if _, err := guest.ParseNodeName(string(m.Name)); err != nil {
		return err
	}
	if len(m.Fingerprint) != 64 {
		return fmt.Errorf("node %s: its key's fingerprint is malformed", m.Name)
	}
	if old, ok := s.MemberByName(m.Name); ok && old.ID != m.ID {
		return fmt.Errorf("the name %s belongs to a member with another ID (%s): remove that one first, or choose another name",
			m.Name, old.ID.Short())
	}
	if old, ok := s.MemberByFingerprint(m.Fingerprint); ok && old.ID != m.ID {
		return fmt.Errorf("the key of %s belongs to member %s already", m.Name, old.Name)
	}
	return errors.Join(checkAddresses(m.Name, m.Peer, m.Gossip), checkStorages(m.Storages))
}

func checkAddresses(name guest.NodeName, addrs ...string) error {
	for _, a := range addrs {
		if _, err := netip.ParseAddrPort(a); err != nil {
			return fmt.Errorf("node %s: address %q: must be an IP address and a port", name, a)
		}
	}
	return nil
}

func checkStorages(names []string) error {
	for _, n := range names {
		if err := guest.ValidateStorage(n); err != nil {
			return err
		}
	}
	return nil
}

// SetMember tells the cluster what a member's configuration and program say now.
type SetMember struct {
	ID       guest.NodeID `json:"id"`
	Peer     string       `json:"peer"`
	Gossip   string       `json:"gossip"`
	Storages []string     `json:"storages"`
	Format   int          `json:"format"`
}

func (SetMember) kind() string { return "set_member" }

func (o SetMember) apply(s *State, _ Command) error {
	m, ok := s.Members[o.ID]
	if !ok {
		return fmt.Errorf("node %s is not a member", o.ID.Short())
	}
	if err := errors.Join(checkAddresses(m.Name, o.Peer, o.Gossip), checkStorages(o.Storages)); err != nil {
		return err
	}
	if s.Forced && !slices.Equal(m.Storages, o.Storages) {
		return fmt.Errorf("the storages of node %s do not change while the cluster runs on forced quorum", m.Name)
	}
	m.Peer, m.Gossip, m.Storages, m.Format = o.Peer, o.Gossip, slices.Clone(o.Storages), o.Format
	s.Members[o.ID] = m
	return nil
}

func (o SetMember) what(s *State) string {
	return "member " + s.NameOf(o.ID) + " changed its configuration"
}

// RemoveMember takes a node off the list. Its key is refused from then on, and
// the gossip key that it knows is to be changed.
type RemoveMember struct {
	ID guest.NodeID `json:"id"`
	// DropJobs drops the jobs that replicate to the node; their replicas stay there.
	DropJobs bool `json:"drop_jobs,omitempty"`
	// Force allows it while the cluster runs on forced quorum.
	Force bool `json:"force,omitempty"`
}

func (RemoveMember) kind() string { return "remove_member" }

func (o RemoveMember) apply(s *State, c Command) error {
	m, ok := s.Members[o.ID]
	if !ok {
		return fmt.Errorf("node %s is not a member", o.ID.Short())
	}
	if len(s.Members) == 1 {
		return fmt.Errorf("node %s is the last member: a cluster cannot be without one", m.Name)
	}
	if s.Forced && !o.Force {
		return fmt.Errorf("node %s cannot be removed now: %s", m.Name, forcedHint)
	}
	for _, g := range s.GuestList() {
		if g.Owner == o.ID {
			return fmt.Errorf("node %s owns guest %s: move or remove its guests first", m.Name, g.ID)
		}
	}
	for _, j := range s.JobList() {
		if j.Target != o.ID {
			continue
		}
		if !o.DropJobs {
			return fmt.Errorf("job %s replicates to node %s: delete its jobs first", j.ID, m.Name)
		}
		delete(s.Jobs, j.ID)
	}
	delete(s.Members, o.ID)
	s.Removed[m.Fingerprint] = Removal{Node: o.ID, Name: m.Name, At: c.At, By: c.By, Forced: s.Forced}
	s.Rotate = true
	return nil
}

func (o RemoveMember) what(s *State) string {
	if s.Forced {
		return "member " + s.NameOf(o.ID) + " removed on forced quorum"
	}
	return "member " + s.NameOf(o.ID) + " removed"
}

// SetSettings replaces the cluster's settings, unless they are no longer what
// its author saw.
type SetSettings struct {
	Settings Settings `json:"settings"`
	Digest   string   `json:"digest"`
}

func (SetSettings) kind() string { return "set_settings" }

func (o SetSettings) apply(s *State, _ Command) error {
	if !s.Founded() {
		return errNotFounded
	}
	if o.Digest != "" && o.Digest != Digest(s.Settings) {
		return errors.New("the settings were changed meanwhile: look at them and try again")
	}
	if err := o.Settings.validate(); err != nil {
		return err
	}
	s.Settings = o.Settings
	return nil
}

func (SetSettings) what(*State) string { return "settings of the cluster changed" }

// RaiseFormat lets commands of a newer format into the ledger.
type RaiseFormat struct {
	Format int `json:"format"`
}

func (RaiseFormat) kind() string { return "raise_format" }

func (o RaiseFormat) apply(s *State, _ Command) error {
	if o.Format != s.Format+1 {
		return fmt.Errorf("the ledger has format %d: it can be raised by one, not to %d", s.Format, o.Format)
	}
	for _, m := range s.MemberList() {
		if m.Format < o.Format {
			return fmt.Errorf("node %s knows the ledger's format %d only: upgrade it first", m.Name, m.Format)
		}
	}
	s.Format = o.Format
	return nil
}

func (o RaiseFormat) what(*State) string {
	return fmt.Sprintf("format of the ledger raised to %d", o.Format)
}
