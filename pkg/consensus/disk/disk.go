// Package disk keeps raft's log, votes and snapshots in files, each byte of them
// under a checksum.
//
// It is raft's usual set of stores (raft.LogStore, raft.StableStore,
// raft.SnapshotStore) and nothing more: what is in the log is no business of it.
// pkg/consensus opens one folder for each generation of the ledger.
//
// What it promises: a write that returned nil is on disk; a write that failed
// can be tried again, and nothing of the failed try is ever read as if it had
// been acknowledged; what was acknowledged and cannot be read any more is a
// *BrokenError that names the file, and that file is left as it is. Nothing here
// waits, retries or logs.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrClosed means that the store was closed.
var ErrClosed = errors.New("the ledger's files are closed")

// BrokenError says that a file is there and cannot be believed.
type BrokenError struct {
	Path   string
	Reason string
}

// Error names the file and what is wrong with it.
func (e *BrokenError) Error() string { return fmt.Sprintf("%s is broken: %s", e.Path, e.Reason) }

// Store is the folder of one generation.
type Store struct {
	Log       *Log
	Votes     *Votes
	Snapshots *Snapshots
}

// Open opens the folder, and makes what is not there yet. The error is a
// *BrokenError where a file cannot be believed.
func Open(dir string) (*Store, error) {
	logs, snaps := filepath.Join(dir, "log"), filepath.Join(dir, "snapshots")
	for _, d := range []string{logs, snaps} {
		if err := makeFolder(d); err != nil {
			return nil, fmt.Errorf("the ledger's folder: %w", err)
		}
	}
	votes, err := openVotes(filepath.Join(dir, "votes.json"))
	if err != nil {
		return nil, err
	}
	snapshots, err := openSnapshots(snaps)
	if err != nil {
		return nil, err
	}
	log, err := openLog(logs, segmentSize)
	if err != nil {
		return nil, err
	}
	s := &Store{Log: log, Votes: votes, Snapshots: snapshots}
	// Raft keeps its term before anything of that term, so one without the other
	// means that a file was taken away.
	if last, _ := log.LastIndex(); !votes.exist() && (last > 0 || snapshots.any()) {
		return nil, errors.Join(&BrokenError{votes.path, "it is missing, while there are entries or snapshots beside it"}, log.Close())
	}
	return s, nil
}

// Close closes the files.
func (s *Store) Close() error { return s.Log.Close() }

// makeFolder makes a folder and sees to it that a power cut does not take it away again.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(SyncFolder(filepath.Dir(dir)), SyncFolder(filepath.Dir(filepath.Dir(dir))))
}

// SyncFolder makes the names in a folder durable.
func SyncFolder(path string) (err error) {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
