//go:build lab

package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// followExample is the specification's example, word for word: a cluster of two, guest 100, a virtual machine, and guest 200, a
// container, on A replicate to B; A fails for good, and both go on at B. n1 is A, n2 is B. It takes n3 out of the cluster.
func followExample(t *testing.T) {
	onFailure(t)
	vm, ct := worker{id: "100", disk: true}, worker{id: "200", tree: true}
	both := []worker{vm, ct}
	makePair(t, both)
	var synced []int
	for _, w := range both {
		count := w.writes(t, "n1", 5)
		synced = append(synced, count)
		w.sync(t, "n1", "n2")
		w.writes(t, "n1", count+3) // some of it will be lost
	}

	must(t, n("n1").Kill(world.ctx))
	n("n2").alone(t)
	said := n("n2").run(t, "tandem cluster status").Stdout
	t.Logf("tandem cluster status:\n%s", said)
	if !strings.Contains(strings.ToLower(said), "quor") || !strings.Contains(said, "n1") {
		t.Errorf("tandem cluster status does not say that the cluster is not quorate")
	}
	for _, w := range both {
		n("n2").refuses(t, "tandem guest recover "+w.id+" --yes --owner-is-off", "not quorate", "1 of 2", "2 needed", "tandem cluster expected")
	}
	t.Log(n("n2").sh(t, "tandem cluster expected 1"))
	for i, w := range both {
		eventually(t, "guest "+w.id+" is recovered", time.Minute, time.Second, func() (bool, string) {
			r := n("n2").run(t, "tandem guest recover %s --on n2 --yes --owner-is-off", w.id)
			return r.Code == 0, r.Stdout + r.Stderr
		})
		w.runsOnlyOn(t, "n2", "n1", "n3")
		by := w.look(t, "n2")
		if from := lastOf(by, "n2"); from < synced[i] {
			t.Errorf("guest %s went on from record %d, the last sync had %d", w.id, from, synced[i])
		}
		w.writes(t, "n2", len(by)+3)
	}
	t.Run("A comes back", func(t *testing.T) { exampleReturns(t, both) })
	if t.Failed() {
		return
	}
	t.Run("B boots alone", func(t *testing.T) { bootsAlone(t, both) })
}

// makePair makes a cluster of n1 and n2 with these guests on n1, which run and are replicated to n2.
func makePair(t *testing.T, guests []worker) {
	t.Helper()
	installWorkers(t)
	dropAll(t, guests)
	n("n1").sh(t, "tandem cluster remove n3")
	eventually(t, "n1 and n2 are a cluster of two", 2*time.Minute, time.Second, func() (bool, string) {
		cluster := n("n2").cluster(t)
		return cluster.Quorate && cluster.Voters == 2 && cluster.Votes == 2 && len(cluster.Members) == 2, fmt.Sprintf("%+v", cluster)
	})
	for _, w := range guests {
		w.add(t, "n1", "--onboot on")
		since := n("n1").clock(t)
		n("n1").sh(t, "tandem guest start %[1]s; tandem create-local-job %[1]s-0 n2 --schedule 'sat 03:00' && tandem schedule-now %[1]s-0", w.id)
		n("n1").synced(t, w.id+"-0", since)
	}
}

// dropAll removes the guests of these IDs that other tests left, with their volumes, and whatever n3 has to do with.
func dropAll(t *testing.T, guests []worker) {
	t.Helper()
	var jobs struct{ Jobs []api.Job }
	var list struct{ Guests []api.Guest }
	n("n1").ask(t, &jobs, "list")
	n("n1").ask(t, &list, "guest list")
	ours := func(id string) bool {
		return slices.ContainsFunc(guests, func(w worker) bool { return w.id == id })
	}
	for _, j := range jobs.Jobs {
		if ours(j.Guest.String()) || j.Source == "n3" {
			drop(t, string(j.Source), j.ID.String())
		}
	}
	for _, g := range list.Guests {
		if ours(g.ID.String()) || g.Owner == "n3" {
			n("n1").sh(t, "tandem guest remove %s", g.ID)
		}
	}
	for _, w := range guests {
		for _, name := range []string{"n1", "n2"} {
			n(name).sh(t, "for d in $(zfs list -H -o name -r tank/guests | grep -E '/(vm|subvol)-%s-disk-0$'); do zfs destroy -r $d; done", w.id)
		}
	}
}

// exampleReturns is the return of A: it follows B, its guests stay stopped and become replicas, what it had alone is kept.
func exampleReturns(t *testing.T, guests []worker) {
	t.Helper()
	onFailure(t)
	since := n("n2").clock(t)
	boot(t, "n1")
	eventually(t, "n1 follows n2", 2*time.Minute, time.Second, func() (bool, string) {
		a, b := n("n1").cluster(t), n("n2").cluster(t)
		return a.Quorate && b.Quorate && a.Generation == b.Generation && b.Votes == 2, fmt.Sprintf("%+v\n%+v", a, b)
	})
	for _, w := range guests {
		w.runsOnlyOn(t, "n2", "n3")
		eventually(t, "what n1 had alone of guest "+w.id+" is set aside", 3*time.Minute, 2*time.Second, func() (bool, string) {
			var kept api.DivergedList
			n("n2").ask(t, &kept, "diverged list --guest %s", w.id)
			return len(kept.Copies) == 1 && kept.Copies[0].Node == "n1", fmt.Sprintf("%+v", kept)
		})
		w.sync(t, "n2", "n1")
		w.nothingFull(t, comeback{old: "n1", heir: "n2", since: since})
	}
}

// bootsAlone is a cluster of two of which one node boots: nothing starts, and status says why and what to do.
func bootsAlone(t *testing.T, guests []worker) {
	t.Helper()
	onFailure(t)
	must(t, n("n1").Kill(world.ctx))
	must(t, n("n2").Kill(world.ctx))
	boot(t, "n2")
	eventually(t, "status says why nothing starts", time.Minute, time.Second, func() (bool, string) {
		said := n("n2").run(t, "tandem status")
		return strings.Contains(said.Stdout+said.Stderr, "not quorate") && strings.Contains(said.Stdout+said.Stderr, "tandem cluster expected 1"),
			said.Stdout + said.Stderr
	})
	for _, w := range guests {
		if state := n("n2").run(t, "systemctl is-active %s", w.unit()).Stdout; state != "inactive\n" {
			t.Errorf("guest %s on n2, which is alone: %s", w.id, state)
		}
		n("n2").refuses(t, "tandem guest start "+w.id, "not quorate")
		if r := n("n2").run(t, "systemctl start %s; systemctl is-active %[1]s", w.unit()); r.Stdout == "active\n" {
			t.Errorf("systemctl start of guest %s on n2, which is alone: %s%s", w.id, r.Stdout, r.Stderr)
		}
	}
	boot(t, "n1")
	for _, w := range guests {
		w.runsOnlyOn(t, "n2", "n3")
	}
}
