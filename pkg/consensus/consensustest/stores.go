package consensustest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// handle is one folder that is open: raft's three stores in one.
type handle struct {
	disk   *Disk
	life   *life
	room   *room
	closed bool
	// writing counts the writes under way.
	writing sync.WaitGroup
}

// write makes n things durable: see Disk.write.
func (h *handle) write(n int, keep func(n int)) error {
	h.disk.mu.Lock()
	if err := h.check(); err != nil {
		h.disk.mu.Unlock()
		return err
	}
	h.writing.Add(1)
	h.disk.mu.Unlock()
	defer h.writing.Done()
	return h.disk.write(h.life, n, keep)
}

// check is called with mu held, before a write.
func (h *handle) check() error {
	if isDead(h.life) {
		return ErrCrashed
	}
	return h.checkOpen()
}

// checkOpen is called with mu held, before a read.
func (h *handle) checkOpen() error {
	if h.closed {
		return fmt.Errorf("the folder is closed")
	}
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore.
func (h *handle) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (h *handle) FirstIndex() (uint64, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return h.room.first, h.checkOpen()
}

// LastIndex implements raft.LogStore.
func (h *handle) LastIndex() (uint64, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return h.room.last, h.checkOpen()
}

// GetLog implements raft.LogStore.
func (h *handle) GetLog(index uint64, out *raft.Log) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.checkOpen(); err != nil {
		return err
	}
	l, ok := h.room.logs[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*out = l
	return nil
}

// StoreLog implements raft.LogStore.
func (h *handle) StoreLog(l *raft.Log) error { return h.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (h *handle) StoreLogs(logs []*raft.Log) error {
	h.disk.mu.Lock()
	err := h.check()
	last := h.room.last
	h.disk.mu.Unlock()
	if err != nil || len(logs) == 0 {
		return err
	}
	copied := make([]raft.Log, len(logs))
	for i, l := range logs {
		if want := last + 1 + uint64(i); last > 0 && l.Index != want || l.Index != logs[0].Index+uint64(i) {
			return fmt.Errorf("entry %d cannot follow entry %d", l.Index, last)
		}
		copied[i] = *l
		copied[i].Data = bytes.Clone(l.Data)
	}
	return h.write(len(copied), func(n int) {
		for _, l := range copied[:n] {
			h.room.logs[l.Index] = l
			if h.room.first == 0 {
				h.room.first = l.Index
			}
			h.room.last = l.Index
		}
	})
}

// DeleteRange implements raft.LogStore.
func (h *handle) DeleteRange(from, to uint64) error {
	return h.write(1, func(n int) {
		r := h.room
		from, to := max(from, r.first), min(to, r.last)
		if n == 0 || r.last == 0 || from > to {
			return
		}
		for i := from; i <= to; i++ {
			delete(r.logs, i)
		}
		switch {
		case from == r.first && to == r.last:
			r.first, r.last = 0, 0
		case from == r.first:
			r.first = to + 1
		default:
			r.last = from - 1
		}
	})
}

// Set implements raft.StableStore.
func (h *handle) Set(key, value []byte) error {
	value = bytes.Clone(value)
	return h.write(1, func(n int) {
		if n > 0 {
			h.room.stable[string(key)] = value
		}
	})
}

// Get implements raft.StableStore.
func (h *handle) Get(key []byte) ([]byte, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return bytes.Clone(h.room.stable[string(key)]), h.checkOpen()
}

// SetUint64 implements raft.StableStore.
func (h *handle) SetUint64(key []byte, value uint64) error {
	return h.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 implements raft.StableStore.
func (h *handle) GetUint64(key []byte) (uint64, error) {
	b, err := h.Get(key)
	if err != nil || len(b) == 0 {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// List implements raft.SnapshotStore.
func (h *handle) List() ([]*raft.SnapshotMeta, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	var out []*raft.SnapshotMeta
	for _, s := range slices.Backward(h.room.snapshots) {
		meta := s.meta
		out = append(out, &meta)
	}
	return out, h.checkOpen()
}

// Open implements raft.SnapshotStore.
func (h *handle) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.checkOpen(); err != nil {
		return nil, nil, err
	}
	for _, s := range h.room.snapshots {
		if s.meta.ID == id {
			meta := s.meta
			return &meta, io.NopCloser(bytes.NewReader(s.content)), nil
		}
	}
	return nil, nil, fmt.Errorf("there is no snapshot %s", id)
}

// Create implements raft.SnapshotStore.
func (h *handle) Create(version raft.SnapshotVersion, index, term uint64, servers raft.Configuration, //nolint:revive // raft's interface
	serversIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	h.room.made++
	return &sink{handle: h, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, h.room.made), Index: index, Term: term,
		Configuration: servers.Clone(), ConfigurationIndex: serversIndex,
	}}, h.check()
}

// sink is a snapshot that is not there before Close.
type sink struct {
	bytes.Buffer
	handle *handle
	meta   raft.SnapshotMeta
	done   bool
}

// ID implements raft.SnapshotSink.
func (s *sink) ID() string { return s.meta.ID }

// Cancel implements raft.SnapshotSink.
func (s *sink) Cancel() error {
	s.done = true
	return nil
}

// Close implements raft.SnapshotSink.
func (s *sink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.meta.Size = int64(s.Len())
	return s.handle.write(1, func(n int) {
		if n == 0 {
			return
		}
		r := s.handle.room
		r.snapshots = append(r.snapshots, snapshot{s.meta, s.Bytes()})
		slices.SortStableFunc(r.snapshots, func(a, b snapshot) int {
			if a.meta.Term != b.meta.Term {
				return int(a.meta.Term) - int(b.meta.Term)
			}
			return int(a.meta.Index) - int(b.meta.Index)
		})
		r.snapshots = r.snapshots[max(0, len(r.snapshots)-2):]
	})
}
