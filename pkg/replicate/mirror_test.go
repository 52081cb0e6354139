package replicate_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// mode changes which of the operators' snapshots a job sends.
func (w *world) mode(j guest.JobID, m guest.SnapshotMode) {
	w.change(func(s *ledger.State) {
		jobs := maps.Clone(s.Jobs)
		x := jobs[j]
		x.Snapshots = m
		jobs[j] = x
		s.Jobs = jobs
	})
}

// A target has a copy that the new owner never had: it may be the only one, and is not removed because the source has none.
func TestMirror_CopiesOfAFormerOwnersSnapshotsStay(t *testing.T) {
	for _, cut := range []bool{false, true} {
		w := pair(t)
		n1, n2, n3 := w.node("1"), w.node("2"), w.node("3")
		for _, s := range []string{"a", "b", "c"} {
			n1.snap(diskDS + "@" + s)
			n1.write(diskDS, 7, 1)
		}
		must(t, syncBoth(w))
		w.mode(job, guest.None)
		n1.snap(diskDS + "@only")
		n1.write(diskDS, 8, 1)
		w.run(second)
		w.run(job)
		equal(t, [][]string{n2.operators(diskDS), n3.operators(diskDS)}, [][]string{{"a", "b", "c"}, {"a", "b", "c", "only"}})

		w.give("2", guest.ByRecovery, w.held("2")[0])
		w.promoted("2")
		n2.write(diskDS, 9, 1)
		if cut { // All has arrived, and nothing of it is marked.
			n3.pool.Inject(zfstest.Fault{Op: "Change", Times: 1, Err: errors.New("lost")})
			if _, err := n2.source.Run(t.Context(), replicate.Task{Job: second}); err == nil {
				t.Fatal("the sync was not cut")
			}
		}
		warned := strings.Join(w.run(second).Warnings, "\n")
		if !strings.Contains(warned, "only") || !strings.Contains(warned, "n3") {
			t.Errorf("cut %v: the warnings do not name what stays, and where: %q", cut, warned)
		}
		w.same("3")

		// What the owner had when it began is mirrored as ever.
		must(t, n2.pool.DestroySnapshots(t.Context(), diskDS, []string{"a"}))
		for range 3 {
			n2.write(diskDS, 10, 1)
			equal(t, len(w.run(second).Warnings), 0)
		}
		equal(t, n3.operators(diskDS), []string{"b", "c", "only"})
	}
}
