// Package force starts a guest on a node whose daemon does not run, for the worst
// night: by the copy of the ledger that this node kept, by the marks on the volumes,
// and over D-Bus, asking no other node.
//
// It changes no mark and no ledger. The commands of pkg/cli/guests call it.
package force

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/keeper/host"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
	"github.com/tandemd/tandem/pkg/unit"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Start starts a guest of this node, by the configuration at path. The warning is for
// whoever did it.
func Start(ctx context.Context, path string, id guest.ID) (warning string, err error) {
	conf, err := config.Load(path)
	if err != nil {
		return "", err
	}
	z, err := zfs.New(zfs.Options{})
	if err != nil {
		return "", err
	}
	m := unit.New(unit.Options{})
	defer m.Close()
	return Machine{StateDir: conf.StateDir, Volumes: host.Volumes{Storages: conf.Storages, List: z.List}, Units: m}.Start(ctx, id)
}

// Units are those of this machine; pkg/unit.
type Units interface {
	Guard(ctx context.Context, name string, id guest.ID) error
	Start(ctx context.Context, name string) error
}

// Machine is a node without its daemon.
type Machine struct {
	StateDir string
	Volumes  host.Volumes
	Units    Units
}

// refusal is why it cannot be done, with what to do.
type refusal struct{ text, hint string }

func (r *refusal) Error() string { return r.text }
func (r *refusal) Hint() string  { return r.hint }

// Start starts a guest by what the machine itself has.
func (m Machine) Start(ctx context.Context, id guest.ID) (warning string, err error) {
	self, err := identity.Load(m.StateDir)
	if err != nil {
		return "", err
	}
	var s ledger.State
	if err := statefile.Read(filepath.Join(m.StateDir, "cluster.json"), &s); err != nil {
		return "", fmt.Errorf("what this node knew last of its cluster: %w", err)
	}
	g, ok := s.Guests[id]
	switch {
	case !ok:
		return "", &refusal{fmt.Sprintf("guest %s is not known to this node", id), ""}
	case g.Unit == "":
		return "", &refusal{fmt.Sprintf("guest %s has no systemd unit", id), "start by hand what runs it"}
	}
	volumes, err := m.Volumes.Look(ctx, s.Cluster, g)
	if err != nil {
		return "", fmt.Errorf("guest %s: read its volumes: %w", id, err)
	}
	f := rules.Facts{
		Self: self.Node, Guest: g, Owner: s.NameOf(g.Owner), Confirmed: true, // by the operator
		Disks: rules.Disks{Volumes: volumes},
	}
	if why := rules.MayStart(f); why != "" {
		return "", &refusal{
			fmt.Sprintf("guest %s is not started, by force neither: %s", id, why),
			"start tandemd, and where the majority is lost: `tandem cluster expected 1`, then `tandem guest recover`",
		}
	}
	if err := m.start(ctx, g); err != nil {
		return "", err
	}
	return fmt.Sprintf("guest %s was started by what this node knew last (ledger index %d), and nobody was asked: make sure that it runs "+
		"on no other node, and start tandemd as soon as possible; it stops the guest if the cluster has given it to another node", id, s.Index), nil
}

func (m Machine) start(ctx context.Context, g guest.Guest) error {
	files := m.files()
	if err := files.Put(g.ID, g.Config); err != nil {
		return fmt.Errorf("guest %s: its configuration file: %w", g.ID, err)
	}
	boot, err := host.BootID()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(files.Dir, 0o700); err != nil {
		return err
	}
	// The unit's ExecCondition asks for it, and so does each restart of it.
	if err := statefile.Write(files.PermitPath(g.ID), host.Permit{Boot: boot, Term: g.Term}); err != nil {
		return err
	}
	if err := m.Units.Guard(ctx, g.Unit, g.ID); err != nil {
		return err
	}
	return m.Units.Start(ctx, g.Unit)
}

func (m Machine) files() host.Files { return host.Files{Dir: filepath.Join(m.StateDir, "guests")} }

// Allowed says whether a guest's start was forced since this machine has booted. It
// counts only while there is no daemon to ask.
func Allowed(path string, id guest.ID) bool {
	conf, err := config.Load(path)
	if err != nil {
		return false
	}
	return Machine{StateDir: conf.StateDir}.Allowed(id)
}

// Allowed says whether a guest's start was forced on this machine, in this run of it and
// for the term that this node knew last.
func (m Machine) Allowed(id guest.ID) bool {
	var s ledger.State
	var p host.Permit
	boot, err := host.BootID()
	if err != nil || statefile.Read(m.files().PermitPath(id), &p) != nil || statefile.Read(filepath.Join(m.StateDir, "cluster.json"), &s) != nil {
		return false
	}
	g, known := s.Guests[id]
	return known && p.Boot == boot && p.Term == g.Term
}
