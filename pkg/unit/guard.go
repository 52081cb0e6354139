package unit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
)

// dropIn is the name of the guard in a unit's folder of drop-ins.
const dropIn = "50-tandem.conf"

// Guard has systemd ask `tandem guest may-start ID` whenever anybody starts the unit,
// by a drop-in that lives until the next boot, and verifies it. A unit that asks
// already is left as it is, as those are that Tandem ships.
func (m *Manager) Guard(ctx context.Context, unit string, id guest.ID) error {
	const op = "guard"
	if err := id.Validate(); err != nil {
		return fmt.Errorf("%s %s: %w", op, unit, err)
	}
	m.guards.Lock()
	defer m.guards.Unlock()
	p, err := m.properties(ctx, op, unit)
	if err != nil {
		return err
	}
	if err := p.loaded(op, unit); err != nil {
		return err
	}
	path := m.dropIn(unit)
	if _, err := os.Lstat(path); err != nil && p.guarded(id) {
		return nil // by the unit itself
	}
	changed, err := writeDropIn(path, m.o.Tandem, id)
	if err != nil {
		return &Error{Op: op, Unit: unit, Err: err}
	}
	// Not changed and not heeded: whoever wrote it died before the reload.
	if changed || !p.guarded(id) {
		if err := m.reload(ctx, op, unit); err != nil {
			return err
		}
		if p, err = m.properties(ctx, op, unit); err != nil {
			return err
		}
	}
	if !p.guarded(id) {
		return &Error{
			Op: op, Unit: unit, Err: fmt.Errorf("systemd does not heed %s", path),
			Advice: "does another drop-in, or the unit, set an empty ExecCondition= after it? `systemctl cat " + unit + "` shows all",
		}
	}
	return nil
}

// Unguard takes the drop-in away, when the guest is in Tandem's care no more.
func (m *Manager) Unguard(ctx context.Context, unit string) error {
	const op = "unguard"
	if err := check(op, unit); err != nil {
		return err
	}
	m.guards.Lock()
	defer m.guards.Unlock()
	path := m.dropIn(unit)
	switch err := os.Remove(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &Error{Op: op, Unit: unit, Err: err}
	}
	_ = os.Remove(filepath.Dir(path)) // It stays where somebody else has drop-ins in it.
	return m.reload(ctx, op, unit)
}

func (m *Manager) dropIn(unit string) string { return filepath.Join(m.o.Folder, unit+".d", dropIn) }

func (m *Manager) reload(ctx context.Context, op, unit string) error {
	return m.do(ctx, op, unit, func(ctx context.Context, l *link) error { return l.ReloadContext(ctx) })
}

// guarded says whether the unit asks whether the guest may start.
func (p properties) guarded(id guest.ID) bool {
	want := []string{"guest", "may-start", id.String()}
	return slices.ContainsFunc(p.conditions(), func(argv []string) bool {
		return len(argv) > len(want) && filepath.Base(argv[0]) == "tandem" && slices.Equal(argv[1:1+len(want)], want)
	})
}

// writeDropIn puts the guard in its place, whole: systemd may read it at any moment.
func writeDropIn(path, tandem string, id guest.ID) (changed bool, err error) {
	text := []byte("# Written by tandemd: only the owner of guest " + id.String() + " may start it.\n" +
		"[Service]\nExecCondition=" + quoted(tandem) + " guest may-start " + id.String() + "\n")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // systemd's folders are for all to read
		return false, err
	}
	aside := path + ".new"                                   // Systemd reads only what ends in .conf.
	if err := os.WriteFile(aside, text, 0o644); err != nil { //nolint:gosec // as above
		return false, errors.Join(err, removed(aside))
	}
	if err := os.Rename(aside, path); err != nil {
		return false, errors.Join(err, removed(aside))
	}
	return true, nil
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// quoted is a path as a word of a command line in a unit (systemd.service(5), "COMMAND LINES").
func quoted(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(path) + `"`
}
