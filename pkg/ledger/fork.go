package ledger

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// Fork tells how a generation began: by a node that went on without a majority,
// because a person forced it to.
type Fork struct {
	// Generation is the new one's random ID, Parent the one that it was copied from.
	Generation string `json:"generation"`
	Parent     string `json:"parent"`
	// Index is that of the last entry of the parent's log that was copied, Term its
	// raft term: the parent acted since the fork if it has a command beyond them.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// Node is the one that was forced.
	Node guest.NodeID `json:"node"`
	By   string       `json:"by"`
	// At is in seconds since 1970, by that node's clock.
	At int64 `json:"at"`
}

// Fork makes this ledger the first state of a new generation, while no log is
// being applied. Everything else stays as it is, what was unconfirmed included:
// in the new generation it counts as done. Terms that are not those of known, which
// is the newest ledger that the node knows to be confirmed, are the new generation's:
// the parent may yet give the same number to another owner, or has done so.
func (m *Machine) Fork(f Fork, known *State) error {
	switch {
	case !m.state.Founded():
		return errNotFounded
	case f.Generation == "" || f.Generation == m.state.Generation:
		return errors.New("a forced cluster needs a generation of its own")
	case f.Parent != m.state.Generation:
		return fmt.Errorf("the ledger is of generation %s, not %s", m.state.Generation, f.Parent)
	}
	m.view = nil
	m.state.Generation = f.Generation
	for id, g := range m.state.Guests {
		if k := known.Guests[id]; g.Term != k.Term || g.Owner != k.Owner {
			g.Term.Generation = f.Generation
			m.state.Guests[id] = g
		}
	}
	m.state.Lineage = append(slices.Clone(m.state.Lineage), f)
	m.state.Forced = true
	m.history = trimmed(append(m.history, Change{
		Index: f.Index, At: f.At, By: f.By, What: "quorum forced on " + m.state.NameOf(f.Node) + ", generation " + f.Generation,
	}))
	return nil
}

// EndForced ends the restrictions of a forced generation, once enough members
// follow it again.
type EndForced struct {
	Generation string `json:"generation"`
}

func (EndForced) kind() string { return "end_forced" }

func (o EndForced) apply(s *State, _ Command) error {
	if !s.Forced || o.Generation != s.Generation {
		return fmt.Errorf("generation %s does not run on forced quorum", o.Generation)
	}
	s.Forced = false
	return nil
}

func (o EndForced) what(*State) string { return "forced quorum ended: enough members are back" }
