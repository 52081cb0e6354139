package ledger

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// AddGuest takes a guest under Tandem's care. Its term is set by the ledger.
type AddGuest struct {
	Guest guest.Guest `json:"guest"`
	// Force allows it while the cluster runs on forced quorum.
	Force bool `json:"force,omitempty"`
}

func (AddGuest) kind() string { return "add_guest" }

func (o AddGuest) apply(s *State, _ Command) error {
	g := o.Guest
	if !s.Founded() {
		return errNotFounded
	}
	if err := g.Validate(); err != nil {
		return err
	}
	if s.Forced && !o.Force {
		return fmt.Errorf("guest %s cannot be added now: %s", g.ID, forcedHint)
	}
	if old, ok := s.Guests[g.ID]; ok {
		return fmt.Errorf("guest %s exists already (%s on %s)", g.ID, old.Name, s.NameOf(old.Owner))
	}
	owner, ok := s.Members[g.Owner]
	if !ok {
		return fmt.Errorf("guest %s: its owner %s is not a member", g.ID, g.Owner.Short())
	}
	if err := checkVolumes(*s, g, owner); err != nil {
		return err
	}
	g.Volumes, g.Beginning = slices.Clone(g.Volumes), nil
	g.Term = guest.Term{N: s.LastTerm + 1, Generation: s.Generation}
	s.putGuest(g)
	return nil
}

func (o AddGuest) what(s *State) string {
	return "guest " + o.Guest.ID.String() + " added on " + s.NameOf(o.Guest.Owner)
}

// checkVolumes refuses volumes that the node cannot have, or that are another guest's.
func checkVolumes(s State, g guest.Guest, on Member) error {
	for _, v := range g.Volumes {
		if !on.Has(v.Storage) {
			return fmt.Errorf("guest %s: node %s has no storage %s, which volume %s needs", g.ID, on.Name, v.Storage, v)
		}
		if other, taken := s.GuestOf(v); taken && other.ID != g.ID {
			return fmt.Errorf("guest %s: volume %s belongs to guest %s already", g.ID, v, other.ID)
		}
	}
	return nil
}

// SetGuest replaces a guest's name, unit, configuration, volumes, boot and quiesce,
// unless the guest is no longer what its author saw.
type SetGuest struct {
	Guest  guest.Guest `json:"guest"`
	Digest string      `json:"digest"`
}

func (SetGuest) kind() string { return "set_guest" }

func (o SetGuest) apply(s *State, _ Command) error {
	g := o.Guest
	old, ok := s.Guests[g.ID]
	if !ok {
		return noGuest(g.ID)
	}
	if o.Digest != "" && o.Digest != Digest(old) {
		return changedMeanwhile(g.ID)
	}
	if g.Type != old.Type || g.Owner != old.Owner || g.Term != old.Term {
		return fmt.Errorf("guest %s: its type, owner and term cannot be edited", g.ID)
	}
	if err := g.Validate(); err != nil {
		return err
	}
	if err := checkVolumes(*s, g, s.Members[g.Owner]); err != nil {
		return err
	}
	for _, j := range s.JobsOf(g.ID) {
		if err := checkVolumes(*s, g, s.Members[j.Target]); err != nil {
			return fmt.Errorf("job %s: %w", j.ID, err)
		}
	}
	g.Volumes, g.Beginning = slices.Clone(g.Volumes), old.Beginning.Without(func(v guest.Volume) bool { return !g.Has(v) })
	s.putGuest(g)
	return nil
}

func (o SetGuest) what(*State) string { return "guest " + o.Guest.ID.String() + " changed" }

// RemoveGuest forgets a guest without jobs; its data stays.
type RemoveGuest struct {
	ID     guest.ID `json:"id"`
	Digest string   `json:"digest"`
}

func (RemoveGuest) kind() string { return "remove_guest" }

func (o RemoveGuest) apply(s *State, _ Command) error {
	g, ok := s.Guests[o.ID]
	if !ok {
		return noGuest(o.ID)
	}
	if o.Digest != "" && o.Digest != Digest(g) {
		return changedMeanwhile(o.ID)
	}
	if jobs := s.JobsOf(o.ID); len(jobs) > 0 {
		return fmt.Errorf("guest %s has replication jobs (%s): delete them first", o.ID, jobs[0].ID)
	}
	s.dropGuest(o.ID)
	s.LastTerm = max(s.LastTerm, g.Term.N)
	return nil
}

func (o RemoveGuest) what(*State) string { return "guest " + o.ID.String() + " removed" }

// ChangeOwner gives a guest to another node, if its owner and term are still
// those that the author saw. The job to the new owner turns round; the others stay
// (the specification: "The replication direction automatically switches").
type ChangeOwner struct {
	ID    guest.ID     `json:"id"`
	Owner guest.NodeID `json:"owner"`
	Term  guest.Term   `json:"term"`
	To    guest.NodeID `json:"to"`
	// Beginning is what the new owner's data begin from.
	Beginning *guest.Beginning `json:"beginning,omitempty"`
}

func (ChangeOwner) kind() string { return "change_owner" }

func (o ChangeOwner) apply(s *State, _ Command) error {
	g, err := s.held(o.ID, o.Owner, o.Term)
	if err != nil {
		return err
	}
	to, ok := s.Members[o.To]
	if !ok {
		return fmt.Errorf("guest %s: node %s is not a member", g.ID, o.To.Short())
	}
	if o.To == g.Owner {
		return fmt.Errorf("guest %s is on %s already", g.ID, to.Name)
	}
	if err := checkVolumes(*s, g, to); err != nil {
		return err
	}
	begun, err := o.begun(s, g)
	if err != nil {
		return err
	}
	for _, j := range s.JobsOf(g.ID) {
		switch {
		case j.Target != o.To:
		case j.Removing:
			delete(s.Jobs, j.ID) // What it would have removed is the guest itself now.
		default:
			j.Target = g.Owner
			s.Jobs[j.ID] = j
		}
	}
	g.Owner, g.Term, g.Beginning = o.To, s.nextTerm(g), begun
	s.putGuest(g)
	return nil
}

// begun is what the new term begins from: as the author says, with the owner and
// term that it follows.
func (o ChangeOwner) begun(s *State, g guest.Guest) (*guest.Beginning, error) {
	if o.Beginning == nil {
		return nil, nil //nolint:nilnil // Nothing is known of it, which is what nil means.
	}
	b := *o.Beginning
	b.From, b.Term, b.GUIDs, b.Cuts = g.Owner, g.Term, maps.Clone(b.GUIDs), g.Beginning.CutsUntil(b.Point)
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("guest %s: %w", g.ID, err)
	}
	for v := range b.GUIDs {
		if !g.Has(v) {
			return nil, fmt.Errorf("guest %s: its new term cannot begin from volume %s, which is not its own", g.ID, v)
		}
	}
	if len(b.GUIDs) != len(g.Volumes) { // The author saw others, or fewer.
		return nil, fmt.Errorf("guest %s: its volumes were changed meanwhile: not all are in the point %s, from which it was to go on on %s", g.ID, b.Point, s.NameOf(o.To))
	}
	return &b, nil
}

func (o ChangeOwner) what(s *State) string {
	return "guest " + o.ID.String() + " moved from " + s.NameOf(o.Owner) + " to " + s.NameOf(o.To)
}

// Retain gives a guest's owner a new term, if owner and term are still those that
// the author saw: of it and a ChangeOwner that is in doubt only one can happen.
type Retain struct {
	ID    guest.ID     `json:"id"`
	Owner guest.NodeID `json:"owner"`
	Term  guest.Term   `json:"term"`
}

func (Retain) kind() string { return "retain" }

func (o Retain) apply(s *State, _ Command) error {
	g, err := s.held(o.ID, o.Owner, o.Term)
	if err != nil {
		return err
	}
	g.Term = s.nextTerm(g)
	s.putGuest(g)
	return nil
}

func (o Retain) what(s *State) string {
	return "guest " + o.ID.String() + " stays on " + s.NameOf(o.Owner)
}

// held is a guest whose owner and term are as expected.
func (s State) held(id guest.ID, owner guest.NodeID, term guest.Term) (guest.Guest, error) {
	g, ok := s.Guests[id]
	switch {
	case !ok:
		return g, noGuest(id)
	case g.Owner != owner || g.Term != term:
		return g, fmt.Errorf("guest %s is on %s at term %s now: look at it and try again", id, s.NameOf(g.Owner), g.Term)
	default:
		return g, nil
	}
}

func (s State) nextTerm(g guest.Guest) guest.Term {
	return guest.Term{N: g.Term.N + 1, Generation: s.Generation}
}

func noGuest(id guest.ID) error { return fmt.Errorf("guest %s does not exist", id) }

func changedMeanwhile(id guest.ID) error {
	return fmt.Errorf("guest %s was changed meanwhile: look at it and try again", id)
}
