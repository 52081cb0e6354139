package consensus

import (
	"context"
	"errors"
	"fmt"
)

// Applied is the Index of View, without the copy that View makes after a change.
func (c *Consensus) Applied() uint64 { return c.shown.Load().applied() }

// WaitApplied returns once this node has applied the ledger of the generation in
// which it is up to index.
func (c *Consensus) WaitApplied(ctx context.Context, index uint64) error {
	for {
		next := c.news.next()
		r, err := c.running()
		if err == nil {
			err = c.waitApplied(ctx, r.generation, index)
		}
		if !errors.Is(err, errSwitching) { // else raft starts, or another generation's does
			return err
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("ledger index %d is not here yet: %w", index, err)
		}
	}
}

func (c *Consensus) waitApplied(ctx context.Context, generation string, index uint64) error {
	for {
		next := c.news.next()
		r, err := c.running() // Raft may be started anew meanwhile.
		switch {
		case errors.Is(err, ErrClosed):
			return err
		case err != nil:
		case r.generation != generation:
			return errSwitching
		case r.fsm.err() != nil:
			return r.fsm.err()
		case r.fsm.applied() >= index:
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("ledger index %d is not here yet: %w", index, context.Cause(ctx))
		}
	}
}
