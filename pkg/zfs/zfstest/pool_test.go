package zfstest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/fault"
)

const vol, replica = "tank/vol", "tank/replica"

// machine has a zvol of 8 MiB with 40 blocks of data and a snapshot a.
func machine(t *testing.T, opt zfstest.Options) *zfstest.Pool {
	t.Helper()
	p := zfstest.New(opt)
	ok(t, p.Create(vol, 8<<20, nil))
	ok(t, p.Write(vol, 0, bytes.Repeat([]byte("data"), 40<<10)))
	ok(t, p.Snapshot(t.Context(), []string{vol + "@a"}, nil))
	return p
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantClass(t *testing.T, err error, want zfs.Class) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got class %q (%v), want %q", zfs.ClassOf(err), err, want)
	}
}

func copyTo(ctx context.Context, from, to *zfstest.Pool, spec zfs.SendSpec) error {
	s, err := from.Send(ctx, spec)
	if err != nil {
		return err
	}
	_, err = to.Receive(ctx, zfs.ReceiveSpec{Dataset: replica, Type: zfs.TypeVolume}, s)
	return errors.Join(err, s.Close())
}

func TestPool_InjectsFaults(t *testing.T) {
	p := machine(t, zfstest.Options{})
	busy := fault.Fail("destroy", vol, "dataset is busy")
	p.Inject(zfstest.Fault{Op: "DestroySnapshots", Name: vol, Times: 2, Err: busy})
	for range 2 {
		wantClass(t, p.DestroySnapshots(t.Context(), vol, []string{"a"}), zfs.ClassBusy)
	}
	p.Inject(zfstest.Fault{Op: "DestroySnapshots", After: true, Times: 1, Err: busy})
	wantClass(t, p.DestroySnapshots(t.Context(), vol, []string{"a"}), zfs.ClassBusy)
	list, err := p.List(t.Context(), vol)
	ok(t, err)
	if len(list[0].Snapshots) != 0 {
		t.Error("a lost answer is not a lost effect")
	}
	if got := p.Counters().Started; got != 5 {
		t.Errorf("%d processes, want 5", got)
	}
}

func TestPool_HookSeesEveryEffect(t *testing.T) {
	var seen []fault.Event
	killed := errors.New("killed")
	kill := false
	p := machine(t, zfstest.Options{Hook: func(ev fault.Event) error {
		seen = append(seen, ev)
		if kill {
			return killed
		}
		return nil
	}})
	ok(t, copyTo(t.Context(), p, p, zfs.SendSpec{Snapshot: vol + "@a"}))
	kill = true
	if err := p.Promote(t.Context(), vol); !errors.Is(err, killed) {
		t.Errorf("got %v", err)
	}
	want := []fault.Event{
		{Op: "Snapshot", Name: vol + "@a"},
		{Op: "Snapshot", Name: vol + "@a", After: true},
		{Op: "Send", Name: vol + "@a"},
		{Op: "Receive", Name: replica},
		{Op: "Receive", Name: replica, After: true},
		{Op: "Promote", Name: vol},
	}
	got := slices.DeleteFunc(seen, func(ev fault.Event) bool { return ev.Op == "Send" && ev.After })
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestPool_HangsUntilTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := machine(t, zfstest.Options{Timeout: time.Minute})
		never := make(chan struct{})
		p.Inject(zfstest.Fault{Op: "List", Hang: never})
		_, err := p.List(t.Context(), vol)
		wantClass(t, err, zfs.ClassHung)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.List(ctx, vol)
		wantClass(t, err, zfs.ClassCanceled)
		p.Heal()
		_, err = p.List(t.Context(), vol)
		ok(t, err)
	})
}

func TestPool_CutStreamsLeaveWhatARealOneLeaves(t *testing.T) {
	for _, op := range []string{"Send", "Receive"} {
		src, dst := machine(t, zfstest.Options{Node: "a"}), zfstest.New(zfstest.Options{Node: "b"})
		at := map[string]*zfstest.Pool{"Send": src, "Receive": dst}[op]
		at.Inject(zfstest.Fault{Op: op, Times: 1, Cut: 100 << 10})
		err := copyTo(t.Context(), src, dst, zfs.SendSpec{Snapshot: vol + "@a"})
		wantClass(t, err, map[string]zfs.Class{"Send": zfs.ClassPeer, "Receive": zfs.ClassStream}[op])
		list, err := dst.List(t.Context(), replica)
		ok(t, err)
		token := list[0].ResumeToken
		info, err := src.TokenInfo(t.Context(), vol, token)
		ok(t, err)
		if info.Bytes < 90<<10 || info.Bytes > 100<<10 || info.Bytes+info.Size != 160<<10 {
			t.Errorf("%s cut after 100 KiB of 160: %+v", op, info)
		}
		ok(t, copyTo(t.Context(), src, dst, zfs.SendSpec{Token: token, Dataset: vol}))
		got, err := dst.Read(replica + "@a")
		ok(t, err)
		want, err := src.Read(vol + "@a")
		ok(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: content differs", op)
		}
	}
}

func TestPool_SpaceAndQuota(t *testing.T) {
	src := machine(t, zfstest.Options{Node: "a"})
	full := zfstest.New(zfstest.Options{Node: "b", Size: 100 << 10})
	wantClass(t, copyTo(t.Context(), src, full, zfs.SendSpec{Snapshot: vol + "@a"}), zfs.ClassSpace)
	full.SetPool("tank", zfstest.PoolState{Size: 1 << 20})
	list, err := full.List(t.Context(), replica)
	ok(t, err)
	ok(t, copyTo(t.Context(), src, full, zfs.SendSpec{Token: list[0].ResumeToken, Dataset: vol}))

	limited := zfstest.New(zfstest.Options{Node: "c"})
	ok(t, limited.SetProps(t.Context(), map[string]string{"quota": "65536"}, "tank"))
	err = copyTo(t.Context(), src, limited, zfs.SendSpec{Snapshot: vol + "@a"})
	wantClass(t, err, zfs.ClassSpace)

	// Overwritten data stays until its snapshot goes.
	small := machine(t, zfstest.Options{Size: 350 << 10})
	other := bytes.Repeat([]byte("rest"), 40<<10)
	ok(t, small.Write(vol, 0, other))
	ok(t, small.Snapshot(t.Context(), []string{vol + "@b"}, nil))
	if err := small.Write(vol, 0, other); err == nil {
		t.Error("wrote 480 KiB into a pool of 350")
	}
	ok(t, small.DestroySnapshots(t.Context(), vol, []string{"a"}))
	ok(t, small.Write(vol, 0, other))
}

func TestPool_SickAndAbsentPools(t *testing.T) {
	p := machine(t, zfstest.Options{Pools: []string{"tank", "other"}})
	p.SetPool("tank", zfstest.PoolState{Suspended: true})
	list, err := p.List(t.Context(), vol, "other")
	ok(t, err)
	wantClass(t, list[0].Err, zfs.ClassPool)
	ok(t, list[1].Err)
	p.SetPool("tank", zfstest.PoolState{Exported: true})
	wantClass(t, p.Promote(t.Context(), vol), zfs.ClassPoolAbsent)
	p.SetPool("tank", zfstest.PoolState{})
	list, err = p.List(t.Context(), vol)
	ok(t, errors.Join(err, list[0].Err))
}

func TestPool_EncryptedGoesRaw(t *testing.T) {
	src, dst := zfstest.New(zfstest.Options{Node: "a"}), zfstest.New(zfstest.Options{Node: "b"})
	ok(t, src.Create(vol, 8<<20, map[string]string{"encryption": "aes-256-gcm"}))
	ok(t, src.Write(vol, 0, bytes.Repeat([]byte("data"), 4<<10)))
	ok(t, src.Snapshot(t.Context(), []string{vol + "@a"}, nil))
	src.SetKey(vol, false)
	_, err := src.Send(t.Context(), zfs.SendSpec{Snapshot: vol + "@a"})
	wantClass(t, err, zfs.ClassKey)
	ok(t, copyTo(t.Context(), src, dst, zfs.SendSpec{Snapshot: vol + "@a", Raw: true}))
	list, err := dst.List(t.Context(), replica)
	ok(t, err)
	if list[0].Encryption != "aes-256-gcm" || list[0].KeyStatus != "unavailable" {
		t.Errorf("replica: %+v", list[0])
	}
	// A snapshot of somebody else's blocks raw.
	ok(t, dst.Snapshot(t.Context(), []string{replica + "@theirs"}, nil))
	ok(t, src.Snapshot(t.Context(), []string{vol + "@b"}, nil))
	err = copyTo(t.Context(), src, dst, zfs.SendSpec{Snapshot: vol + "@b", From: vol + "@a", Raw: true})
	wantClass(t, err, zfs.ClassDiverged)
}

func TestPool_RunningStreamsPin(t *testing.T) {
	src, dst := machine(t, zfstest.Options{Node: "a"}), zfstest.New(zfstest.Options{Node: "b"})
	s, err := src.Send(t.Context(), zfs.SendSpec{Snapshot: vol + "@a"})
	ok(t, err)
	wantClass(t, src.DestroySnapshots(t.Context(), vol, []string{"a"}), zfs.ClassBusy)
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := dst.Receive(context.WithoutCancel(t.Context()), zfs.ReceiveSpec{Dataset: replica, Type: zfs.TypeVolume}, r)
		done <- err
	}()
	_, err = io.CopyN(w, s, 50<<10)
	ok(t, err)
	wantClass(t, copyTo(t.Context(), src, dst, zfs.SendSpec{Snapshot: vol + "@a"}), zfs.ClassExists)
	wantClass(t, dst.AbortReceive(t.Context(), replica), zfs.ClassBusy)
	list, err := dst.List(t.Context(), replica)
	ok(t, err)
	if list[0].ResumeToken == "" {
		t.Error("a running receive shows its token, as the real one does")
	}
	_, err = io.Copy(w, s)
	ok(t, errors.Join(err, w.Close()))
	ok(t, <-done)
	ok(t, src.DestroySnapshots(t.Context(), vol, []string{"a"}))
}

func TestPool_BusyAndReadOnly(t *testing.T) {
	p := machine(t, zfstest.Options{})
	ok(t, p.Create("tank/fs", 0, nil))
	p.SetBusy("tank/fs", true)
	wantClass(t, p.Unmount(t.Context(), "tank/fs"), zfs.ClassBusy)
	wantClass(t, p.Rename(t.Context(), "tank/fs", "tank/fs2"), zfs.ClassBusy)
	p.SetBusy("tank/fs", false)
	ok(t, p.Rename(t.Context(), "tank/fs", "tank/fs2"))
	ok(t, p.SetProps(t.Context(), map[string]string{"readonly": "on"}, vol))
	if err := p.Write(vol, 0, make([]byte, 4096)); err == nil {
		t.Error("wrote to a read-only volume")
	}
	if err := p.Create("tank/vol/x", 0, nil); err == nil {
		t.Error("made a child of a zvol")
	}
}

func TestPool_MachinesHaveTheirOwnGUIDs(t *testing.T) {
	seen := map[uint64]string{}
	for _, node := range []string{"a", "b", "c"} {
		list, err := machine(t, zfstest.Options{Node: node}).List(t.Context(), vol, "tank")
		ok(t, err)
		for _, guid := range []uint64{list[0].GUID, list[1].GUID, list[0].Snapshots[0].GUID} {
			if seen[guid] != "" {
				t.Errorf("guid %d on %s and %s", guid, seen[guid], node)
			}
			seen[guid] = node
		}
	}
}
