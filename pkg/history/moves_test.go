package history_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
)

func move(id guest.ID, n int) history.Move {
	took := 1500 * time.Millisecond
	return history.Move{
		ID: fmt.Sprintf("m%d", n), Guest: id, Kind: history.Migration, From: "n1", To: "n2", By: "root@n1", Begun: at(n), Finished: at(n + 1),
		Outcome: "moved", Point: "p", Downtime: &took, Started: true, Bytes: 4096, Warnings: []string{"look"},
	}
}

func TestMoves_AreKeptForEachGuestAndOnce(t *testing.T) {
	file := path(t)
	s := open(t, file, 3)
	for n := range 5 {
		for range 2 { // again, as after a restart
			if err := s.AddMove(move(100, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.AddMove(move(101, 9)); err != nil {
		t.Fatal(err)
	}
	if err := s.AddMove(history.Move{ID: "m", Guest: 100, Outcome: ""}); err == nil {
		t.Error("one that goes on was taken")
	}
	must := func(s *history.Store, id guest.ID, n int, want ...history.Move) {
		t.Helper()
		got, err := s.Moves(id, n)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("moves of guest %s: %v\n%s", id, err, d)
		}
	}
	must(s, 100, 0, move(100, 4), move(100, 3), move(100, 2))
	must(s, 100, 1, move(100, 4))
	must(s, 102, 0)
	if _, err := s.Append(run(0, 1, history.OK)); err != nil {
		t.Fatal(err)
	}
	// A daemon that is killed finds them again; jobs and moves do not meet.
	again := open(t, crash(t, file), 3)
	must(again, 100, 0, move(100, 4), move(100, 3), move(100, 2))
	if ids, err := again.Jobs(); err != nil || cmp.Diff([]guest.JobID{jobID(0)}, ids) != "" {
		t.Errorf("jobs: %v, %v", ids, err)
	}
	if err := again.ForgetMoves(100); err != nil {
		t.Fatal(err)
	}
	must(again, 100, 0)
	must(again, 101, 0, move(101, 9))
}
