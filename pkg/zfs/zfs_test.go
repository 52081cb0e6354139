package zfs_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/zfs"
)

// tools makes a zfs and a zpool out of shell scripts, and a kernel that knows the pools tank (well) and sick (suspended).
// Each call's arguments are appended to the file that the returned function reads.
func tools(t *testing.T, zfsScript string) (z *zfs.ZFS, calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	for pool, state := range map[string]string{"tank": "ONLINE\n", "sick": "SUSPENDED\n"} {
		if err := os.MkdirAll(filepath.Join(dir, "kstat", pool), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "kstat", pool, "state"), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(dir, "calls")
	for _, name := range []string{"zfs", "zpool"} {
		script := "#!/bin/sh\necho " + name + " \"$@\" >>" + log + "\n" + zfsScript + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	z, err := zfs.New(zfs.Options{
		ZFS: filepath.Join(dir, "zfs"), ZPool: filepath.Join(dir, "zpool"), KStat: filepath.Join(dir, "kstat"),
		Grace: 300 * time.Millisecond, PoolPoll: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return z, func() []string {
		text, err := os.ReadFile(log)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

func diff(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func wantClass(t *testing.T, err error, want zfs.Class) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got class %q (%v), want %q", zfs.ClassOf(err), err, want)
	}
}

const snapA = "tank/vm@a"

func TestZFS_RunsExactlyTheseCommands(t *testing.T) {
	z, calls := tools(t, "cat >/dev/null")
	ctx := t.Context()
	props := map[string]string{"tandem:b": "2 3", "tandem:a": "1"}
	send := func(spec zfs.SendSpec) error {
		s, err := z.Send(ctx, spec)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, s)
		return errors.Join(err, s.Wait(), s.Close())
	}
	receive := func(spec zfs.ReceiveSpec) error {
		_, err := z.Receive(ctx, spec, strings.NewReader("stream"))
		return err
	}
	for i, err := range []error{
		z.Snapshot(ctx, []string{snapA, "tank/ct@a"}, props),
		z.DestroySnapshots(ctx, "tank/vm", []string{"a", "b"}),
		z.Bookmark(ctx, snapA, "tank/vm#a"),
		z.DestroyBookmark(ctx, "tank/vm#a"),
		z.Hold(ctx, "tag", snapA),
		z.Release(ctx, "tag", snapA),
		z.SetProps(ctx, props, "tank/vm", snapA),
		z.Inherit(ctx, "volmode", "tank/vm"),
		z.Rename(ctx, "tank/vm", "tank/old"),
		z.Promote(ctx, "tank/vm"),
		z.Clone(ctx, snapA, "tank/new", map[string]string{"readonly": "on"}),
		z.Mount(ctx, "tank/ct"),
		z.Unmount(ctx, "tank/ct"),
		z.AbortReceive(ctx, "tank/vm"),
		send(zfs.SendSpec{Snapshot: snapA}),
		send(zfs.SendSpec{Snapshot: "tank/vm@b", From: "tank/vm#a"}),
		send(zfs.SendSpec{Snapshot: "tank/vm@b", From: snapA, Intermediates: true, Raw: true}),
		send(zfs.SendSpec{Token: "1-a-b-c", Dataset: "tank/vm"}),
		receive(zfs.ReceiveSpec{Dataset: "tank/vm", Type: zfs.TypeVolume, Props: map[string]string{"volmode": "none"}}),
		receive(zfs.ReceiveSpec{Dataset: "tank/ct", Type: zfs.TypeFilesystem, Origin: "tank/old@a", Exclude: []string{"quota"}}),
	} {
		if err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	diff(t, calls(), []string{
		"zfs snapshot -o tandem:a=1 -o tandem:b=2 3 tank/vm@a tank/ct@a",
		"zfs destroy tank/vm@a,b",
		"zfs bookmark tank/vm@a tank/vm#a",
		"zfs destroy tank/vm#a",
		"zfs hold tag tank/vm@a",
		"zfs release tag tank/vm@a",
		"zfs set tandem:a=1 tandem:b=2 3 tank/vm tank/vm@a",
		"zfs inherit volmode tank/vm",
		"zfs rename tank/vm tank/old",
		"zfs promote tank/vm",
		"zfs clone -o readonly=on tank/vm@a tank/new",
		"zfs mount tank/ct",
		"zfs unmount tank/ct",
		"zfs receive -A tank/vm",
		"zfs send -L -c -e tank/vm@a",
		"zfs send -L -c -e -i tank/vm#a tank/vm@b",
		"zfs send -w -I tank/vm@a tank/vm@b",
		"zfs send -t 1-a-b-c",
		"zfs receive -s -u -o readonly=on -o volmode=none tank/vm",
		"zfs receive -s -u -o canmount=noauto -o readonly=on -x mountpoint -x quota -o origin=tank/old@a tank/ct",
	})
	diff(t, z.Counters(), zfs.Counters{Started: 20})
}

func TestZFS_RefusesBeforeRunningAnything(t *testing.T) {
	z, calls := tools(t, "")
	ctx := t.Context()
	_, send := z.Send(ctx, zfs.SendSpec{Snapshot: "tank/vm"})
	_, receive := z.Receive(ctx, zfs.ReceiveSpec{Dataset: "tank/vm"}, strings.NewReader(""))
	_, writable := z.Receive(ctx, zfs.ReceiveSpec{Dataset: "tank/vm", Type: zfs.TypeVolume, Props: map[string]string{"readonly": "off"}}, strings.NewReader(""))
	_, mounted := z.Receive(ctx, zfs.ReceiveSpec{Dataset: "tank/ct", Type: zfs.TypeFilesystem, Props: map[string]string{"mountpoint": "/"}}, strings.NewReader(""))
	_, volume := z.Receive(ctx, zfs.ReceiveSpec{Dataset: "tank/vm", Type: zfs.TypeVolume, Props: map[string]string{"canmount": "noauto"}}, strings.NewReader(""))
	for i, err := range []error{
		z.Snapshot(ctx, nil, nil),
		z.Snapshot(ctx, []string{"tank/vm@-r"}, nil),
		z.Snapshot(ctx, []string{snapA}, map[string]string{"readonly": "on"}),
		z.Snapshot(ctx, []string{snapA, "sick/x@a"}, nil),
		z.DestroySnapshots(ctx, "tank/vm", []string{"a%z"}),
		z.DestroyBookmark(ctx, "tank/vm"),
		z.DestroyDataset(ctx, zfs.DestroySpec{Dataset: "-r"}),
		z.Rename(ctx, snapA, "tank/vm@b"),
		z.SetProps(ctx, nil, "tank/vm"),
		z.SetProps(ctx, map[string]string{"a b": "c"}, "tank/vm"),
		z.SetProps(ctx, map[string]string{"tandem:a": "line\nline"}, "tank/vm"),
		z.Inherit(ctx, "-S", "tank/vm"),
		z.Hold(ctx, "-r", snapA),
		send, receive, writable, mounted, volume,
	} {
		if !errors.Is(err, zfs.ClassRefused) {
			t.Errorf("call %d: got %v, want a refusal", i, err)
		}
	}
	diff(t, calls(), []string(nil))
}

func TestZFS_ListReadsManyInOneProcess(t *testing.T) {
	out := strings.Join([]string{
		"tank/ct\ttype\tfilesystem\t-", "tank/ct\tguid\t11\t-", "tank/ct\tmounted\tyes\t-", "tank/ct\treadonly\ton\tinherited from tank",
		"tank/ct\tcanmount\tnoauto\tlocal", "tank/ct\ttandem:guest\t100\tinherited from tank",
		"tank/ct/child\ttype\tfilesystem\t-", "tank/ct/child\tguid\t99\t-",
		"tank/ct@b\tguid\t13\t-", "tank/ct@b\tcreatetxg\t30\t-", "tank/ct@b\ttandem:point\ta\ttab\tlocal",
		"tank/ct@a c\tguid\t12\t-", "tank/ct@a c\tcreatetxg\t20\t-", "tank/ct@a c\tcreation\t1700000000\t-", "tank/ct@a c\tuserrefs\t2\t-",
		"tank/ct@a c\ttandem:point\tx\tinherited from tank/ct", "tank/ct@a c\ttandem:received\tyes\treceived",
		"tank/ct#m\tguid\t12\t-", "tank/ct#m\tcreatetxg\t20\t-", "tank/ct#m\tuserrefs\t-\t-",
		"tank/vm\ttype\tvolume\t-", "tank/vm\tguid\t21\t-", "tank/vm\tvolsize\t1048576\tlocal", "tank/vm\twritten\t-\t-",
		"tank/vm\tcompression\tlz4\tinherited from tank", "tank/vm\tvolblocksize\t16384\t-", "tank/vm\trecordsize\t-\t-",
		"tank/vm\treceive_resume_token\t1-a-b-c\t-", "tank/vm\ttandem:role\treplica\tlocal",
		"tank/odd\tguid\t31\t-", "tank/odd\tused\tmuch\t-", "",
	}, "\n")
	file := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	z, calls := tools(t, "cat "+file+"; echo \"cannot open 'tank/none': dataset does not exist\ncannot open 'tank/bad': I/O error\" >&2; exit 1")
	list, err := z.List(t.Context(), "tank/vm", "tank/none", "tank/ct", "sick/x", "gone/x", "tank/odd", "tank/bad")
	if err != nil {
		t.Fatal(err)
	}
	diff(t, list[0], zfs.Dataset{
		Name: "tank/vm", Type: zfs.TypeVolume, GUID: 21, VolSize: 1 << 20, ResumeToken: "1-a-b-c",
		Props: map[string]string{zfs.PropRole: zfs.RoleReplica}, Native: map[string]zfs.Property{
			"compression": {Value: "lz4", Source: "inherited from tank"}, "volblocksize": {Value: "16384", Source: "-"},
		},
	})
	diff(t, list[2], zfs.Dataset{
		Name: "tank/ct", Type: zfs.TypeFilesystem, GUID: 11, Mounted: true, ReadOnly: true, CanMount: "noauto",
		Native: map[string]zfs.Property{
			"readonly": {Value: "on", Source: "inherited from tank"}, "canmount": {Value: "noauto", Source: "local"},
		},
		Snapshots: []zfs.Snapshot{
			{Name: "a c", GUID: 12, CreateTXG: 20, Creation: time.Unix(1700000000, 0).UTC(), UserRefs: 2, Props: map[string]string{zfs.PropReceived: "yes"}},
			{Name: "b", GUID: 13, CreateTXG: 30, Props: map[string]string{zfs.PropPoint: "a\ttab"}},
		},
		Bookmarks: []zfs.Bookmark{{Name: "m", GUID: 12, CreateTXG: 20}},
	})
	wantClass(t, list[1].Err, zfs.ClassGone)
	wantClass(t, list[3].Err, zfs.ClassPool)
	wantClass(t, list[4].Err, zfs.ClassPoolAbsent)
	wantClass(t, list[5].Err, zfs.ClassUnknown)
	wantClass(t, list[6].Err, zfs.ClassUnknown)
	if len(calls()) != 1 || strings.Contains(calls()[0], "sick/x") {
		t.Errorf("calls: %q", calls())
	}
}

func TestZFS_DoesNotTouchASuspendedOrAbsentPool(t *testing.T) {
	z, calls := tools(t, "")
	err := z.SetProps(t.Context(), map[string]string{"readonly": "on"}, "tank/vm", "sick/vm")
	wantClass(t, err, zfs.ClassPool)
	_, err = z.Storage(t.Context(), "gone/x")
	wantClass(t, err, zfs.ClassPoolAbsent)
	diff(t, calls(), []string(nil))
}

func TestZFS_AHangingProcessIsAnError(t *testing.T) {
	z, _ := tools(t, "trap '' TERM; exec sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("enough")) })
	err := z.Promote(ctx, "tank/vm")
	wantClass(t, err, zfs.ClassCanceled)
	if err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v, want the cause", err)
	}
	diff(t, z.Counters(), zfs.Counters{Started: 1})
}

func TestZFS_ABrokenSendIsNotTheEndOfTheStream(t *testing.T) {
	z, _ := tools(t, "printf half; echo \"warning: cannot send 'tank/vm@a': signal received\" >&2; exit 1")
	s, err := z.Send(t.Context(), zfs.SendSpec{Snapshot: snapA})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(s)
	wantClass(t, err, zfs.ClassPeer)
	diff(t, string(data), "half")
	wantClass(t, s.Wait(), zfs.ClassPeer)
	_ = s.Close()
}

func TestZFS_ASendEndsWithItsContextOrClose(t *testing.T) {
	z, _ := tools(t, "printf data; exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := z.Send(ctx, zfs.SendSpec{Snapshot: snapA})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = io.Copy(io.Discard, s)
	wantClass(t, err, zfs.ClassCanceled)
	_ = s.Close()
	if s, err = z.Send(t.Context(), zfs.SendSpec{Snapshot: snapA}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	wantClass(t, s.Wait(), zfs.ClassCanceled)
	diff(t, z.Counters(), zfs.Counters{Started: 2})
}

func TestZFS_ReceiveReportsTheFirstCause(t *testing.T) {
	incomplete := "cat >/dev/null; echo 'cannot receive: checksum mismatch or incomplete stream' >&2; exit 1"
	z, _ := tools(t, incomplete)
	spec := zfs.ReceiveSpec{Dataset: "tank/vm", Type: zfs.TypeVolume}
	cable := errors.New("cable cut")
	got, err := z.Receive(t.Context(), spec, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(cable)))
	wantClass(t, err, zfs.ClassPeer)
	if !errors.Is(err, cable) || got.Bytes != 4 || !strings.Contains(err.Error(), "incomplete stream") {
		t.Errorf("got %d bytes, %v", got.Bytes, err)
	}
	_, err = z.Receive(t.Context(), spec, strings.NewReader("half"))
	wantClass(t, err, zfs.ClassStream)

	// zfs ends at once and the sender says nothing more: the receive is over all the same.
	z, _ = tools(t, "echo 'cannot receive: out of space' >&2; exit 1")
	r, w := io.Pipe()
	_, err = z.Receive(t.Context(), spec, r)
	wantClass(t, err, zfs.ClassSpace)
	_ = w.Close()
}

func TestZFS_ReadsTokensAndEstimates(t *testing.T) {
	z, _ := tools(t, `printf 'resume token contents:\nnvlist version: 0\n\tfromguid = 0x1d\n\tobject = 0x1\n\tbytes = 0x400\n\ttoguid = 0xff\n\ttoname = tank/vm@a b\n\trawok = 1\nfull\ttank/vm@a\t77\nsize\t77\n'`)
	token, err := z.TokenInfo(t.Context(), "tank/vm", "1-a-b-c")
	if err != nil {
		t.Fatal(err)
	}
	diff(t, token, zfs.Token{ToName: "tank/vm@a b", ToGUID: 255, FromGUID: 29, Bytes: 1024, Size: 77, Raw: true})
	size, err := z.EstimateSend(t.Context(), zfs.SendSpec{Snapshot: snapA})
	if err != nil || size != 77 {
		t.Errorf("got %d, %v", size, err)
	}
}

func TestZFS_VersionsAndFeatures(t *testing.T) {
	z, _ := tools(t, `if [ "$1" = version ]; then printf 'zfs-2.3.2-2~bpo12+1\nzfs-kmod-2.2.10-1\n'; else printf 'size\t1\nreadonly\ton\nfeature@bookmark_v2\tenabled\n'; fi`)
	v, err := z.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	diff(t, v, zfs.Version{Userland: "2.3.2-2~bpo12+1", Kernel: "2.2.10-1"})
	for want, at := range map[bool][][3]int{true: {{2, 1, 99}, {2, 2, 8}, {2, 2, 10}}, false: {{2, 2, 11}, {2, 3, 0}, {3, 0, 0}}} {
		for _, n := range at {
			if got := v.AtLeast(n[0], n[1], n[2]); got != want {
				t.Errorf("at least %v: %v", n, got)
			}
		}
	}
	facts, err := z.PoolFacts(t.Context(), "tank")
	if err != nil {
		t.Fatal(err)
	}
	diff(t, facts, zfs.PoolFacts{ReadOnly: true, Features: map[string]string{"bookmark_v2": "enabled"}})
}

func TestNew_NeedsTheTools(t *testing.T) {
	if _, err := zfs.New(zfs.Options{ZFS: "zfs"}); err == nil || !strings.Contains(err.Error(), "absolute path") {
		t.Errorf("got %v", err)
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte("tank/ct\tguid\t1\t-\ntank/ct@a\tguid\t2\t-\n"))
	f.Add([]byte("tank/ct\ttandem:guest\ta\nb\tlocal\n"))
	f.Add([]byte("\t\t\t\n@\n#\t\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		whole, pieces := zfs.ParseForTest(out, len(out)+1), zfs.ParseForTest(out, 3)
		if d := cmp.Diff(whole, pieces, cmp.Comparer(func(a, b error) bool { return zfs.ClassOf(a) == zfs.ClassOf(b) })); d != "" {
			t.Errorf("in pieces it reads otherwise:\n%s", d)
		}
	})
}

// A pool that is suspended under a process is told at once, without waiting for a child that the kernel does not let go; other
// pools go on.
func TestZFS_APoolThatIsSuspendedUnderAProcess(t *testing.T) {
	z, _ := tools(t, `
		case "$*" in *other*) exit 0 ;; esac
		echo SUSPENDED >"$(dirname "$0")/kstat/tank/state"
		trap '' TERM
		exec sleep 1000`)
	ctx := t.Context()
	s, err := z.Send(ctx, zfs.SendSpec{Snapshot: snapA})
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, s)
	wantClass(t, err, zfs.ClassPool)
	_ = s.Close()
	if err == nil || !strings.Contains(err.Error(), "pool tank is suspended") {
		t.Errorf("got %v, want the pool's name", err)
	}
	wantClass(t, z.SetProps(ctx, map[string]string{"tandem:a": "1"}, "tank/vm"), zfs.ClassPool) // not even begun
	if err := z.SetProps(ctx, map[string]string{"tandem:a": "1"}, "tank2/other"); !errors.Is(err, zfs.ClassPoolAbsent) {
		t.Errorf("another pool: %v", err)
	}
	diff(t, z.Counters(), zfs.Counters{Started: 1})
}

func TestZFS_AReceiveOnAPoolThatIsSuspended(t *testing.T) {
	z, _ := tools(t, `echo SUSPENDED >"$(dirname "$0")/kstat/tank/state"; trap '' TERM; exec sleep 1000`)
	r, w := io.Pipe()
	defer w.Close()
	_, err := z.Receive(t.Context(), zfs.ReceiveSpec{Dataset: "tank/vm", Type: zfs.TypeVolume}, r)
	wantClass(t, err, zfs.ClassPool)
}
