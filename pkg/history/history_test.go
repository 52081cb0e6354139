package history_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/job"
)

func at(minute int) time.Time {
	return time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC).Add(time.Duration(minute) * time.Minute)
}

func jobID(n int) guest.JobID { return guest.JobID{Guest: 100, Number: n} }

func open(t *testing.T, path string, keep int) *history.Store {
	t.Helper()
	s, setAside, err := history.Open(path, history.Options{Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	if setAside != "" {
		t.Fatalf("the file was found damaged: %s", setAside)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func path(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "history.db")
}

func run(n, minute int, outcome history.Outcome) history.Run {
	return history.Run{
		Job: jobID(n), Guest: 100, Source: "n1", Target: "n2", Start: at(minute), End: at(minute).Add(20 * time.Second),
		Outcome: outcome, Kind: history.Incremental, Bytes: 4096, Error: errorText(outcome),
	}
}

func errorText(o history.Outcome) string {
	if o == history.Failed {
		return "n2: no route to host"
	}
	return ""
}

func add(t *testing.T, s *history.Store, runs ...history.Run) {
	t.Helper()
	for _, r := range runs {
		if _, err := s.Append(r); err != nil {
			t.Fatal(err)
		}
	}
}

// crash is the file as a killed daemon leaves it.
func crash(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	left := path(t)
	if err := os.WriteFile(left, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return left
}

func TestStore_KeepsARunAsItWasWritten(t *testing.T) {
	file := path(t)
	s := open(t, file, 0)
	want := history.Run{
		Job: jobID(0), Guest: 100, Source: "n1", Target: "n2", Start: at(0), Outcome: history.Running, Kind: history.Nothing,
	}
	id, err := s.Append(want)
	if err != nil {
		t.Fatal(err)
	}
	want.ID, want.End, want.Outcome, want.Kind, want.Bytes = id, at(1), history.Failed, history.Full, 1<<40
	want.BaseSnapshot, want.NewSnapshot = "tandem_a", "tandem_b"
	want.Volumes = []guest.Volume{{Storage: "local-zfs", Name: "vm-100-disk-0"}}
	want.Error, want.ErrorHint = "out of space", "free some on n2"
	want.Log = []history.LogLine{{Time: at(0), Level: "info", Message: "snapshot taken"}}
	if err := s.Update(want); err != nil {
		t.Fatal(err)
	}
	want.Fails = 1
	got, ok, err := open(t, crash(t, file), 0).Last(jobID(0))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after a crash (-want +got):\n%s", diff)
	}
	if got.Duration() != time.Minute {
		t.Errorf("duration: got %v, want 1m", got.Duration())
	}
}

func TestStore_NewestFirstAndPrunedPerJob(t *testing.T) {
	s := open(t, path(t), 3)
	add(t, s, run(0, 0, history.OK))
	for i := range 6 {
		add(t, s, run(0, 1+i, history.Failed), run(1, i, history.OK))
	}
	for _, c := range []struct {
		job, n int
		want   []uint64
	}{
		{0, 0, []uint64{7, 6, 5, 1}}, // the last that succeeded stays
		{0, 2, []uint64{7, 6}},
		{1, 0, []uint64{6, 5, 4}},
		{2, 0, nil},
	} {
		runs, err := s.Runs(jobID(c.job), c.n)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, r := range runs {
			got = append(got, r.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("job %d, last %d (-want +got):\n%s", c.job, c.n, diff)
		}
	}
	if r, ok, err := s.Run(jobID(0), 7); err != nil || !ok || r.Fails != 6 {
		t.Errorf("run 7: %+v, %v, %v; want 6 failures in a row", r, ok, err)
	}
	if _, ok, err := s.Run(jobID(0), 2); err != nil || ok {
		t.Errorf("run 2 is still there: %v", err)
	}
}

func TestStore_ForgetsAJob(t *testing.T) {
	s := open(t, path(t), 0)
	add(t, s, run(0, 0, history.OK), run(1, 0, history.OK))
	for range 2 {
		if err := s.Forget(jobID(0)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Jobs()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]guest.JobID{jobID(1)}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStore_ARunThatWasCutIsInterrupted(t *testing.T) {
	file := path(t)
	s := open(t, file, 0)
	cut := run(0, 5, history.Running)
	cut.End = time.Time{}
	add(t, s, run(0, 0, history.Failed), cut, run(1, 0, history.OK))
	s = open(t, crash(t, file), 0)
	got, _, err := s.Last(jobID(0))
	if err != nil || got.Outcome != history.Interrupted || !got.End.IsZero() {
		t.Errorf("got %+v, %v", got, err)
	}
	facts, err := s.Facts(jobID(0))
	if err != nil {
		t.Fatal(err)
	}
	want := job.Facts{LastTry: at(5), Fails: 1, LastError: "n2: no route to host", Interrupted: true}
	if diff := cmp.Diff(want, facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestStore_Facts(t *testing.T) {
	ok, failed, skipped := history.OK, history.Failed, history.Skipped
	end := 20 * time.Second
	for _, c := range []struct {
		name string
		runs []history.Outcome
		want job.Facts
	}{
		{"none", nil, job.Facts{}},
		{"good", []history.Outcome{failed, ok}, job.Facts{LastTry: at(1), LastEnd: at(1).Add(end), LastSync: at(1)}},
		{"failed since", []history.Outcome{ok, failed, failed}, job.Facts{
			LastTry: at(2), LastEnd: at(2).Add(end), LastSync: at(0), Fails: 2, LastError: "n2: no route to host",
		}},
		{"skipped is no try", []history.Outcome{ok, failed, skipped}, job.Facts{
			LastTry: at(1), LastEnd: at(1).Add(end), LastSync: at(0), Fails: 1, LastError: "n2: no route to host",
		}},
		{"a row goes on over a skipped run", []history.Outcome{failed, skipped, failed}, job.Facts{
			LastTry: at(2), LastEnd: at(2).Add(end), Fails: 2, LastError: "n2: no route to host",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, path(t), 0)
			for i, outcome := range c.runs {
				add(t, s, run(0, i, outcome))
			}
			got, err := s.Facts(jobID(0))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A guest that is locked for an hour leaves one record, and the numbers go on.
func TestStore_OfARowOfSkippedRunsTheFirstStays(t *testing.T) {
	s := open(t, path(t), 0)
	put := func(minute int, outcome history.Outcome, bytes int64) {
		t.Helper()
		r := run(0, minute, history.Running)
		r.Bytes = 0
		id, err := s.Append(r)
		if err != nil {
			t.Fatal(err)
		}
		r.ID, r.Outcome, r.Bytes, r.Error = id, outcome, bytes, errorText(outcome)
		if err := s.Update(r); err != nil {
			t.Fatal(err)
		}
	}
	put(0, history.Failed, 0)
	for minute := range 60 {
		put(1+minute, history.Skipped, 0)
	}
	put(61, history.Skipped, 4096) // it had sent something before the guest was locked
	put(62, history.Failed, 0)
	put(63, history.Skipped, 0)
	runs, err := s.Runs(jobID(0), 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range runs {
		got = append(got, fmt.Sprint(r.ID, " ", r.Outcome, " ", r.Start.Sub(at(0)), " ", r.Fails))
	}
	want := []string{"64 skipped 1h3m0s 2", "63 failed 1h2m0s 2", "62 skipped 1h1m0s 1", "2 skipped 1m0s 1", "1 failed 0s 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("newest first (-want +got):\n%s", diff)
	}
	if last, _, err := s.Last(jobID(0)); err != nil || last.ID != 63 {
		t.Errorf("the last run is %d, %v; want 63, the last that was not skipped", last.ID, err)
	}
}

func TestStore_KeepsTheBeginningAndTheEndOfALongLog(t *testing.T) {
	s := open(t, path(t), 0)
	r := run(0, 0, history.OK)
	for i := range 5000 {
		r.Log = append(r.Log, history.LogLine{Time: at(0), Level: "debug", Message: fmt.Sprint("line ", i)})
	}
	add(t, s, r)
	got, _, err := s.Last(jobID(0))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Log) != 1000 || got.Log[0].Message != "line 0" || got.Log[999].Message != "line 4999" ||
		got.Log[200].Message != "… 4001 lines left out" || got.Log[201].Message != "line 4201" {
		t.Errorf("%d lines; around the gap: %v", len(got.Log), got.Log[199:202])
	}
}

func TestStore_Refuses(t *testing.T) {
	s := open(t, path(t), 0)
	unknown := run(0, 0, history.OK)
	unknown.ID = 7
	if err := s.Update(unknown); err == nil || !strings.Contains(err.Error(), "job 100-0 has no run 7") {
		t.Errorf("unknown run: %v", err)
	}
	if _, err := s.Append(run(0, 0, "good")); err == nil || !strings.Contains(err.Error(), `unknown outcome "good"`) {
		t.Errorf("unknown outcome: %v", err)
	}
	if _, err := s.Append(history.Run{Job: jobID(0), Outcome: history.OK}); err == nil || !strings.Contains(err.Error(), "no start") {
		t.Errorf("no start: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := s.Runs(jobID(0), 1); err == nil || !strings.Contains(err.Error(), "it is closed") {
		t.Errorf("closed: %v", err)
	}
}

// Runs that begin and end at the same moment are all there, each with a number of its own, and what is wrong with one is its own.
func TestStore_ChangesOfTheSameMoment(t *testing.T) {
	file := path(t)
	s := open(t, file, 100)
	const jobs, runs = 20, 5
	errs := make(chan error, 2*jobs)
	for n := range jobs {
		go func() {
			errs <- func() error {
				for minute := range runs {
					r := run(n, minute, history.Running)
					var err error
					if r.ID, err = s.Append(r); err != nil {
						return err
					}
					if want := uint64(minute + 1); r.ID != want {
						return fmt.Errorf("run %d of job %d has the number %d", want, n, r.ID)
					}
					r.Outcome = history.OK
					if err := s.Update(r); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
		go func() {
			unknown := run(n, 1, history.OK)
			unknown.ID = 99
			if err := s.Update(unknown); err == nil || !strings.Contains(err.Error(), "has no run 99") {
				errs <- fmt.Errorf("an update of a run that there is not: %w", err)
				return
			}
			errs <- nil
		}()
	}
	for range 2 * jobs {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, file, 100)
	for n := range jobs {
		got, err := s.Runs(jobID(n), 0)
		if err != nil || len(got) != runs {
			t.Fatalf("job %d: %d runs, %v", n, len(got), err)
		}
		for _, r := range got {
			if r.Outcome != history.OK {
				t.Errorf("run %d of job %d: %s", r.ID, n, r.Outcome)
			}
		}
	}
}
