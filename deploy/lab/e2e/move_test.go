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

// writer is a guest whose unit appends numbered, checksummed records to a file on its filesystem, each synced to disk.
const (
	writerID      = "800"
	writerUnit    = "records.service"
	writerDataset = "tank/guests/subvol-800-disk-0"
	writerFolder  = "/srv/records"
)

const writerText = `[Unit]
Description=Writes records
[Service]
ExecStart=/usr/local/bin/records
`

const writerScript = `#!/bin/bash
f=/srv/records/log; i=$(wc -l 2>/dev/null <$f || echo 0)
while :; do i=$((i+1)); echo "$i $(echo $i | sha256sum | cut -c1-16) $(hostname)" >>$f; sync $f; sleep 0.3; done
`

// moveGuests lets a guest that works all the time change its node: by migrations and by a recovery, after which its former owner
// comes back.
func moveGuests(t *testing.T) {
	onFailure(t)
	for _, name := range all {
		n(name).write(t, "/etc/systemd/system/"+writerUnit, writerText)
		n(name).write(t, "/usr/local/bin/records", writerScript)
		n(name).sh(t, "chmod +x /usr/local/bin/records; systemctl daemon-reload")
	}
	n("n1").sh(t, "zfs create -o mountpoint=%s %s", writerFolder, writerDataset)
	n("n1").sh(t, "tandem guest add %s --type ct --name writer --volume local-zfs:subvol-800-disk-0 --unit %s", writerID, writerUnit)
	since := n("n1").clock(t)
	for i, target := range []string{"n2", "n3"} {
		n("n1").sh(t, "tandem create-local-job 800-%d %s --schedule 'sat 03:00' && tandem schedule-now 800-%[1]d", i, target)
	}
	for _, job := range []string{"800-0", "800-1"} {
		n("n1").synced(t, job, since)
	}
	n("n1").sh(t, "tandem guest start %s", writerID)
	writes(t, "n1", 5)
	for _, move := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"there", migrating("n1", "n2")}, {"back", migrating("n2", "n1")}, {"recover", bringBack},
	} {
		t.Run(move.name, move.do)
		if t.Failed() {
			return
		}
	}
	n("n2").sh(t, "tandem guest stop %s", writerID)
	drop(t, "n2", "800-0", "800-1")
	n("n2").sh(t, "tandem guest remove %s", writerID)
}

// migrating moves the guest while it runs: no record is lost, none is there twice, and the jobs go on by increments.
func migrating(from, to string) func(t *testing.T) {
	return func(t *testing.T) {
		t.Helper()
		migrate(t, from, to)
	}
}

func migrate(t *testing.T, from, to string) {
	t.Helper()
	before := writes(t, from, 0)
	said := n("n3").sh(t, "tandem guest migrate %s %s", writerID, to)
	t.Logf("tandem guest migrate:\n%s", said)
	if !strings.Contains(said, "down") {
		t.Errorf("it does not tell for how long the guest was down")
	}
	runsOnlyOn(t, to)
	after := writes(t, to, before+5)
	t.Logf("%d records before, %d after", before, after)
	var guests struct{ Guests []api.Guest }
	n("n3").ask(t, &guests, "guest list")
	for _, g := range guests.Guests {
		if g.ID.String() == writerID && string(g.Owner) != to {
			t.Errorf("the guest belongs to %s", g.Owner)
		}
	}
	since := n(to).clock(t)
	for _, job := range []string{"800-0", "800-1"} {
		n(to).sh(t, "tandem schedule-now %s", job)
	}
	for _, job := range []string{"800-0", "800-1"} {
		run := n(to).synced(t, job, since)
		if run.Kind != "incremental" || run.Bytes > 4*mib {
			t.Errorf("job %s of the new owner: %s, %d bytes", job, run.Kind, run.Bytes)
		}
	}
	if got := n(to).job(t, "800-0"); string(got.Source) != to || string(got.Target) != from {
		t.Errorf("job 800-0 goes from %s to %s", got.Source, got.Target)
	}
}

// bringBack is the loss of the owner: the guest goes on elsewhere from its last sync, and what the owner had alone is kept when it
// comes back.
func bringBack(t *testing.T) {
	t.Helper()
	n("n3").refuses(t, "tandem guest recover "+writerID+" --on n2 --yes --owner-is-off", "alive")
	point := n("n1").job(t, "800-0").Point
	alone := writes(t, "n1", writes(t, "n1", 0)+5)
	must(t, n("n1").Kill(world.ctx))
	eventually(t, "n1 is missed", 2*time.Minute, time.Second, func() (bool, string) {
		r := n("n3").run(t, "tandem guest recover %s --on n2 --yes --owner-is-off", writerID)
		return r.Code == 0, r.Stdout + r.Stderr
	})
	runsOnlyOn(t, "n2", "n1")
	t.Logf("it went on with %d records; n1 had %d, and its last point was %s", writes(t, "n2", 1), alone, point)
	boot(t, "n1")
	eventually(t, "what n1 had alone is set aside", 3*time.Minute, 2*time.Second, func() (bool, string) {
		said := n("n1").run(t, "tandem diverged list; zfs get -H -o value tandem:role,readonly %s", writerDataset)
		return strings.Contains(said.Stdout, "diverged/"+writerID) && !strings.Contains(said.Stdout, "\nowner\n"), said.Stdout + said.Stderr
	})
	runsOnlyOn(t, "n2")
	since := n("n2").clock(t)
	n("n2").sh(t, "tandem schedule-now 800-0")
	if run := n("n2").synced(t, "800-0", since); run.Kind != "incremental" || run.Bytes > 4*mib {
		t.Errorf("n1 became a replica by a sync that was %s, %d bytes", run.Kind, run.Bytes)
	}
	// The records that only n1 had can be read.
	n("n1").sh(t, `d=$(zfs list -H -o name -r tank/guests/diverged/%s | tail -n 1); mkdir -p /mnt/aside
zfs clone -o readonly=on -o mountpoint=/mnt/aside $(zfs list -H -t snapshot -o name -s createtxg $d | tail -n 1) tank/aside`, writerID)
	var kept int
	_, err := fmt.Sscan(n("n1").sh(t, "wc -l </mnt/aside/log; zfs destroy tank/aside"), &kept)
	if err != nil || kept < alone-1 { // The last one may have been on its way.
		t.Errorf("of n1's %d records %d can be read from what was set aside: %v", alone, kept, err)
	}
}

// writes waits until the guest's file on a node has so many good records, and returns how many there are: numbered without a gap.
func writes(t *testing.T, name string, least int) int {
	t.Helper()
	var count int
	eventually(t, fmt.Sprintf("%d records on %s", least, name), 2*time.Minute, time.Second, func() (bool, string) {
		// A last line that was torn by a power cut is no record.
		said := n(name).run(t, `awk 'NF==3 && $1!=++n {print "record " $1 " is number " n; exit 1} END {print n+0}' %s/log`, writerFolder)
		if said.Code != 0 && strings.Contains(said.Stdout, "is number") {
			t.Fatalf("on %s: %s", name, said.Stdout)
		}
		_, err := fmt.Sscan(said.Stdout, &count)
		return err == nil && count >= least, said.Stdout + said.Stderr
	})
	return count
}

// runsOnlyOn wants the unit on one node; off are machines that cannot be asked.
func runsOnlyOn(t *testing.T, where string, off ...string) {
	t.Helper()
	for _, name := range all {
		if slices.Contains(off, name) {
			continue
		}
		eventually(t, fmt.Sprintf("the guest's unit on %s is as it should be", name), 2*time.Minute, time.Second, func() (bool, string) {
			state := n(name).run(t, "systemctl is-active %s", writerUnit).Stdout
			return (strings.TrimSpace(state) == "active") == (name == where), state
		})
	}
}
