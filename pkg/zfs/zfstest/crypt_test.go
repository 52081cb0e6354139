package zfstest_test

import (
	"bytes"
	"testing"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// A plain increment onto what was received raw goes, where the key is loaded; the next raw one does not any more.
func TestPool_RawAndPlainDoNotMix(t *testing.T) {
	ctx := t.Context()
	src, dst := zfstest.New(zfstest.Options{Node: "a"}), zfstest.New(zfstest.Options{Node: "b"})
	ok(t, src.Create(vol, 8<<20, map[string]string{"encryption": "aes-256-gcm"}))
	for i, name := range []string{"a", "b", "c"} {
		ok(t, src.Write(vol, int64(i)*16384, bytes.Repeat([]byte(name), 16384)))
		ok(t, src.Snapshot(ctx, []string{vol + "@" + name}, nil))
	}
	ok(t, copyTo(ctx, src, dst, zfs.SendSpec{Snapshot: vol + "@a", Raw: true}))
	plain := zfs.SendSpec{Snapshot: vol + "@b", From: vol + "@a"}
	wantClass(t, copyTo(ctx, src, dst, plain), zfs.ClassKey)
	dst.SetKey(replica, true)
	ok(t, copyTo(ctx, src, dst, plain))
	wantClass(t, copyTo(ctx, src, dst, zfs.SendSpec{Snapshot: vol + "@c", From: vol + "@b", Raw: true}), zfs.ClassDiverged)
}

// What is created below an encrypted dataset has its key.
func TestPool_ChildrenShareTheKeyOfTheirRoot(t *testing.T) {
	ctx := t.Context()
	p := zfstest.New(zfstest.Options{})
	ok(t, p.Create("tank/enc", 0, map[string]string{"encryption": "aes-256-gcm"}))
	ok(t, p.Create("tank/enc/d", 8<<20, nil))
	p.SetKey("tank/enc/d", false)
	list, err := p.List(ctx, "tank/enc/d", "tank")
	ok(t, err)
	if d := list[0]; d.EncryptionRoot != "tank/enc" || d.KeyStatus != "unavailable" || list[1].EncryptionRoot != "" {
		t.Errorf("%+v", list)
	}
	ok(t, p.Create("tank/plain", 8<<20, nil))
	ok(t, p.Snapshot(ctx, []string{"tank/plain@a"}, nil))
	s, err := p.Send(ctx, zfs.SendSpec{Snapshot: "tank/plain@a"})
	ok(t, err)
	_, err = p.Receive(ctx, zfs.ReceiveSpec{Dataset: "tank/enc/copy", Type: zfs.TypeVolume}, s)
	wantClass(t, err, zfs.ClassKey)
}
