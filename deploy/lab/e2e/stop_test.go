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

// launch makes disabled jobs sync at once, as near together as commands can be given.
func launch(t *testing.T, guests ...*slow) {
	t.Helper()
	for _, verb := range []string{"enable", "schedule-now"} {
		for source, commands := range bySource(guests, "tandem "+verb+" %s") {
			n(source).sh(t, "%s", strings.Join(commands, " && "))
		}
	}
}

// bySource is a command for the job of each guest, by the nodes to give it on.
func bySource(guests []*slow, command string) map[string][]string {
	commands := map[string][]string{}
	for _, s := range guests {
		commands[s.source] = append(commands[s.source], fmt.Sprintf(command, s.job))
	}
	return commands
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

// surviveStop stops a daemon that is target of one sync and source of another.
func surviveStop(t *testing.T) {
	onFailure(t)
	fromN1, fromN2 := newDisk(t, "n1", "400", slowMiB), newDisk(t, "n2", "401", slowMiB)
	fromN1.target, fromN2.target = "n2", "n3"
	for _, s := range []*slow{fromN1, fromN2} {
		s.since = n(s.source).clock(t)
		n(s.source).sh(t, "tandem create-local-job %s %s --schedule '*/1' --rate 1 --disable", s.job, s.target)
	}
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
}
