package unittest

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Crash ends the processes of a running service with the result, as systemd names it.
func (m *Manager) Crash(name, result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.units[name]; s != nil && s.pid != 0 {
		s.end("failed", result)
	}
}

// Reboot ends everything at once, as a power cut; guards are gone, services stay installed.
func (m *Manager) Reboot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.units {
		s.guard, s.frozen, s.left = 0, false, false
		if s.pid != 0 {
			s.end("inactive", "success")
		}
		s.active, s.sub, s.since = "inactive", "dead", time.Time{}
	}
}

// Log adds a line to a service's journal.
func (m *Manager) Log(name, line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.units[name]; s != nil {
		s.journal = append(s.journal, line)
	}
}

// Starts is how often a service began to run.
func (m *Manager) Starts(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.units[name]; s != nil {
		return s.starts
	}
	return 0
}

// Guarded is which guest's guard a service has; 0: none.
func (m *Manager) Guarded(name string) guest.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.units[name]; s != nil {
		return s.guard
	}
	return 0
}

// Left are the processes that a service left behind.
func (m *Manager) Left(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.units[name]; s != nil && s.left {
		return 1
	}
	return 0
}

// Frozen waits while the service is frozen, as its processes would.
func (m *Manager) Frozen(ctx context.Context, name string) error {
	m.mu.Lock()
	s := m.units[name]
	if s == nil || !s.frozen {
		m.mu.Unlock()
		return nil
	}
	thawed := s.thawed
	m.mu.Unlock()
	select {
	case <-thawed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
