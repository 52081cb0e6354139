package replicate_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/replica"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/fault"
)

// Cases of docs/failures.md that no other test shows.

// cutIncrement leaves a partial receive of an increment on n2; it returns the base.
func (w *world) cutIncrement() (base string) {
	w.t.Helper()
	base = w.run(job).Point
	w.node("1").write(diskDS, 100, 64)
	w.node("2").pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 40 * 4096})
	w.fails(replicate.ClassRetry, "disk-0")
	if w.node("2").dataset(diskDS).ResumeToken == "" {
		w.t.Fatal("nothing was left to resume")
	}
	return base
}

// F03: the base of an interrupted increment was destroyed at the source.
func TestFailure_BaseOfAnInterruptedIncrementIsGone(t *testing.T) {
	w := newWorld(t)
	n1 := w.node("1")
	w.run(job)
	n1.write(diskDS, 90, 1)
	n1.snap(diskDS + "@older")
	base := w.cutIncrement()
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{base}))
	r := w.run(job)
	w.same("2")
	if r.Kind == replicate.KindFull {
		t.Errorf("sent whole although %s is on both sides", "older")
	}
}

// F06: what is being received is not aborted, whoever asks.
func TestFailure_ARunningReceiveIsNotAborted(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.cutIncrement()
	token := n2.dataset(diskDS).ResumeToken
	reached, goOn := make(chan struct{}, 1), make(chan struct{})
	w.mu.Lock()
	n2.trap = func(what string) error {
		if strings.Contains(what, "Receive "+diskDS) && strings.HasSuffix(what, "after=false") {
			reached <- struct{}{}
			<-goOn
		}
		return nil
	}
	w.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := n1.source.Run(t.Context(), replicate.Task{Job: job})
		done <- err
	}()
	<-reached
	req := wire.AbortRequest{
		Request: wire.Request{Version: wire.Version, Job: job, Term: term, Index: w.View().Index}, Volume: disk, Token: token,
	}
	_, err := n2.target.Abort(t.Context(), id("1"), req)
	if err == nil || !strings.Contains(err.Error(), "locked by a sync that has not ended") {
		t.Errorf("got %v", err)
	}
	close(goOn)
	must(t, <-done)
	w.same("2")
}

// F07: a partial receive that cannot be dropped is an error with ZFS's words; the
// other volume goes on, and so does this one once it can.
func TestFailure_APartialReceiveThatCannotBeDropped(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.cutIncrement()
	snaps := n1.dataset(diskDS).Snapshots
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{snaps[len(snaps)-1].Name}))
	n2.pool.Inject(zfstest.Fault{Op: "AbortReceive", Name: diskDS, Err: fault.Fail("receive -A", diskDS, "internal error: Invalid exchange")})
	before := len(n2.dataset(diskDS).Snapshots)
	w.pass(time.Minute)
	_, err := n1.source.Run(t.Context(), replicate.Task{Job: job})
	if err == nil || !strings.Contains(err.Error(), "Invalid exchange") || !strings.Contains(err.Error(), "disk-0") {
		t.Errorf("got %v", err)
	}
	equal(t, len(n2.dataset(diskDS).Snapshots), before)
	n2.pool.Heal()
	w.run(job)
	w.same("2")
}

// F08: a transfer that never gets further is begun anew after a few tries.
func TestFailure_AResumeThatDoesNotMoveBeginsAnew(t *testing.T) {
	w := newWorld(t)
	n1 := w.node("1")
	w.cutIncrement()
	// Every resumed stream breaks at once; one that begins anew gets through.
	tries, resumed := 0, 0
	for {
		w.node("2").pool.Inject(zfstest.Fault{Op: "Receive", Name: "disk-0", Times: 1, Cut: 1})
		var log []string
		w.pass(time.Minute)
		_, err := n1.source.Run(t.Context(), replicate.Task{Job: job, Log: func(l string) { log = append(log, l) }})
		w.node("2").pool.Heal()
		if tries++; tries > 8 {
			t.Fatalf("it is resumed for ever; the last: %v", log)
		}
		if strings.Contains(strings.Join(log, "\n"), "dropped") || strings.Contains(strings.Join(log, "\n"), "drop") || err == nil {
			break
		}
		resumed++
	}
	if resumed < 2 || resumed > 4 {
		t.Errorf("it was resumed %d times before it was given up", resumed)
	}
	w.run(job)
	w.same("2")
}

// F14, F25: a replica that somebody renamed is found by its marks, and nothing of
// it is touched: it goes on under its name once it has that back, and is sent whole
// where somebody said that it is to stay apart.
func TestFailure_ARenamedReplicaIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	must(t, n2.pool.Rename(t.Context(), diskDS, diskDS+"-mine"))
	was := n2.dataset(diskDS + "-mine")
	w.node("1").write(diskDS, 3, 1)
	w.fails(replicate.ClassPerson, "the replica on n2 was renamed to "+diskDS+"-mine")
	p, err := w.node("1").source.Preview(t.Context(), job, time.Minute)
	must(t, err)
	hint := fmt.Sprintf("`zfs rename %s-mine %s`", diskDS, diskDS)
	if len(p.Refusals) != 1 || !strings.Contains(p.Refusals[0].Hint, hint) {
		t.Errorf("refusals %v, want the hint %s", p.Refusals, hint)
	}
	must(t, n2.pool.Rename(t.Context(), diskDS+"-mine", diskDS))
	cheap(t, w.run(job))
	w.same("2")

	must(t, n2.pool.Rename(t.Context(), diskDS, diskDS+"-mine"))
	must(t, n2.pool.Inherit(t.Context(), zfs.PropRole, diskDS+"-mine"))
	was = n2.dataset(diskDS + "-mine")
	r := w.run(job)
	equal(t, r.Volumes[0].Kind, replicate.KindFull)
	equal(t, r.Volumes[1].Kind != replicate.KindFull, true)
	w.same("2")
	equal(t, n2.dataset(diskDS+"-mine").Snapshots, was.Snapshots)
}

// F14: one that shares nothing with its source any more saves nothing.
func TestFailure_ARenamedReplicaWithoutABaseIsNoReason(t *testing.T) {
	w := newWorld(t)
	point := w.run(job).Point
	n1, n2 := w.node("1"), w.node("2")
	must(t, n2.pool.Rename(t.Context(), diskDS, diskDS+"-mine"))
	must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{point}))
	equal(t, w.run(job).Volumes[0].Kind, replicate.KindFull)
	w.same("2")
}

// A point that arrived and was never marked, and that went at the source, goes at
// the target too, once a newer one is complete there. An operator's stays.
func TestFailure_APointThatIsLostAtTheSourceGoes(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	n1.snap(diskDS + "@late") // It travels with a point of its own, which brings no data.
	n2.pool.Inject(zfstest.Fault{Op: "Change", Times: 1, Err: errors.New("lost")})
	w.fails(replicate.ClassRetry, "lost")
	n2.snap(diskDS + "@mine")
	snaps := n1.dataset(diskDS).Snapshots
	lost := snaps[len(snaps)-1].Name
	for _, d := range []string{diskDS, rootDS} {
		must(t, n1.pool.DestroySnapshots(t.Context(), d, []string{lost}))
	}
	for i := range 3 {
		n1.write(diskDS, int64(i), 1)
		w.run(job)
	}
	w.same("2")
	for _, s := range n2.dataset(diskDS).Snapshots {
		if s.Name == lost {
			t.Errorf("%s is still there: %v", lost, s.Props)
		}
	}
	equal(t, n2.operators(diskDS), []string{"late", "mine"})
}

// F25: the source's dataset was destroyed and made again under the same name: it is
// not taken for the guest's unless somebody says so. Then it carries no common state, and what
// the target has is not taken for its past.
func TestFailure_ASourceMadeAnewIsNotTheOldOne(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	had, err := n2.pool.Read(n2.newest(diskDS))
	must(t, err)
	n1.pool.Destroy(diskDS)
	must(t, n1.pool.Create(diskDS, 3<<19, nil))
	n1.write(diskDS, 0, 5)
	before := [2]string{w.tree("1"), w.tree("2")}
	for range 2 {
		w.fails(replicate.ClassPerson, "the dataset "+diskDS+" has no marks of Tandem's, and is not the one that was the guest's volume here")
		if _, err := n1.source.Preview(t.Context(), job, time.Second); replicate.ClassOf(err) != replicate.ClassPerson {
			t.Errorf("foreseen: %v", err)
		}
		n1.restart()
	}
	equal(t, [2]string{w.tree("1"), w.tree("2")}, before)
	if _, err := n1.promoter.Promote(t.Context(), "c1", w.guest()); err == nil || !strings.Contains(err.Error(), "--take-volume") {
		t.Errorf("it was made the owner's: %v", err)
	}
	must(t, n1.source.Take(t.Context(), 100, []guest.Volume{disk}))
	must(t, n1.source.Take(t.Context(), 100, []guest.Volume{disk})) // Done again it changes nothing.
	equal(t, w.run(job).Volumes[0].Kind, replicate.KindFull)
	w.same("2")
	copies := n2.aside()
	if len(copies) != 1 {
		t.Fatalf("%d copies set aside, want the former volume", len(copies))
	}
	kept, err := n2.pool.Read(copies[0].Name)
	must(t, err)
	equal(t, bytes.Equal(kept, had), true)
}

// Marks that somebody took off are put on again where it is the same dataset, and where nothing is known of it. What is added to the
// guest again is what it is.
func TestFailure_MarksThatWereTakenOff(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1 := w.node("1")
	strip := func() {
		for p := range n1.dataset(diskDS).Props {
			must(t, n1.pool.Inherit(t.Context(), p, diskDS))
		}
	}
	strip()
	n1.write(diskDS, 9, 1)
	cheap(t, w.run(job))
	if err := n1.source.Take(t.Context(), 100, []guest.Volume{disk}); err != nil {
		t.Error(err)
	}
	// The state folder was lost.
	strip()
	n1.files = newFiles()
	n1.restart()
	w.run(job)
	w.same("2")

	// With a point in the ledger it is not known whether it is what the owner had.
	strip()
	n1.files = newFiles()
	n1.restart()
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		g.Beginning = &guest.Beginning{How: guest.ByMigration, From: id("2"), Term: g.Term, Point: "tandem_x", GUIDs: map[guest.Volume]uint64{disk: 7}}
		s.Guests = map[guest.ID]guest.Guest{100: g}
	})
	w.fails(replicate.ClassPerson, "its owner began from tandem_x")
	must(t, n1.source.Take(t.Context(), 100, []guest.Volume{disk}))
	w.run(job)

	// Somebody else's marks are not taken.
	must(t, n1.pool.SetProps(t.Context(), map[string]string{zfs.PropGuest: "101"}, diskDS))
	if err := n1.source.Take(t.Context(), 100, []guest.Volume{disk}); replicate.ClassOf(err) != replicate.ClassPerson {
		t.Errorf("another guest's: %v", err)
	}
}

func TestFailure_AVolumeThatIsAddedAgainIsWhatItIs(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1 := w.node("1")
	with := func(volumes ...guest.Volume) guest.Guest {
		w.change(func(s *ledger.State) {
			g := s.Guests[100]
			g.Volumes = volumes
			s.Guests = map[guest.ID]guest.Guest{100: g}
		})
		return w.guest()
	}
	g := with(root)
	n1.pool.Destroy(diskDS)
	must(t, n1.pool.Create(diskDS, diskSize, nil))
	n1.write(diskDS, 0, 5)
	g.Volumes = []guest.Volume{disk}
	must(t, n1.source.Check(t.Context(), g)) // As when an operator adds it.
	with(disk, root)
	w.run(job)
	w.same("2")
}

// F22: an operator's snapshot on the replica is harmless and stays.
func TestFailure_AnOperatorsSnapshotOnTheReplicaStays(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	n2.snap(diskDS + "@theirs")
	for range 3 {
		n1.write(diskDS, 10, 2)
		equal(t, w.run(job).Kind, replicate.KindIncremental)
	}
	w.same("2")
	equal(t, n2.operators(diskDS), []string{"theirs"})
}

// F30, F32, F33: a held point is not cleaned and stops nothing; once it is free it
// goes.
func TestFailure_AHeldPointIsSkipped(t *testing.T) {
	w := newWorld(t)
	point := w.run(job).Point
	n1, n2 := w.node("1"), w.node("2")
	for _, n := range []*node{n1, n2} {
		must(t, n.pool.Hold(t.Context(), "theirs", diskDS+"@"+point))
	}
	for range 3 {
		n1.write(diskDS, 10, 2)
		w.run(job)
	}
	for _, n := range []*node{n1, n2} {
		// The source may leave what the next sync destroys.
		if got := n.points(diskDS); got < 2 || got > 3 {
			t.Errorf("%s has %d points, want the newest and the held one", n.name, got)
		}
		must(t, n.pool.Release(t.Context(), "theirs", diskDS+"@"+point))
	}
	for range 3 {
		n1.write(diskDS, 10, 2)
		w.run(job)
	}
	equal(t, n2.points(diskDS), 1)
	if got := n1.points(diskDS); got > 2 {
		t.Errorf("n1 has %d points", got)
	}
}

// F36: a full pool at the source: no snapshot can be taken, the target keeps what
// it has, and it goes on when there is room.
func TestFailure_NoRoomForASnapshot(t *testing.T) {
	w := newWorld(t)
	point := w.run(job).Point
	n1, n2 := w.node("1"), w.node("2")
	n1.write(diskDS, 10, 2)
	full := fault.Fail("snapshot", diskDS, "cannot create snapshots : out of space")
	for _, op := range []string{"Snapshot", "Change"} {
		n1.pool.Inject(zfstest.Fault{Op: op, Err: full})
	}
	w.pass(time.Minute)
	_, err := n1.source.Run(t.Context(), replicate.Task{Job: job})
	if err == nil || !strings.Contains(err.Error(), "out of space") {
		t.Errorf("got %v", err)
	}
	equal(t, n2.newest(diskDS), diskDS+"@"+point)
	n1.pool.Heal()
	equal(t, w.run(job).Kind, replicate.KindIncremental)
	w.same("2")
}

// F48: the pool of the target is full under a transfer, then freed.
func TestFailure_TheTargetsPoolIsFullThenFreed(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	n1.write(diskDS, 100, 64)
	n2.pool.Inject(zfstest.Fault{
		Op: "Receive", Name: diskDS, Times: 1, Err: fault.Fail("receive", diskDS, "cannot receive incremental stream: destination "+diskDS+" space quota exceeded."),
	})
	w.pass(time.Minute)
	_, err := n1.source.Run(t.Context(), replicate.Task{Job: job})
	if err == nil || !strings.Contains(err.Error(), "quota exceeded") || replicate.HintOf(err) == "" {
		t.Errorf("got %v (hint %q)", err, replicate.HintOf(err))
	}
	w.run(job)
	w.same("2")
}

// F59: a pool that is not imported is not an empty one: nothing is made, nothing is
// sent whole.
func TestFailure_AnAbsentPoolIsNotAnEmptyOne(t *testing.T) {
	for _, n := range []string{"1", "2"} {
		w := newWorld(t)
		w.run(job)
		w.node("1").write(diskDS, 10, 2)
		w.node(n).pool.SetPool("tank", zfstest.PoolState{Exported: true})
		w.pass(time.Minute)
		_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: job})
		if err == nil || !strings.Contains(err.Error(), "pool tank is not imported") {
			t.Errorf("n%s: got %v", n, err)
		}
		w.node(n).pool.SetPool("tank", zfstest.PoolState{})
		equal(t, w.run(job).Kind, replicate.KindIncremental)
		w.same("2")
	}
}

// F59: what was interrupted is not dropped because the source's pool went away after its volumes were listed.
func TestFailure_APoolThatGoesBeforeAResume(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.cutIncrement()
	token := n2.dataset(diskDS).ResumeToken
	for _, state := range []zfstest.PoolState{{Exported: true}, {Suspended: true}} {
		w.mu.Lock()
		n1.trap = func(what string) error {
			if strings.Contains(what, "TokenInfo") {
				n1.pool.SetPool("tank", state)
			}
			return nil
		}
		w.mu.Unlock()
		w.fails(replicate.ClassBusy, "pool tank is ")
		w.mu.Lock()
		n1.trap = nil
		w.mu.Unlock()
		n1.pool.SetPool("tank", zfstest.PoolState{})
		equal(t, n2.dataset(diskDS).ResumeToken, token)
	}
	equal(t, w.run(job).Kind, replicate.KindResumed)
	w.same("2")
}

// F63: of two ends that break the first cause is told.
func TestFailure_TheFirstCauseIsTold(t *testing.T) {
	for op, on := range map[string]string{"Send": "1", "Receive": "2"} {
		w := newWorld(t)
		w.node(on).pool.Inject(zfstest.Fault{Op: op, Name: diskDS, Times: 1, Err: fault.Fail(strings.ToLower(op), diskDS, "cannot "+op+": the dog ate it")})
		w.pass(time.Minute)
		_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: job})
		if err == nil || !strings.Contains(err.Error(), "the dog ate it") {
			t.Errorf("%s: got %v", op, err)
		}
		w.run(job)
		w.same("2")
	}
}

// F65: a backlog of snapshots is sent in few streams, and the guest's newest state
// arrives.
func TestFailure_ABacklogOfSnapshotsIsOneStream(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1 := w.node("1")
	for i := range 400 {
		n1.snap(fmt.Sprintf("%s@auto-%03d", diskDS, i))
	}
	n1.write(diskDS, 3, 1)
	r := w.run(job)
	if r.Volumes[0].Steps != 1 {
		t.Errorf("%d steps", r.Volumes[0].Steps)
	}
	w.same("2")
}

// F67: another version of the wire is refused with what to do.
func TestFailure_AnotherVersionOfTheWireIsRefused(t *testing.T) {
	w := newWorld(t)
	n2 := w.node("2")
	req := wire.Request{Version: wire.Version + 1, Job: job, Term: term}
	for name, err := range map[string]error{
		"inventory": errorOf(n2.target.Inventory(t.Context(), id("1"), wire.InventoryRequest{Request: req})),
		"commit":    errorOf(n2.target.Commit(t.Context(), id("1"), wire.CommitRequest{Request: req})),
		"receive": errorOf(n2.target.Receive(t.Context(), id("1"), wire.ReceiveHeader{
			Request: req, Volume: disk, Kind: plan.Zvol, Verb: plan.Full, To: plan.Ref{Name: "x", GUID: 1},
		}, strings.NewReader(""))),
	} {
		var e *replicate.Error
		if !errors.As(err, &e) || e.Class != replicate.ClassNever || !strings.Contains(e.Hint, "same version of tandemd") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func errorOf[A any](_ A, err error) error { return err }

// F47: a storage that is a zvol on this node cannot hold volumes, and that is said.
func TestFailure_AStorageOnAZvolIsRefused(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	target, err := replicate.NewTarget(replicate.Options{
		Node: n2.id, Name: n2.name, Storages: map[string]string{"local-zfs": diskDS}, ZFS: n2.pool, Ledger: w, Store: store{n2},
		LockDir: t.TempDir(), Now: w.clock,
	})
	must(t, err)
	_, err = target.Inventory(t.Context(), id("1"), wire.InventoryRequest{
		Request: wire.Request{Version: wire.Version, Job: job, Term: term, Index: w.View().Index},
	})
	if err == nil || !strings.Contains(err.Error(), diskDS+" is a volume") || replicate.HintOf(err) == "" {
		t.Errorf("got %v (hint %q)", err, replicate.HintOf(err))
	}
}

// R12: where zfs does not tell all snapshots of a volume, that volume stops, and nothing follows from what it told.
func TestFailure_AVolumeOfWhichNotAllIsTold(t *testing.T) {
	for _, sick := range []string{"1", "2"} {
		w := newWorld(t)
		w.node("1").snap(diskDS + "@op")
		w.run(job)
		w.node("1").write(diskDS, 100, 1)
		before := w.node("2").dataset(diskDS)
		io := fault.Fail("list", diskDS, "cannot iterate filesystems: I/O error")
		w.node(sick).pool.Inject(zfstest.Fault{Op: "Read", Name: diskDS, Err: io})
		w.fails(replicate.ClassPerson, "volume "+disk.String()+": read it")
		list, err := w.node("2").target.Replicas(t.Context())
		if told := err != nil && strings.Contains(err.Error(), "I/O error") && strings.Contains(err.Error(), disk.String()); told != (sick == "2") {
			t.Errorf("node %s is sick, the target's status says %v", sick, err)
		}
		if len(list) != 1 || !slices.ContainsFunc(list[0].Volumes, func(v replica.VolumeStatus) bool { return v.Dataset == rootDS }) {
			t.Errorf("the status of the other volume: %+v", list)
		}
		w.node(sick).pool.Heal()
		equal(t, w.node("2").dataset(diskDS).Snapshots, before.Snapshots)
		w.run(job)
		w.same("2")
	}
}
