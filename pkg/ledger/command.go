package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Command is one change asked of the ledger. Sent again with the same ID it gets
// its first outcome and changes nothing more.
type Command struct {
	// ID is random; empty for an Ask, which is not remembered.
	ID string
	// By says who asked, like "root@n1".
	By string
	// At is when it was asked, in seconds since 1970, by the asking node's clock.
	At int64
	Op Op
}

// Op is what a command does.
//
//sumtype:decl
type Op interface {
	// kind names the operation in the log; it never changes.
	kind() string
	// apply checks the preconditions and changes the state, or refuses and does not.
	apply(s *State, c Command) error
	// what tells the change to people.
	what(s *State) string
}

type envelope struct {
	ID   string          `json:"id,omitempty"`
	By   string          `json:"by,omitempty"`
	At   int64           `json:"at,omitempty"`
	Kind string          `json:"kind"`
	Op   json.RawMessage `json:"op"`
}

// Encode is the command as it stands in the log.
func (c Command) Encode() ([]byte, error) {
	if c.Op == nil {
		return nil, errors.New("command without an operation")
	}
	op, err := json.Marshal(c.Op)
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", c.Op.kind(), err)
	}
	return json.Marshal(envelope{ID: c.ID, By: c.By, At: c.At, Kind: c.Op.kind(), Op: op})
}

// ErrUnknownCommand means that the log holds a command of a newer format: this
// node must stop following rather than skip it.
var ErrUnknownCommand = errors.New("the ledger holds a command that this version of tandemd does not know: upgrade it")

// DecodeCommand reads what Encode wrote. Unknown fields are refused, because a
// node that ignores a part of a command would apply another one.
func DecodeCommand(b []byte) (Command, error) {
	var e envelope
	if err := strict(b, &e); err != nil {
		return Command{}, fmt.Errorf("ledger command: %w", err)
	}
	op, err := decodeOp(e.Kind, e.Op)
	if err != nil {
		return Command{}, err
	}
	return Command{ID: e.ID, By: e.By, At: e.At, Op: op}, nil
}

// ops is one of each operation that this version knows.
func ops() []Op {
	return []Op{
		Found{},
		AddMember{},
		SetMember{},
		RemoveMember{},
		InstallKey{},
		UseKey{},
		DropKey{},
		EndForced{},
		RaiseFormat{},
		SetSettings{},
		AddGuest{},
		SetGuest{},
		RemoveGuest{},
		ChangeOwner{},
		Retain{},
		CreateJob{},
		UpdateJob{},
		DropJob{},
		Ask{},
	}
}

func decodeOp(kind string, b []byte) (Op, error) {
	for _, known := range ops() {
		if known.kind() != kind {
			continue
		}
		v := reflect.New(reflect.TypeOf(known))
		if err := strict(b, v.Interface()); err != nil {
			return nil, fmt.Errorf("ledger command %s: %w: %w", kind, ErrUnknownCommand, err)
		}
		op, _ := reflect.TypeAssert[Op](v.Elem()) // it is of known's type
		return op, nil
	}
	return nil, fmt.Errorf("%w (kind %q)", ErrUnknownCommand, kind)
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("data after the end")
	}
	return nil
}

// Ask changes nothing: once it is applied here, all that was confirmed before
// it was sent is visible here.
type Ask struct{}

func (Ask) kind() string { return "ask" }

func (Ask) apply(*State, Command) error { return nil }

func (Ask) what(*State) string { return "" }
