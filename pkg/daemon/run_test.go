package daemon_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// watched is a run as somebody sees it who asks for one and watches it.
func (m *machine) watched(id guest.JobID) (api.Run, []string) {
	m.t.Helper()
	started, err := m.api.StartRun(m.t.Context(), id)
	if err != nil {
		m.t.Fatal(err)
	}
	var lines []string
	for range 60 {
		w, err := m.api.Watch(m.t.Context(), api.WatchRequest{Job: id, Run: started.Run, Lines: len(lines)})
		if err != nil {
			m.t.Fatal(err)
		}
		if w.Run != nil {
			for _, l := range w.Run.Log {
				lines = append(lines, l.Message)
			}
		}
		if w.Ended() {
			return *w.Run, lines
		}
		if w.Idle {
			m.t.Fatalf("run %d of job %s never began", started.Run, id)
		}
	}
	m.t.Fatalf("run %d of job %s does not end", started.Run, id)
	return api.Run{}, nil
}

func TestRun_IsWatchedFromAnotherNode(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[1].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	// At once: the owner may not even know of the job yet.
	run, lines := n[1].watched(id)
	if run.Outcome != api.OutcomeOK || run.Kind != "full" || run.ID != 1 || run.Bytes == 0 || run.Duration <= 0 {
		t.Errorf("the first run: %+v", run)
	}
	runs, err := n[0].api.Runs(t.Context(), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, l := range runs[0].Log {
		want = append(want, l.Message)
	}
	if d := cmp.Diff(want, lines); d != "" || len(lines) == 0 {
		t.Errorf("the log as it was watched (-recorded +watched):\n%s", d)
	}

	// One that takes its time is seen on its way.
	block := make([]byte, 3*mib)
	for i := range block {
		block[i] = byte(i * i >> 8)
	}
	if err := n[0].pool.Write("tank/guests/vm-100-disk-0", 0, block); err != nil {
		t.Fatal(err)
	}
	if _, err := n[1].api.UpdateJob(t.Context(), api.UpdateJobRequest{ID: id, Rate: new(1.0)}); err != nil {
		t.Fatal(err)
	}
	started, err := n[1].api.StartRun(t.Context(), id)
	if err != nil || started.Node != "n1" {
		t.Fatalf("%+v, %v", started, err)
	}
	seen, told := false, 0
	for !seen {
		w, err := n[1].api.Watch(t.Context(), api.WatchRequest{Job: id, Run: started.Run, Lines: told})
		if err != nil || w.Ended() || w.Idle {
			t.Fatalf("before any progress was seen: %+v, %v", w, err)
		}
		if w.Run != nil {
			told += len(w.Run.Log)
		}
		seen = w.Progress != nil && w.Progress.Phase == "send" && w.Progress.Sent > 0 && w.Progress.Total >= 3*mib && told > 0
	}
	runs, err = n[1].api.Runs(t.Context(), id, 1)
	if err != nil || runs[0].Outcome != api.OutcomeRunning || len(runs[0].Log) < told {
		t.Errorf("the log of a run that goes on: %+v, %v", runs, err)
	}
	if _, err := n[1].api.UpdateJob(t.Context(), api.UpdateJobRequest{ID: id, Rate: new(0.0)}); err != nil {
		t.Fatal(err)
	}
	until(t, "the slow run has ended", func() bool {
		w, err := n[1].api.Watch(t.Context(), api.WatchRequest{Job: id, Run: started.Run})
		return err == nil && w.Ended()
	})

	// A run that fails says why.
	n[0].disk("vm-101-disk-0", "mine")
	n[0].addGuest(101)
	if _, err := n[1].api.CreateJob(t.Context(), api.CreateJobRequest{ID: guest.JobID{Guest: 101}, Target: "n2", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	n[1].disk("vm-101-disk-0", "somebody else's")
	run, _ = n[1].watched(guest.JobID{Guest: 101})
	if run.Outcome != api.OutcomeFailed || !strings.Contains(run.Error, "no replica of guest 101") || run.Hint == "" {
		t.Errorf("a run that fails: %+v", run)
	}

	// One that will not come is not waited for.
	w, err := n[1].api.Watch(t.Context(), api.WatchRequest{Job: id, Run: 7})
	if err != nil || !w.Idle || w.Run != nil {
		t.Errorf("a run that will not come: %+v, %v", w, err)
	}
	if _, err := n[1].api.UpdateJob(t.Context(), api.UpdateJobRequest{ID: id, Enabled: new(false)}); err != nil {
		t.Fatal(err)
	}
	var refused *api.Error
	if _, err := n[1].api.StartRun(t.Context(), id); !errors.As(err, &refused) || refused.Code != api.CodeRefused || !strings.Contains(refused.Message, "enable it first") {
		t.Errorf("a run of a disabled job: %v", err)
	}
}

func TestExplain_TellsWhatIsKnown(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[2].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	explain := func(what string) api.Explanation {
		t.Helper()
		e, err := n[2].api.Explain(t.Context(), id)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return e
	}
	says := func(e api.Explanation, parts ...string) {
		t.Helper()
		text := strings.Join(append(slices.Clone(e.Why), e.Next...), "\n")
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%q is not said in:\n%s", part, text)
			}
		}
	}

	var e api.Explanation
	until(t, "n3 and n2 know each other", func() bool {
		e = explain("a new job")
		return len(e.Silent) == 0
	})
	says(e, "it has not run yet", "its schedule is weekly (that is, Mon *-*-* 00:00:00)", "n2 has no complete point of guest 100")
	if e.Node != "n1" || e.Status.State != api.StateOK || e.Plan == nil || e.Plan.Kind != "full" || len(e.Silent) != 0 || e.Job.Target != "n2" {
		t.Errorf("a new job: %+v", e)
	}
	if got := n[1].replicaOrNone(100); got != "" {
		t.Errorf("explaining has sent %q", got)
	}

	first := n[0].syncNow(id)
	n[0].write("vm-100-disk-0", "again")
	e = explain("a job in good order")
	says(e, "succeeded", "the newest complete point on n2 is "+first.Point)
	if e.Plan == nil || e.Plan.Kind != "incremental" || e.Plan.Base != first.Point || e.Plan.Remembered != "" {
		t.Errorf("a job in good order: %+v", e.Plan)
	}

	n[1].stop()
	until(t, "n1 sees n2 dead", func() bool {
		e = explain("a job without its target")
		return strings.Contains(strings.Join(e.Why, " "), "gossip holds n2 for dead")
	})
	says(e, "while n2 is down it is tried every 30m at most")
	if e.Plan == nil || e.Plan.Base != first.Point || e.Plan.Remembered == "" || fmt.Sprint(e.Silent) != "[n2]" {
		t.Errorf("a job without its target: %+v, silent %v, %s", e.Plan, e.Silent, e.NoPlan)
	}

	n[0].stop()
	e = explain("a job without its owner")
	says(e, "n1, which has guest 100, does not answer")
	if e.Node != "n3" || e.Status.State != api.StateUnknown || e.Plan != nil || fmt.Sprint(e.Silent) != "[n1 n2]" {
		t.Errorf("a job without its owner: %+v", e)
	}
}

func (m *machine) replicaOrNone(id guest.ID) string {
	b, err := m.pool.Read("tank/guests/" + volume(id).Name)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\x00")
}

// "--force drops it with what it leaves named", also where the target is away.
func TestDelete_ForceDropsAtOnceAndNamesWhatIsLeft(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	a, b := guest.JobID{Guest: 100}, guest.JobID{Guest: 100, Number: 1}
	for id, target := range map[guest.JobID]guest.NodeName{a: "n2", b: "n3"} {
		if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: target, Schedule: "weekly"}); err != nil {
			t.Fatal(err)
		}
		n[0].syncNow(id)
	}
	n[1].stop()
	force := func(id guest.JobID) api.DeletedJob {
		t.Helper()
		done, err := n[2].api.DeleteJob(t.Context(), api.DeleteJobRequest{ID: id, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n[2].api.Job(t.Context(), id); err == nil {
			t.Errorf("job %s is still there", id)
		}
		return done
	}
	want := api.DeletedJob{ID: a, Dropped: true, Left: []string{
		"on n2: the replica volume local-zfs:vm-100-disk-0, as far as it was brought there",
		"on n1: nothing for long; the next sync of job 100-1 removes the snapshots that only job 100-0 needed",
	}}
	if d := cmp.Diff(want, force(a)); d != "" {
		t.Errorf("of two jobs, the one whose target is away (-want +got):\n%s", d)
	}
	want = api.DeletedJob{ID: b, Dropped: true, Left: []string{
		"on n3: the replica tank/guests/vm-100-disk-0 (volume local-zfs:vm-100-disk-0), as far as it was brought there",
		"on n1: the snapshots tandem_* of volume local-zfs:vm-100-disk-0",
	}}
	if d := cmp.Diff(want, force(b)); d != "" {
		t.Errorf("of the last job (-want +got):\n%s", d)
	}
	if got := n[2].replica(100); got != "first" {
		t.Errorf("the replica that is left holds %q", got)
	}
	// Made again and deleted, it is cleaned up.
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: b, Target: "n3", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	if done, err := n[0].api.DeleteJob(t.Context(), api.DeleteJobRequest{ID: b}); err != nil || done.Dropped {
		t.Errorf("deleted: %+v, %v", done, err)
	}
	until(t, "the replica is removed", func() bool { return n[2].replicaOrNone(100) == "" })
}
