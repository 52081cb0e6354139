package retire_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/host"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/move/retire"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

const (
	here    = guest.NodeID("00000000000000000000000000000001")
	another = guest.NodeID("00000000000000000000000000000002")
	diskDS  = "tank/g/vm-100-disk-0"
	rootDS  = "tank/g/vm-100-root"
	point   = "tandem_1-0123456789abcdef_n1_7_20270115T080000Z"
)

var (
	disk = guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-0"}
	root = guest.Volume{Storage: "local-zfs", Name: "vm-100-root"}
)

func term(n uint64) guest.Term { return guest.Term{N: n, Generation: "0123456789abcdef"} }

// world is a node that owns a guest with a zvol and a mounted filesystem, of which it has taken a point.
type world struct {
	t       *testing.T
	now     time.Time
	pool    *zfstest.Pool
	state   ledger.State
	retirer *retire.Retirer
	// promoter shows what is left, and brings it back.
	promoter *promote.Promoter
	keeper   *aside.Keeper
	dir      string
	files    map[string][]byte
	trap     func(zfstest.Event) error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return makeWorld(t, zfstest.Options{})
}

// makeWorld makes it with these options of its pool.
func makeWorld(t *testing.T, o zfstest.Options) *world {
	t.Helper()
	w := &world{t: t, now: time.Unix(1_800_000_000, 0), dir: t.TempDir(), files: map[string][]byte{}}
	w.state = ledger.State{
		Cluster: "c1", Members: map[guest.NodeID]ledger.Member{here: {ID: here, Name: "n1"}, another: {ID: another, Name: "n2"}},
		Guests: map[guest.ID]guest.Guest{100: {ID: 100, Type: guest.VM, Name: "web", Owner: here, Term: term(1), Volumes: []guest.Volume{disk, root}}},
		Jobs:   map[guest.JobID]guest.Job{{Guest: 100}: {ID: guest.JobID{Guest: 100}, Target: another, Schedule: "*/15", Snapshots: guest.Mirror}},
	}
	o.Node, o.Now, o.Hook = "n1", func() time.Time { return w.now }, func(e zfstest.Event) error {
		if w.trap == nil {
			return nil
		}
		return w.trap(e)
	}
	w.pool = zfstest.New(o)
	must(t, w.pool.Create("tank/g", 0, map[string]string{"canmount": "off"}))
	must(t, w.pool.Create(diskDS, 3<<19, map[string]string{"refreservation": "65536", "snapdev": "visible"}))
	must(t, w.pool.Create(rootDS, 0, map[string]string{"mountpoint": "/srv/web", "compression": "lz4"}))
	w.restart()
	w.write(diskDS, 0, 30)
	w.write(rootDS, 0, 10)
	_, err := w.promoter.Promote(t.Context(), "c1", w.guest()) // It takes what carries no mark.
	must(t, err)
	property, err := guest.Point{Volumes: []guest.Volume{disk, root}, Consistency: guest.Crash, Taken: w.now.Unix()}.Property()
	must(t, err)
	must(t, w.pool.Snapshot(t.Context(), []string{diskDS + "@" + point, rootDS + "@" + point}, map[string]string{zfs.PropPoint: property}))
	w.now = w.now.Add(time.Minute)
	return w
}

func (w *world) restart() {
	w.trap = nil
	o := local.Options{
		Node: here, Name: "n1", Storages: map[string]string{"local-zfs": "tank/g"}, ZFS: w.pool, Ledger: w, Store: w,
		LockDir: w.dir, Now: func() time.Time { return w.now }, Locks: local.NewLocks(w.dir),
	}
	target, err := replicate.NewTarget(o)
	must(w.t, err)
	w.retirer, err = retire.New(o)
	must(w.t, err)
	w.promoter, err = promote.New(o, target)
	must(w.t, err)
	w.keeper, err = aside.New(o)
	must(w.t, err)
}

func (w *world) View() *ledger.State                     { return &w.state }
func (*world) WaitApplied(context.Context, uint64) error { return errors.New("not applied") }

func (w *world) Read(name string, v any) error {
	b, ok := w.files[name]
	if !ok {
		return fs.ErrNotExist
	}
	return json.Unmarshal(b, v)
}

func (w *world) Write(name string, v any) (err error) {
	w.files[name], err = json.Marshal(v)
	return err
}

func (w *world) guest() guest.Guest { return w.state.Guests[100] }

// leave gives the guest to the other node, from the point. The job turns round, or goes.
func (w *world) leave(job bool) { //nolint:revive // flag-parameter: which of two cases
	w.t.Helper()
	g := w.guest()
	g.Beginning = &guest.Beginning{How: guest.ByRecovery, From: here, Term: g.Term, Point: point, GUIDs: map[guest.Volume]uint64{}}
	for _, v := range g.Volumes {
		d := "tank/g/" + v.Name
		for _, s := range w.dataset(d).Snapshots {
			if s.Name == point {
				g.Beginning.GUIDs[v] = s.GUID
			}
		}
	}
	g.Owner, g.Term = another, term(2)
	w.state.Guests = map[guest.ID]guest.Guest{100: g}
	jobs := map[guest.JobID]guest.Job{}
	for id, j := range w.state.Jobs {
		if j.Target = here; job {
			jobs[id] = j
		}
	}
	w.state.Jobs = jobs
}

func (w *world) write(dataset string, block int64, blocks int) {
	w.t.Helper()
	data := make([]byte, blocks*4096)
	_, _ = rand.NewChaCha8([32]byte{byte(block), byte(blocks)}).Read(data)
	must(w.t, w.pool.Write(dataset, block*4096, data))
}

func (w *world) dataset(name string) zfs.Dataset {
	w.t.Helper()
	list, err := w.pool.List(w.t.Context(), name)
	must(w.t, err)
	return list[0]
}

func (w *world) content(name string) []byte {
	w.t.Helper()
	b, err := w.pool.Read(name)
	must(w.t, err)
	return b
}

func (w *world) retire() retire.Retired {
	w.t.Helper()
	out, err := w.retirer.Retire(w.t.Context(), &w.state, w.guest())
	if err != nil {
		w.t.Fatalf("%v (hint: %s)", err, replicate.HintOf(err))
	}
	return out
}

// replica wants a volume to be what a sync can go on with, and nothing of an owner's.
func (w *world) replica(name string) {
	w.t.Helper()
	d := w.dataset(name)
	equal(w.t, []any{d.Props[zfs.PropRole], d.ReadOnly, d.Mounted, d.Written}, []any{zfs.RoleReplica, true, false, uint64(0)})
	if c := manifest.Demote(manifest.Kind(d.Type), d.Own()); !c.None() {
		w.t.Errorf("%s still has what an owner's volume has: %+v", name, c)
	}
	i := slices.IndexFunc(d.Snapshots, func(s zfs.Snapshot) bool { return s.Name == point })
	equal(w.t, d.Snapshots[i].Props[zfs.PropComplete], term(1).String())
	props, err := w.pool.Properties(w.t.Context(), []string{zfs.PropSealed}, name)
	must(w.t, err)
	equal(w.t, props[name][zfs.PropSealed].Own(), false)
}

func TestRetire_WithoutNewerDataItIsAReplica(t *testing.T) {
	for _, job := range []bool{true, false} {
		w := newWorld(t)
		w.leave(job)
		is, err := w.retirer.Former(t.Context(), "c1", w.guest())
		must(t, err)
		equal(t, is, true)
		out := w.retire()
		want := map[bool]retire.State{true: retire.Replica, false: retire.Kept}[job]
		equal(t, []retire.State{out.Volumes[0].State, out.Volumes[1].State}, []retire.State{want, want})
		w.replica(diskDS)
		w.replica(rootDS)
		equal(t, len(w.retire().Volumes), 0)
		is, err = w.retirer.Former(t.Context(), "c1", w.guest())
		must(t, err)
		equal(t, is, false)

		// It has the point, and can be the owner again, as it was.
		points, err := w.promoter.Points(t.Context(), "c1", w.guest())
		must(t, err)
		equal(t, []any{len(points), points[0].Name, points[0].Diverged}, []any{1, point, false})
		g := w.guest()
		g.Owner, g.Term = here, term(3)
		g.Beginning = &guest.Beginning{How: guest.ByRecovery, From: another, Term: term(2), Point: point, GUIDs: points[0].GUIDs}
		_, err = w.promoter.Promote(t.Context(), "c1", g)
		must(t, err)
		r, d := w.dataset(rootDS), w.dataset(diskDS)
		equal(t, []any{r.Mounted, r.Mountpoint, d.Own()["refreservation"], d.Own()["snapdev"], d.Native["volmode"].Value},
			[]any{true, "/srv/web", "65536", "visible", "default"})
	}
}

func TestRetire_NewerDataIsSetAside(t *testing.T) {
	w := newWorld(t)
	w.write(diskDS, 50, 10)
	must(t, w.pool.Snapshot(t.Context(), []string{diskDS + "@daily"}, nil))
	w.write(diskDS, 70, 3)
	w.leave(true)
	want := w.content(diskDS)
	out := w.retire()
	equal(t, []retire.State{out.Volumes[0].State, out.Volumes[1].State}, []retire.State{retire.Aside, retire.Replica})
	w.replica(rootDS)
	equal(t, w.dataset(diskDS).Exists(), false)
	copies, err := w.keeper.All(t.Context(), "c1")
	must(t, err)
	equal(t, len(copies), 1)
	equal(t, bytes.Equal(w.content(copies[0].Data.Name), want), true)
	if !strings.Contains(copies[0].Why, "were written here in term 1-") || !strings.Contains(copies[0].Why, "n2 went on") {
		t.Errorf("why: %q", copies[0].Why)
	}
	// The point is here still, for a recovery.
	points, err := w.promoter.Points(t.Context(), "c1", w.guest())
	must(t, err)
	equal(t, []any{len(points), points[0].Name}, []any{1, point})
}

func TestRetire_RefusesWhileSomebodyHasItOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.leave(true)
		w.pool.SetBusy(diskDS, true)
		_, err := w.retirer.Retire(t.Context(), &w.state, w.guest())
		if err == nil || !strings.Contains(err.Error(), "process 4711 (qemu) has it open") || replicate.ClassOf(err) != replicate.ClassRetry {
			t.Errorf("got %v", err)
		}
		d := w.dataset(diskDS)
		equal(t, []any{d.Props[zfs.PropRole], d.ReadOnly}, []any{zfs.RoleOwner, true})
		// Who only looked into it is waited for.
		go func() {
			time.Sleep(time.Second)
			w.pool.SetBusy(diskDS, false)
		}()
		w.retire()
		w.replica(diskDS)

		w = newWorld(t)
		w.leave(true)
		w.pool.SetBusy(rootDS, true)
		_, err = w.retirer.Retire(t.Context(), &w.state, w.guest())
		if err == nil || !strings.Contains(err.Error(), "is read-only now, and still in use on n1") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRetire_OnlyOfAFormerOwner(t *testing.T) {
	w := newWorld(t)
	_, err := w.retirer.Retire(t.Context(), &w.state, w.guest())
	equal(t, replicate.ClassOf(err), replicate.ClassNever)
	equal(t, w.dataset(diskDS).ReadOnly, false)
	// Volumes of others in the same place are left.
	w.leave(true)
	must(t, w.pool.SetProps(t.Context(), map[string]string{zfs.PropGuest: "101"}, diskDS))
	equal(t, len(w.retire().Volumes), 1)
	equal(t, w.dataset(diskDS).ReadOnly, false)
}

func TestSeal_AndBack(t *testing.T) {
	w := newWorld(t)
	must(t, w.retirer.Seal(t.Context(), "c1", w.guest()))
	for _, name := range []string{diskDS, rootDS} {
		d := w.dataset(name)
		equal(t, []any{d.ReadOnly, d.Mounted, d.Props[zfs.PropRole]}, []any{true, false, zfs.RoleOwner})
	}
	must(t, w.retirer.Seal(t.Context(), "c1", w.guest()))
	ready, err := w.promoter.Ready(t.Context(), "c1", w.guest())
	must(t, err)
	equal(t, ready, false)
	_, err = w.promoter.Promote(t.Context(), "c1", w.guest()) // The move went back.
	must(t, err)
	ready, err = w.promoter.Ready(t.Context(), "c1", w.guest())
	must(t, err)
	equal(t, ready, true)
	equal(t, w.dataset(rootDS).Mounted, true)

	must(t, w.retirer.Seal(t.Context(), "c1", w.guest()))
	w.leave(true)
	w.retire()
	w.replica(diskDS)
}

// Whoever runs a guest without a unit may run it still: his writes do not fail because somebody wants to move it.
func TestSeal_WhatRunsWithoutAUnitIsNotMadeReadOnly(t *testing.T) {
	for _, busy := range []string{diskDS, rootDS} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.pool.SetBusy(busy, true)
			w.trap = func(e zfstest.Event) error {
				if e.Op == "SetProps" {
					t.Errorf("%s: the properties of %s are set", busy, e.Name)
				}
				return nil
			}
			err := w.retirer.Seal(t.Context(), "c1", w.guest())
			if err == nil || !strings.Contains(err.Error(), busy+" is in use on n1: process 4711 (qemu)") {
				t.Errorf("got %v", err)
			}
			w.trap = nil
			equal(t, []bool{w.dataset(diskDS).ReadOnly, w.dataset(rootDS).ReadOnly}, []bool{false, false})
			w.pool.SetBusy(busy, false)
			must(t, w.retirer.Seal(t.Context(), "c1", w.guest()))
			equal(t, []bool{w.dataset(diskDS).ReadOnly, w.dataset(rootDS).ReadOnly}, []bool{true, true})
		})
	}
}

func TestSeal_AllVolumesMustBeTheOwners(t *testing.T) {
	w := newWorld(t)
	must(t, w.pool.SetProps(t.Context(), map[string]string{zfs.PropTerm: term(7).String()}, diskDS))
	err := w.retirer.Seal(t.Context(), "c1", w.guest())
	if replicate.ClassOf(err) != replicate.ClassPerson || !strings.Contains(err.Error(), "disk-0") {
		t.Errorf("got %v", err)
	}
	equal(t, w.dataset(rootDS).ReadOnly, false)
}

// keep does what the node's keeper does for the guest, until nothing is left to do.
func (w *world) keep() error {
	for range 3 {
		volumes, err := host.Volumes{Storages: map[string]string{"local-zfs": "tank/g"}, List: w.pool.List}.Look(w.t.Context(), "c1", w.guest())
		if err != nil {
			return err
		}
		step := rules.Decide(rules.Facts{Self: here, Owner: "n2", Guest: w.guest(), Confirmed: true, Disks: rules.Disks{Volumes: volumes}})
		if step.Do == rules.Nothing {
			return nil
		}
		if step.Do != rules.Retire {
			return fmt.Errorf("the keeper would %s: %s", step.Do, step.Why)
		}
		if _, err := w.retirer.Retire(w.t.Context(), &w.state, w.guest()); err != nil {
			return err
		}
	}
	return errors.New("the keeper comes to no end")
}

// alone leaves the guest its zvol only: with it the last volume is retired.
func (w *world) alone() {
	g := w.guest()
	g.Volumes = []guest.Volume{disk}
	w.state.Guests = map[guest.ID]guest.Guest{100: g}
	w.pool.Destroy(rootDS)
	property, err := guest.Point{Volumes: g.Volumes, Consistency: guest.Crash, Taken: w.now.Unix()}.Property()
	must(w.t, err)
	must(w.t, w.pool.SetProps(w.t.Context(), map[string]string{zfs.PropPoint: property}, diskDS+"@"+point))
}

func TestRetire_IsGoneOnWithWhereItsLastStepWasRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		written int
		op      string
	}{
		"the snapshot of what diverged": {10, "Change"},
		"the name of what diverged":     {10, "Rename"},
		"the marks of a replica":        {0, "Inherit"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.alone()
			if tc.written > 0 {
				w.write(diskDS, 50, tc.written)
			}
			w.leave(false)
			held, refused := map[string][]byte{diskDS: w.content(diskDS)}, false
			w.trap = func(e zfstest.Event) error {
				if e.Op != tc.op || e.After || refused {
					return nil
				}
				refused = true
				return errors.New("out of space")
			}
			if err := w.keep(); err == nil || !refused {
				t.Fatalf("it went well: %v", refused)
			}
			must(t, w.keep())
			w.settled(name, held)
		})
	}
}

// TestRetire_LeavesWhatSyncsBroughtSince is for a retirement that was cut after the volume had become a replica: the new owner may
// have sent to it by the time it is gone on with.
func TestRetire_LeavesWhatSyncsBroughtSince(t *testing.T) {
	w := newWorld(t)
	w.alone()
	w.leave(true)
	w.trap = func(e zfstest.Event) error {
		if e.Op == "Inherit" {
			return errKilled
		}
		return nil
	}
	if _, err := w.retirer.Retire(t.Context(), &w.state, w.guest()); !errors.Is(err, errKilled) {
		t.Fatalf("got %v", err)
	}
	w.restart()
	must(t, w.pool.SetProps(t.Context(), map[string]string{"readonly": "off"}, diskDS))
	w.write(diskDS, 90, 4)
	must(t, w.pool.SetProps(t.Context(), map[string]string{"readonly": "on"}, diskDS))
	must(t, w.pool.Snapshot(t.Context(), []string{diskDS + "@tandem_2-0123456789abcdef_n2_1_20270115T090000Z"}, nil))
	must(t, w.keep())
	w.replica(diskDS)
}

var errKilled = errors.New("killed")

// TestKill_AnywhereConverges ends the process, or the machine, before and after each effect of a retirement.
func TestKill_AnywhereConverges(t *testing.T) {
	reads := []string{"List", "Children", "Properties", "Holds", "Version"}
	for name, before := range map[string]func(*world){
		"clean":                func(*world) {},
		"diverged":             func(w *world) { w.write(diskDS, 50, 10) },
		"one volume":           func(w *world) { w.alone() },
		"one volume, diverged": func(w *world) { w.alone(); w.write(diskDS, 50, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 0; ; at++ {
				for _, power := range []bool{false, true} {
					w := makeWorld(t, zfstest.Options{Volatile: power})
					before(w)
					w.leave(true)
					w.pool.Sync()
					held := map[string][]byte{}
					for _, v := range w.guest().Volumes {
						held["tank/g/"+v.Name] = w.content("tank/g/" + v.Name)
					}
					n, what := 0, ""
					w.trap = func(e zfstest.Event) error {
						switch {
						case what != "":
							return errKilled
						case slices.Contains(reads, e.Op):
							return nil
						case n == at:
							if what = fmt.Sprintf("%s %s after=%v, power=%v", e.Op, e.Name, e.After, power); power {
								w.pool.PowerCut()
							}
							return errKilled
						}
						n++
						return nil
					}
					_, err := w.retirer.Retire(t.Context(), &w.state, w.guest())
					if what == "" {
						must(t, err)
						if at < 4*len(held) {
							t.Errorf("only %d moments", at)
						}
						return
					}
					w.restart()
					if err := w.keep(); err != nil {
						t.Fatalf("killed at %s: %v", what, err)
					}
					w.settled(what, held)
				}
			}
		})
	}
}

// settled wants all that was to be there, each volume as a replica or set aside.
func (w *world) settled(what string, held map[string][]byte) {
	w.t.Helper()
	copies, err := w.keeper.All(w.t.Context(), "c1")
	must(w.t, err)
	for name, data := range held {
		if w.dataset(name).Exists() {
			equal(w.t, bytes.Equal(w.content(name), data), true)
			equal(w.t, w.dataset(name).Props[zfs.PropRole], zfs.RoleReplica)
			if c := manifest.Demote(manifest.Kind(w.dataset(name).Type), w.dataset(name).Own()); !c.None() {
				w.t.Errorf("%s still has what an owner's volume has: %+v", name, c)
			}
			props, err := w.pool.Properties(w.t.Context(), []string{zfs.PropSealed}, name)
			must(w.t, err)
			equal(w.t, props[name][zfs.PropSealed].Own(), false)
			continue
		}
		if len(copies) != 1 || !bytes.Equal(w.content(copies[0].Data.Name), data) {
			w.t.Errorf("what %s had is nowhere", name)
		}
		if !strings.Contains(copies[0].Data.Props[zfs.PropManifest], `"refreservation":"65536"`) {
			w.t.Errorf("what %s was like is not known any more: %s", name, copies[0].Data.Props[zfs.PropManifest])
		}
	}
	points, err := w.promoter.Points(w.t.Context(), "c1", w.guest())
	must(w.t, err)
	if len(points) != 1 || points[0].Name != point {
		w.t.Errorf("points: %+v", points)
	}
	if w.t.Failed() {
		w.t.Fatalf("killed at %s", what)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
