package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// damage is a seeded sample of ways to spoil a file: cut at some place, or one bit
// flipped.
func damage(t *testing.T, good []byte, n int) map[string][]byte {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	out := map[string][]byte{"emptied": {}}
	for range n {
		at, bit := r.IntN(len(good)), r.IntN(8)
		flipped := bytes.Clone(good)
		flipped[at] ^= 1 << bit
		out[fmt.Sprintf("bit %d of byte %d flipped", bit, at)] = flipped
		at = r.IntN(len(good))
		out[fmt.Sprintf("cut at %d", at)] = good[:at]
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// files are the names and contents below a folder, raft's and the reserve left out.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || strings.Contains(path, "/raft/") || info.Name() == "reserve" {
			return err
		}
		out[path] = string(read(t, path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// hint is what an error tells the operator to do.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	if ae, ok := errors.AsType[*api.Error](err); ok {
		return ae.Hint
	}
	return ""
}

// Without its key, or without knowing of which cluster it is, a node does nothing,
// above all not found or join another one, and changes nothing.
func TestDaemon_BrokenIdentityOrClusterStopsItBeforeItDoesAnything(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)[0]
	n.stop()
	for name, advice := range map[string]string{"node.json": "tandem cluster remove", "cluster.json": "from another member"} {
		path := filepath.Join(n.conf.StateDir, name)
		good := read(t, path)
		for what, bad := range damage(t, good, 10) {
			write(t, path, bad)
			before := files(t, n.conf.StateDir)
			err := n.tryStart()
			if err == nil {
				n.stop()
				t.Fatalf("%s %s: it started", name, what)
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(hint(err), advice) {
				t.Errorf("%s %s: got %q with the hint %q, want %s and %q in them", name, what, err, hint(err), path, advice)
			}
			if d := cmp.Diff(before, files(t, n.conf.StateDir)); d != "" {
				t.Errorf("%s %s: it changed something:\n%s", name, what, d)
			}
		}
		write(t, path, good)
	}
	n.start()
	until(t, "the repaired node is quorate", func() bool {
		c, err := n.api.Cluster(t.Context())
		return err == nil && c.Quorate
	})
}

// A new key on the state of an old node would be neither of the two.
func TestDaemon_LostIdentityIsNotReplacedInANodeOfACluster(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)[0]
	n.stop()
	path := filepath.Join(n.conf.StateDir, "node.json")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	err := n.tryStart()
	if err == nil || !strings.Contains(err.Error(), path+" is missing") || !strings.Contains(hint(err), "backup") {
		t.Errorf("got %v (%s), want an error that says that %s is missing", err, hint(err), path)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it made a new identity")
	}
}

// The other members hold the same.
func TestDaemon_ClusterFileOfAnotherMemberServes(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	from, to := filepath.Join(n[0].conf.StateDir, "cluster.json"), filepath.Join(n[1].conf.StateDir, "cluster.json")
	n[1].stop()
	write(t, to, nil)
	if err := n[1].tryStart(); err == nil {
		t.Fatal("it started with a broken file")
	}
	write(t, to, read(t, from))
	n[1].start()
	until(t, "it follows again", func() bool {
		c, err := n[1].api.Cluster(t.Context())
		return err == nil && c.Quorate && len(c.Members) == 2
	})
}

// aside is the content of the file that was kept of a broken one.
func aside(t *testing.T, path string) []byte {
	t.Helper()
	kept, err := filepath.Glob(path + ".broken-*")
	if err != nil || len(kept) == 0 {
		t.Fatalf("nothing was kept of the broken %s: %v", path, err)
	}
	slices.Sort(kept)
	return read(t, kept[len(kept)-1])
}

func TestDaemon_GoesOnWithABrokenBootCount(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)[0]
	n.stop()
	path := filepath.Join(n.conf.StateDir, "boot.json")
	good := read(t, path)
	for what, bad := range damage(t, good, 1) {
		write(t, path, bad)
		n.start()
		n.stop()
		if got := aside(t, path); !bytes.Equal(got, bad) {
			t.Errorf("%s: %q was kept, want %q", what, got, bad)
		}
		if now := read(t, path); !strings.Contains(string(now), `"boot"`) || bytes.Equal(now, good) {
			t.Errorf("%s: the count is now %q", what, now)
		}
	}
}

func TestDaemon_GoesOnWithABrokenHistory(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)[0]
	n.stop()
	path := filepath.Join(n.conf.StateDir, "history.db")
	good := read(t, path)
	for what, bad := range damage(t, good, 2) {
		write(t, path, bad)
		n.start()
		if _, err := n.api.Status(t.Context(), api.Filter{}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		n.stop()
		write(t, path, good)
	}
}

// Nothing at all in the place of the file, for ever: the daemon does without and says so.
func TestDaemon_GoesOnWithoutAHistory(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "x")
	n[0].addGuest(100)
	n[0].stop()
	path := filepath.Join(n[0].conf.StateDir, "history.db")
	if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	n[0].start()
	until(t, "it is quorate again", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Quorate
	})
	s, err := n[1].api.Status(t.Context(), api.Filter{})
	if err != nil || !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, path) }) {
		t.Errorf("the other node's status warns of %q, %v", s.Warnings, err)
	}
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	if got := n[1].replica(100); got != "x" {
		t.Errorf("the replica holds %q", got)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	if runs, err := n[0].api.Runs(t.Context(), id, 0); err != nil || len(runs) != 1 {
		t.Errorf("once the file can be made: %+v, %v", runs, err)
	}
	s, err = n[0].api.Status(t.Context(), api.Filter{})
	if err != nil || slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, path) }) {
		t.Errorf("afterwards the status warns of %q, %v", s.Warnings, err)
	}
}

func TestDaemon_BrokenTokensBlockOnlyTokens(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)[0]
	old, err := n.api.Token(t.Context(), api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	joiner := newMachine(t, "n2")
	path := filepath.Join(n.conf.StateDir, "tokens.json")
	n.stop()
	bad := read(t, path)[1:]
	write(t, path, bad)
	n.start()
	until(t, "it is quorate again", func() bool {
		c, err := n.api.Cluster(t.Context())
		return err == nil && c.Quorate
	})
	if _, err = n.api.Token(t.Context(), api.TokenRequest{}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(hint(err), "move") {
		t.Errorf("a new token: got %v with the hint %q, want an error that names %s", err, hint(err), path)
	}
	_, err = joiner.api.Join(t.Context(), api.JoinRequest{Address: old.Address, Token: old.Text})
	if err == nil || !strings.Contains(err.Error(), "its log tells why") || strings.Contains(err.Error(), path) {
		t.Errorf("the joiner is told %v", err)
	}
	if got := read(t, path); !bytes.Equal(got, bad) {
		t.Error("the broken file was changed")
	}
	if s, err := n.api.Status(t.Context(), api.Filter{}); err != nil || len(s.Warnings) == 0 {
		t.Errorf("the status warns of %q, %v", s.Warnings, err)
	}
	// What the operator was told helps, without a restart.
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	token, err := n.api.Token(t.Context(), api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := joiner.api.Join(t.Context(), api.JoinRequest{Address: token.Address, Token: token.Text}); err != nil {
		t.Error(err)
	}
}

func TestDaemon_BrokenFactsAreGatheredAnew(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "x")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	spoilt := map[string]string{}
	for _, m := range n {
		m.stop()
		found, err := filepath.Glob(filepath.Join(m.conf.StateDir, "facts", "*.json"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s keeps no facts: %v", m.conf.NodeName, err)
		}
		for _, path := range found {
			for _, bad := range damage(t, read(t, path), 1) {
				write(t, path, bad)
				spoilt[path] = string(bad)
			}
		}
	}
	for _, m := range n {
		m.start()
	}
	until(t, "both are quorate again", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Quorate && n[0].job(id).Lag != nil
	})
	n[0].write("vm-100-disk-0", "y")
	if j := n[0].syncNow(id); j.Kind != "incremental" {
		t.Errorf("the next sync was %s", j.Kind)
	}
	if got := n[1].replica(100); got != "y" {
		t.Errorf("the replica holds %q", got)
	}
	for path, bad := range spoilt {
		if got := string(aside(t, path)); got != bad {
			t.Errorf("%s: %q was kept, want %q", path, got, bad)
		}
	}
}
