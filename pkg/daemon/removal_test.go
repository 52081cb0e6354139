package daemon_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/zfs"
)

// A container's filesystem stays mounted when it is stopped. Its data goes all the same, without force, or nothing of it.
func TestRemoveGuest_AContainerWhoseFilesystemIsMounted(t *testing.T) {
	t.Parallel()
	const name, dataset, service = "subvol-200-disk-0", "tank/guests/subvol-200-disk-0", "ct-200.service"
	n := cluster(t, 2)
	ctx := t.Context()
	n[0].units.Add(service, unittest.Spec{})
	if err := n[0].pool.Create(dataset, 0, nil); err != nil {
		t.Fatal(err)
	}
	_, err := n[0].api.AddGuest(ctx, api.AddGuestRequest{
		ID: 200, Type: guest.CT, Name: "mail", Volumes: []guest.Volume{{Storage: "local-zfs", Name: name}}, Unit: service,
	})
	if err == nil {
		err = n[0].api.StartGuest(ctx, 200)
	}
	if err != nil {
		t.Fatal(err)
	}
	until(t, "n2 knows the guest", func() bool {
		_, err := n[1].api.Guest(ctx, 200)
		return err == nil
	})
	refused := func(digest string, code api.Code, text string) {
		t.Helper()
		_, err := n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 200, DeleteData: true, Digest: digest})
		wantError(t, err, code, text)
		if d := n[0].dataset(name); !d.Mounted || len(d.Props) == 0 {
			t.Errorf("after %v: mounted %v, marks %v", err, d.Mounted, d.Props)
		}
	}
	refused("", api.CodeRefused, "unit "+service+" is not known to be stopped: stop the guest first")
	if err := n[0].api.StopGuest(ctx, 200); err != nil {
		t.Fatal(err)
	}
	n[0].pool.SetBusy(dataset, true)
	refused("", api.CodeRefused, "it is mounted and in use: process 4711 (qemu) has it open")
	n[0].pool.SetBusy(dataset, false)
	refused("0123456789abcdef", api.CodeRefused, "was changed meanwhile") // It is mounted again.

	gone, err := n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 200, DeleteData: true})
	if err != nil || len(gone.Traces) != 1 || gone.Traces[0].Fate != api.FateDestroyed || n[0].dataset(name).Exists() {
		t.Errorf("%+v, %v; it exists: %v", gone, err, n[0].dataset(name).Exists())
	}
}

// Of a guest that has a disk open nothing goes, on no node, and it stays the cluster's. Where that shows only once the cluster has
// let go, the replicas stay with the owner's data.
func TestRemoveGuest_AGuestInUseKeepsAllThatItHas(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	n, id := replicated(t, "x")
	idle := guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-1"}
	n[0].disk(idle.Name, "y")
	if _, err := n[0].api.SetGuest(ctx, api.SetGuestRequest{ID: 100, AddVolumes: []guest.Volume{idle}}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	have := func() (all []zfs.Dataset) {
		for _, m := range n {
			all = append(all, m.dataset("vm-100-disk-0"), m.dataset(idle.Name))
		}
		return all
	}
	n[1].endJob(id, true)
	n[0].pool.SetBusy("tank/guests/vm-100-disk-0", true)
	before := have()
	_, err := n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 100, DeleteData: true})
	wantError(t, err, api.CodeRefused, "tank/guests/vm-100-disk-0 on n1: it is in use: process 4711 (qemu) has it open")
	if d := cmp.Diff(before, have()); d != "" {
		t.Errorf("something was changed:\n%s", d)
	}
	n[0].pool.SetBusy("tank/guests/vm-100-disk-0", false)
	if _, err := n[0].api.CreateJob(ctx, api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err) // It is a guest still.
	}
	n[0].syncNow(id)
	point := n[0].dataset(idle.Name).Snapshots[0].Name
	if err := n[0].pool.Clone(ctx, "tank/guests/vm-100-disk-1@"+point, "tank/guests/mine", nil); err != nil {
		t.Fatal(err)
	}
	g, err := n[1].api.SetGuest(ctx, api.SetGuestRequest{ID: 100, RemoveVolumes: []guest.Volume{idle}, DeleteData: true})
	if err != nil || len(g.Warnings) != 1 || !strings.Contains(g.Warnings[0], "the replicas on other nodes stay") {
		t.Errorf("%+v, %v", g, err)
	}
	if len(g.Traces) != 2 || g.Traces[0].Fate != api.FateLeft || g.Traces[1].Fate != api.FateReplica || !n[1].dataset(idle.Name).Exists() {
		t.Errorf("%+v", g.Traces)
	}
}

// A dataset that was made anew is not the guest's until somebody says so, from any node.
func TestSetGuest_TakesADatasetThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	const dataset = "tank/guests/vm-100-disk-0"
	ctx := t.Context()
	n, id := replicated(t, "first")
	n[0].pool.Destroy(dataset)
	n[0].disk("vm-100-disk-0", "other")
	if err := n[0].api.ScheduleNow(ctx, id); err != nil {
		t.Fatal(err)
	}
	until(t, "the sync is refused", func() bool {
		j := n[0].job(id)
		return strings.Contains(j.Error, "is not the one that was the guest's volume here") && strings.Contains(j.Hint, "--take-volume")
	})
	if got := n[1].replica(100); got != "first" {
		t.Errorf("the replica holds %q", got)
	}
	_, err := n[1].api.SetGuest(ctx, api.SetGuestRequest{ID: 100, TakeVolumes: []guest.Volume{{Storage: "local-zfs", Name: "other"}}})
	wantError(t, err, api.CodeInvalid, "guest 100 has no volume local-zfs:other")
	if _, err := n[1].api.SetGuest(ctx, api.SetGuestRequest{ID: 100, TakeVolumes: []guest.Volume{volume(100)}}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	if got := n[1].replica(100); got != "other" {
		t.Errorf("the replica holds %q", got)
	}
}

// What a migration has brought that went back is told as that, and goes once nobody has moved the guest for a while; of that only
// a restart lets the daemons forget.
func TestMigrate_WhatItBroughtGoesWhereItWentBack(t *testing.T) {
	t.Parallel()
	n := herd(t)
	ctx := t.Context()
	n[0].pool.SetBusy("tank/guests/vm-100-disk-0", true)
	got := n[0].migrate(api.MigrateRequest{To: "n2"})
	if got.Outcome != api.MigrationUndone || !n[1].dataset("vm-100-disk-0").Exists() {
		t.Fatalf("%+v; it is on n2: %v", got, n[1].dataset("vm-100-disk-0").Exists())
	}
	n[0].pool.SetBusy("tank/guests/vm-100-disk-0", false)
	s, err := n[2].api.Status(ctx, api.Filter{})
	if err != nil || len(s.Kept) != 1 || !s.Kept[0].Unfinished || s.Kept[0].Node != "n2" {
		t.Errorf("status: %+v, %v", s.Kept, err)
	}
	for _, m := range n[:2] {
		m.stop()
		m.start()
		until(t, "it is back", func() bool {
			c, err := n[2].api.Cluster(ctx)
			return err == nil && c.Quorate && c.Members[0].State == "alive" && c.Members[1].State == "alive"
		})
	}
	until(t, "it is gone", func() bool { return !n[1].dataset("vm-100-disk-0").Exists() })
	if got := n[0].replica(100); got != "first" {
		t.Errorf("the guest has %q", got)
	}
}
