package daemon_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// F49: what is nearly full is told by whichever node is asked, with what ends there, before nothing arrives any more.
func TestStatus_WarnsOfAStorageThatIsNearlyFull(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	told := func() bool {
		s, err := n[0].api.Status(t.Context(), api.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(s.Warnings, func(w string) bool {
			return strings.HasPrefix(w, "node n2: storage local-zfs (tank/guests) is 90% full: ") && strings.HasSuffix(w, "; what ends there: 100-0")
		})
	}
	if told() {
		t.Error("warned of a storage with much room")
	}
	st, err := n[1].pool.Storage(t.Context(), "tank/guests")
	if err != nil {
		t.Fatal(err)
	}
	quota := strconv.FormatUint(st.Used*10/9, 10)
	if err := n[1].pool.SetProps(t.Context(), map[string]string{"quota": quota}, "tank/guests"); err != nil {
		t.Fatal(err)
	}
	if !told() {
		t.Error("not warned")
	}
	e, err := n[0].api.Explain(t.Context(), id)
	if err != nil || !strings.Contains(strings.Join(e.Why, "\n"), "on n2, storage local-zfs (tank/guests) is 90% full") {
		t.Errorf("explained: %q, %v", e.Why, err)
	}
}
