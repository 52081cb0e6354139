package unittest

import (
	"context"
	"errors"
	"slices"

	"github.com/tandemd/tandem/pkg/unit"
)

// Launch is unit.Manager's. How the service behaves, Transients says.
func (m *Manager) Launch(ctx context.Context, name string, t unit.Transient) error {
	var spec Spec
	if m.Transients != nil {
		spec = m.Transients(name, slices.Clone(t.Args))
	}
	m.mu.Lock()
	if s := m.units[name]; s != nil {
		m.mu.Unlock()
		return &unit.Error{Op: "start", Unit: name, Err: errors.New("it exists already")}
	}
	m.mu.Unlock()
	m.Add(name, spec)
	return m.Start(ctx, name)
}
