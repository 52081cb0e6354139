package daemon_test

import (
	"testing"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// What the first sync would refuse is refused when the job is made, from whatever node, and nothing is changed.
func TestCreateJob_RefusesWhatCouldNotBeSynced(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "x")
	n[0].addGuest(100)
	ctx := t.Context()
	create := func(m *machine) error {
		_, err := m.api.CreateJob(ctx, api.CreateJobRequest{ID: guest.JobID{Guest: 100}, Target: "n2"})
		return err
	}
	until(t, "n2 knows guest 100", func() bool { _, err := n[1].api.Guest(ctx, 100); return err == nil })
	n[1].pool.SetPool("tank", zfstest.PoolState{ReadOnly: true})
	for _, m := range n {
		wantError(t, create(m), api.CodeRefused, "job 100-0: volume local-zfs:vm-100-disk-0: pool tank on n2 is imported read-only")
	}
	n[1].pool.SetPool("tank", zfstest.PoolState{Features: map[string]string{"lz4_compress": "enabled"}})
	for _, m := range n {
		wantError(t, create(m), api.CodeRefused, "feature embedded_data")
		wantError(t, create(m), api.CodeRefused, "zpool set feature@embedded_data=enabled tank") // the hint
	}
	n[1].pool.SetPool("tank", zfstest.PoolState{Features: map[string]string{"lz4_compress": "enabled", "embedded_data": "enabled"}})
	n[1].disk("vm-100-disk-0", "somebody else's")
	wantError(t, create(n[1]), api.CodeRefused, "carries no mark of Tandem's")
	if jobs, err := n[0].api.Jobs(ctx); err != nil || len(jobs) != 0 {
		t.Errorf("jobs after the refusals: %+v, %v", jobs, err)
	}
	n[1].pool.Destroy("tank/guests/vm-100-disk-0")
	if err := create(n[0]); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(guest.JobID{Guest: 100})
	if got := n[1].replica(100); got != "x" {
		t.Errorf("the replica holds %q", got)
	}
}
