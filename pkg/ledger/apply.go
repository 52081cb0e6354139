package ledger

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/tandemd/tandem/pkg/guest"
)

// GossipKeyLen is the length of a gossip key in bytes (AES-256).
const GossipKeyLen = 32

var errNotFounded = errors.New("there is no cluster yet: run tandem cluster init, or tandem cluster join")

func (o Found) apply(s *State, c Command) error {
	if s.Founded() {
		return fmt.Errorf("the cluster %s exists already", s.Cluster)
	}
	if o.Cluster == "" || o.Generation == "" {
		return errors.New("a cluster needs an ID and a generation")
	}
	if len(o.Gossip.Key) != GossipKeyLen {
		return fmt.Errorf("the gossip key has %d bytes: must be %d", len(o.Gossip.Key), GossipKeyLen)
	}
	if err := checkMember(*s, o.Member); err != nil {
		return err
	}
	s.Cluster, s.Generation = o.Cluster, o.Generation
	s.Gossip = []GossipKey{o.Gossip}
	putMember(s, o.Member, c.At)
	return nil
}

func (o Found) what(*State) string { return "cluster founded by " + string(o.Member.Name) }

func (o AddMember) apply(s *State, c Command) error {
	if !s.Founded() {
		return errNotFounded
	}
	if err := checkMember(*s, o.Member); err != nil {
		return err
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

func (o SetMember) apply(s *State, _ Command) error {
	m, ok := s.Members[o.ID]
	if !ok {
		return fmt.Errorf("node %s is not a member", o.ID.Short())
	}
	if err := errors.Join(checkAddresses(m.Name, o.Peer, o.Gossip), checkStorages(o.Storages)); err != nil {
		return err
	}
	m.Peer, m.Gossip, m.Storages = o.Peer, o.Gossip, slices.Clone(o.Storages)
	s.Members[o.ID] = m
	return nil
}

func (o SetMember) what(s *State) string {
	return "member " + s.NameOf(o.ID) + " changed its configuration"
}

func (o AddGuest) apply(s *State, _ Command) error {
	g := o.Guest
	if !s.Founded() {
		return errNotFounded
	}
	if err := g.Validate(); err != nil {
		return err
	}
	if old, ok := s.Guests[g.ID]; ok {
		return fmt.Errorf("guest %s exists already (%s on %s)", g.ID, old.Name, s.NameOf(old.Owner))
	}
	owner, ok := s.Members[g.Owner]
	if !ok {
		return fmt.Errorf("guest %s: its owner %s is not a member", g.ID, g.Owner.Short())
	}
	for _, v := range g.Volumes {
		if !owner.Has(v.Storage) {
			return fmt.Errorf("guest %s: node %s has no storage %s", g.ID, owner.Name, v.Storage)
		}
		if other, taken := s.GuestOf(v); taken {
			return fmt.Errorf("guest %s: volume %s belongs to guest %s already", g.ID, v, other.ID)
		}
	}
	g.Volumes = slices.Clone(g.Volumes)
	g.Term = guest.Term{N: 1, Generation: s.Generation}
	s.Guests[g.ID] = g
	return nil
}

func (o AddGuest) what(s *State) string {
	return "guest " + o.Guest.ID.String() + " added on " + s.NameOf(o.Guest.Owner)
}

func (o RemoveGuest) apply(s *State, _ Command) error {
	g, ok := s.Guests[o.ID]
	if !ok {
		return noGuest(o.ID)
	}
	if o.Digest != "" && o.Digest != Digest(g) {
		return fmt.Errorf("guest %s was changed meanwhile: look at it and try again", o.ID)
	}
	if jobs := s.JobsOf(o.ID); len(jobs) > 0 {
		return fmt.Errorf("guest %s has replication jobs (%s): delete them first", o.ID, jobs[0].ID)
	}
	delete(s.Guests, o.ID)
	return nil
}

func (o RemoveGuest) what(*State) string { return "guest " + o.ID.String() + " removed" }

func (o CreateJob) apply(s *State, _ Command) error {
	j := o.Job
	if err := j.Validate(); err != nil {
		return err
	}
	if j.Removing {
		return fmt.Errorf("job %s: a new job cannot be one that is being removed", j.ID)
	}
	if _, ok := s.Jobs[j.ID]; ok {
		return fmt.Errorf("job %s exists already: choose another number", j.ID)
	}
	if err := checkTarget(*s, j); err != nil {
		return err
	}
	s.Jobs[j.ID] = j
	return nil
}

// checkTarget holds the specification's rule "It is possible to replicate a
// guest to multiple target nodes, but not twice to the same target node", among others.
func checkTarget(s State, j guest.Job) error {
	g, ok := s.Guests[j.ID.Guest]
	if !ok {
		return noGuest(j.ID.Guest)
	}
	t, ok := s.Members[j.Target]
	if !ok {
		return fmt.Errorf("job %s: target %s is not a member", j.ID, j.Target.Short())
	}
	if j.Target == g.Owner {
		return fmt.Errorf("job %s: guest %s is on %s itself: choose another node as target", j.ID, g.ID, t.Name)
	}
	for _, other := range s.JobsOf(g.ID) {
		if other.ID != j.ID && other.Target == j.Target {
			return fmt.Errorf("job %s: guest %s is replicated to %s by job %s already", j.ID, g.ID, t.Name, other.ID)
		}
	}
	for _, v := range g.Volumes {
		if !t.Has(v.Storage) {
			return fmt.Errorf("job %s: node %s has no storage %s, which volume %s needs", j.ID, t.Name, v.Storage, v)
		}
	}
	return nil
}

func (o CreateJob) what(s *State) string {
	return "job " + o.Job.ID.String() + " to " + s.NameOf(o.Job.Target) + " created"
}

func (o UpdateJob) apply(s *State, _ Command) error {
	old, ok := s.Jobs[o.Job.ID]
	if !ok {
		return noJob(o.Job.ID)
	}
	if o.Digest != "" && o.Digest != Digest(old) {
		return fmt.Errorf("job %s was changed meanwhile: look at it and try again", old.ID)
	}
	if old.Removing && !o.Job.Removing {
		return fmt.Errorf("job %s is being removed", old.ID)
	}
	if o.Job.Target != old.Target {
		return fmt.Errorf("job %s: the target cannot be changed: delete the job and create another", old.ID)
	}
	if err := o.Job.Validate(); err != nil {
		return err
	}
	s.Jobs[o.Job.ID] = o.Job
	return nil
}

func (o UpdateJob) what(*State) string {
	switch {
	case o.Job.Removing:
		return "job " + o.Job.ID.String() + " is being removed"
	case o.Job.Disabled:
		return "job " + o.Job.ID.String() + " changed, disabled"
	default:
		return "job " + o.Job.ID.String() + " changed, schedule " + strconv.Quote(o.Job.Schedule)
	}
}

func (o DropJob) apply(s *State, _ Command) error {
	j, ok := s.Jobs[o.ID]
	if !ok {
		return noJob(o.ID)
	}
	if !j.Removing {
		return fmt.Errorf("job %s is not being removed", o.ID)
	}
	delete(s.Jobs, o.ID)
	return nil
}

func (o DropJob) what(*State) string { return "job " + o.ID.String() + " removed" }

func (Ask) apply(*State, Command) error { return nil }

func (Ask) what(*State) string { return "" }

func noGuest(id guest.ID) error { return fmt.Errorf("guest %s does not exist", id) }

func noJob(id guest.JobID) error { return fmt.Errorf("job %s does not exist", id) }
