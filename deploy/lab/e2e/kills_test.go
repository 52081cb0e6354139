//go:build lab

package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// surviveKills ends daemons and machines at moments of syncs that the seed chooses. After each of them the replicas are those of
// the next run, which nobody helped, and nothing is left behind.
func surviveKills(t *testing.T) {
	onFailure(t)
	t.Logf("seed %d, %d kills, %d power cuts", *seed, *kills, *syncCuts)
	t.Run("again", sendLittleAgain)
	if t.Failed() {
		return
	}
	rnd := rand.New(rand.NewPCG(*seed, 1))
	var guests []*slow
	for i, name := range all {
		s := newDisk(t, name, fmt.Sprint(700+i), 16)
		s.target = all[(i+1)%len(all)]
		n(name).sh(t, "tandem create-local-job %s %s --schedule 'sat 03:00'", s.job, s.target)
		guests = append(guests, s)
	}
	for round := range *kills + *syncCuts {
		// The cuts come evenly among the kills.
		power := (round+1)*(*syncCuts)/(*kills+*syncCuts) > round*(*syncCuts)/(*kills+*syncCuts)
		t.Run(fmt.Sprintf("%d", round), func(t *testing.T) {
			onFailure(t)
			endOnce(t, guests, all[rnd.IntN(len(all))], power, rnd)
		})
		if t.Failed() {
			return
		}
	}
	for _, s := range guests {
		s.tidy(t)
	}
}

// endOnce changes all volumes, ends a daemon or machine while they are synced, and compares what comes of it.
func endOnce(t *testing.T, guests []*slow, victim string, power bool, rnd *rand.Rand) { //nolint:revive // flag-parameter: which of two ends
	t.Helper()
	blocks, at := 16+rnd.IntN(48), rnd.IntN(192) // of 64 KiB
	eachGuest(t, guests, func(t *testing.T, s *slow) {
		t.Helper()
		n(s.source).sh(t, "dd if=/dev/urandom of=%s bs=64K count=%d seek=%d conv=notrunc,fsync status=none",
			n(s.source).device(t, s.dataset), blocks, at)
		s.since = n(s.source).clock(t)
	})
	wait := time.Duration(rnd.Int64N(int64(8 * time.Second)))
	for _, s := range guests {
		n(s.source).sh(t, "tandem schedule-now %s", s.job)
	}
	pause(world.ctx, wait)
	for _, s := range guests {
		job := n(s.source).job(t, s.job)
		t.Logf("%s: %s %+v", s.job, job.State, job.Progress)
	}
	if power {
		t.Logf("the power of %s goes after %s", victim, wait)
		must(t, n(victim).Kill(world.ctx))
		boot(t, victim)
	} else {
		t.Logf("the daemon of %s is killed after %s", victim, wait)
		n(victim).killDaemon(t)
	}
	eachGuest(t, guests, func(t *testing.T, s *slow) {
		t.Helper()
		// Only so that nobody has to wait for the calendar; it may run already.
		eventually(t, s.job+" is to run", time.Minute, time.Second, func() (bool, string) {
			r := n(s.source).run(t, "tandem schedule-now %s", s.job)
			return r.Code == 0, r.Stderr
		})
		s.good(t)
	})
}

// eachGuest does something with all guests side by side, each on its own node.
func eachGuest(t *testing.T, guests []*slow, do func(t *testing.T, s *slow)) {
	t.Helper()
	t.Run("each", func(t *testing.T) {
		for _, s := range guests {
			t.Run(s.job, func(t *testing.T) {
				t.Parallel()
				do(t, s)
			})
		}
	})
	if t.Failed() {
		t.FailNow()
	}
}

// killDaemon kills tandemd with what it has started, and waits until systemd has started it again.
func (o node) killDaemon(t *testing.T) {
	t.Helper()
	const pid = "systemctl show -P MainPID tandemd"
	before := o.sh(t, pid)
	o.sh(t, "kill -9 %s", before)
	eventually(t, "systemd has started the killed daemon again", time.Minute, time.Second, func() (bool, string) {
		now := o.run(t, "systemctl is-active tandemd; %s", pid).Stdout
		return strings.HasPrefix(now, "active\n") && !strings.Contains(now, before), now
	})
}

// tidy wants one point on each side, and nothing that a sync uses only while it runs.
func (s *slow) tidy(t *testing.T) {
	t.Helper()
	// The owner drops with the next turn what the last one left.
	s.since = n(s.source).clock(t)
	n(s.source).sh(t, "tandem schedule-now %s", s.job)
	n(s.source).synced(t, s.job, s.since)
	for _, name := range []string{s.source, s.target} {
		if got := n(name).sh(t, "zfs list -Hp -d1 -t snapshot,bookmark -o name,userrefs %s", s.dataset); strings.Count(got, "\n") > 1 || strings.Contains(got, "#") ||
			strings.Contains(got, "\t1") {
			t.Errorf("%s has of %s:\n%s", name, s.dataset, got)
		}
		if got := n(name).sh(t, "zfs get -Hp -o value receive_resume_token,origin %s | sort -u", s.dataset); got != "-" {
			t.Errorf("%s: %s has a partial receive or an origin: %s", name, s.dataset, got)
		}
	}
}
