package daemon_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit/unittest"
)

// herd is three machines that all have the unit of guest 100, which n1 owns and runs.
func herd(t *testing.T) []*machine {
	t.Helper()
	n := cluster(t, 3)
	for _, m := range n[1:] {
		m.units.Add(serviceOf(100), unittest.Spec{})
	}
	until(t, "all vote", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Voters == 3 && c.Quorate
	})
	n[0].runGuest(100, guest.Boot{}, unittest.Spec{})
	return n
}

func (m *machine) replicate(number int, to guest.NodeName) guest.JobID {
	m.t.Helper()
	id := guest.JobID{Guest: 100, Number: number}
	if _, err := m.api.CreateJob(m.t.Context(), api.CreateJobRequest{ID: id, Target: to}); err != nil {
		m.t.Fatal(err)
	}
	m.syncNow(id)
	return id
}

// migrate moves guest 100, asked of m, and waits for the end.
func (m *machine) migrate(r api.MigrateRequest) api.Migration {
	m.t.Helper()
	r.ID = 100
	started, err := m.api.Migrate(m.t.Context(), r)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.landed(started)
}

func (m *machine) landed(s api.StartedMigration) (out api.Migration) {
	m.t.Helper()
	until(m.t, "the migration has ended", func() bool {
		x, err := m.api.WatchMigration(m.t.Context(), api.WatchMigrationRequest{Guest: s.Guest, Node: s.Node, Phase: out.Phase, Lines: len(out.Lines)})
		if err != nil {
			m.t.Fatal(err)
		}
		x.Lines = append(out.Lines, x.Lines...)
		out = x
		return x.Ended()
	})
	return out
}

// owned waits until all machines know the guest's owner.
func owned(t *testing.T, n []*machine, by guest.NodeName) {
	t.Helper()
	for _, m := range n {
		until(t, string(m.conf.NodeName)+" knows the guest on "+string(by), func() bool {
			g, err := m.api.Guest(t.Context(), 100)
			return err == nil && g.Owner == by
		})
	}
}

func TestMigrate_ThereAndBack(t *testing.T) {
	t.Parallel()
	n := herd(t)
	there, other := n[0].replicate(0, "n2"), n[0].replicate(1, "n3")
	n[0].write("vm-100-disk-0", "written since")
	got := n[2].migrate(api.MigrateRequest{To: "n2"}) // asked of a third node
	if got.Outcome != api.MigrationMoved || !got.Started || got.Downtime == nil || got.Bytes > mib {
		t.Fatalf("the migration: %+v", got)
	}
	if n[0].runs(100) || !n[1].runs(100) || n[1].units.Starts(serviceOf(100)) != 1 {
		t.Errorf("it runs on n1 %v, on n2 %v, started %d times", n[0].runs(100), n[1].runs(100), n[1].units.Starts(serviceOf(100)))
	}
	if got := n[1].replica(100); got != "written since" {
		t.Errorf("the guest has %q", got)
	}
	owned(t, n, "n2")
	for _, m := range n { // Gossip has not told them all yet. A busy machine may keep the owner from telling.
		until(t, "all say that it runs", func() bool {
			g, err := m.api.Guest(t.Context(), 100)
			list, listErr := m.api.Guests(t.Context())
			if err != nil || listErr != nil || len(list) != 1 {
				return false
			}
			for _, r := range []*api.GuestRun{g.Run, list[0].Run} {
				if r.State == api.GuestStopped {
					t.Errorf("%s says that the guest is stopped: %+v", m.conf.NodeName, r)
				}
			}
			return g.Run.State == api.GuestRunning && list[0].Run.State == api.GuestRunning
		})
	}
	for id, target := range map[guest.JobID]guest.NodeName{there: "n1", other: "n3"} {
		n[1].write("vm-100-disk-0", "on n2, for "+string(target))
		until(t, "n1's copy is a replica", func() bool { return n[0].marks("vm-100-disk-0")["tandem:role"] == "replica" })
		if j := n[1].syncNow(id); j.Source != "n2" || j.Target != target || j.Kind != "incremental" {
			t.Errorf("job %s: %s from %s to %s", id, j.Kind, j.Source, j.Target)
		}
	}
	got = n[0].migrate(api.MigrateRequest{To: "n1"})
	if got.Outcome != api.MigrationMoved || n[1].runs(100) || !n[0].runs(100) {
		t.Fatalf("the way back: %+v; it runs on n1 %v, on n2 %v", got, n[0].runs(100), n[1].runs(100))
	}
	if got := n[0].replica(100); !strings.HasPrefix(got, "on n2") {
		t.Errorf("back on n1 it has %q", got)
	}
	// Each node keeps what it did; all are asked, and it is there after a restart.
	n[0].stop()
	n[0].start()
	var told []string
	until(t, "the moves are told", func() bool {
		g, err := n[2].api.Guest(t.Context(), 100)
		told = nil
		for _, m := range g.Moves {
			told = append(told, fmt.Sprintf("%s %s to %s: %s, measured %v, by %s", m.Kind, m.From, m.To, m.Outcome, m.Downtime != nil, m.By[strings.Index(m.By, "@"):]))
		}
		return err == nil && len(told) == 2
	})
	want := []string{"migration n2 to n1: moved, measured true, by @n1", "migration n1 to n2: moved, measured true, by @n3"}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("the moves of the guest:\n%s", d)
	}
}

func TestMigrate_WithoutAReplicaAndWithoutAStart(t *testing.T) {
	t.Parallel()
	n := herd(t)
	got := n[0].migrate(api.MigrateRequest{To: "n3", NoStart: true, DeleteSource: true})
	if got.Outcome != api.MigrationMoved || got.Started || len(got.Warnings) > 0 {
		t.Fatalf("the migration: %+v", got)
	}
	if n[0].runs(100) || n[2].runs(100) || n[2].replica(100) != "first" {
		t.Errorf("it runs on n1 %v, on n3 %v, and has %q", n[0].runs(100), n[2].runs(100), n[2].replica(100))
	}
	if n[0].dataset("vm-100-disk-0").Exists() {
		t.Error("the copy on n1 is left")
	}
	if err := n[1].api.StartGuest(t.Context(), 100); err != nil || !n[2].runs(100) {
		t.Errorf("it does not start there: %v", err)
	}
}

// tries moves guest 100 until it comes to what is wanted: on a busy machine the cluster is not quorate for moments.
func (m *machine) tries(to guest.NodeName, what string, wanted func(x api.Migration) bool) (got api.Migration) {
	m.t.Helper()
	until(m.t, what, func() bool {
		s, err := m.api.Migrate(m.t.Context(), api.MigrateRequest{ID: 100, To: to})
		if err != nil {
			m.t.Log(err)
			return false
		}
		got = m.landed(s)
		if strings.Contains(got.Reason, "not in use here yet") {
			m.t.Fatalf("%s: %s", what, got.Reason)
		}
		return wanted(got)
	})
	return got
}

func wentBack(x api.Migration) bool {
	return x.Outcome == api.MigrationUndone && strings.Contains(x.Reason, "process 4711 (qemu) has it open")
}

func hasMoved(x api.Migration) bool { return x.Outcome == api.MigrationMoved }

// What a migration that goes back has sealed and unmounted is as it was, also where nothing is to be started: of a guest that
// was stopped, and of one without a unit that runs by something else.
func TestMigrate_GivesBackWhatItFoundInUse(t *testing.T) {
	t.Parallel()
	const disk, root = "vm-100-disk-0", "vm-100-root"
	n, ctx := cluster(t, 2), t.Context()
	for _, m := range n {
		m.units.Add(serviceOf(100), unittest.Spec{})
	}
	n[0].disk(disk, "first")
	if err := n[0].pool.Create("tank/guests/"+root, 0, nil); err != nil {
		t.Fatal(err)
	}
	_, err := n[0].api.AddGuest(ctx, api.AddGuestRequest{
		ID: 100, Type: guest.VM, Name: "web", Unit: serviceOf(100), Volumes: []guest.Volume{volume(100), {Storage: "local-zfs", Name: root}},
	})
	if err != nil {
		t.Fatal(err)
	}
	n[0].replicate(0, "n2")
	for _, unit := range []string{serviceOf(100), ""} {
		if _, err := n[0].api.SetGuest(ctx, api.SetGuestRequest{ID: 100, Unit: &unit}); err != nil {
			t.Fatal(err)
		}
		n[0].pool.SetBusy("tank/guests/"+disk, true)
		n[0].tries("n2", "it goes back", wentBack)
		n[0].pool.SetBusy("tank/guests/"+disk, false)
		if d, r := n[0].dataset(disk), n[0].dataset(root); d.ReadOnly || r.ReadOnly || !r.Mounted {
			t.Errorf("with the unit %q: read-only %v and %v, mounted %v", unit, d.ReadOnly, r.ReadOnly, r.Mounted)
		}
	}
	n[0].tries("n2", "it moves", hasMoved)
	if n[0].runs(100) || n[1].runs(100) {
		t.Error("it was started")
	}
}

// A guest that cannot be started again is not kept from being moved to where it can.
func TestMigrate_OfAGuestThatDoesNotStartAgain(t *testing.T) {
	t.Parallel()
	n := herd(t)
	n[0].units.Add(serviceOf(100), unittest.Spec{Fails: true}) // From its next start on.
	n[0].pool.SetBusy("tank/guests/vm-100-disk-0", true)
	got := n[0].tries("n2", "it goes back", wentBack)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "tandem guest stop") || n[0].runs(100) {
		t.Errorf("%+v", got)
	}
	n[0].pool.SetBusy("tank/guests/vm-100-disk-0", false)
	if got := n[0].tries("n2", "it moves", hasMoved); !got.Started || !n[1].runs(100) {
		t.Errorf("to where it starts: %+v", got)
	}
}

// A guest that is on its way is not forgotten: its volumes are read-only, and the target has what it will own.
func TestMigrate_AGuestThatIsBeingMovedIsNotRemoved(t *testing.T) {
	t.Parallel()
	n, ctx := cluster(t, 2), t.Context()
	n[1].units.Add(serviceOf(100), unittest.Spec{})
	n[0].runGuest(100, guest.Boot{}, unittest.Spec{Stops: 20 * time.Second})
	started, err := n[0].api.Migrate(ctx, api.MigrateRequest{ID: 100, To: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the guest is being stopped", func() bool {
		m, err := n[0].api.WatchMigration(ctx, api.WatchMigrationRequest{Guest: 100, Node: "n1"})
		return err == nil && m.Phase == "stopping"
	})
	for _, m := range n {
		_, err = m.api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 100})
		wantError(t, err, api.CodeRefused, "guest 100 is being moved to n2")
	}
	if got := n[0].landed(started); got.Outcome != api.MigrationMoved || !n[1].runs(100) {
		t.Fatalf("the migration: %+v", got)
	}
	owned(t, n, "n2")
	if _, err := n[0].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 100}); err != nil {
		t.Errorf("after its end: %v", err)
	}
}

func TestMigrate_Refuses(t *testing.T) {
	t.Parallel()
	n := herd(t)
	n[0].replicate(0, "n2")
	ctx := t.Context()
	_, err := n[0].api.Migrate(ctx, api.MigrateRequest{ID: 100, To: "n1"})
	wantError(t, err, api.CodeRefused, "is on n1 already")
	_, err = n[0].api.Migrate(ctx, api.MigrateRequest{ID: 100, To: "n9"})
	wantError(t, err, api.CodeNotFound, "n9")
	_, err = n[0].api.CancelMigration(ctx, 100)
	wantError(t, err, api.CodeNotFound, "is not being moved")
	got := n[0].migrate(api.MigrateRequest{To: "n2", DeleteSource: true})
	if got.Outcome != api.MigrationUndone || !strings.Contains(got.Reason, "would point back to n1") {
		t.Errorf("--delete-source with a job: %+v", got)
	}
	if err := n[1].pool.Create("tank/guests/vm-100-disk-9", mib, nil); err != nil {
		t.Fatal(err)
	}
	n[2].stop()
	until(t, "n3 is dead", func() bool {
		c, err := n[0].api.Cluster(ctx)
		return err == nil && c.Members[2].State != "alive" && c.Quorate
	})
	if got := n[0].migrate(api.MigrateRequest{To: "n3"}); got.Outcome != api.MigrationUndone || !strings.Contains(got.Reason, "n3 is not alive") {
		t.Errorf("to a dead node: %+v", got)
	}
	if !n[0].runs(100) || n[0].units.Starts(serviceOf(100)) != 1 {
		t.Error("what was refused has touched the guest")
	}
}

func TestRecover_AfterTheOwnerIsLost(t *testing.T) {
	t.Parallel()
	n := herd(t)
	n[0].replicate(0, "n2")
	n[0].write("vm-100-disk-0", "the newest is on n3")
	n[0].replicate(1, "n3")
	n[0].write("vm-100-disk-0", "never replicated")
	ctx := t.Context()
	var p api.Recovery
	var err error
	until(t, "it is refused because its owner is alive", func() bool {
		p, err = n[1].api.RecoverGuest(ctx, api.RecoverRequest{ID: 100, DryRun: true})
		return err == nil && strings.Contains(p.Refused, "is on n1, which is alive")
	})
	n[0].stop()
	if err := n[0].units.Stop(ctx, serviceOf(100)); err != nil {
		t.Fatal(err)
	}
	until(t, "it can be recovered", func() bool {
		p, err = n[1].api.RecoverGuest(ctx, api.RecoverRequest{ID: 100, DryRun: true})
		return err == nil && p.Refused == ""
	})
	if p.On != "n3" || len(p.Candidates) != 2 || len(p.Loss) == 0 {
		t.Errorf("the plan: %+v", p)
	}
	_, err = n[1].api.RecoverGuest(ctx, api.RecoverRequest{ID: 100})
	wantError(t, err, api.CodeRefused, "nobody has said that the old node is off")

	// Two operators at the same time: one wins, the other is told who.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, m := range n[1:] {
		wg.Go(func() {
			_, errs[i] = m.api.RecoverGuest(ctx, api.RecoverRequest{
				ID: 100, On: m.conf.NodeName, OwnerIsOff: true, Owner: p.Owner, Term: p.Term,
			})
		})
	}
	wg.Wait()
	winner, loser := n[1], errs[1]
	if errs[0] != nil {
		winner, loser = n[2], errs[0]
	}
	wantError(t, loser, api.CodeRefused, "guest 100 is on "+string(winner.conf.NodeName))
	wantError(t, loser, api.CodeRefused, "@"+string(winner.conf.NodeName))
	until(t, "it runs again", func() bool { return winner.runs(100) })
	g, err := loserOf(n, winner).api.Guest(ctx, 100)
	if err != nil || len(g.Moves) != 1 || g.Moves[0].Kind != api.MoveRecovery || g.Moves[0].From != "n1" || g.Moves[0].To != winner.conf.NodeName || g.Moves[0].Point == "" {
		t.Errorf("the moves of the guest: %+v, %v", g.Moves, err)
	}
	if n[1].runs(100) == n[2].runs(100) {
		t.Error("it runs on both")
	}
}

// loserOf is the other one of n2 and n3.
func loserOf(n []*machine, winner *machine) *machine {
	if winner == n[1] {
		return n[2]
	}
	return n[1]
}
