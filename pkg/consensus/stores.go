package consensus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"go.uber.org/zap"
)

const (
	segmentSize   = 4 << 20
	keepSnapshots = 2
	// rpcTimeout bounds one of raft's calls.
	rpcTimeout = 10 * time.Second
	maxPool    = 3
)

// Stores is where raft keeps its log, its votes and its snapshots.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	close     func() error
}

// OpenStores opens, or makes, the stores of one generation in a folder of its own.
func OpenStores(dir string, logger *zap.Logger) (Stores, error) {
	logs := filepath.Join(dir, "wal")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return Stores{}, fmt.Errorf("the ledger's folder: %w", err)
	}
	// The log does not close the database of its own metadata, so we bring it.
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(logs, wal.WithSegmentSize(segmentSize), wal.WithLogger(raftLogger(logger)), wal.WithMetaStore(meta))
	if err != nil {
		return Stores{}, errors.Join(fmt.Errorf("open the ledger's log %s: %w", logs, err), meta.Close())
	}
	closeLog := func() error { return errors.Join(w.Close(), meta.Close()) }
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, raftLogger(logger))
	if err != nil {
		return Stores{}, errors.Join(fmt.Errorf("open the ledger's snapshots in %s: %w", dir, err), closeLog())
	}
	return Stores{Log: w, Stable: w, Snapshots: snaps, close: closeLog}, nil
}

// Empty says whether nothing was ever written: neither founded nor joined.
func (s Stores) Empty() (bool, error) {
	has, err := raft.HasExistingState(s.Log, s.Stable, s.Snapshots)
	if err != nil {
		return false, fmt.Errorf("look into the ledger's stores: %w", err)
	}
	return !has, nil
}

// NewTransport is raft's transport over connections that layer makes, whose
// addresses are node IDs.
func NewTransport(layer raft.StreamLayer, logger *zap.Logger) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: maxPool, Timeout: rpcTimeout, Logger: raftLogger(logger),
	})
}
