package replicate_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

const (
	newDisk = "tank/g/vm-900-disk-0"
	newRoot = "tank/g/vm-900-root"
)

// admit has the ledger know guest 900 with the restored volumes on n2.
func (w *world) admit(r aside.Restoration) {
	w.change(func(s *ledger.State) {
		s.Guests = maps.Clone(s.Guests)
		s.Guests[r.As] = guest.Guest{ID: r.As, Type: guest.VM, Name: "web-diverged", Owner: id("2"), Term: term, Volumes: r.List()}
	})
}

// restore makes guest 900 on n2 out of copies, as the daemon does.
func (w *world) restore(datasets ...string) error {
	n2, ctx := w.node("2"), w.t.Context()
	r, err := n2.keeper.Restore(ctx, "c1", datasets, 900)
	if err != nil {
		return err
	}
	if !r.Known {
		w.admit(r)
	}
	if err := n2.keeper.Settle(ctx, r); err != nil {
		return err
	}
	_, err = n2.promoter.Promote(ctx, "c1", w.View().Guests[900])
	return err
}

// divergeBoth leaves a copy of the disk and one of the root on n2.
func (w *world) divergeBoth() (ofDisk, ofRoot zfs.Dataset) {
	w.t.Helper()
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	for _, d := range []string{diskDS, rootDS} {
		n2.scribble(d, 40, 3)
		n1.write(d, 2, 1)
	}
	w.run(job)
	all := n2.aside()
	equal(w.t, len(all), 2)
	return all[0], all[1]
}

func (n *node) cannotRestore(as guest.ID, text string, datasets ...string) {
	n.w.t.Helper()
	r, err := n.keeper.Restore(n.w.t.Context(), "c1", datasets, as)
	if err == nil || !strings.Contains(err.Error()+" "+replicate.HintOf(err), text) {
		n.w.t.Errorf("restore %v as %s: got %+v, %v, want a text with %q", datasets, as, r, err, text)
	}
}

func TestRestore_IsAGuestOfItsOwn(t *testing.T) {
	w := newWorld(t)
	ofDisk, ofRoot := w.divergeBoth()
	n2 := w.node("2")
	must(t, w.restore(ofDisk.Name, ofRoot.Name))
	g := w.View().Guests[900]
	for i, x := range []struct {
		name string
		from zfs.Dataset
	}{{newDisk, ofDisk}, {newRoot, ofRoot}} {
		d := n2.dataset(x.name)
		equal(t, local.MarksOf(d).Are("c1", 900, g.Volumes[i], zfs.RoleOwner), true)
		equal(t, []any{d.ReadOnly, strings.HasPrefix(d.Origin, x.from.Name+"@")}, []any{false, true})
		equal(t, bytes.Equal(n2.content(t, x.name), n2.content(t, x.from.Name)), true)
	}
	equal(t, n2.dataset(newRoot).Mounted, true)
	_, err := n2.pool.Device(t.Context(), newDisk)
	must(t, err)
	must(t, w.restore(ofDisk.Name, ofRoot.Name)) // Done again it changes nothing.

	// Both guests go on by themselves, and the copy is not discarded under the new one.
	before := n2.content(t, ofDisk.Name)
	n2.write(newDisk, 7, 3)
	w.node("1").write(diskDS, 7, 1)
	w.run(job)
	w.same("2")
	n2.cannotDiscard(ofDisk.Name, "guest 900 was restored from it")
	equal(t, bytes.Equal(n2.content(t, ofDisk.Name), before), true)
	n2.pool.Destroy(newDisk)
	_, err = n2.keeper.Discard(t.Context(), "c1", ofDisk.Name)
	must(t, err)
}

// The ID of a guest that was restored, and removed with its data, can be used again.
func TestRestore_AgainUnderAnIDThatWasUsed(t *testing.T) {
	w := newWorld(t)
	ofDisk, _ := w.divergeBoth()
	n2 := w.node("2")
	must(t, w.restore(ofDisk.Name))
	w.change(func(s *ledger.State) {
		s.Guests = maps.Clone(s.Guests)
		delete(s.Guests, 900)
	})
	n2.pool.Destroy(newDisk)
	must(t, w.restore(ofDisk.Name))
	equal(t, local.MarksOf(n2.dataset(newDisk)).Are("c1", 900, w.View().Guests[900].Volumes[0], zfs.RoleOwner), true)
}

// The daemon ends before the clones are made usable, and somebody starts the guest: then they carry an owner's marks, and can be
// written to, and lack a device and a mount all the same.
func TestRestore_CutBeforeItSettledIsGoneOnWithOnceTheGuestWasStarted(t *testing.T) {
	w := newWorld(t)
	ofDisk, ofRoot := w.divergeBoth()
	n2, ctx := w.node("2"), t.Context()
	names := []string{ofDisk.Name, ofRoot.Name}
	r, err := n2.keeper.Restore(ctx, "c1", names, 900)
	must(t, err)
	w.admit(r)
	_, err = n2.promoter.Promote(ctx, "c1", w.View().Guests[900])
	must(t, err)
	n2.write(newDisk, 7, 3)
	want := n2.content(t, newDisk)
	must(t, w.restore(names...))
	equal(t, n2.dataset(newRoot).Mounted, true)
	_, err = n2.pool.Device(ctx, newDisk)
	must(t, err)
	equal(t, bytes.Equal(n2.content(t, newDisk), want), true)
	equal(t, n2.dataset(newDisk).ReadOnly, false)
}

func TestRestore_RefusesWhatIsInTheWay(t *testing.T) {
	w := newWorld(t)
	ofDisk, ofRoot := w.divergeBoth()
	n2 := w.node("2")
	n2.cannotRestore(900, "nothing to restore was named")
	n2.cannotRestore(900, "no place for diverged data", diskDS)
	n2.cannotRestore(900, "does not exist", asideRoot+"/100/none")
	n2.cannotRestore(100, "guest of its own with the same ID", ofDisk.Name)
	n2.cannotRestore(99, "must be from 100", ofDisk.Name)
	n2.cannotRestore(900, "are both of volume", ofDisk.Name, ofDisk.Name)

	// Nothing is made where only one of two names is free.
	must(t, n2.pool.Create(newRoot, 0, nil))
	n2.cannotRestore(900, newRoot+" exists already on n2", ofDisk.Name, ofRoot.Name)
	equal(t, n2.dataset(newDisk).Exists(), false)
	must(t, n2.pool.Clone(t.Context(), ofDisk.Name+"@"+ofDisk.Snapshots[0].Name, newDisk, nil)) // Somebody's own.
	n2.cannotRestore(900, newDisk+" exists already on n2", ofDisk.Name)
	n2.pool.Destroy(newDisk)

	w.change(func(s *ledger.State) {
		s.Guests = maps.Clone(s.Guests)
		s.Guests[900] = guest.Guest{ID: 900, Name: "other", Owner: id("1"), Term: term, Volumes: []guest.Volume{{Storage: "local-zfs", Name: "x"}}}
	})
	n2.cannotRestore(900, "guest 900 exists already (other on n1)", ofDisk.Name)
	equal(t, n2.dataset(newDisk).Exists(), false)
}

func TestRestore_IsUndoneWhereTheGuestIsRefused(t *testing.T) {
	w := newWorld(t)
	ofDisk, ofRoot := w.divergeBoth()
	n2, ctx := w.node("2"), t.Context()
	names := []string{ofDisk.Name, ofRoot.Name}
	r, err := n2.keeper.Restore(ctx, "c1", names, 900)
	must(t, err)
	must(t, n2.keeper.Undo(ctx, r))
	equal(t, []bool{n2.dataset(newDisk).Exists(), n2.dataset(newRoot).Exists()}, []bool{false, false})
	equal(t, len(n2.aside()), 2)

	// What somebody uses by then is left, and named.
	r, err = n2.keeper.Restore(ctx, "c1", names, 900)
	must(t, err)
	n2.snap(newDisk + "@mine")
	if err := n2.keeper.Undo(ctx, r); err == nil || !strings.Contains(err.Error(), newDisk) {
		t.Errorf("undone: %v", err)
	}
	equal(t, []bool{n2.dataset(newDisk).Exists(), n2.dataset(newRoot).Exists()}, []bool{true, false})
	must(t, w.restore(names...)) // It goes on from what is there.
}

// restoreOnce is the scenario of a copy that becomes a guest's.
func restoreOnce(w *world) error { return w.restore(w.copied) }

// restored wants the second try to finish it.
func restored(w *world) {
	must(w.t, restoreOnce(w))
	n2 := w.node("2")
	d := n2.dataset(newDisk)
	if !bytes.Equal(n2.content(w.t, newDisk), n2.content(w.t, w.copied)) || d.ReadOnly || d.Props[zfs.PropRole] != zfs.RoleOwner {
		w.t.Errorf("the restored disk: read-only %v, properties %v", d.ReadOnly, d.Props)
	}
	w.node("1").write(diskDS, 1, 1)
	w.run(job)
	w.same("2")
	equal(w.t, len(n2.aside()), 1)
}

// unrestoreOnce is the scenario of one that the ledger refuses.
func unrestoreOnce(w *world) error {
	n2 := w.node("2")
	r, err := n2.keeper.Restore(w.t.Context(), "c1", []string{w.copied}, 900)
	if err != nil {
		return err
	}
	return n2.keeper.Undo(w.t.Context(), r)
}

func TestViewer_AFilesystemIsComparedAndMounted(t *testing.T) {
	w := newWorld(t)
	_, c := w.divergeBoth()
	n2, ctx, folder := w.node("2"), t.Context(), t.TempDir()
	v := n2.keeper.Viewer(folder)
	d, err := v.Show(ctx, "c1", c.Name)
	must(t, err)
	if d.Diff == nil || d.Diff.Changes() == 0 || d.Trouble != "" || d.Newer == 0 || d.At != "" {
		t.Errorf("it shows %+v, diff %+v", d, d.Diff)
	}
	rest, err := os.ReadDir(folder)
	must(t, err)
	equal(t, []any{n2.dataset(c.Name).Mounted, len(rest)}, []any{false, 0}) // Looking at it has left nothing.

	for range 2 {
		at, _, err := v.Mount(ctx, "c1", c.Name)
		must(t, err)
		equal(t, at, filepath.Join(folder, c.Name))
	}
	n2.cannotDiscard(c.Name, "diverged umount")
	n2.pool.SetBusy(c.Name, true)
	if _, err := v.Unmount(ctx, "c1", c.Name); err == nil || !strings.Contains(err.Error(), "qemu") {
		t.Errorf("unmounted although it is in use: %v", err)
	}
	n2.pool.SetBusy(c.Name, false)
	for range 2 {
		_, err = v.Unmount(ctx, "c1", c.Name)
		must(t, err)
	}
	equal(t, n2.dataset(c.Name).Mounted, false)

	// A boot leaves no mount, and what a sync does is not in its way.
	_, _, err = v.Mount(ctx, "c1", c.Name)
	must(t, err)
	w.node("1").write(rootDS, 3, 1)
	w.run(job)
	w.same("2")
	n2.pool.PowerCut()
	equal(t, n2.dataset(c.Name).Mounted, false)
	_, err = n2.keeper.Discard(ctx, "c1", c.Name)
	must(t, err)
}

func TestViewer_AZvolGetsADeviceThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	c, _ := w.divergeBoth()
	n2, ctx := w.node("2"), t.Context()
	v := n2.keeper.Viewer(t.TempDir())
	d, err := v.Show(ctx, "c1", c.Name)
	must(t, err)
	equal(t, []any{d.At, d.Diff == nil, d.Newer > 0}, []any{"", true, true})
	must(t, n2.pool.SetProps(ctx, map[string]string{"readonly": "off"}, c.Name)) // Somebody's mistake.
	at, _, err := v.Mount(ctx, "c1", c.Name)
	must(t, err)
	equal(t, []any{at, n2.dataset(c.Name).ReadOnly}, []any{"/dev/zvol/" + c.Name, true})
	n2.pool.SetBusy(c.Name, true)
	n2.cannotDiscard(c.Name, "is in use: process 4711 (qemu)")
	if _, err := v.Unmount(ctx, "c1", c.Name); err == nil {
		t.Error("its device was taken away from who has it open")
	}
	n2.pool.SetBusy(c.Name, false)
	_, err = v.Unmount(ctx, "c1", c.Name)
	must(t, err)
	if _, err := n2.pool.Device(ctx, c.Name); err == nil {
		t.Error("the device is left")
	}
}
