package guard

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/ledger"
)

// Log is raft's log behind the guard. It knows the last command that stands in the
// log, confirmed or not.
type Log struct {
	raft.LogStore
	guard *Guard

	mu      sync.Mutex
	command Entry
}

// Log puts the guard before raft's log, in which command is the last one.
func (g *Guard) Log(s raft.LogStore, command Entry) *Log {
	return &Log{LogStore: s, guard: g, command: command}
}

// Entry is where an entry stands in the log; zero for none.
type Entry struct{ Term, Index uint64 }

// IsCommand says whether an entry is a command of the ledger that may change something.
func IsCommand(l *raft.Log) bool {
	if l.Type != raft.LogCommand {
		return false
	}
	c, err := ledger.DecodeCommand(l.Data)
	if err != nil {
		return true // of a newer format
	}
	_, ask := c.Op.(ledger.Ask)
	return !ask
}

// LastCommand finds the last command in a log, from index down.
func LastCommand(logs raft.LogStore, first, index uint64) (Entry, error) {
	for i := index; i >= first && i > 0; i-- {
		var l raft.Log
		if err := logs.GetLog(i, &l); err != nil {
			return Entry{}, err
		}
		if IsCommand(&l) {
			return Entry{l.Term, l.Index}, nil
		}
	}
	return Entry{}, nil
}

// LastCommand is the last command that was handed to the log.
func (l *Log) LastCommand() Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.command
}

// IsMonotonic tells raft whether the log takes no holes.
func (l *Log) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	l.mu.Lock()
	for _, e := range entries {
		if IsCommand(e) {
			l.command = Entry{e.Term, e.Index}
		}
	}
	l.mu.Unlock()
	return l.guard.do("write the ledger's log", func() error { return l.LogStore.StoreLogs(entries) })
}

// DeleteRange implements raft.LogStore.
func (l *Log) DeleteRange(from, to uint64) error {
	err := l.guard.do("shorten the ledger's log", func() error { return l.LogStore.DeleteRange(from, to) })
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.command.Index < from || l.command.Index > to {
		return nil
	}
	first, err1 := l.FirstIndex()
	last, err2 := l.LastIndex()
	found, err3 := LastCommand(l.LogStore, first, min(last, from-1))
	if errors.Join(err1, err2, err3) == nil {
		l.command = found
	}
	return nil
}

// GetLog implements raft.LogStore. Raft panics where an entry that it wrote cannot
// be read, so that such a read waits like a write.
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	err := l.read(index, out)
	if errors.Is(err, raft.ErrLogNotFound) && l.endsAt(index, out) {
		return nil
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	err = l.guard.do("read the ledger's log", func() error {
		var entry raft.Log
		if err := l.read(index, &entry); err != nil {
			if errors.Is(err, raft.ErrLogNotFound) {
				*out = raft.Log{}
				return nil
			}
			return err
		}
		*out = entry
		return nil
	})
	switch {
	case errors.Is(err, ErrStopped):
		// Raft is being closed, mute already, and applies nothing any more.
		*out = raft.Log{Index: index, Type: raft.LogNoop}
		return nil
	case out.Index == 0:
		return raft.ErrLogNotFound
	}
	return err
}

// endsAt answers for the entry at which the newest snapshot ends. A leader that
// goes on from there asks for its term, and where raft 1.8 does not find it in the
// log it is sent the snapshot once more, though it has it. What raft applies, or sends
// to others, comes after it, but for the very first.
func (l *Log) endsAt(index uint64, out *raft.Log) bool {
	covered := l.guard.covered()
	if covered.Index != index || index <= 1 {
		return false
	}
	*out = raft.Log{Index: index, Term: covered.Term, Type: raft.LogNoop}
	return true
}

// has says whether an entry stands in the log, and so all that a leader had before it.
func (l *Log) has(e Entry) (bool, error) {
	var found raft.Log
	err := l.read(e.Index, &found)
	if errors.Is(err, raft.ErrLogNotFound) {
		return false, nil
	}
	return found.Term == e.Term, err
}

func (l *Log) read(index uint64, out *raft.Log) error {
	if err := l.LogStore.GetLog(index, out); err != nil {
		return err
	}
	if out.Index != index {
		return fmt.Errorf("entry %d stands where %d is expected", out.Index, index)
	}
	return nil
}
