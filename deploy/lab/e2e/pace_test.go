//go:build lab

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// keepPace shows that each sync goes at its own pace: held to its rate, and held up by nobody. Emulated machines have no
// power to spare, so that its parts run one after another.
func keepPace(t *testing.T) {
	t.Run("rate", holdToRate)
	t.Run("targets", keepTheMinute)
	t.Run("parallel", fourAtOnce)
}

// newDisk makes a guest with one zvol full of noise.
func newDisk(t *testing.T, source, id string, mebibytes int) *slow {
	t.Helper()
	s := &slow{job: id + "-0", dataset: "tank/guests/vm-" + id + "-disk-0", source: source}
	n(source).sh(t, "zfs create -V %dM %s", mebibytes, s.dataset)
	n(source).sh(t, "dd if=/dev/urandom of=%s bs=1M count=%d conv=fsync status=none", n(source).device(t, s.dataset), mebibytes)
	n(source).sh(t, "tandem guest add %[1]s --type vm --name pace-%[1]s --volume local-zfs:vm-%[1]s-disk-0", id)
	return s
}

// drop deletes jobs, and waits until they are gone with their replicas.
func drop(t *testing.T, source string, jobs ...string) {
	t.Helper()
	for _, id := range jobs {
		n(source).sh(t, "tandem delete %s", id)
	}
	eventually(t, strings.Join(jobs, ", ")+" deleted", 3*time.Minute, 2*time.Second, func() (bool, string) {
		left := n(source).sh(t, "tandem list")
		for _, id := range jobs {
			if strings.Contains(left, id) {
				return false, left
			}
		}
		return true, ""
	})
}

// megabytesPerSecond is a run's pace, all of it counted, planning and commit too.
func megabytesPerSecond(r api.Run) float64 {
	return float64(r.Bytes) / r.End.Sub(r.Start).Seconds() / 1e6
}

// holdToRate sends 25 MB at 2 MB/s.
func holdToRate(t *testing.T) {
	onFailure(t)
	const rate, size = 2.0, 24 * mib
	s := newDisk(t, "n3", "500", size/mib)
	begun := n("n3").clock(t)
	n("n3").sh(t, "tandem create-local-job %s n1 --rate %v --schedule '*/15' && tandem schedule-now %s", s.job, rate, s.job)
	run := n("n3").synced(t, s.job, begun)
	sent(t, run, "full", size)
	pace, seconds := megabytesPerSecond(run), run.End.Sub(run.Start).Seconds()
	t.Logf("--rate %v: %d bytes in %.1f s: %.3f MB/s", rate, run.Bytes, seconds, pace)
	if pace > rate*1.05 {
		t.Errorf("%.3f MB/s, more than the rate of %v and 5 %%", pace, rate)
	}
	// Slower than its rate is a matter of the machines, which may be emulated and busy.
	if ideal := float64(run.Bytes) / rate / 1e6; seconds > 4*ideal {
		t.Errorf("%.1f s, at its rate it would have been %.1f s", seconds, ideal)
	}
	drop(t, "n3", s.job)
}

// keepTheMinute replicates a guest to n2 every minute while its first full sync to n3 takes longer than that.
func keepTheMinute(t *testing.T) {
	onFailure(t)
	const quick, long = "501-0", "501-1"
	s := newDisk(t, "n1", "501", 72)
	begun := n("n1").clock(t)
	n("n1").sh(t, "tandem create-local-job %s n2 --schedule '*/1' && tandem schedule-now %s", quick, quick)
	n("n1").synced(t, quick, begun)

	begun = n("n1").clock(t)
	n("n1").sh(t, "tandem create-local-job %s n3 --schedule '*/1' --rate 1 && tandem schedule-now %s", long, long)
	var full api.Run
	block := 0
	eventually(t, "the first full sync to n3", 6*time.Minute, 10*time.Second, func() (bool, string) {
		block++ // something for the syncs to n2
		n("n1").sh(t, "dd if=/dev/urandom of=%s bs=64K count=1 seek=%d conv=notrunc,fsync status=none", n("n1").device(t, s.dataset), block)
		for _, r := range n("n1").runs(t, long) {
			if full.ID == 0 && r.Start.After(begun) && !r.End.IsZero() {
				full = r
			}
		}
		return full.ID != 0, fmt.Sprintf("%+v", n("n1").job(t, long).Progress)
	})
	if full.Error != "" || full.Kind != "full" {
		t.Fatalf("the sync to n3 was %s: %s", full.Kind, full.Error)
	}
	t.Logf("n3: full, %d bytes, %s to %s: %.3f MB/s", full.Bytes, full.Start.Format(time.TimeOnly), full.End.Format(time.TimeOnly), megabytesPerSecond(full))

	var during []time.Time
	for _, r := range n("n1").runs(t, quick) {
		if r.Start.Before(full.Start) || r.Start.After(full.End) {
			continue
		}
		during = append(during, r.Start)
		t.Logf("n2: run %d: %s, %d bytes, %s to %s: %s", r.ID, r.Kind, r.Bytes, r.Start.Format(time.TimeOnly), r.End.Format(time.TimeOnly), r.Error)
		if r.Error != "" {
			t.Errorf("job %s run %d: %s", quick, r.ID, r.Error)
		}
	}
	if minutes := int(full.End.Sub(full.Start).Minutes()); minutes < 1 || len(during) < minutes {
		t.Errorf("%d syncs to n2 in the %d whole minutes of the sync to n3, which is to take at least one", len(during), minutes)
	}
	for i := 1; i < len(during); i++ {
		if gap := during[i].Truncate(time.Minute).Sub(during[i-1].Truncate(time.Minute)); gap != time.Minute {
			t.Errorf("n2 missed its minute: syncs at %s and %s", during[i-1].Format(time.TimeOnly), during[i].Format(time.TimeOnly))
		}
	}
	s.bothGood(t, quick, long)
	drop(t, "n1", quick, long)
}

// bothGood compares the replicas on n2 and n3 with what is on n1.
func (s *slow) bothGood(t *testing.T, jobs ...string) {
	t.Helper()
	now := n(s.source).clock(t)
	want := n(s.source).sh(t, "sha256sum <%s", n(s.source).device(t, s.dataset))[:64]
	for i, id := range jobs {
		n(s.source).synced(t, id, now)
		target := fmt.Sprint("n", 2+i)
		if got := n(target).hashSnapshot(t, s.dataset, newestPoint); got != want {
			t.Errorf("job %s: the replica on %s has SHA-256 %s, want %s", id, target, got, want)
		}
	}
}

// fourAtOnce syncs four guests at the same time, beside a job that cannot work.
func fourAtOnce(t *testing.T) {
	onFailure(t)
	const bad, foreign = "520-0", "tank/guests/vm-520-disk-0"
	newDisk(t, "n2", "520", 8)
	n("n2").sh(t, "tandem create-local-job %s n1 --schedule '*/1' --disable", bad)
	n("n1").sh(t, "zfs create -V 8M %s && zfs snapshot %s@mine", foreign, foreign)
	n("n2").sh(t, "tandem enable %s && tandem schedule-now %s", bad, bad)

	var guests []*slow
	for i, id := range []string{"511", "512", "513", "514"} {
		s := newDisk(t, "n2", id, 32)
		s.target = []string{"n1", "n3"}[i%2]
		n("n2").sh(t, "tandem create-local-job %s %s --schedule '*/1' --rate 1 --disable", s.job, s.target)
		guests = append(guests, s)
	}
	begun := n("n2").clock(t)
	launch(t, guests...)
	var latest, earliest time.Time // start and end
	for _, s := range guests {
		r := n("n2").synced(t, s.job, begun)
		t.Logf("job %s: %s, %d bytes, %s to %s", s.job, r.Kind, r.Bytes, r.Start.Format(time.TimeOnly), r.End.Format(time.TimeOnly))
		if r.Start.After(latest) {
			latest = r.Start
		}
		if earliest.IsZero() || r.End.Before(earliest) {
			earliest = r.End
		}
	}
	if !latest.Before(earliest) {
		t.Errorf("the four syncs were not at the same time: the last began at %s, the first ended at %s", latest, earliest)
	}
	failed := n("n2").job(t, bad)
	if failed.FailCount == 0 || failed.State != api.StateError {
		t.Fatalf("job %s cannot work, but it is %s with %d failures", bad, failed.State, failed.FailCount)
	}
	now := n("n2").clock(t)
	for _, s := range guests { // by their schedule, while the bad one is in error
		s.since = now
		s.good(t)
	}
	if got := len(n("n2").runs(t, bad)); got > 3 {
		t.Errorf("job %s was tried %d times within a few minutes: it is to wait for 5, 10, 15 minutes", bad, got)
	}
	jobs := []string{bad}
	for _, s := range guests {
		jobs = append(jobs, s.job)
	}
	drop(t, "n2", jobs...)
	n("n1").sh(t, "zfs list -Hp -t snapshot %s@mine", foreign) // it is not Tandem's
}
