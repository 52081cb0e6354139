package force_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/cli/force"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/keeper/host"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
	"github.com/tandemd/tandem/pkg/zfs"
)

// units notes what is started, and asks first as systemd does.
type units struct {
	m       force.Machine
	started []string
	t       *testing.T
}

func (*units) Guard(context.Context, string, guest.ID) error { return nil }

func (u *units) Start(_ context.Context, name string) error {
	if !u.m.Allowed(100) {
		u.t.Error("the unit's condition would refuse the start that was forced")
	}
	u.started = append(u.started, name)
	return nil
}

func TestStart_ByWhatTheMachineItselfHas(t *testing.T) {
	term := guest.Term{N: 4, Generation: "0123456789abcdef"}
	volume := guest.Volume{Storage: "s", Name: "d"}
	dir := t.TempDir()
	me, err := identity.LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	const other guest.NodeID = "22222222222222222222222222222222"
	dataset := func(role string, at guest.Term, readonly bool) zfs.Dataset {
		return zfs.Dataset{Name: "tank/d", ReadOnly: readonly, Props: map[string]string{
			zfs.PropCluster: "c", zfs.PropGuest: "100", zfs.PropRole: role, zfs.PropVolume: volume.String(), zfs.PropTerm: at.String(),
		}}
	}
	for name, tc := range map[string]struct {
		owner   guest.NodeID
		unit    string
		dataset zfs.Dataset
		refused string // a part of why; empty: it is started
	}{
		"its own":            {me.Node, "vm.service", dataset(zfs.RoleOwner, term, false), ""},
		"another node's":     {other, "vm.service", dataset(zfs.RoleOwner, term, false), "it is 22222222's at term 4"},
		"an older term":      {me.Node, "vm.service", dataset(zfs.RoleOwner, guest.Term{N: 3, Generation: term.Generation}, false), "not marked as the owner's of term 4"},
		"a replica":          {me.Node, "vm.service", dataset(zfs.RoleReplica, term, true), "not marked as the owner's"},
		"sealed for a move":  {me.Node, "vm.service", dataset(zfs.RoleOwner, term, true), "read-only"},
		"without marks":      {me.Node, "vm.service", zfs.Dataset{Name: "tank/d"}, "carry no mark"},
		"without a unit":     {me.Node, "", dataset(zfs.RoleOwner, term, false), "no systemd unit"},
		"another cluster's":  {me.Node, "vm.service", zfs.Dataset{Name: "tank/d", Props: map[string]string{zfs.PropCluster: "x", zfs.PropGuest: "100", zfs.PropRole: zfs.RoleOwner}}, "marks of another guest"},
		"a pool that is off": {me.Node, "vm.service", zfs.Dataset{Name: "tank/d", Err: &zfs.Error{Class: zfs.ClassPoolAbsent}}, "read its volumes"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(filepath.Join(dir, "guests")); err != nil {
				t.Fatal(err)
			}
			s := ledger.State{Cluster: "c", Generation: term.Generation, Index: 7, Guests: map[guest.ID]guest.Guest{
				100: {ID: 100, Owner: tc.owner, Term: term, Unit: tc.unit, Volumes: []guest.Volume{volume}, Config: "cores=2\n"},
			}}
			if err := statefile.Write(filepath.Join(dir, "cluster.json"), s); err != nil {
				t.Fatal(err)
			}
			m := force.Machine{StateDir: dir, Volumes: host.Volumes{
				Storages: map[string]string{"s": "tank"},
				List:     func(context.Context, ...string) ([]zfs.Dataset, error) { return []zfs.Dataset{tc.dataset}, nil },
			}}
			u := &units{m: m, t: t}
			m.Units = u
			warning, err := m.Start(t.Context(), 100)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) || len(u.started) > 0 || m.Allowed(100) {
					t.Errorf("got %v, started %v; want a refusal that says %q", err, u.started, tc.refused)
				}
				return
			}
			if err != nil || len(u.started) != 1 || !strings.Contains(warning, "no other node") {
				t.Fatalf("%v, %q, %v", u.started, warning, err)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "guests", "100.conf")); err != nil || string(b) != "cores=2\n" {
				t.Errorf("the configuration file: %q, %v", b, err)
			}
			if err := (host.Files{Dir: filepath.Join(dir, "guests")}).EndPermits(); err != nil || m.Allowed(100) {
				t.Errorf("the permission outlives the start of a daemon: %v", err)
			}
		})
	}
	if _, err := (force.Machine{StateDir: dir}).Start(t.Context(), 999); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("a guest that is not known: %v", err)
	}
}
