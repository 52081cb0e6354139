package ledger

import (
	"fmt"
	"slices"
)

// GossipKeyLen is the length of a gossip key in bytes (AES-256).
const GossipKeyLen = 32

// GossipKey is one key that encrypts gossip, with its number.
type GossipKey struct {
	Number int    `json:"number"`
	Key    []byte `json:"key"`
}

func (k GossipKey) validate() error {
	if len(k.Key) != GossipKeyLen {
		return fmt.Errorf("the gossip key has %d bytes: must be %d", len(k.Key), GossipKeyLen)
	}
	return nil
}

// The gossip key is changed in three commands, each of which every node follows
// before the next: InstallKey lets all understand the new one, UseKey lets them
// speak with it, DropKey lets them forget the old one.

// InstallKey adds a key that all shall understand.
type InstallKey struct {
	Key GossipKey `json:"key"`
}

func (InstallKey) kind() string { return "install_key" }

func (o InstallKey) apply(s *State, _ Command) error {
	if !s.Founded() {
		return errNotFounded
	}
	if len(s.Gossip) > 1 {
		return fmt.Errorf("gossip key %d cannot be installed: a change of the key is going on", o.Key.Number)
	}
	if want := s.Gossip[0].Number + 1; o.Key.Number != want {
		return fmt.Errorf("gossip key %d cannot be installed: the next one has number %d", o.Key.Number, want)
	}
	if err := o.Key.validate(); err != nil {
		return err
	}
	s.Gossip = append(slices.Clone(s.Gossip), GossipKey{Number: o.Key.Number, Key: slices.Clone(o.Key.Key)})
	s.Rotate = false // A removal from here on asks for yet another one.
	return nil
}

func (o InstallKey) what(*State) string { return fmt.Sprintf("gossip key %d installed", o.Key.Number) }

// UseKey makes an installed key the one to speak with, which is the first.
type UseKey struct {
	Number int `json:"number"`
}

func (UseKey) kind() string { return "use_key" }

func (o UseKey) apply(s *State, _ Command) error {
	i := s.gossipKey(o.Number)
	if i < 0 {
		return fmt.Errorf("gossip key %d is not installed", o.Number)
	}
	rest := slices.Delete(slices.Clone(s.Gossip), i, i+1)
	s.Gossip = append([]GossipKey{s.Gossip[i]}, rest...)
	return nil
}

func (o UseKey) what(*State) string { return fmt.Sprintf("gossip key %d in use", o.Number) }

// DropKey forgets a key that nobody speaks with any more.
type DropKey struct {
	Number int `json:"number"`
}

func (DropKey) kind() string { return "drop_key" }

func (o DropKey) apply(s *State, _ Command) error {
	switch i := s.gossipKey(o.Number); i {
	case -1:
		return fmt.Errorf("gossip key %d is not installed", o.Number)
	case 0:
		return fmt.Errorf("gossip key %d is in use", o.Number)
	default:
		s.Gossip = slices.Delete(slices.Clone(s.Gossip), i, i+1)
		return nil
	}
}

func (o DropKey) what(*State) string { return fmt.Sprintf("gossip key %d dropped", o.Number) }

func (s State) gossipKey(number int) int {
	return slices.IndexFunc(s.Gossip, func(k GossipKey) bool { return k.Number == number })
}
