package consensus

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
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
// answers with the first outcome, but only within the generation in which it was
// first sent. The error is *RefusedError, ErrNotQuorate, ErrUnknownOutcome, or
// this node's own trouble with the command.
func (c *Consensus) Propose(ctx context.Context, cmd ledger.Command) (uint64, error) {
	if cmd.ID == "" {
		cmd.ID = NewCommandID()
	}
	data, err := cmd.Encode()
	if err != nil {
		return 0, err
	}
	out, r, err := c.deliver(ctx, data)
	if err != nil {
		return 0, err
	}
	visible, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	// Done is done: that it is not visible here yet is no failure of the command.
	_ = c.waitApplied(visible, r.generation, out.Index)
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
	out, r, err := c.deliver(ctx, data)
	if err != nil {
		return err
	}
	return c.waitApplied(ctx, r.generation, out.Index)
}

// deliver returns the outcome and the raft whose generation it belongs to.
func (c *Consensus) deliver(ctx context.Context, data []byte) (ledger.Outcome, *run, error) {
	sentIn := "" // the generation
	for {
		next := c.news.next()
		r, err := c.running()
		if err == nil && sentIn != "" && r.generation != sentIn {
			return ledger.Outcome{}, nil, fmt.Errorf("%w (%w)", ErrUnknownOutcome, errSwitching)
		}
		if err == nil {
			var out ledger.Outcome
			out, err = c.once(ctx, r, data)
			if err == nil && c.current.Load() == r {
				return out, r, nil
			}
			if err == nil {
				err = errSwitching
			}
			if !errors.Is(err, ErrNotLeader) {
				sentIn = r.generation
			}
		}
		if errors.Is(err, ErrClosed) {
			return ledger.Outcome{}, nil, unsent(sentIn, err)
		}
		select {
		case <-next:
		case <-time.After(retryPause):
		case <-ctx.Done():
			return ledger.Outcome{}, nil, unsent(sentIn, err)
		}
	}
}

// unsent is the error of a command that was given up.
func unsent(sentIn string, err error) error {
	switch {
	case sentIn != "":
		return fmt.Errorf("%w (%w)", ErrUnknownOutcome, err)
	case err == ErrNotLeader: //nolint:errorlint // the bare one says nothing more
		return ErrNotQuorate
	default:
		return fmt.Errorf("%w: %w", ErrNotQuorate, err)
	}
}

func (c *Consensus) once(ctx context.Context, r *run, data []byte) (ledger.Outcome, error) {
	bound := slices.Concat([]byte(r.generation), []byte{'\n'}, data)
	switch leader := r.leader(); leader {
	case "":
		return ledger.Outcome{}, ErrNotLeader
	case c.opts.Node:
		return c.ApplyHere(ctx, bound)
	default:
		return c.opts.Forward(ctx, leader, bound)
	}
}

// ApplyHere puts a command on the log as Forward was given it: bound to the
// generation of the node that sent it. Only the leader can. ErrNotLeader says that
// it was not taken, any other error that its outcome is unknown.
func (c *Consensus) ApplyHere(ctx context.Context, bound []byte) (ledger.Outcome, error) {
	generation, data, ok := bytes.Cut(bound, []byte{'\n'})
	if !ok {
		return ledger.Outcome{}, fmt.Errorf("%w: the command names no generation", ErrNotLeader)
	}
	cmd, err := ledger.DecodeCommand(data)
	if err != nil {
		return ledger.Outcome{}, err
	}
	r, err := c.running()
	switch {
	case err != nil:
		return ledger.Outcome{}, fmt.Errorf("%w: %w", ErrNotLeader, err)
	case r.generation != string(generation):
		return ledger.Outcome{}, fmt.Errorf("%w of generation %s: this node is in %s", ErrNotLeader, generation, r.generation)
	case !r.leads():
		return ledger.Outcome{}, ErrNotLeader
	}
	if err := r.mayAct(ctx, c.opts.Clear); err != nil {
		return ledger.Outcome{}, err
	}
	if err := c.mayLeave(r, cmd.Op); err != nil {
		return ledger.Outcome{}, err
	}
	done, err := c.intake.take()
	if err != nil {
		return ledger.Outcome{}, err
	}
	timeout := visibleTimeout
	if at, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(at), time.Millisecond)
	}
	f := r.raft.Apply(data, timeout)
	if err := r.await(ctx, f, done); err != nil {
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrEnqueueTimeout) ||
			errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			return ledger.Outcome{}, fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		return ledger.Outcome{}, err
	}
	select {
	case r.confirmed <- struct{}{}:
	default: // one is waiting already
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
