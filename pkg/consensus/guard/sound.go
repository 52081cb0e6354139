package guard

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// sound refuses calls that no raft makes and that would end ours: it takes what a
// member sends on trust, and panics over an entry that is missing or a configuration
// that cannot be read.
func sound(call any) error {
	switch c := call.(type) {
	case *raft.AppendEntriesRequest:
		for i, e := range c.Entries {
			if e == nil || e.Index != c.PrevLogEntry+1+uint64(i) { //nolint:gosec // an index of a slice
				return fmt.Errorf("unsound call: entry %d after index %d is not the one that follows", i, c.PrevLogEntry)
			}
			if err := soundEntry(e); err != nil {
				return err
			}
		}
	case *raft.InstallSnapshotRequest:
		if c.Size < 0 || c.LastLogIndex == 0 || c.SnapshotVersion < raft.SnapshotVersionMax {
			return errors.New("unsound call: a snapshot of no size, of no entry, or of a version that we never wrote")
		}
		return readable(c.Configuration)
	}
	return nil
}

func soundEntry(e *raft.Log) error {
	switch e.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogConfiguration:
		return readable(e.Data)
	case raft.LogAddPeerDeprecated, raft.LogRemovePeerDeprecated:
	}
	return fmt.Errorf("unsound call: an entry of type %d, which we never write", e.Type)
}

// readable says whether raft can read a configuration; it panics where it cannot.
func readable(configuration []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("unsound call: a configuration that cannot be read: %v", r)
		}
	}()
	raft.DecodeConfiguration(configuration)
	return nil
}
