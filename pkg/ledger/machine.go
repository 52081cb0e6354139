package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
)

// remembered is how many outcomes and changes are kept.
const remembered = 10_000

// Outcome is what became of a command that reached the ledger.
type Outcome struct {
	// Index is where the command stands in the log.
	Index uint64 `json:"index"`
	// Refused is the reason why nothing was changed; empty when it was done.
	Refused string `json:"refused,omitempty"`
}

// Change is one line of the ledger's history.
type Change struct {
	Index uint64 `json:"index"`
	At    int64  `json:"at"`
	By    string `json:"by"`
	What  string `json:"what"`
}

type remembrance struct {
	ID      string  `json:"id"`
	Outcome Outcome `json:"outcome"`
}

// Machine applies commands. It is not safe for concurrent use.
type Machine struct {
	state    State
	history  []Change
	order    []remembrance
	outcomes map[string]Outcome
	view     *State
}

// NewMachine is an empty ledger, before any cluster was founded.
func NewMachine() *Machine {
	return &Machine{state: newState(), outcomes: map[string]Outcome{}}
}

// Apply carries out the command that stands at index in the log. An error means
// that this node cannot follow the log any further.
func (m *Machine) Apply(index uint64, data []byte) (Outcome, error) {
	c, err := DecodeCommand(data)
	if err != nil {
		return Outcome{}, fmt.Errorf("ledger index %d: %w", index, err)
	}
	m.view = nil
	m.state.Index = index
	if first, ok := m.outcomes[c.ID]; ok && c.ID != "" {
		return first, nil
	}
	out := Outcome{Index: index}
	what := c.Op.what(&m.state)
	if err := c.Op.apply(&m.state, c); err != nil {
		out.Refused = err.Error()
	} else if what != "" {
		m.state.Changed = index
		m.history = trimmed(append(m.history, Change{Index: index, At: c.At, By: c.By, What: what}))
	}
	if m.state.Format > Format {
		return Outcome{}, fmt.Errorf("ledger index %d: format %d: %w", index, m.state.Format, ErrUnknownCommand)
	}
	m.remember(c.ID, out)
	return out, nil
}

func (m *Machine) remember(id string, out Outcome) {
	if id == "" {
		return
	}
	m.outcomes[id] = out
	m.order = append(m.order, remembrance{ID: id, Outcome: out})
	if n := len(m.order) - remembered; n > 0 {
		for _, r := range m.order[:n] {
			delete(m.outcomes, r.ID)
		}
		m.order = m.order[n:]
	}
}

func trimmed(h []Change) []Change {
	if n := len(h) - remembered; n > 0 {
		return h[n:]
	}
	return h
}

// Index is that of the last command that was applied, Changed that of the last one
// that changed something: what View says, without the copy.
func (m *Machine) Index() uint64 { return m.state.Index }

// Changed is described at Index.
func (m *Machine) Changed() uint64 { return m.state.Changed }

// View is the state as it is now; it is never changed again.
func (m *Machine) View() *State {
	if m.view == nil {
		s := m.state.clone()
		m.view = &s
	}
	return m.view
}

// History is the last changes, oldest first, at most 10,000.
func (m *Machine) History() []Change { return slices.Clone(m.history) }

type snapshot struct {
	State    State         `json:"state"`
	History  []Change      `json:"history"`
	Outcomes []remembrance `json:"outcomes"`
}

// Encode is the whole ledger in bytes, the same on every node.
func (m *Machine) Encode() ([]byte, error) {
	return json.Marshal(snapshot{State: m.state, History: m.history, Outcomes: m.order})
}

// DecodeMachine reads what Encode wrote.
func DecodeMachine(b []byte) (*Machine, error) {
	m := NewMachine()
	s := snapshot{State: newState()}
	if err := strict(b, &s); err != nil {
		return nil, fmt.Errorf("ledger snapshot: %w", err)
	}
	if s.State.Format > Format {
		return nil, fmt.Errorf("ledger snapshot has format %d, this tandemd knows %d: %w", s.State.Format, Format, ErrUnknownCommand)
	}
	m.state, m.history, m.order = s.State.indexed(), s.History, s.Outcomes
	if m.state.Members == nil || m.state.Guests == nil || m.state.Jobs == nil || m.state.Removed == nil {
		return nil, fmt.Errorf("ledger snapshot: a part is missing")
	}
	if m.state.Founded() && len(m.state.Gossip) == 0 {
		return nil, fmt.Errorf("ledger snapshot: it holds no gossip key")
	}
	for _, r := range m.order {
		m.outcomes[r.ID] = r.Outcome
	}
	return m, nil
}
