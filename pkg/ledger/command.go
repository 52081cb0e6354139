package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tandemd/tandem/pkg/guest"
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

// Found makes a new cluster with its first member.
type Found struct {
	Cluster    string    `json:"cluster"`
	Generation string    `json:"generation"`
	Member     Member    `json:"member"`
	Gossip     GossipKey `json:"gossip"`
}

// AddMember takes a node into the cluster, or lets one with a known ID come
// again with a new key or address.
type AddMember struct {
	Member Member `json:"member"`
}

// SetMember tells the cluster what a member's configuration says now.
type SetMember struct {
	ID       guest.NodeID `json:"id"`
	Peer     string       `json:"peer"`
	Gossip   string       `json:"gossip"`
	Storages []string     `json:"storages"`
}

// AddGuest takes a guest under Tandem's care. Its term is set by the ledger.
type AddGuest struct {
	Guest guest.Guest `json:"guest"`
}

// RemoveGuest forgets a guest without jobs; its data stays.
type RemoveGuest struct {
	ID     guest.ID `json:"id"`
	Digest string   `json:"digest"`
}

// CreateJob adds a replication job.
type CreateJob struct {
	Job guest.Job `json:"job"`
}

// UpdateJob replaces a job's settings, unless the job is no longer what its
// author saw.
type UpdateJob struct {
	Job    guest.Job `json:"job"`
	Digest string    `json:"digest"`
}

// DropJob ends a job that is being removed, after its owner cleaned up.
type DropJob struct {
	ID guest.JobID `json:"id"`
}

// Ask changes nothing: once it is applied here, all that was confirmed before
// it was sent is visible here.
type Ask struct{}

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

func decodeOp(kind string, b []byte) (Op, error) {
	switch kind {
	case Found{}.kind():
		return decodeAs[Found](b)
	case AddMember{}.kind():
		return decodeAs[AddMember](b)
	case SetMember{}.kind():
		return decodeAs[SetMember](b)
	case AddGuest{}.kind():
		return decodeAs[AddGuest](b)
	case RemoveGuest{}.kind():
		return decodeAs[RemoveGuest](b)
	case CreateJob{}.kind():
		return decodeAs[CreateJob](b)
	case UpdateJob{}.kind():
		return decodeAs[UpdateJob](b)
	case DropJob{}.kind():
		return decodeAs[DropJob](b)
	case Ask{}.kind():
		return decodeAs[Ask](b)
	default:
		return nil, fmt.Errorf("%w (kind %q)", ErrUnknownCommand, kind)
	}
}

func decodeAs[T Op](b []byte) (Op, error) {
	var op T
	if err := strict(b, &op); err != nil {
		return nil, fmt.Errorf("ledger command %s: %w: %w", op.kind(), ErrUnknownCommand, err)
	}
	return op, nil
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

func (Found) kind() string       { return "found" }
func (AddMember) kind() string   { return "add_member" }
func (SetMember) kind() string   { return "set_member" }
func (AddGuest) kind() string    { return "add_guest" }
func (RemoveGuest) kind() string { return "remove_guest" }
func (CreateJob) kind() string   { return "create_job" }
func (UpdateJob) kind() string   { return "update_job" }
func (DropJob) kind() string     { return "drop_job" }
func (Ask) kind() string         { return "ask" }
