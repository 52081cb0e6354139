package member

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// Store keeps small named values on disk.
type Store interface {
	// Read gives an error that matches fs.ErrNotExist where there is none.
	Read(name string, v any) error
	Write(name string, v any) error
}

const (
	memoryName = "heard"
	// keepEvery bounds how often the memory is written.
	keepEvery = time.Minute
)

// kept is what a Memory has on disk.
type kept struct {
	Nodes map[guest.NodeID]rules.Record `json:"nodes"`
	// BootID is that of the machine's boot to whose clock Forks belong.
	BootID string            `json:"boot_id"`
	Forks  []rules.ForkSight `json:"forks,omitempty"`
}

// Memory is what this node heard of how far others had come, so that it can tell
// a node whose disk was put back to an older state. It is safe for concurrent use.
type Memory struct {
	store Store
	log   *zap.Logger

	mu      sync.Mutex
	kept    kept
	changed bool
	broken  bool
	written time.Time
}

// NewMemory reads what was kept. A file that cannot be read is reported and left
// as it is; the memory then lasts as long as the daemon.
func NewMemory(store Store, log *zap.Logger) *Memory {
	m := &Memory{store: store, log: log}
	if err := store.Read(memoryName, &m.kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("what this node heard of others cannot be read: it protects less against restored disks until it has heard them again", zap.Error(err))
		m.kept, m.broken = kept{}, true
	}
	if m.kept.Nodes == nil {
		m.kept.Nodes = map[guest.NodeID]rules.Record{}
	}
	return m
}

// Heard takes what a node tells of itself.
func (m *Memory) Heard(c rules.Claim) {
	if c.Node == "" || c.Generation == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.kept.Nodes[c.Node]
	if next := old.With(c); !next.Equal(old) {
		m.kept.Nodes[c.Node] = next
		m.changed = true
	}
}

// Of is the most that was heard of a node.
func (m *Memory) Of(node guest.NodeID) rules.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept.Nodes[node]
}

// Only forgets all other nodes.
func (m *Memory) Only(members func(guest.NodeID) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for node := range m.kept.Nodes {
		if !members(node) {
			delete(m.kept.Nodes, node)
			m.changed = true
		}
	}
}

// forks is what this boot saw of forks.
func (m *Memory) forks(bootID string) []rules.ForkSight {
	m.mu.Lock()
	defer m.mu.Unlock()
	if bootID == "" || bootID != m.kept.BootID {
		return nil
	}
	return m.kept.Forks
}

// keepForks remembers the forks of a lineage for the rest of this boot.
func (m *Memory) keepForks(bootID string, forks []rules.ForkSight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept.BootID != bootID || !slices.Equal(m.kept.Forks, forks) {
		m.kept.BootID, m.kept.Forks, m.changed = bootID, forks, true
	}
}

// Keep writes the memory down if it changed, at most once a minute. A failure is
// logged; it is tried again a minute later.
func (m *Memory) Keep(now time.Time) {
	m.mu.Lock()
	due := m.changed && !m.broken && (m.written.IsZero() || now.Sub(m.written) >= keepEvery || now.Before(m.written))
	if !due {
		m.mu.Unlock()
		return
	}
	m.written, m.changed = now, false
	copied := m.kept
	copied.Nodes = maps.Clone(m.kept.Nodes)
	m.mu.Unlock()
	if err := m.store.Write(memoryName, copied); err != nil {
		m.log.Warn("what this node heard of others cannot be kept", zap.Error(err))
		m.mu.Lock()
		m.changed = true
		m.mu.Unlock()
	}
}
