package consensus

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Progress tells where this node is in the ledger's log.
type Progress struct {
	Generation string
	// Term is raft's, LastIndex that of the last entry of the log here, confirmed or not.
	Term, LastIndex uint64
	// LastCommand is the index of the last entry that is a command of the ledger
	// other than Ask, confirmed or not, and LastCommandTerm its raft term: 0 where
	// the entry is only in a snapshot, which does not tell.
	LastCommand, LastCommandTerm uint64
	// Applied is the index up to which raft has applied here.
	Applied uint64
	Leader  guest.NodeID
	// QuorateFor is for how long this node has been quorate without a break, by
	// CLOCK_BOOTTIME; 0: it is not quorate.
	QuorateFor time.Duration
	// SetAside is set from SetAside on until this node may vote again.
	SetAside bool
}

// Progress reads nothing from disk. While no raft runs only the generation is set.
func (c *Consensus) Progress() Progress {
	r := c.current.Load()
	if r == nil {
		return Progress{Generation: c.Generation()}
	}
	p := Progress{
		Generation: r.generation, Term: r.raft.CurrentTerm(), LastIndex: r.raft.LastIndex(), Applied: r.raft.AppliedIndex(),
		Leader: r.leader(), QuorateFor: r.contact.lasts(r.quorate()), SetAside: r.wire.Voteless.Load(),
	}
	last := r.log.LastCommand()
	p.LastCommand, p.LastCommandTerm = last.Index, last.Term
	if changed := r.fsm.changed(); changed > p.LastCommand {
		p.LastCommand, p.LastCommandTerm = changed, 0
	}
	return p
}

// Trouble tells what keeps the state disk from taking writes; nil: nothing. The
// error has hints for the operator (*guard.TroubleError, *ReserveError).
func (c *Consensus) Trouble() error {
	var errs []error
	if r := c.current.Load(); r != nil {
		errs = append(errs, r.guard.Trouble())
	}
	if res := c.opts.Reserve; res != nil && !res.Held() {
		errs = append(errs, &ReserveError{Bytes: res.Size()})
	}
	return errors.Join(errs...)
}

// ReserveError says that the state folder's reserve was given up: the disk is full
// or was until now.
type ReserveError struct{ Bytes int64 }

// Error tells it.
func (e *ReserveError) Error() string {
	return fmt.Sprintf("the state disk is nearly full: the reserve of %d MiB is not there", e.Bytes>>20)
}

// Unwrap makes it match syscall.ENOSPC.
func (e *ReserveError) Unwrap() error { return syscall.ENOSPC }

// Hint tells the operator what to do about it.
func (e *ReserveError) Hint() string {
	return fmt.Sprintf("free %d MiB or more on the disk of the state folder; the reserve comes back by itself", 4*e.Bytes>>20)
}
