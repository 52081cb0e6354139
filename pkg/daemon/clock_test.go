package daemon_test

import (
	"crypto/x509"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
)

// clock is a machine's own, which goes on from where it was set.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Round(0).Add(time.Duration(c.ahead.Load())) }

func (c *clock) set(to time.Time) { c.ahead.Store(int64(time.Until(to))) }

func year(y int) time.Time { return time.Date(y, time.January, 2, 3, 4, 5, 0, time.UTC) }

// clocked is a machine whose clock says something else.
func clocked(t *testing.T, name string, at time.Time) (*machine, *clock) {
	t.Helper()
	m, c := stoppedMachine(t, name), &clock{}
	c.set(at)
	m.now = c.now
	m.start()
	return m, c
}

// No clock is compared with that of another node: nodes from 1970, of today and from
// 2060 are one cluster, and replicate to each other.
func TestCluster_ClocksOfDifferentDecades(t *testing.T) {
	t.Parallel()
	old, _ := clocked(t, "n1", year(1970))
	if _, err := old.api.InitCluster(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	future, _ := clocked(t, "n2", year(2060))
	present, _ := clocked(t, "n3", time.Now())
	if err := future.join(old); err != nil {
		t.Fatal(err)
	}
	if err := present.join(future); err != nil {
		t.Fatal(err)
	}
	all := []*machine{old, future, present}
	for _, m := range all {
		m.quorate(3)
	}
	for i, m := range all {
		id := guest.JobID{Guest: guest.ID(100 + i)}
		target := all[(i+1)%len(all)]
		m.disk(volume(id.Guest).Name, "first")
		m.addGuest(id.Guest)
		if _, err := m.api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: target.conf.NodeName}); err != nil {
			t.Fatal(err)
		}
		m.syncNow(id)
		m.write(volume(id.Guest).Name, "second")
		if j := m.syncNow(id); j.Kind != "incremental" || j.Lag == nil || *j.Lag > 60 || j.Lagging {
			t.Errorf("%s to %s: %+v", m.conf.NodeName, target.conf.NodeName, j)
		}
		if got := target.replica(id.Guest); got != "second" {
			t.Errorf("%s holds %q", target.conf.NodeName, got)
		}
	}
}

// A clock that jumps to and fro neither starts a storm of runs nor ends them.
func TestCluster_AClockThatJumps(t *testing.T) {
	t.Parallel()
	owner, c := clocked(t, "n1", year(2026))
	if _, err := owner.api.InitCluster(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	target, tc := clocked(t, "n2", year(2026))
	if err := target.join(owner); err != nil {
		t.Fatal(err)
	}
	owner.quorate(2)
	owner.disk("vm-100-disk-0", "0")
	owner.addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := owner.api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	owner.syncNow(id)
	runs := func() int {
		r, err := owner.api.Runs(t.Context(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(r)
	}
	for _, to := range []time.Time{year(2060), year(1970), year(2026)} {
		before := runs()
		c.set(to)
		// What was missed meanwhile, or lies in the future now, is one run that is due.
		until(t, "a run after the clock was set to "+to.Format(time.DateOnly), func() bool { return runs() == before+1 && owner.job(id).State == api.StateOK })
		j := owner.job(id)
		if next := j.NextSync.Sub(c.now()); next <= 0 || next > 15*time.Minute+time.Second {
			t.Errorf("at %s the next run is due in %v", to.Format(time.DateOnly), next)
		}
		wait(t, 6*time.Second) // the loop goes round at least every 5 s
		if got := runs(); got != before+1 {
			t.Errorf("at %s it ran %d times more", to.Format(time.DateOnly), got-before-1)
		}
		owner.stop()
		owner.start()
		owner.quorate(2)
	}
	// The target cannot know how old its copy is once its clock was set back.
	tc.set(year(1971))
	until(t, "the status says that the target's clock was set back", func() bool {
		s, err := owner.api.Status(t.Context(), api.Filter{})
		return err == nil && slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "the clock was set back") })
	})
	if j := owner.job(id); j.Lag != nil {
		t.Errorf("a lag of %v is told", *j.Lag)
	}
	owner.write("vm-100-disk-0", "1")
	if j := owner.syncNow(id); j.Lag == nil || *j.Lag > 60 {
		t.Errorf("after the next sync: %+v", j)
	}
}

// Tokens live by the clock of the node that made them, and the joiner's does not matter.
func TestToken_ExpiresByItsIssuersClock(t *testing.T) {
	t.Parallel()
	issuer, c := clocked(t, "n1", year(1970))
	if _, err := issuer.api.InitCluster(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	joiner, _ := clocked(t, "n2", year(2060))
	token, err := issuer.api.Token(t.Context(), api.TokenRequest{TTL: 60})
	if err != nil {
		t.Fatal(err)
	}
	c.set(year(1970).Add(2 * time.Minute))
	_, err = joiner.api.Join(t.Context(), api.JoinRequest{Address: token.Address, Token: token.Text})
	if err == nil || !strings.Contains(err.Error(), "the token has expired, on 1970-01-02T03:05:") || !strings.Contains(err.Error(), "make a new one") {
		t.Errorf("an expired token: %v", err)
	}
	c.set(year(1970))
	if _, err := joiner.api.Join(t.Context(), api.JoinRequest{Address: token.Address, Token: "\n" + token.Text[:20] + "\r\n  " + token.Text[20:] + " "}); err != nil {
		t.Error(err)
	}
}

// What a node of 1970 makes holds in 2060 and the other way round: a key has no date.
func TestIdentity_CertificateHoldsAtAnyTime(t *testing.T) {
	t.Parallel()
	id, err := identity.LoadOrCreate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(id.Certificate.Leaf)
	for _, y := range []int{1970, 2026, 2060, 9999} {
		if _, err := id.Certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: year(y)}); err != nil {
			t.Errorf("%d: %v", y, err)
		}
	}
}
