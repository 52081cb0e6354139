//go:build lab

package e2e_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/api"
)

// setAside makes a replica and its owner disagree, in both ways: the owner's volume is rolled back, and somebody writes to the
// replica. Each time the replica goes on by an increment, and what the owner does not have is kept.
func setAside(t *testing.T) {
	t.Parallel()
	onFailure(t)
	const size = 16
	s := newDisk(t, "n3", "730", size)
	s.target = "n1"
	n("n3").sh(t, "zfs snapshot %s@before", s.dataset)
	n("n3").sh(t, "tandem create-local-job %s n1 --schedule 'sat 03:00'", s.job)
	sync := func() api.Run {
		t.Helper()
		s.since = n("n3").clock(t)
		n("n3").sh(t, "tandem schedule-now %s", s.job)
		s.good(t)
		runs := n("n3").runs(t, s.job)
		return runs[len(runs)-1]
	}
	sync()
	hashes := map[string]bool{} // of what only the replica had
	lost := func() {
		t.Helper()
		n("n1").sh(t, "zpool sync tank")
		hashes[n("n1").sh(t, "sha256sum <%s", n("n1").device(t, s.dataset))[:64]] = true
	}
	again := func(what string) {
		t.Helper()
		n("n3").put(t, n("n3").device(t, s.dataset), 3*mib, random(byte(len(what)), mib))
		run := sync()
		t.Logf("%s: %s, %d bytes", what, run.Kind, run.Bytes)
		if run.Kind == "full" || run.Bytes > size*mib/2 {
			t.Errorf("after %s a %s run sent %d bytes, want an increment", what, run.Kind, run.Bytes)
		}
	}

	n("n3").put(t, n("n3").device(t, s.dataset), 0, random(31, 2*mib))
	sync()
	n("n1").sh(t, "zfs set volmode=default %s; udevadm settle", s.dataset)
	lost()
	n("n3").sh(t, "zfs rollback -r %s@before", s.dataset)
	again("a rollback of the owner's volume")

	n("n1").sh(t, "zfs snapshot %[1]s@mine && zfs set readonly=off volmode=default %[1]s; udevadm settle", s.dataset)
	n("n1").put(t, n("n1").device(t, s.dataset), 5*mib, random(32, mib))
	lost()
	again("a write to the replica")

	var list api.DivergedList
	n("n1").ask(t, &list, "diverged list --guest 730")
	if len(list.Copies) != 2 {
		t.Fatalf("%d copies set aside, want 2: %+v", len(list.Copies), list)
	}
	for _, c := range list.Copies {
		t.Logf("%s: %s", c.Dataset, c.Why)
		n("n1").sh(t, "zfs set volmode=default %s; udevadm settle", c.Dataset)
		if got := n("n1").sh(t, "sha256sum <%s", n("n1").device(t, c.Dataset))[:64]; !hashes[got] {
			t.Errorf("%s has SHA-256 %s, which is neither of what the replica had", c.Dataset, got)
		} else {
			delete(hashes, got)
		}
		n("n1").sh(t, "zfs set volmode=none %s; udevadm settle", c.Dataset)
	}
	for _, c := range list.Copies {
		n("n1").sh(t, "tandem diverged discard n1 %s --yes", c.Dataset)
	}
	sync()
	if left := n("n1").sh(t, "zfs list -Hr -o name tank/guests | grep diverged/730 || true"); left != "" {
		t.Errorf("after discarding, n1 still has %s", strings.ReplaceAll(left, "\n", " "))
	}
	drop(t, "n3", s.job)
}
