package daemon_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// diverge writes to n2's replica of guest 100 and has the next sync set that aside.
func diverge(t *testing.T, n []*machine, id guest.JobID) api.CopyRequest {
	t.Helper()
	if err := n[1].pool.SetProps(t.Context(), map[string]string{"readonly": "off"}, "tank/guests/vm-100-disk-0"); err != nil {
		t.Fatal(err)
	}
	n[1].write("vm-100-disk-0", "diverged")
	n[0].write("vm-100-disk-0", "second")
	n[0].syncNow(id)
	list, err := n[0].api.Diverged(t.Context(), api.DivergedRequest{Guest: 100})
	if err != nil || len(list.Copies) != 1 || len(list.Kept) != 0 {
		t.Fatalf("what diverged: %+v, %v", list, err)
	}
	return api.CopyRequest{Node: list.Copies[0].Node, Dataset: list.Copies[0].Dataset}
}

func TestDiverged_IsShownMountedRestoredAndDiscarded(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	ctx := t.Context()
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := n[0].replicate(0, "n2")
	q := diverge(t, n, id)

	d, err := n[0].api.ShowDiverged(ctx, q) // asked of another node
	if err != nil || d.Node != "n2" || d.Guest != 100 || d.Newer == 0 || d.Base == "" || d.At != "" || len(d.Snapshots) == 0 || len(d.Clones) != 0 {
		t.Errorf("it shows %+v, %v", d, err)
	}
	m, err := n[0].api.MountDiverged(ctx, q)
	if err != nil || !m.Device || m.At != "/dev/zvol/"+q.Dataset {
		t.Errorf("mounted: %+v, %v", m, err)
	}
	if _, err := n[0].api.UnmountDiverged(ctx, q); err != nil {
		t.Error(err)
	}
	_, err = n[0].api.ShowDiverged(ctx, api.CopyRequest{Node: "n9", Dataset: q.Dataset})
	wantError(t, err, api.CodeNotFound, "n9")
	_, err = n[0].api.MountDiverged(ctx, api.CopyRequest{Node: "n2", Dataset: "tank/guests/vm-100-disk-0"})
	wantError(t, err, api.CodeRefused, "no place for diverged data")

	r, err := n[0].api.RestoreDiverged(ctx, api.RestoreRequest{Node: "n2", Datasets: []string{q.Dataset}})
	if err != nil || r.Guest != 101 || r.Node != "n2" || r.Name != "web-diverged" || r.From != 100 {
		t.Fatalf("restored: %+v, %v", r, err)
	}
	if got := n[1].replica(101); got != "diverged" {
		t.Errorf("the restored guest has %q", got)
	}
	if got := n[1].dataset("vm-101-disk-0"); got.ReadOnly || got.Props["tandem:role"] != "owner" || got.Props["tandem:guest"] != "101" {
		t.Errorf("its volume: read-only %v, %v", got.ReadOnly, got.Props)
	}
	again := api.RestoreRequest{Node: "n2", Datasets: []string{q.Dataset}, As: 101}
	if r, err := n[1].api.RestoreDiverged(ctx, again); err != nil || r.Guest != 101 {
		t.Errorf("once more: %+v, %v", r, err)
	}
	again.As = 100
	_, err = n[1].api.RestoreDiverged(ctx, again)
	wantError(t, err, api.CodeRefused, "choose another ID")
	n[0].write("vm-100-disk-0", "third")
	n[0].syncNow(id)

	_, err = n[0].api.DiscardDiverged(ctx, q)
	wantError(t, err, api.CodeRefused, "guest 101 was restored from it")
	if _, err := n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 101, DeleteData: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := n[0].api.DiscardDiverged(ctx, q); err != nil {
		t.Error(err)
	}
	if got := n[1].replica(100); got != "third" {
		t.Errorf("the replica has %q", got)
	}
}

func TestKept_IsToldAndDiscarded(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	ctx := t.Context()
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	if got := n[0].migrate(api.MigrateRequest{To: "n2"}); got.Outcome != api.MigrationMoved {
		t.Fatalf("the migration: %+v", got)
	}
	var kept []api.KeptCopy
	until(t, "the copy on n1 is told of", func() bool {
		s, err := n[1].api.Status(ctx, api.Filter{})
		kept = s.Kept
		return err == nil && len(kept) == 1
	})
	k := kept[0]
	if k.Node != "n1" || k.Guest != 100 || k.Owner != "n2" || !k.Only || k.Point == "" || k.Age == nil || k.Used == 0 || len(k.Volumes) != 1 {
		t.Errorf("the kept copy: %+v", k)
	}
	list, err := n[1].api.Diverged(ctx, api.DivergedRequest{})
	if err != nil || len(list.Copies) != 0 || len(list.Kept) != 1 || list.Kept[0].Node != "n1" {
		t.Errorf("the list: %+v, %v", list, err)
	}
	_, err = n[1].api.DiscardKept(ctx, api.KeptRequest{Node: "n2", Guest: 100})
	wantError(t, err, api.CodeRefused, "what is there is the guest itself")
	_, err = n[1].api.DiscardKept(ctx, api.KeptRequest{Node: "n1", Guest: 101})
	wantError(t, err, api.CodeNotFound, "no kept copy of guest 101")

	// What the owner does not have stays.
	if err := n[0].pool.Snapshot(ctx, []string{"tank/guests/vm-100-disk-0@mine"}, nil); err != nil {
		t.Fatal(err)
	}
	done, err := n[0].api.DiscardKept(ctx, api.KeptRequest{Node: "n1", Guest: 100})
	if err != nil || len(done.Destroyed) != 0 || len(done.Left) != 1 || !strings.Contains(done.Left[0], "mine") {
		t.Errorf("with a snapshot of its own: %+v, %v", done, err)
	}
	if err := n[0].pool.DestroySnapshots(ctx, "tank/guests/vm-100-disk-0", []string{"mine"}); err != nil {
		t.Fatal(err)
	}
	done, err = n[0].api.DiscardKept(ctx, api.KeptRequest{Node: "n1", Guest: 100})
	if err != nil || len(done.Destroyed) != 1 || len(done.Left) != 0 || n[0].dataset("vm-100-disk-0").Exists() {
		t.Errorf("discarded: %+v, %v", done, err)
	}
	if got := n[1].replica(100); got != "first" {
		t.Errorf("the guest has %q", got)
	}
}

func TestMigrate_DeleteSourceTakesOperatorsSnapshotsThatTravelled(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	if err := n[0].pool.Snapshot(t.Context(), []string{"tank/guests/vm-100-disk-0@weekly"}, nil); err != nil {
		t.Fatal(err)
	}
	got := n[0].migrate(api.MigrateRequest{To: "n2", DeleteSource: true})
	if got.Outcome != api.MigrationMoved || len(got.Warnings) > 0 || n[0].dataset("vm-100-disk-0").Exists() {
		t.Fatalf("the migration: %+v", got)
	}
	there := n[1].dataset("vm-100-disk-0")
	if len(there.Snapshots) == 0 || there.Snapshots[0].Name != "weekly" {
		t.Errorf("n2 has the snapshots %+v", there.Snapshots)
	}
}

func TestRecover_WithoutAStart(t *testing.T) {
	t.Parallel()
	n := herd(t)
	n[0].replicate(0, "n2")
	ctx := t.Context()
	n[0].stop()
	if err := n[0].units.Stop(ctx, serviceOf(100)); err != nil {
		t.Fatal(err)
	}
	r := api.RecoverRequest{ID: 100, OwnerIsOff: true, NoStart: true}
	until(t, "it is recovered", func() bool {
		_, err := n[1].api.RecoverGuest(ctx, r)
		return err == nil
	})
	until(t, "its volume is n2's", func() bool { return n[1].marks("vm-100-disk-0")["tandem:role"] == "owner" })
	until(t, "its configuration is there", func() bool {
		g, err := n[1].api.Guest(ctx, 100)
		return err == nil && g.Run != nil && g.Run.State == api.GuestStopped
	})
	if n[1].units.Starts(serviceOf(100)) != 0 {
		t.Error("it was started")
	}
	if err := n[1].api.StartGuest(ctx, 100); err != nil || !n[1].runs(100) {
		t.Errorf("it does not start when it is told to: %v", err)
	}
}
