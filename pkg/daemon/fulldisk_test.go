package daemon_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
)

// jam makes every write of a state file fail, until the returned function is called.
func (m *machine) jam(name string) (free func()) {
	m.t.Helper()
	aside := filepath.Join(m.conf.StateDir, name+".new")
	if err := os.MkdirAll(filepath.Join(aside, "in the way"), 0o700); err != nil {
		m.t.Fatal(err)
	}
	return func() {
		if err := os.RemoveAll(aside); err != nil {
			m.t.Error(err)
		}
	}
}

func (m *machine) warns(of string) bool {
	m.t.Helper()
	s, err := m.api.Status(m.t.Context(), api.Filter{})
	return err == nil && slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, of) })
}

// A token that cannot be burnt is not taken, and not lost.
func TestToken_NotBurntIsNotTaken(t *testing.T) {
	t.Parallel()
	n, joiner := cluster(t, 1)[0], newMachine(t, "n2")
	token, err := n.api.Token(t.Context(), api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	free := n.jam("tokens.json")
	r := api.JoinRequest{Address: token.Address, Token: token.Text}
	if _, err := joiner.api.Join(t.Context(), r); err == nil || !strings.Contains(err.Error(), "cannot write down") {
		t.Errorf("joined with a token that could not be burnt: %v", err)
	}
	if c, err := n.api.Cluster(t.Context()); err != nil || len(c.Members) != 1 {
		t.Errorf("the cluster is now %+v, %v", c, err)
	}
	free()
	if _, err := joiner.api.Join(t.Context(), r); err != nil {
		t.Errorf("once the disk takes it: %v", err)
	}
}

// The ledger that cannot be kept for the next start is still followed; the status says
// it, and it is kept as soon as that is possible.
func TestCluster_LedgerThatCannotBeKept(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	path := filepath.Join(n[0].conf.StateDir, "cluster.json")
	var old ledger.State
	until(t, "the file lists both members", func() bool { return statefile.Read(path, &old) == nil && len(old.Members) == 2 })
	free := n[0].jam("cluster.json")
	n[0].disk("vm-100-disk-0", "x")
	n[0].addGuest(100)
	until(t, "the status of every node says so", func() bool { return n[0].warns(path) && n[1].warns(path) })
	var kept ledger.State
	if err := statefile.Read(path, &kept); err != nil || len(kept.Guests) != 0 {
		t.Errorf("the old file holds %d guests, %v", len(kept.Guests), err)
	}
	free()
	until(t, "the file lists the guest", func() bool { return statefile.Read(path, &kept) == nil && len(kept.Guests) == 1 })
	if n[0].warns(path) {
		t.Error("the status still warns")
	}
}

// A count of starts that cannot be written keeps nobody from starting.
func TestDaemon_StartsWhereItCannotWriteDownThatItDoes(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)[0]
	n.stop()
	path := filepath.Join(n.conf.StateDir, "boot.json")
	before := read(t, path)
	free := n.jam("boot.json")
	n.start()
	n.quorate(1)
	if !n.warns(path) {
		t.Error("the status does not say so")
	}
	if string(read(t, path)) != string(before) {
		t.Error("the file was changed")
	}
	free()
	until(t, "the count is written", func() bool { return string(read(t, path)) != string(before) })
}
