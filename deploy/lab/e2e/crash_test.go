//go:build lab

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// slow is a guest whose syncs take half a minute, so that something can happen in the middle of one.
type slow struct {
	job, dataset, source, target string
	since                        time.Time // by the source's clock: what is on the volume has been there since
}

// slowMiB at 1 MB/s.
const slowMiB = 48

// change fills the volume anew.
func (s *slow) change(t *testing.T) {
	t.Helper()
	n(s.source).sh(t, "dd if=/dev/urandom of=%s bs=1M count=%d conv=fsync status=none", n(s.source).device(t, s.dataset), slowMiB)
	s.since = n(s.source).clock(t)
}

// hold lets no sync begin until launch, and waits for those that run.
func hold(t *testing.T, guests ...*slow) {
	t.Helper()
	for _, s := range guests {
		n(s.source).sh(t, "tandem disable %s", s.job)
		eventually(t, s.job+" is disabled", 3*time.Minute, time.Second, func() (bool, string) {
			state := n(s.source).job(t, s.job).State
			return state == api.StateDisabled, state
		})
	}
}

// launch makes syncs begin together, wherever in the minute that is.
func launch(t *testing.T, guests ...*slow) {
	t.Helper()
	for _, s := range guests {
		n(s.source).sh(t, "tandem enable %[1]s && tandem schedule-now %[1]s", s.job)
	}
}

// underway waits until the jobs are all in the middle of sending.
func underway(t *testing.T, guests ...*slow) {
	t.Helper()
	eventually(t, "syncs are underway", 3*time.Minute, time.Second, func() (bool, string) {
		var detail []string
		sending := 0
		for _, s := range guests {
			// Its own node knows it first.
			job := n(s.source).job(t, s.job)
			detail = append(detail, fmt.Sprintf("%s %s %+v", s.job, job.State, job.Progress))
			if job.State == api.StateRunning && job.Progress != nil && job.Progress.Sent > 2*mib {
				sending++
			}
		}
		return sending == len(guests), strings.Join(detail, "; ")
	})
}

// good waits for the replica of what is on the volume, and compares.
func (s *slow) good(t *testing.T) {
	t.Helper()
	n(s.source).synced(t, s.job, s.since)
	for _, r := range n(s.source).runs(t, s.job) {
		t.Logf("job %s run %d: %s, %d bytes, %s to %s: %s", s.job, r.ID, r.Kind, r.Bytes, r.Start.Format(time.TimeOnly), r.End.Format(time.TimeOnly), r.Error)
	}
	want := n(s.source).sh(t, "sha256sum <%s", n(s.source).device(t, s.dataset))[:64]
	if got := n(s.target).hashSnapshot(t, s.dataset, newestPoint); got != want {
		t.Errorf("job %s: the replica on %s has SHA-256 %s, want %s", s.job, s.target, got, want)
	}
	if job := n(s.source).job(t, s.job); job.FailCount != 0 {
		t.Errorf("job %s after the recovery: %d failures, %s", s.job, job.FailCount, job.Error)
	}
}

// surviveCrashes kills a daemon that is source and target of syncs, then stops one that is.
func surviveCrashes(t *testing.T) {
	onFailure(t)
	guests := []*slow{
		{job: "400-0", dataset: "tank/guests/vm-400-disk-0", source: "n1", target: "n2"},
		{job: "401-0", dataset: "tank/guests/vm-401-disk-0", source: "n2", target: "n3"},
		{job: "402-0", dataset: "tank/guests/vm-402-disk-0", source: "n3", target: "n1"},
	}
	for _, s := range guests {
		id, _, _ := strings.Cut(s.job, "-")
		n(s.source).sh(t, "zfs create -V %dM %s", slowMiB, s.dataset)
		s.change(t)
		n(s.source).sh(t, "tandem guest add %[1]s --type vm --name slow-%[1]s --volume local-zfs:vm-%[1]s-disk-0", id)
		n(s.source).sh(t, "tandem create-local-job %s %s --schedule '*/1' --rate 1 --disable", s.job, s.target)
	}
	fromN1, fromN2, toN1 := guests[0], guests[1], guests[2]

	t.Run("kill", func(t *testing.T) {
		onFailure(t)
		launch(t, guests...)
		underway(t, fromN1, toN1)
		const pid = "systemctl show -P MainPID tandemd"
		before := n("n1").sh(t, pid)
		n("n1").sh(t, "kill -9 %s", before)
		eventually(t, "systemd has started the killed daemon again", time.Minute, time.Second, func() (bool, string) {
			now := n("n1").run(t, "systemctl is-active tandemd; %s", pid).Stdout
			return strings.HasPrefix(now, "active\n") && !strings.Contains(now, before), now
		})
		fromN1.good(t)
		toN1.good(t)
		fromN2.good(t)
	})
	if t.Failed() {
		return
	}
	t.Run("stop", func(t *testing.T) {
		onFailure(t)
		hold(t, fromN1, fromN2)
		fromN1.change(t)
		fromN2.change(t)
		launch(t, fromN1, fromN2)
		underway(t, fromN1, fromN2)
		took := n("n2").sh(t, "a=$(date +%%s%%3N); systemctl stop tandemd; echo $(($(date +%%s%%3N) - a)); systemctl is-active tandemd || true; pgrep -a '^zfs$' || true")
		milliseconds, rest, _ := strings.Cut(took, "\n")
		t.Logf("systemctl stop took %s ms", milliseconds)
		if len(milliseconds) > 4 || rest != "inactive" {
			t.Errorf("systemctl stop on n2: %s ms, want less than 10000; then %q, want inactive and no zfs process", milliseconds, rest)
		}
		// Type=notify: what comes after the start finds the daemon at work.
		n("n2").sh(t, "systemctl start tandemd && systemctl is-active tandemd && tandem cluster status >/dev/null; test $? -le 1")
		fromN1.good(t)
		fromN2.good(t)
	})
}
