package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// verified compares a job's replica with its source, asked on this node.
func (m *machine) verified(id guest.JobID) api.Verification {
	m.t.Helper()
	started, err := m.api.StartVerify(m.t.Context(), api.VerifyRequest{Job: id})
	if err != nil {
		m.t.Fatal(err)
	}
	for {
		v, err := m.api.WatchVerify(m.t.Context(), started.VerifyID)
		if err != nil {
			m.t.Fatal(err)
		}
		if v.Result != nil {
			return v
		}
	}
}

// Over real sockets, asked on a node that has nothing of the guest: what differs
// is told, warned of until somebody knows, over a restart too.
func TestVerify_FromAnotherNode(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[2].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	point := n[0].syncNow(id).Point
	if v := n[2].verified(id); v.Result.Outcome != api.VerifyEqual || v.Point != point || v.Source != "n1" || v.Target != "n2" || v.Bytes != 16*mib {
		t.Errorf("%+v, %+v", v, v.Result)
	}
	dataset := "tank/guests/" + volume(100).Name
	if err := n[1].pool.Damage(dataset+"@"+point, 8*mib, bytes.Repeat([]byte{7}, 4096)); err != nil {
		t.Fatal(err)
	}
	v := n[2].verified(id)
	if v.Result.Outcome != api.VerifyDiffers || fmt.Sprint(v.Result.Volumes[0].Differences) != "[{8388608 4194304  [content]}]" {
		t.Errorf("%+v", v.Result)
	}
	warned := func() (api.Status, bool) {
		s, err := n[2].api.Status(t.Context(), api.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		return s, strings.Contains(strings.Join(s.Warnings, "\n"), "job 100-0: the replica on n2 differs from its source on n1")
	}
	if s, ok := warned(); !ok {
		t.Errorf("warnings %q", s.Warnings)
	}
	n[0].stop()
	n[0].start()
	until(t, "the warning is there again", func() bool { _, ok := warned(); return ok })
	e, err := n[2].api.Explain(t.Context(), id)
	if err != nil || !strings.Contains(strings.Join(e.Why, "\n"), "its replica differs from its source, found at") {
		t.Errorf("explained: %q, %v", e.Why, err)
	}
	if err := n[2].api.AcknowledgeVerify(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if s, ok := warned(); ok || s.Jobs[0].Verified == nil || s.Jobs[0].Verified.Acknowledged == "" || s.Jobs[0].Verified.Alarm {
		t.Errorf("acknowledged: %q, %+v", s.Warnings, s.Jobs[0].Verified)
	}
	for i, m := range n[:2] {
		children, err := m.pool.Children(t.Context(), "tank/guests")
		if err != nil || len(children) != 1 {
			t.Errorf("n%d has now %v, %v", i+1, children, err)
		}
	}
}

// What nobody can answer is an error with the reason, and an exit code of its own.
func TestVerify_Refusals(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	refused := func(err error, code api.Code, text string) {
		t.Helper()
		var e *api.Error
		if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
			t.Errorf("got %v, want %s with %q", err, code, text)
		}
	}
	_, err := n[0].api.StartVerify(t.Context(), api.VerifyRequest{Job: id})
	refused(err, api.CodeNotFound, "job 100-0 does not exist")
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	refused(n[0].api.AcknowledgeVerify(t.Context(), id), api.CodeRefused, "no verification has found a difference")
	_, err = n[0].api.WatchVerify(t.Context(), api.VerifyID{Job: id, Number: 9})
	refused(err, api.CodeRefused, "this node knows no verification 9")
	n[0].syncNow(id)

	// While it goes on: another one is refused, and the end of the replica ends it.
	hang := make(chan struct{})
	n[1].pool.Inject(zfstest.Fault{Op: "Contents", Times: 1, Hang: hang})
	started, err := n[0].api.StartVerify(t.Context(), api.VerifyRequest{Job: id})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n[1].api.StartVerify(t.Context(), api.VerifyRequest{Job: id})
	refused(err, api.CodeRefused, "pool tank on n1 is being read already")
	until(t, "the target reads", func() bool {
		for _, c := range n[1].pool.Calls() {
			if c.Op == "Contents" {
				return true
			}
		}
		return false
	})
	if err := n[0].api.CancelVerify(t.Context(), started.VerifyID); err != nil {
		t.Fatal(err)
	}
	close(hang)
	until(t, "it has ended", func() bool {
		v, err := n[0].api.WatchVerify(t.Context(), started.VerifyID)
		return err == nil && v.Result != nil && v.Result.Outcome == api.VerifyFailed && strings.Contains(v.Result.Error, "ended by whoever began it")
	})
	if _, err := n[0].api.DeleteJob(t.Context(), api.DeleteJobRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	until(t, "the replica is gone", func() bool { return n[1].replicaOrNone(100) == "" })

	n[0].stop()
	if _, err := n[1].api.StartVerify(t.Context(), api.VerifyRequest{Job: id}); err == nil {
		t.Error("a job that is gone was verified")
	}
}
