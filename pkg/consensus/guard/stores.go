package guard

import (
	"errors"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// KeyTerm is the name under which raft keeps its term.
const KeyTerm = "CurrentTerm"

// Votes puts the guard before raft's stable store.
func (g *Guard) Votes(s raft.StableStore) raft.StableStore { return votes{s, g} }

type votes struct {
	raft.StableStore
	guard *Guard
}

// Set implements raft.StableStore.
func (v votes) Set(key, value []byte) error {
	return v.guard.do("keep its vote", func() error { return v.StableStore.Set(key, value) })
}

// SetUint64 implements raft.StableStore.
func (v votes) SetUint64(key []byte, value uint64) error {
	// Raft writes the term that it has just read when it starts; that must work on
	// a full disk.
	if old, err := v.GetUint64(key); err == nil && old == value {
		return nil
	}
	err := v.guard.do("keep its vote", func() error { return v.StableStore.SetUint64(key, value) })
	if errors.Is(err, ErrStopped) && string(key) == KeyTerm {
		// Raft panics when it cannot keep its term. It is being closed, mute
		// already, and forgets the term as we do.
		return nil
	}
	return err
}

// Snapshots puts the guard before raft's snapshot store. Raft tries again by itself
// after a failure, so that a failure is only told.
func (g *Guard) Snapshots(s raft.SnapshotStore) raft.SnapshotStore { return snapshots{s, g} }

type snapshots struct {
	raft.SnapshotStore
	guard *Guard
}

// Create implements raft.SnapshotStore.
func (s snapshots) Create(version raft.SnapshotVersion, index, term uint64, servers raft.Configuration, //nolint:revive // raft's interface
	serversIndex uint64, trans raft.Transport,
) (raft.SnapshotSink, error) {
	var made raft.SnapshotSink
	err := s.guard.once(func() (err error) {
		made, err = s.SnapshotStore.Create(version, index, term, servers, serversIndex, trans)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &sink{made, s.guard, Entry{term, index}}, nil
}

type sink struct {
	raft.SnapshotSink
	guard *Guard
	end   Entry
}

// Write implements raft.SnapshotSink.
func (k *sink) Write(b []byte) (n int, err error) {
	err = k.guard.once(func() (err error) {
		n, err = k.SnapshotSink.Write(b)
		return err
	})
	return n, err
}

// Close implements raft.SnapshotSink.
func (k *sink) Close() error {
	err := k.guard.once(k.SnapshotSink.Close)
	if err == nil {
		k.guard.noteSnapshot(nil)
		k.guard.madeSnapshot(k.end)
	}
	return err
}

// once tries a write and notes that it failed.
func (g *Guard) once(write func() error) error {
	err, answered := g.try(write)
	switch {
	case !answered:
		return ErrStopped
	case err == nil:
		return nil
	}
	g.noteSnapshot(err)
	if errors.Is(err, syscall.ENOSPC) && g.Reserve != nil {
		g.Reserve.Release() // for raft's next try
	}
	return err
}

func (g *Guard) noteSnapshot(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil && g.snapshot == nil {
		g.snapshotSince = time.Now()
	}
	g.snapshot = err
}
