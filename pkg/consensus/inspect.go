package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/consensus/disk"
	"github.com/tandemd/tandem/pkg/consensus/guard"
	"github.com/tandemd/tandem/pkg/ledger"
)

// RoomError says that the stores of a generation cannot be believed, or do not fit
// together. Nothing in them was changed.
type RoomError struct {
	// Folder is that of the generation.
	Folder string
	Err    error
}

func newRoomError(folder string, err error) error {
	if _, already := errors.AsType[*RoomError](err); already {
		return err
	}
	return &RoomError{Folder: folder, Err: err}
}

// Error names the folder, and the file where one is to blame.
func (e *RoomError) Error() string { return "this node's copy of the ledger: " + e.Err.Error() }

// Unwrap is what is wrong.
func (e *RoomError) Unwrap() error { return e.Err }

// Hint tells the operator what to do about it.
func (e *RoomError) Hint() string {
	var broken *disk.BrokenError
	if e.Folder == "" || !errors.As(e.Err, &broken) && !errors.Is(e.Err, errHole) {
		return "nothing was changed in " + e.Folder
	}
	return "nothing was changed. Where other nodes have the ledger, take it from them: systemctl stop tandemd; mv " + e.Folder + " " + e.Folder +
		".broken; systemctl start tandemd. The leader takes this node in again by itself. Where it is the only node, restore the folder from a backup"
}

// errHole means that entries are missing which were there once.
var errHole = errors.New("entries are missing")

// findings is what inspect learnt.
type findings struct {
	empty bool
	// snapshot is where the newest snapshot ends, last where the log does.
	snapshot, last guard.Entry
	command        guard.Entry
	// superseded is set where the snapshot replaces the log: all of it lies before the
	// snapshot's end, or contradicts it.
	superseded bool
	term       uint64
	machine    *ledger.Machine // of the newest snapshot; nil: none
}

// inspect reads through the stores as raft will, and refuses those with which raft
// would panic, or come up with less than it once acknowledged. It writes nothing.
func inspect(s Stores) (f findings, err error) {
	defer func() {
		if err != nil {
			err = newRoomError(s.Where, err)
		}
	}()
	if f.empty, err = s.Empty(); err != nil {
		return f, err
	}
	if f.term, err = s.Stable.GetUint64([]byte(guard.KeyTerm)); err != nil && err.Error() != "not found" {
		return f, fmt.Errorf("read the term: %w", err)
	}
	if err := f.readSnapshots(s); err != nil {
		return f, err
	}
	if err := f.readLog(s); err != nil {
		return f, err
	}
	return f, f.checkBroken(s)
}

func (f *findings) readSnapshots(s Stores) error {
	list, err := s.Snapshots.List()
	if err != nil {
		return fmt.Errorf("list the snapshots: %w", err)
	}
	if len(list) == 0 {
		return nil
	}
	meta, content, err := s.Snapshots.Open(list[0].ID)
	if err != nil {
		return fmt.Errorf("open snapshot %s: %w", list[0].ID, err)
	}
	m, err := readMachine(content)
	if err = errors.Join(err, content.Close()); err != nil {
		return fmt.Errorf("snapshot %s: %w", list[0].ID, err)
	}
	f.machine, f.snapshot = m, guard.Entry{Term: meta.Term, Index: meta.Index}
	return f.checkTerm(f.snapshot)
}

// checkTerm holds an entry against the term that raft kept before it.
func (f *findings) checkTerm(e guard.Entry) error {
	if e.Term > f.term {
		return fmt.Errorf("%w: entry %d is of term %d, but the votes are of term %d", errHole, e.Index, e.Term, f.term)
	}
	return nil
}

func (f *findings) readLog(s Stores) error {
	first, err1 := s.Log.FirstIndex()
	last, err2 := s.Log.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	f.last = f.snapshot
	switch {
	case last == 0:
		return nil
	case last < f.snapshot.Index:
		f.superseded = true
		return nil
	case first > f.snapshot.Index+1:
		return fmt.Errorf("%w: the log begins with entry %d, the newest snapshot in %s ends with %d", errHole, first, s.Where, f.snapshot.Index)
	}
	for i := max(first, f.snapshot.Index); i <= last; i++ {
		var l raft.Log
		if err := s.Log.GetLog(i, &l); err != nil {
			return fmt.Errorf("read entry %d of the log: %w", i, err)
		}
		if i == f.snapshot.Index && l.Index == i && l.Term < f.snapshot.Term {
			f.superseded = true // it was never confirmed
			return nil
		}
		if err := f.readEntry(i, &l); err != nil {
			return err
		}
	}
	if f.command.Index > 0 {
		return nil
	}
	var err error
	f.command, err = guard.LastCommand(s.Log, first, min(last, f.snapshot.Index))
	return err
}

func (f *findings) readEntry(index uint64, l *raft.Log) error {
	switch {
	case l.Index != index:
		return fmt.Errorf("%w: entry %d stands where %d is expected", errHole, l.Index, index)
	case index == f.snapshot.Index && l.Term != f.snapshot.Term:
		return fmt.Errorf("%w: entry %d is of term %d in the log, of term %d in the snapshot", errHole, index, l.Term, f.snapshot.Term)
	case index > f.snapshot.Index && l.Term < f.last.Term:
		return fmt.Errorf("%w: entry %d is of term %d, older than the one before it", errHole, index, l.Term)
	case l.Type > raft.LogConfiguration:
		return fmt.Errorf("entry %d of the log is of an unknown type %d", index, l.Type)
	case index == f.snapshot.Index:
		return nil
	}
	if l.Type == raft.LogConfiguration {
		if err := checkConfiguration(l.Data); err != nil {
			return fmt.Errorf("entry %d of the log: %w", index, err)
		}
	}
	f.last = guard.Entry{Term: l.Term, Index: l.Index}
	if guard.IsCommand(l) {
		f.command = f.last
	}
	return f.checkTerm(f.last)
}

// checkConfiguration decodes a configuration as raft does, which panics on one
// that it cannot read.
func checkConfiguration(b []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the configuration is malformed: %v", errHole, p)
		}
	}()
	raft.DecodeConfiguration(b)
	return nil
}

// checkBroken allows for a broken snapshot where an older one and the log have
// everything that it had.
func (f *findings) checkBroken(s Stores) error {
	store, ok := s.Snapshots.(interface{ Broken() ([]disk.Broken, error) })
	if !ok {
		return nil
	}
	broken, err := store.Broken()
	if err != nil {
		return fmt.Errorf("read the snapshots: %w", err)
	}
	for _, b := range broken {
		if b.Index > f.last.Index {
			return &b.BrokenError
		}
	}
	return nil
}
