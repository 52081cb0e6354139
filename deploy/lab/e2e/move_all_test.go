//go:build lab

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// moveWorker lets a guest that works all the time change its node: by migrations, also with an end in the middle, and by
// recoveries, after which its former owner comes back.
func moveWorker(t *testing.T) {
	onFailure(t)
	installWorkers(t)
	w := worker{id: "830", tree: true, disk: true}
	w.add(t, "n1", "")
	for i, target := range []string{"n2", "n3"} {
		n("n1").sh(t, "tandem create-local-job 830-%d %s --schedule 'sat 03:00' && tandem schedule-now 830-%[1]d", i, target)
	}
	replicated(t, "n1", "830-0", "830-1")
	n("n1").sh(t, "tandem guest start %s", w.id)
	w.writes(t, "n1", 5)
	for _, move := range []struct {
		name string
		do   func(t *testing.T, w worker)
	}{
		{"there and back", thereAndBack},
		{"drill", tryReplica},
		{"disk", addDisk},
		{"power", estranged(byPower)},
		{"cable", estranged(byCable)},
		{"pause", estranged(byPause)},
		{"daemon", estranged(byDaemon)},
		{"killed", killMigrations},
		{"without a replica", withoutReplica},
	} {
		t.Run(move.name, func(t *testing.T) {
			onFailure(t)
			move.do(t, w)
		})
		if t.Failed() {
			return
		}
	}
	owner := w.owner(t, "n1")
	n(owner).sh(t, "tandem guest stop %s", w.id)
	drop(t, owner, "830-0", "830-1")
	n(owner).sh(t, "tandem guest remove %s", w.id)
}

// thereAndBack migrates the guest as often as was asked for, while it runs.
func thereAndBack(t *testing.T, w worker) {
	t.Helper()
	from := w.owner(t, "n1")
	to, _ := others(from)
	for range 2 * *movesBack {
		w.migrates(t, from, to)
		from, to = to, from
	}
}

// migrates moves the guest while it runs: no record is lost, none is there twice, and the jobs go on by increments.
func (w worker) migrates(t *testing.T, from, to string) {
	t.Helper()
	pointed := w.job(t, from, to)
	before := w.writes(t, from, 0)
	said := n("n3").sh(t, "tandem guest migrate %s %s", w.id, to)
	t.Logf("tandem guest migrate:\n%s", said)
	if !strings.Contains(said, "downtime ") || strings.Contains(said, "not measured") {
		t.Errorf("it does not tell for how long the guest was down")
	}
	w.runsOnlyOn(t, to)
	after := w.writes(t, to, before+5)
	t.Logf("%d records before, %d after", before, after)
	w.keptAll(t, from, to)
	if owner := w.owner(t, "n3"); owner != to {
		t.Errorf("the guest belongs to %s", owner)
	}
	a, b := others(to)
	w.sync(t, to, a, b)
	if got := w.job(t, to, from); got != pointed {
		t.Errorf("job %s points back to %s, want %s", got, from, pointed)
	}
}

// withoutReplica moves a guest that no job replicates: all of it is sent, the copy that stays is of use on the way back, and the one
// that nobody wants is removed.
func withoutReplica(t *testing.T, _ worker) {
	t.Helper()
	w := worker{id: "820", tree: true}
	w.add(t, "n1", "")
	n("n1").sh(t, "tandem guest start %s", w.id)
	before := w.writes(t, "n1", 3)
	t.Log(n("n3").sh(t, "tandem guest migrate %s n2", w.id))
	w.runsOnlyOn(t, "n2")
	before = w.writes(t, "n2", before+3)
	if got := n("n1").sh(t, "zfs get -Hp -o value tandem:role,readonly,mounted %s", w.treeDataset()); got != "replica\non\nno" {
		t.Errorf("the copy that is kept on n1 has role, readonly and mounted %q", got)
	}
	t.Log(n("n3").sh(t, "tandem guest migrate %s n1 --delete-source", w.id))
	w.runsOnlyOn(t, "n1")
	w.writes(t, "n1", before+3)
	if left := n("n2").sh(t, "zfs list -H -o name -r tank/guests | grep subvol-%s || true", w.id); left != "" {
		t.Errorf("with --delete-source n2 still has %s", left)
	}
	w.remove(t, "n1")
	if left := n("n1").sh(t, "zfs list -H -o name -r tank/guests | grep subvol-%s || true", w.id); left != "" {
		t.Error(fmt.Sprint("with --delete-data n1 still has ", left))
	}
}

// addDisk gives the guest a disk while it runs, and migrates it at once, before any sync knows of the disk. The disk comes along, the
// others get it, and where it is taken away again nothing of it stays.
func addDisk(t *testing.T, w worker) {
	t.Helper()
	from := w.owner(t, "n1")
	to, third := others(from)
	const dataset, size = "tank/guests/vm-830-disk-1", 8 * mib
	n(from).sh(t, "zfs create -V %d %s", size, dataset)
	data := random(43, size)
	n(from).put(t, n(from).device(t, dataset), 0, data)
	n("n3").sh(t, "tandem guest set %s --add-volume local-zfs:vm-830-disk-1", w.id)
	before := w.writes(t, from, 0)
	t.Logf("tandem guest migrate:\n%s", n("n3").sh(t, "tandem guest migrate %s %s", w.id, to))
	w.runsOnlyOn(t, to)
	w.writes(t, to, before+3)
	w.keptAll(t, from, to)
	since := n(to).clock(t)
	for _, target := range []string{from, third} {
		n(to).sh(t, "tandem schedule-now %s", w.job(t, to, target))
	}
	for _, target := range []string{from, third} {
		n(to).synced(t, w.job(t, to, target), since)
		if got := n(target).hashSnapshot(t, dataset, newestPoint); got != hash(data) {
			t.Errorf("the disk that was added is not what it was on %s", target)
		}
	}
	n("n3").sh(t, "tandem guest set %s --remove-volume local-zfs:vm-830-disk-1 --delete-data", w.id)
	for _, name := range all {
		if left := n(name).sh(t, "zfs list -H -o name -r tank | grep vm-830-disk-1 || true"); left != "" {
			t.Errorf("--delete-data has left %s on %s", left, name)
		}
	}
}
