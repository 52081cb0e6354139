package daemon_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/zfs"
)

func serviceOf(id guest.ID) string { return "vm-" + id.String() + ".service" }

// runGuest takes a guest with a unit under care and starts it.
func (m *machine) runGuest(id guest.ID, boot guest.Boot, spec unittest.Spec) {
	m.t.Helper()
	m.units.Add(serviceOf(id), spec)
	m.disk(volume(id).Name, "first")
	_, err := m.api.AddGuest(m.t.Context(), api.AddGuestRequest{
		ID: id, Type: guest.VM, Name: "web", Volumes: []guest.Volume{volume(id)}, Unit: serviceOf(id), Boot: boot, Config: "cores=2\n",
	})
	if err == nil {
		err = m.api.StartGuest(m.t.Context(), id)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) runs(id guest.ID) bool {
	m.t.Helper()
	s, err := m.units.State(m.t.Context(), serviceOf(id))
	return err == nil && s.Running()
}

func (m *machine) warnings() string {
	m.t.Helper()
	s, err := m.api.Status(m.t.Context(), api.Filter{})
	if err != nil {
		return err.Error()
	}
	return strings.Join(s.Warnings, "\n")
}

func TestKeeper_NothingStartsWithoutAMajority(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].runGuest(100, guest.Boot{On: true}, unittest.Spec{})
	until(t, "both vote", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Voters == 2
	})
	for _, m := range n {
		m.stop()
	}
	n[0].units.Reboot()
	n[0].boot = "boot-2"
	n[0].start()
	until(t, "status says why the guest does not run", func() bool {
		told := n[0].warnings()
		return strings.Contains(told, "guest 100") && strings.Contains(told, "not quorate: ") && strings.Contains(told, "tandem cluster expected 1")
	})
	wantError(t, n[0].api.StartGuest(t.Context(), 100), api.CodeNotQuorate, "guest 100 is not started: not quorate")
	wantError(t, n[0].api.MayStart(t.Context(), 100), api.CodeNotQuorate, "tandem cluster expected 1")
	if n[0].runs(100) {
		t.Fatal("it runs without a majority")
	}
	n[1].start()
	until(t, "with a majority it runs", func() bool { return n[0].runs(100) })
	wantError(t, n[1].api.MayStart(t.Context(), 100), api.CodeRefused, "it is n1's at term")
}

func TestKeeper_BootIsTheMachinesAndNotTheDaemons(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	var mu sync.Mutex
	var started []guest.ID
	for _, id := range []guest.ID{100, 101, 102} {
		boot := guest.Boot{On: id != 102, Order: 200 - int(id)}
		m.runGuest(id, boot, unittest.Spec{OnStart: func() {
			mu.Lock()
			defer mu.Unlock()
			started = append(started, id)
		}})
	}
	if err := m.api.StopGuest(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	again := func() {
		t.Helper()
		mu.Lock()
		started = nil
		mu.Unlock()
		m.stop()
		m.start()
		until(t, "it is quorate", func() bool { return m.api.MayStart(t.Context(), 101) == nil })
	}
	again()
	if m.runs(100) || !m.runs(101) || m.units.Starts(serviceOf(101)) != 1 {
		t.Error("a restart of the daemon is no boot")
	}
	m.units.Reboot()
	m.boot = "boot-2"
	again()
	until(t, "the guests run that are started at boot", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(started) >= 2
	})
	mu.Lock()
	defer mu.Unlock()
	if d := cmp.Diff([]guest.ID{101, 100}, started); d != "" {
		t.Errorf("in another order, or others: %s", d)
	}
	if m.units.Guarded(serviceOf(102)) != 102 {
		t.Error("a unit does not ask before it is started")
	}
}

func TestKeeper_TheUnitOfAGuestThatRunsStays(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].runGuest(100, guest.Boot{}, unittest.Spec{})
	n[0].units.Add("other.service", unittest.Spec{})
	until(t, "n2 knows that it runs", func() bool {
		g, err := n[1].api.Guest(t.Context(), 100)
		return err == nil && g.Run.State == api.GuestRunning
	})
	for _, unit := range []string{"other.service", ""} {
		for _, m := range n {
			_, err := m.api.SetGuest(t.Context(), api.SetGuestRequest{ID: 100, Unit: &unit})
			wantError(t, err, api.CodeRefused, "guest 100 runs, as vm-100.service: its unit cannot be changed")
			wantError(t, err, api.CodeRefused, "tandem guest stop 100")
		}
	}
	// Started behind Tandem's back it runs as well.
	if err := n[0].api.StopGuest(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if err := n[0].units.Start(t.Context(), serviceOf(100)); err != nil {
		t.Fatal(err)
	}
	other := "other.service"
	_, err := n[1].api.SetGuest(t.Context(), api.SetGuestRequest{ID: 100, Unit: &other})
	wantError(t, err, api.CodeRefused, "guest 100 runs")
	if err := n[0].api.StopGuest(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if g, err := n[1].api.SetGuest(t.Context(), api.SetGuestRequest{ID: 100, Unit: &other}); err != nil || g.Unit != other {
		t.Fatalf("%+v, %v", g, err)
	}
	until(t, "systemd asks before it starts the new one, and no longer for the old one", func() bool {
		return n[0].units.Guarded(other) == 100 && n[0].units.Guarded(serviceOf(100)) == 0
	})
}

func TestKeeper_AGuestThatMovesRunsOnceAndItsFormerOwnerIsFenced(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].runGuest(100, guest.Boot{}, unittest.Spec{})
	n[1].units.Add(serviceOf(100), unittest.Spec{})
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	n[0].write("vm-100-disk-0", "newer than the point")
	g := n[0].daemon.Ledger().Guests[100]
	last := n[1].dataset("vm-100-disk-0").Snapshots
	point := last[len(last)-1]
	begin := guest.Beginning{How: guest.ByRecovery, Point: point.Name, GUIDs: map[guest.Volume]uint64{volume(100): point.GUID}}
	to := n[1].daemon.Ledger().Members
	for _, m := range to {
		if m.Name == "n2" {
			op := ledger.ChangeOwner{ID: 100, Owner: g.Owner, Term: g.Term, To: m.ID, Beginning: &begin}
			if err := n[1].daemon.Propose(t.Context(), op); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "it runs on its new owner", func() bool { return n[1].runs(100) })
	until(t, "it does not run on the former one", func() bool { return !n[0].runs(100) })
	until(t, "the former owner's volume is no owner's any more", func() bool {
		d := n[0].dataset("vm-100-disk-0")
		return !d.Exists() || d.Props[zfs.PropRole] != zfs.RoleOwner
	})
	if got := n[1].replica(100); got != "first" {
		t.Errorf("the new owner has %q", got)
	}
	if n[1].units.Starts(serviceOf(100)) != 1 {
		t.Errorf("it was started %d times", n[1].units.Starts(serviceOf(100)))
	}
	until(t, "what the former owner wrote is kept", func() bool {
		list, err := n[1].api.Diverged(t.Context(), api.DivergedRequest{Guest: 100})
		return err == nil && len(list.Copies) == 1 && list.Copies[0].Node == "n1"
	})
	config := func(m *machine) string {
		b, _ := os.ReadFile(filepath.Join(m.conf.StateDir, "guests", "100.conf"))
		return string(b)
	}
	until(t, "the configuration file went along", func() bool { return config(n[0]) == "" && config(n[1]) == "cores=2\n" })
	until(t, "both know where it runs", func() bool {
		return !slices.ContainsFunc(n, func(m *machine) bool {
			g, err := m.api.Guest(t.Context(), 100)
			return err != nil || g.Run == nil || g.Run.State != api.GuestRunning || cmp.Diff([]guest.NodeName{"n2"}, g.Run.On) != ""
		})
	})
	wantError(t, n[0].api.MayStart(t.Context(), 100), api.CodeRefused, "it is n2's at term")
	if err := n[0].api.StopGuest(t.Context(), 100); err != nil || n[1].runs(100) {
		t.Errorf("stopped from another node: %v", err)
	}
	// The daemon of the new owner starts again: what an operator stopped stays stopped.
	n[1].stop()
	n[1].start()
	until(t, "it is quorate", func() bool { return n[1].api.MayStart(t.Context(), 100) == nil })
	if n[1].units.Starts(serviceOf(100)) != 1 {
		t.Errorf("it was started %d times", n[1].units.Starts(serviceOf(100)))
	}
}
