package consensus

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/ledger"
)

// ErrNotLeader means that the command was not taken: this node does not lead.
var ErrNotLeader = errors.New("not the leader")

// ErrNotQuorate means that no leader could be reached: nothing was sent,
// nothing was changed.
var ErrNotQuorate = errors.New("not quorate")

// ErrUnknownOutcome means that a command was sent and not confirmed: it may be
// carried out or not.
var ErrUnknownOutcome = errors.New("sent, but not confirmed: the outcome is unknown")

// RefusedError means that the ledger refused the command: nothing was changed.
type RefusedError struct{ Reason string }

// Error is the ledger's reason.
func (e *RefusedError) Error() string { return e.Reason }

// visibleTimeout is how long a proposer waits to see its own change.
const visibleTimeout = 5 * time.Second

// retryPause is how long a proposer waits for news before it tries again.
const retryPause = 200 * time.Millisecond

// NewCommandID is a random ID for a command.
func NewCommandID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Propose carries a command to the leader, wherever it is, and returns where it
// stands in the log once it is confirmed and, within 5 s, applied here. The
// command is sent again under the same ID while ctx lasts, which the ledger
// answers with the first outcome. The error is *RefusedError, ErrNotQuorate,
// ErrUnknownOutcome, or this node's own trouble with the command.
func (c *Consensus) Propose(ctx context.Context, cmd ledger.Command) (uint64, error) {
	if cmd.ID == "" {
		cmd.ID = NewCommandID()
	}
	data, err := cmd.Encode()
	if err != nil {
		return 0, err
	}
	out, err := c.deliver(ctx, data)
	if err != nil {
		return 0, err
	}
	visible, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	// Done is done: that it is not visible here yet is no failure of the command.
	_ = c.WaitApplied(visible, out.Index)
	if out.Refused != "" {
		return out.Index, &RefusedError{Reason: out.Refused}
	}
	return out.Index, nil
}

// Confirm returns once this node has applied all that was confirmed anywhere
// before the call: a read that may start something.
func (c *Consensus) Confirm(ctx context.Context) error {
	data, err := ledger.Command{Op: ledger.Ask{}}.Encode()
	if err != nil {
		return err
	}
	out, err := c.deliver(ctx, data)
	if err != nil {
		return err
	}
	return c.WaitApplied(ctx, out.Index)
}

func (c *Consensus) deliver(ctx context.Context, data []byte) (ledger.Outcome, error) {
	sent := false
	for {
		out, err := c.once(ctx, data)
		if err == nil {
			return out, nil
		}
		if !errors.Is(err, ErrNotLeader) {
			sent = true
		}
		select {
		case <-c.fsm.next():
		case <-time.After(retryPause):
		case <-ctx.Done():
			if sent {
				return ledger.Outcome{}, fmt.Errorf("%w (%w)", ErrUnknownOutcome, err)
			}
			return ledger.Outcome{}, ErrNotQuorate
		}
	}
}

func (c *Consensus) once(ctx context.Context, data []byte) (ledger.Outcome, error) {
	switch leader := c.Leader(); leader {
	case "":
		return ledger.Outcome{}, ErrNotLeader
	case c.opts.Node:
		return c.ApplyHere(ctx, data)
	default:
		return c.opts.Forward(ctx, leader, data)
	}
}

// ApplyHere puts an encoded command on the log; only the leader can. ErrNotLeader
// says that it was not taken, any other error that its outcome is unknown.
func (c *Consensus) ApplyHere(ctx context.Context, data []byte) (ledger.Outcome, error) {
	if _, err := ledger.DecodeCommand(data); err != nil {
		return ledger.Outcome{}, err
	}
	if c.raft.State() != raft.Leader {
		return ledger.Outcome{}, ErrNotLeader
	}
	timeout := visibleTimeout
	if at, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(at), time.Millisecond)
	}
	f := c.raft.Apply(data, timeout)
	if err := await(ctx, f); err != nil {
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrEnqueueTimeout) ||
			errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			return ledger.Outcome{}, fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		return ledger.Outcome{}, err
	}
	switch r := f.Response().(type) {
	case ledger.Outcome:
		return r, nil
	case error:
		return ledger.Outcome{}, r
	default:
		return ledger.Outcome{}, fmt.Errorf("the ledger answered with a %T", r)
	}
}

// await is f.Error, but no longer than ctx.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
