package replicate_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// What had arrived is not dropped because nothing could be tried: the target is full for a while.
func TestResume_RefusalsAreNoTries(t *testing.T) {
	w := newWorld(t)
	n2 := w.node("2")
	n2.pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 40 * 4096})
	w.fails(replicate.ClassRetry, "disk-0")
	n2.set("tank/g", map[string]string{"quota": "4096"})
	for range 5 {
		w.pass(time.Minute)
		w.fails(replicate.ClassRetry, "available")
	}
	n2.set("tank/g", map[string]string{"quota": "none"})
	r := w.run(job)
	equal(t, r.Volumes[0].Kind, replicate.KindResumed)
}

// Nor because the target could not be reached.
func TestResume_StreamsThatDoNotOpenAreNoTries(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n2.pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 40 * 4096})
	w.fails(replicate.ClassRetry, "disk-0")
	n1.setTrap(func(what string) error {
		if what == "open" {
			return errors.New("connection refused")
		}
		return nil
	})
	for range 3 {
		w.fails(replicate.ClassRetry, "connection refused")
	}
	n1.setTrap(nil)
	r := w.run(job)
	equal(t, r.Volumes[0].Kind, replicate.KindResumed)
}

// Nor because another volume of the guest is refused.
func TestResume_AnotherVolumesRefusalsAreNoTries(t *testing.T) {
	w := newWorld(t)
	n2 := w.node("2")
	w.cutIncrement()
	must(t, n2.pool.Rename(t.Context(), rootDS, rootDS+"-mine"))
	for range 4 {
		w.fails(replicate.ClassPerson, "was renamed to")
		w.pass(time.Hour)
	}
	must(t, n2.pool.Rename(t.Context(), rootDS+"-mine", rootDS))
	r := w.run(job)
	equal(t, r.Volumes[0].Kind, replicate.KindResumed)
}

// While a replica is renamed, other targets' syncs leave its base.
func TestRenamed_KeepsItsBase(t *testing.T) {
	w := newWorld(t)
	secondJob(w)
	must(t, syncBoth(w))
	n1, n2 := w.node("1"), w.node("2")
	must(t, n2.pool.Rename(t.Context(), diskDS, diskDS+"-mine"))
	n1.write(diskDS, 3, 1)
	w.fails(replicate.ClassPerson, "was renamed to")
	for i := range 3 {
		n1.write(diskDS, int64(4+i), 1)
		w.run(second)
	}
	must(t, n2.pool.Rename(t.Context(), diskDS+"-mine", diskDS)) // as the hint says
	cheap(t, w.run(job))
}

// And nothing is sent again without a word.
func TestRenamed_StaysRefused(t *testing.T) {
	w := newWorld(t)
	secondJob(w)
	must(t, syncBoth(w))
	n1, n2 := w.node("1"), w.node("2")
	must(t, n2.pool.Rename(t.Context(), diskDS, diskDS+"-mine"))
	n1.write(diskDS, 3, 1)
	w.fails(replicate.ClassPerson, "was renamed to")
	for i := range 3 {
		n1.write(diskDS, int64(4+i), 1)
		w.run(second)
	}
	w.fails(replicate.ClassPerson, "was renamed to")
}

// An encrypted guest: an idle volume's empty newer point on the former owner.
func TestEncrypted_AnEmptyPointOfALineThatWasLeft(t *testing.T) {
	for _, gone := range []string{"1", "3"} {
		w := newWorld(t)
		for _, n := range w.nodes {
			n.version("2.3.3-1")
		}
		n1 := w.node("1")
		secret := guest.Volume{Storage: "local-zfs", Name: "vm-100-secret"}
		name := "tank/g/" + secret.Name
		must(t, n1.pool.Create(name, 1<<20, map[string]string{"encryption": "aes-256-gcm"}))
		n1.write(name, 0, 8)
		w.change(func(s *ledger.State) {
			g := s.Guests[100]
			g.Volumes = append(slices.Clone(g.Volumes), secret)
			s.Guests = map[guest.ID]guest.Guest{100: g}
		})
		secondJob(w)
		must(t, syncBoth(w))
		n1.write(diskDS, 100, 30) // the encrypted one is idle
		w.run(second)             // n1 and n3 have a point that n2 does not have
		w.give("2", guest.ByRecovery, w.held("2")[0])
		w.node("2").pool.SetKey(name, true)
		w.promoted("2")
		w.node("2").write(diskDS, 5, 2)
		w.retired("1")
		j := map[string]guest.JobID{"1": job, "3": second}[gone]
		for range 3 {
			w.pass(time.Hour)
			_, err := w.node("2").source.Run(t.Context(), replicate.Task{Job: j})
			if err != nil {
				t.Errorf("to n%s: %v (hint %s)", gone, err, replicate.HintOf(err))
			}
		}
	}
}

// A point that was current when a long first sync began is older when it ends.
func TestAge_AfterALongTransfer(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	secondJob(w)
	n3 := w.node("3")
	done := false
	n3.setTrap(func(what string) error {
		if strings.Contains(what, "Receive") && !done {
			done = true
			w.pass(3 * time.Hour)
			w.node("1").write(diskDS, 5, 2)
		}
		return nil
	})
	w.run(second)
	st, err := n3.target.Replicas(t.Context())
	must(t, err)
	if st[0].Point.Lag(w.clock()) < 2*time.Hour {
		t.Errorf("lag %s, the content is three hours old", st[0].Point.Lag(w.clock()))
	}
}

// What a migration began and a job has taken over is no leftover of the migration, be the guest idle.
func TestKept_WhatAnIdleJobTookOverFromAMigration(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	h := w.handover("3")
	_, err := h.Sync(t.Context(), replicate.Transfer{})
	must(t, err)
	h.Close()
	secondJob(w)
	began := w.node("3").dataset(diskDS).Props[zfs.PropLanding]
	_, err = w.node("1").source.Preview(t.Context(), second, time.Second)
	must(t, err)
	equal(t, w.node("3").dataset(diskDS).Props[zfs.PropLanding], began) // A preview changes nothing.
	if began == "" {
		t.Error("the migration left no mark")
	}
	equal(t, w.run(second).Kind, replicate.KindNothing)
	remove(w, second, true) // keep the replica
	must(t, removeOnce(second)(w))
	w.change(func(s *ledger.State) {
		jobs := maps.Clone(s.Jobs)
		delete(jobs, second)
		s.Jobs = jobs
	})
	w.pass(24 * time.Hour)
	_, err = w.node("1").source.RemoveUnfinished(t.Context(), 100, id("3"))
	if !w.node("3").dataset(diskDS).Exists() {
		t.Errorf("the replica that was to be kept is destroyed: %v", err)
	}
}
