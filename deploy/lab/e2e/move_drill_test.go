//go:build lab

package e2e_test

import (
	"strings"
	"testing"
)

// checkScript tries the clone of a worker's filesystem for long enough that a sync arrives meanwhile, and writes to it.
const checkScript = `#!/bin/bash -e
wc -l <"$TANDEM_PATH_0/log"
echo damaged >>"$TANDEM_PATH_0/log"
sleep 70
`

// tryReplica drills a replica while its job runs every minute: no sync fails, what was tried leaves nothing behind, and status tells of it.
func tryReplica(t *testing.T, w worker) {
	t.Helper()
	owner := w.owner(t, "n1")
	target, asked := others(owner)
	job := w.job(t, owner, target)
	w.sync(t, owner, target)
	n(target).write(t, "/usr/local/bin/try-records", checkScript)
	n(target).write(t, "/usr/local/bin/fail-records", "#!/bin/sh\necho no such records; exit 3")
	n(target).sh(t, "chmod 755 /usr/local/bin/try-records /usr/local/bin/fail-records")
	n(owner).sh(t, "tandem update %s --schedule '*/1'", job)
	since := n(owner).clock(t)

	failed := n(asked).run(t, "tandem guest drill %s --on %s --check /usr/local/bin/fail-records", w.id, target)
	t.Logf("tandem guest drill: exit code %d\n%s%s", failed.Code, failed.Stdout, failed.Stderr)
	if failed.Code != 1 || !strings.Contains(failed.Stdout+failed.Stderr, "no such records") {
		t.Errorf("a drill whose check fails: exit code %d, want 1 and what the check said", failed.Code)
	}
	if said := n(asked).run(t, "tandem status").Stdout; !strings.Contains(said, "drill") {
		t.Errorf("status does not warn of a replica that failed its drill:\n%s", said)
	}

	begun := n(owner).clock(t)
	t.Log(n(asked).sh(t, "tandem guest drill %s --on %s --check /usr/local/bin/try-records", w.id, target))
	ended := n(owner).clock(t)
	meanwhile := 0
	n(owner).synced(t, job, begun)
	for _, r := range n(owner).runs(t, job) {
		switch {
		case r.Start.Before(since):
		case r.Error != "":
			t.Errorf("run %d of job %s failed beside a drill: %s", r.ID, job, r.Error)
		case r.Start.After(begun) && !r.End.IsZero() && r.End.Before(ended):
			meanwhile++
		}
	}
	if meanwhile == 0 {
		t.Errorf("no sync of job %s went from beginning to end during the drill", job)
	}
	if left := n(target).sh(t, "zfs list -H -o name -r tank | grep tandem-drill || true"); left != "" {
		t.Errorf("a drill has left %s", left)
	}
	if by := w.readSnapshot(t, target, w.datasets()[0], newestPoint); len(by) == 0 {
		t.Errorf("the replica on %s has no records", target)
	}
	said := n(asked).sh(t, "tandem guest drill --list; tandem status --details || true")
	if !strings.Contains(said, "passed") {
		t.Errorf("the last drill is not told:\n%s", said)
	}
	n(owner).sh(t, "tandem update %s --schedule 'sat 03:00'", job)
}
