package history_test

import (
	"testing"

	"github.com/tandemd/tandem/pkg/history"
)

func TestStore_FromFindsTheFirstThatIsNotLower(t *testing.T) {
	s := open(t, path(t), 2)
	if _, ok, err := s.From(jobID(0), 1); ok || err != nil {
		t.Errorf("of a job without runs: %v, %v", ok, err)
	}
	for i := range 4 {
		add(t, s, run(0, i, history.OK)) // of which 3 and 4 are kept
	}
	for number, want := range map[uint64]uint64{0: 3, 1: 3, 3: 3, 4: 4, 5: 0} {
		r, ok, err := s.From(jobID(0), number)
		if err != nil || r.ID != want || ok != (want != 0) {
			t.Errorf("from %d: run %d, %v, %v; want run %d", number, r.ID, ok, err, want)
		}
	}
}
