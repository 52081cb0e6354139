//go:build lab

package e2e_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/pkg/api"
)

const (
	// firstSync is what a first sync sends that is cut in its middle, in MiB: 200 MB.
	firstSync = 191
	// buffered is what may be under way inside the target's machine when its daemon is killed: socket, daemon and pipe.
	buffered = 12 * mib
)

// sendLittleAgain cuts a first sync at its half in three ways. What the target has, as far as the disks know, is not sent again.
func sendLittleAgain(t *testing.T) {
	onFailure(t)
	s := newDisk(t, "n1", "710", firstSync)
	for i, target := range []string{"n2", "n3"} {
		n("n1").sh(t, "tandem create-local-job 710-%d %s --schedule 'sat 03:00' --rate 8", i, target)
		half(t, fmt.Sprintf("710-%d", i))
		if target == "n2" {
			must(t, n("n2").Cut(world.ctx))
			ended(t, "710-0")
			must(t, n("n2").Mend(world.ctx))
		} else {
			n("n3").killDaemon(t)
			ended(t, "710-1")
		}
	}
	// Both go on at the same time.
	cable := goOn(t, s, "710-0", "n2")
	killed := goOn(t, s, "710-1", "n3")
	few := int64(firstSync*mib/50 + mib)
	t.Logf("a cable was cut: %d bytes were sent again, at most %d are allowed", cable, few)
	if cable > few {
		t.Errorf("a cable was cut: %d bytes were sent again, want at most %d", cable, few)
	}
	t.Logf("the target's daemon was killed: %d bytes were sent again, at most %d are allowed", killed, few+buffered)
	if killed > few+buffered {
		t.Errorf("the target's daemon was killed: %d bytes were sent again, want at most %d", killed, few+buffered)
	}
	drop(t, "n1", "710-0", "710-1")

	n("n1").sh(t, "tandem create-local-job 710-2 n2 --schedule 'sat 03:00' --rate 8")
	txg := n("n2").watchTxgs(t)
	half(t, "710-2")
	must(t, n("n2").Kill(world.ctx))
	most := txg()
	boot(t, "n2")
	ended(t, "710-2")
	power := goOn(t, s, "710-2", "n2")
	// What is in the group that is being written, and in the one that fills meanwhile.
	allowed := few + buffered + 2*most
	t.Logf("the target's power went: %d bytes were sent again, at most %d are allowed; the largest transaction group had %d", power, allowed, most)
	if power > allowed {
		t.Errorf("the target's power went: %d bytes were sent again, want at most %d", power, allowed)
	}
	drop(t, "n1", "710-2")
}

// half waits on the owner itself until half of a first sync is sent.
func half(t *testing.T, job string) {
	t.Helper()
	n("n1").sh(t, "tandem schedule-now %s || true", job)
	n("n1").sh(t, `for i in $(seq 600); do
s=$(tandem status -o json | tr -d ' \n' | sed 's/.*"id":"%s"//' | sed -n 's/^[^}]*"sent":\([0-9]*\).*/\1/p'); test "${s:-0}" -ge %d && exit; sleep 0.3; done; exit 1`,
		job, firstSync*mib/2)
}

// ended waits until the run of a job is over.
func ended(t *testing.T, job string) {
	t.Helper()
	eventually(t, job+" was cut", 3*time.Minute, time.Second, func() (bool, string) {
		runs := n("n1").runs(t, job)
		last := runs[len(runs)-1]
		return !last.End.IsZero() && last.Error != "", fmt.Sprintf("%+v", last)
	})
}

// goOn lets the job go on, compares the replica, and returns how much was sent more than once.
func goOn(t *testing.T, s *slow, job, target string) int64 {
	t.Helper()
	var runs []api.Run
	eventually(t, job+" goes on", 3*time.Minute, 2*time.Second, func() (bool, string) {
		runs = n("n1").runs(t, job)
		if last := runs[len(runs)-1]; last.End.IsZero() || last.Error == "" {
			return !last.End.IsZero(), fmt.Sprintf("%+v", last)
		}
		return false, n("n1").run(t, "tandem schedule-now %s", job).Stderr
	})
	var bytes int64
	for _, r := range runs {
		t.Logf("job %s run %d: %s, %d bytes: %s", job, r.ID, r.Kind, r.Bytes, r.Error)
		bytes += r.Bytes
	}
	if kind := runs[len(runs)-1].Kind; kind != "resumed" {
		t.Errorf("job %s: the last run was %s, want resumed", job, kind)
	}
	want := n("n1").sh(t, "sha256sum <%s", n("n1").device(t, s.dataset))[:64]
	if got := n(target).hashSnapshot(t, s.dataset, newestPoint); got != want {
		t.Errorf("job %s: the replica on %s has SHA-256 %s, want %s", job, target, got, want)
	}
	point := n("n1").job(t, job).Point
	stream, err := strconv.ParseInt(n("n1").sh(t, "zfs send -L -c -e %s@%s | wc -c", s.dataset, point), 10, 64)
	must(t, err)
	return bytes - stream
}

// watchTxgs follows the transaction groups of a machine's pool until it is gone; the function returns the size of the largest.
func (o node) watchTxgs(t *testing.T) func() int64 {
	t.Helper()
	var out strings.Builder
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = o.Stream(world.ctx, "while sleep 1; do tail -n 3 /proc/spl/kstat/zfs/tank/txgs; done", lab.Streams{Stdout: &out})
	})
	return func() int64 {
		wg.Wait()
		var most int64
		for line := range strings.Lines(out.String()) {
			// txg birth state ndirty …
			if f := strings.Fields(line); len(f) > 3 {
				dirty, _ := strconv.ParseInt(f[3], 10, 64)
				most = max(most, dirty)
			}
		}
		return most
	}
}
