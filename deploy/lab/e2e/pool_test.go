//go:build lab

package e2e_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// smallPool is a pool on n2 on a disk in memory, which can be full and can go.
const smallPool = "little"

// survivePoolTrouble fills the target's pool, before a sync and in the middle of one, and takes its disk away. What is wrong is
// said with numbers and names, other guests go on, and when it is over so do the jobs, by themselves.
func survivePoolTrouble(t *testing.T) {
	t.Parallel()
	onFailure(t)
	disk := n("n2").sh(t, `modprobe scsi_debug dev_size_mb=224 delay=0; udevadm settle; for d in /sys/block/sd*; do
grep -q scsi_debug $d/device/model && basename $d; done; true`)
	n("n2").sh(t, "zpool create -f -o cachefile=none -o failmode=wait -O mountpoint=none %[1]s /dev/%[2]s && zfs create %[1]s/guests && "+
		"zfs create -o mountpoint=/mnt/fill %[1]s/fill", smallPool, disk)
	n("n3").sh(t, "zfs create -o mountpoint=none tank/small")
	s := &slow{job: "720-0", dataset: "tank/small/vm-720-disk-0", source: "n3", target: "n2"}
	n("n3").sh(t, "zfs create -s -V 48M %s", s.dataset)
	n("n3").sh(t, "dd if=/dev/urandom of=%s bs=1M count=48 conv=fsync status=none", n("n3").device(t, s.dataset))
	n("n3").sh(t, "tandem guest add 720 --type vm --name crowded --volume small:vm-720-disk-0")
	n("n3").sh(t, "tandem create-local-job 720-0 n2 --schedule 'sat 03:00' --rate 4 --disable")

	t.Run("full", func(t *testing.T) {
		fill(t)
		n("n3").sh(t, "tandem enable 720-0 && tandem schedule-now 720-0")
		said := s.fails(t)
		if sizes := regexp.MustCompile(`\d[\d.]* ([KMG]iB|bytes)`).FindAllString(said, -1); len(sizes) < 3 || !strings.Contains(said, smallPool) || !strings.Contains(said, "n2") {
			t.Errorf("the error does not say what is needed, what is free, and where: %s", said)
		}
		s.recovers(t)
	})
	if t.Failed() {
		return
	}
	t.Run("filling", func(t *testing.T) {
		n("n3").sh(t, "dd if=/dev/urandom of=%s bs=1M count=48 conv=fsync,notrunc status=none", n("n3").device(t, s.dataset))
		// Slower than the pool fills up.
		n("n3").sh(t, "tandem update 720-0 --rate 1 && tandem schedule-now 720-0")
		eventually(t, "720-0 is being received", 3*time.Minute, 300*time.Millisecond, func() (bool, string) {
			return n("n2").run(t, "pgrep -f 'zfs receive .*%s/guests'", smallPool).Code == 0, "no zfs receive runs"
		})
		fill(t)
		n("n3").sh(t, "tandem update 720-0 --rate 4")
		said := s.fails(t)
		if !strings.Contains(said, "space") {
			t.Errorf("the error does not say that there is no space: %s", said)
		}
		s.recovers(t)
	})
	if t.Failed() {
		return
	}
	t.Run("gone", func(t *testing.T) { loseDisk(t, s, disk) })
}

// fill leaves less than a guest needs.
func fill(t *testing.T) {
	t.Helper()
	n("n2").sh(t, "dd if=/dev/urandom of=/mnt/fill/all bs=1M status=none 2>/dev/null; zpool sync %[1]s; zfs list -Hp -o avail %[1]s/guests", smallPool)
}

// fails waits for a failure of the job's next run, and returns all that is said of it.
func (s *slow) fails(t *testing.T) string {
	t.Helper()
	var said string
	eventually(t, s.job+" fails", 3*time.Minute, time.Second, func() (bool, string) {
		job := n(s.source).job(t, s.job)
		said = job.Error + " " + job.Hint
		return job.FailCount > 0 && job.Error != "", fmt.Sprintf("%+v", job)
	})
	t.Logf("%s: %s", s.job, said)
	return said
}

// recovers frees the pool; the job goes on by its own next try.
func (s *slow) recovers(t *testing.T) {
	t.Helper()
	s.since = n(s.source).clock(t)
	n(s.target).sh(t, "rm /mnt/fill/all; zpool sync %s", smallPool)
	n(s.source).synced(t, s.job, s.since)
	s.compare(t)
}

// compare compares the replica in the small pool.
func (s *slow) compare(t *testing.T) {
	t.Helper()
	want := n(s.source).sh(t, "sha256sum <%s", n(s.source).device(t, s.dataset))[:64]
	got := n(s.target).hashSnapshot(t, smallPool+"/guests/vm-720-disk-0", newestPoint)
	if got != want {
		t.Errorf("job %s: the replica on %s has SHA-256 %s, want %s", s.job, s.target, got, want)
	}
}

// loseDisk takes the pool's disk away and brings it back.
func loseDisk(t *testing.T, s *slow, disk string) {
	t.Helper()
	other := newDisk(t, "n3", "721", 8)
	other.target = "n2"
	n("n3").sh(t, "tandem create-local-job 721-0 n2 --schedule '*/1'")
	n("n3").sh(t, "dd if=/dev/urandom of=%s bs=1M count=48 conv=fsync,notrunc status=none", n("n3").device(t, s.dataset))
	n("n3").sh(t, "tandem schedule-now 720-0")
	underway(t, s)
	suspended := n("n2").sh(t, `echo offline >/sys/block/%s/device/state; for i in $(seq 600); do
test "$(cat /proc/spl/kstat/zfs/%s/state)" = SUSPENDED && date -u +%%FT%%TZ && exit; sleep 0.1; done; exit 1`, disk, smallPool)
	at, err := time.Parse(time.RFC3339, suspended)
	must(t, err)
	back := func() {
		n("n2").sh(t, "echo running >/sys/block/%s/device/state; zpool clear %s", disk, smallPool)
	}
	defer func() {
		if t.Failed() {
			back()
		}
	}()
	told := regexp.MustCompile(`pool ` + smallPool + ` is suspended since (\S+);`)
	eventually(t, "n2's status names the suspended pool", 2*time.Minute, time.Second, func() (bool, string) {
		text := n("n2").run(t, "tandem status").Stdout
		found := told.FindStringSubmatch(text)
		if found == nil {
			return false, text
		}
		since, err := time.Parse(time.RFC3339, found[1])
		must(t, err)
		if late := since.Sub(at); late > 30*time.Second {
			t.Errorf("it was seen %s after the pool was suspended, want 30 s", late)
		}
		t.Logf("suspended at %s, seen at %s", at.Format(time.TimeOnly), since.Format(time.TimeOnly))
		return true, ""
	})
	n("n3").put(t, n("n3").device(t, other.dataset), 0, random(77, 64<<10))
	other.since = n("n3").clock(t)
	other.good(t)
	s.since = n("n3").clock(t)
	back()
	n("n3").sh(t, "tandem schedule-now 720-0 || true")
	n("n3").synced(t, s.job, s.since)
	s.compare(t)
	if text := n("n2").run(t, "tandem status").Stdout; told.MatchString(text) {
		t.Errorf("the pool is in order and status still says:\n%s", text)
	}
	drop(t, "n3", "720-0", "721-0")
	n("n2").sh(t, "zpool destroy %s && rmmod scsi_debug", smallPool)
}
