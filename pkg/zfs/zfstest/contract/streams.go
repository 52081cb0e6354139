package contract

import (
	"bytes"
	"errors"
	"io"
	"testing/iotest"

	"github.com/tandemd/tandem/pkg/zfs"
)

func (s *suite) replicate() {
	src, dst := s.volume("src"), s.ds("dst")
	size, err := s.env.ZFS.EstimateSend(s.ctx, zfs.SendSpec{Snapshot: src + "@a"})
	s.ok(err)
	full := s.stream(zfs.SendSpec{Snapshot: src + "@a"})
	if size < 64*block || uint64(len(full)) < 64*block || size > 2*uint64(len(full)) {
		s.Errorf("estimate %d, stream %d bytes, data %d", size, len(full), 64*block)
	}
	got, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{
		Dataset: dst, Type: zfs.TypeVolume, Props: map[string]string{zfs.PropRole: zfs.RoleReplica},
	}, bytes.NewReader(full))
	s.ok(err)
	equal(s, got.Bytes, int64(len(full)))
	d := s.get(dst)
	equal(s, d.ReadOnly, true)
	equal(s, d.Props, map[string]string{zfs.PropRole: zfs.RoleReplica})
	equal(s, d.Written, 0)
	equal(s, guids(d), guids(s.get(src)))
	s.sameContent(dst+"@a", src+"@a")

	s.change(src, "b")
	s.snap(src + "@operators own")
	s.ok(s.env.Write(src, 0, make([]byte, 8*block)))
	s.snap(src + "@d")
	increment := s.stream(zfs.SendSpec{Snapshot: src + "@d", From: src + "@a", Intermediates: true})
	if len(increment) >= len(full) {
		s.Errorf("increment has %d bytes, the full stream %d", len(increment), len(full))
	}
	s.ok(s.receive(dst, increment))
	d = s.get(dst)
	equal(s, snapNames(d), []string{"a", "b", "operators own", "d"})
	equal(s, guids(d), guids(s.get(src)))
	s.sameContent(dst+"@b", src+"@b")
	s.sameContent(dst+"@d", src+"@d")
}

func (s *suite) fromBookmark() {
	src, dst := s.volume("src"), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.ok(s.env.ZFS.Bookmark(s.ctx, src+"@a", src+"#base"))
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, src, []string{"a"}))
	s.change(src, "b")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@b", From: src + "#base"})
	s.sameContent(dst+"@b", src+"@b")
	_, err := s.env.ZFS.Send(s.ctx, zfs.SendSpec{Snapshot: src + "@b", From: src + "#base", Intermediates: true})
	s.wantClass(err, zfs.ClassRefused)

	// A bookmark made on the receiver is a base for the way back.
	s.ok(s.env.ZFS.Bookmark(s.ctx, dst+"@b", dst+"#back"))
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "off"}, dst))
	s.change(dst, "c")
	s.copyTo(src, zfs.SendSpec{Snapshot: dst + "@c", From: dst + "#back"})
	s.sameContent(dst+"@c", src+"@c")
}

func (s *suite) filesystem() {
	src, dst := s.ds("src"), s.ds("dst")
	s.ok(s.env.Create(src, 0, nil))
	s.ok(s.env.Write(src, 0, noise("fs", 8)))
	s.snap(src + "@a")
	s.ok(s.env.Write(src, 8*block, noise("more", 4)))
	s.snap(src + "@b")
	spec := zfs.ReceiveSpec{Dataset: dst, Type: zfs.TypeFilesystem, Props: map[string]string{zfs.PropRole: zfs.RoleReplica}}
	for _, send := range []zfs.SendSpec{{Snapshot: src + "@a"}, {Snapshot: src + "@b", From: src + "@a"}} {
		_, err := s.env.ZFS.Receive(s.ctx, spec, bytes.NewReader(s.stream(send)))
		s.ok(err)
		d := s.get(dst)
		equal(s, []any{d.Type, d.Mounted, d.CanMount, d.ReadOnly}, []any{zfs.TypeFilesystem, false, "noauto", true})
	}
	s.sameContent(dst+"@b", src+"@b")
	s.ok(s.env.ZFS.Mount(s.ctx, dst))
	s.ok(s.env.ZFS.Mount(s.ctx, dst))
	equal(s, s.get(dst).Mounted, true)
	s.ok(s.env.ZFS.Unmount(s.ctx, dst))
	s.ok(s.env.ZFS.Unmount(s.ctx, dst))
	equal(s, s.get(dst).Mounted, false)
	equal(s, s.get(dst).Written, 0)
}

// cut receives the first part of a stream and returns the token.
func (s *suite) cut(dst string, stream []byte) string {
	s.Helper()
	err := s.receive(dst, stream[:len(stream)*6/10])
	s.wantClass(err, zfs.ClassStream)
	token := s.get(dst).ResumeToken
	if token == "" {
		s.Fatalf("no resume token after %v", err)
	}
	return token
}

func (s *suite) resume() {
	src, dst := s.volume("src"), s.ds("dst")
	full := s.stream(zfs.SendSpec{Snapshot: src + "@a"})
	token := s.cut(dst, full)
	equal(s, len(s.get(dst).Snapshots), 0)
	s.wantClass(s.receive(dst, full), zfs.ClassExists)
	info, err := s.env.ZFS.TokenInfo(s.ctx, src, token)
	s.ok(err)
	equal(s, []any{info.ToName, info.ToGUID, info.FromGUID}, []any{src + "@a", guids(s.get(src))["a"], uint64(0)})
	if info.Bytes == 0 {
		s.Errorf("token tells of 0 bytes: %+v", info)
	}
	rest := s.stream(zfs.SendSpec{Token: token, Dataset: src})
	if len(rest) > len(full)*7/10 {
		s.Errorf("resumed stream has %d of %d bytes", len(rest), len(full))
	}
	s.ok(s.receive(dst, rest))
	s.sameContent(dst+"@a", src+"@a")
	equal(s, s.get(dst).ResumeToken, "")
	equal(s, s.get(dst).ReadOnly, true)
}

func (s *suite) resumeIncrement() {
	src, dst := s.volume("src"), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.change(src, "b")
	increment := s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
	token := s.cut(dst, increment)
	s.wantClass(s.receive(dst, increment), zfs.ClassPartial)
	s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, dst, []string{"a"}), zfs.ClassClones)
	// The base may become a bookmark meanwhile.
	s.ok(s.env.ZFS.Bookmark(s.ctx, src+"@a", src+"#a"))
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, src, []string{"a"}))
	s.copyTo(dst, zfs.SendSpec{Token: token, Dataset: src})
	s.sameContent(dst+"@b", src+"@b")
}

func (s *suite) staleToken() {
	src, dst := s.volume("src"), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.change(src, "b")
	token := s.cut(dst, s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"}))
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, src, []string{"a"}))
	_, err := s.env.ZFS.TokenInfo(s.ctx, src, token)
	s.wantClass(err, zfs.ClassToken)
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, src, []string{"b"}))
	info, err := s.env.ZFS.TokenInfo(s.ctx, src, token)
	s.wantClass(err, zfs.ClassToken)
	equal(s, info.ToName, src+"@b")
	s.change(src, "b")
	_, err = s.env.ZFS.TokenInfo(s.ctx, src, token)
	s.wantClass(err, zfs.ClassToken)
	st, err := s.env.ZFS.Send(s.ctx, zfs.SendSpec{Token: token, Dataset: src})
	if err == nil {
		_, err = io.Copy(io.Discard, st)
	}
	s.wantClass(err, zfs.ClassToken)
	_, err = s.env.ZFS.TokenInfo(s.ctx, src, "1-abc-10-deadbeef")
	s.wantClass(err, zfs.ClassToken)
	_, err = s.env.ZFS.TokenInfo(s.ctx, src, "-rf")
	s.wantClass(err, zfs.ClassRefused)
}

func (s *suite) abort() {
	src, dst := s.volume("src"), s.ds("dst")
	full := s.stream(zfs.SendSpec{Snapshot: src + "@a"})
	s.cut(dst, full)
	s.ok(s.env.ZFS.AbortReceive(s.ctx, dst))
	s.wantClass(s.get(dst).Err, zfs.ClassGone)
	s.wantClass(s.env.ZFS.AbortReceive(s.ctx, dst), zfs.ClassGone)
	s.ok(s.receive(dst, full))
	s.ok(s.env.ZFS.AbortReceive(s.ctx, dst))
	s.change(src, "b")
	increment := s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
	s.cut(dst, increment)
	s.ok(s.env.ZFS.AbortReceive(s.ctx, dst))
	s.ok(s.receive(dst, increment))
	s.sameContent(dst+"@b", src+"@b")
}

func (s *suite) foreignSnapshot() {
	src, dst := s.volume("src"), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.snap(dst + "@theirs")
	s.change(src, "b")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
	equal(s, snapNames(s.get(dst)), []string{"a", "theirs", "b"})
	s.sameContent(dst+"@b", src+"@b")
	// A snapshot of that name and another GUID is in the way.
	s.change(src, "c")
	s.snap(dst + "@c")
	s.wantClass(s.receive(dst, s.stream(zfs.SendSpec{Snapshot: src + "@c", From: src + "@b"})), zfs.ClassExists)
}

func (s *suite) twice() {
	src, dst := s.volume("src"), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.change(src, "b")
	increment := s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
	s.ok(s.receive(dst, increment))
	s.ok(s.receive(dst, increment))
	equal(s, guids(s.get(dst)), guids(s.get(src)))
}

func (s *suite) damage() {
	src, dst := s.volume("src"), s.ds("dst")
	full := s.stream(zfs.SendSpec{Snapshot: src + "@a"})
	for _, at := range []int{0, len(full) / 3, len(full) * 2 / 3} {
		bad := bytes.Clone(full)
		bad[at] ^= 0x55
		s.wantClass(s.receive(dst, bad), zfs.ClassStream)
		if d := s.get(dst); d.Exists() {
			equal(s, len(d.Snapshots), 0)
			s.ok(s.env.ZFS.AbortReceive(s.ctx, dst))
		}
	}
	s.wantClass(s.receive(dst, nil), zfs.ClassStream)
	s.ok(s.receive(dst, full))
}

// staleOwner is the recipe of a stale owner's return: what diverged stays, aside, and the new owner's data comes as one increment.
func (s *suite) staleOwner() {
	owner, stale, aside := s.volume("owner"), s.ds("stale"), s.ds("aside")
	s.copyTo(stale, zfs.SendSpec{Snapshot: owner + "@a"})
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "off"}, stale))
	s.change(stale, "diverged")
	s.change(owner, "b")
	s.change(owner, "c")
	s.ok(s.env.ZFS.Rename(s.ctx, stale, aside))
	receive := func(stream []byte, origin string) error {
		_, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{Dataset: stale, Type: zfs.TypeVolume, Origin: origin}, bytes.NewReader(stream))
		return err
	}
	step := s.stream(zfs.SendSpec{Snapshot: owner + "@b", From: owner + "@a"})
	s.wantClass(receive(s.stream(zfs.SendSpec{Snapshot: owner + "@c", From: owner + "@a", Intermediates: true}), aside+"@a"), zfs.ClassGone)
	s.wantClass(receive(step, aside+"@diverged"), zfs.ClassDiverged)
	// Cut, and resumed without the origin.
	s.wantClass(receive(step[:len(step)*6/10], aside+"@a"), zfs.ClassStream)
	token := s.get(stale).ResumeToken
	rest := s.stream(zfs.SendSpec{Token: token, Dataset: owner})
	s.ok(receive(rest, ""))
	s.wantClass(receive(rest, ""), zfs.ClassToken)
	equal(s, s.get(stale).Origin, aside+"@a")
	s.ok(s.env.ZFS.Promote(s.ctx, stale))
	equal(s, s.get(aside).Origin, stale+"@a")
	s.copyTo(stale, zfs.SendSpec{Snapshot: owner + "@c", From: owner + "@b"})
	equal(s, guids(s.get(stale)), guids(s.get(owner)))
	s.sameContent(stale+"@c", owner+"@c")
	equal(s, snapNames(s.get(aside)), []string{"diverged"})
	s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, stale, []string{"a"}), zfs.ClassClones)
}

// clean wants nothing written since the last snapshot but the kilobyte that a new or rolled back dataset of real ZFS begins with.
func (s *suite) clean(ds string) {
	s.Helper()
	if written := s.get(ds).Written; written >= block {
		s.Errorf("%s has %d bytes written", ds, written)
	}
}

func (s *suite) promoteConflict() {
	vol, clone := s.volume("vol"), s.ds("clone")
	s.ok(s.env.ZFS.Clone(s.ctx, vol+"@a", clone, map[string]string{"readonly": "on"}))
	equal(s, s.get(clone).Origin, vol+"@a")
	equal(s, s.get(clone).ReadOnly, true)
	s.clean(clone)
	s.snap(clone + "@a")
	s.wantClass(s.env.ZFS.Promote(s.ctx, clone), zfs.ClassClones)
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, clone, []string{"a"}))
	s.ok(s.env.ZFS.Promote(s.ctx, clone))
	equal(s, snapNames(s.get(clone)), []string{"a"})
	s.wantClass(s.env.ZFS.Rename(s.ctx, clone, vol), zfs.ClassExists)
	s.wantClass(s.env.ZFS.Rename(s.ctx, s.ds("none"), s.ds("other")), zfs.ClassGone)
	before := s.get(vol).GUID
	s.ok(s.env.ZFS.Rename(s.ctx, vol, s.ds("moved")))
	equal(s, s.get(s.ds("moved")).GUID, before)
}

func (s *suite) rollback() {
	vol, dst := s.volume("vol"), s.ds("dst")
	s.change(vol, "b")
	s.copyTo(dst, zfs.SendSpec{Snapshot: vol + "@a"})
	s.copyTo(dst, zfs.SendSpec{Snapshot: vol + "@b", From: vol + "@a"})
	s.ok(s.env.Rollback(vol + "@a"))
	s.clean(vol)
	s.change(vol, "b")
	if guids(s.get(vol))["b"] == guids(s.get(dst))["b"] {
		s.Errorf("two snapshots of one name have one guid")
	}
	increment := s.stream(zfs.SendSpec{Snapshot: vol + "@b", From: vol + "@a"})
	s.wantClass(s.receive(dst, increment), zfs.ClassExists)
	s.change(vol, "c")
	s.wantClass(s.receive(dst, s.stream(zfs.SendSpec{Snapshot: vol + "@c", From: vol + "@a"})), zfs.ClassDiverged)
	s.settle()
	s.ok(s.env.Destroy(dst))
	s.wantClass(s.get(dst).Err, zfs.ClassGone)
}

func (s *suite) sendMissing() {
	vol := s.volume("vol")
	s.change(vol, "b")
	for spec, want := range map[zfs.SendSpec]zfs.Class{
		{Snapshot: vol + "@none"}:                       zfs.ClassGone,
		{Snapshot: s.ds("none") + "@a"}:                 zfs.ClassGone,
		{Snapshot: vol + "@b", From: vol + "@none"}:     zfs.ClassGone,
		{Snapshot: vol + "@b", From: vol + "#none"}:     zfs.ClassGone,
		{Snapshot: vol + "@a", From: vol + "@b"}:        zfs.ClassBadArg,
		{Snapshot: "-R"}:                                zfs.ClassRefused,
		{Snapshot: vol + "@a", Token: "1-a-b-c"}:        zfs.ClassRefused,
		{Snapshot: "nosuchpool/x@a", From: vol + "@b"}:  zfs.ClassPoolAbsent,
		{Snapshot: vol + "@a", Intermediates: true}:     zfs.ClassRefused,
		{Snapshot: vol + "@b", From: vol + "@a --help"}: zfs.ClassGone,
	} {
		st, err := s.env.ZFS.Send(s.ctx, spec)
		if err == nil {
			_, err = io.Copy(io.Discard, st)
			_ = st.Close()
		}
		if !errors.Is(err, want) {
			s.Errorf("%+v: got class %q (%v), want %q", spec, zfs.ClassOf(err), err, want)
		}
	}
}

func (s *suite) peer() {
	src, dst := s.volume("src"), s.ds("dst")
	full := s.stream(zfs.SendSpec{Snapshot: src + "@a"})
	broken := errors.New("cable cut")
	r := io.MultiReader(bytes.NewReader(full[:len(full)/2]), iotest.ErrReader(broken))
	got, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{Dataset: dst, Type: zfs.TypeVolume}, r)
	s.wantClass(err, zfs.ClassPeer)
	if !errors.Is(err, broken) {
		s.Errorf("got %v, want the reader's error in it", err)
	}
	equal(s, got.Bytes, int64(len(full)/2))
	token := s.get(dst).ResumeToken
	st, err := s.env.ZFS.Send(s.ctx, zfs.SendSpec{Token: token, Dataset: src})
	s.ok(err)
	s.ok(st.Close())
	s.copyTo(dst, zfs.SendSpec{Token: token, Dataset: src})
	s.sameContent(dst+"@a", src+"@a")
}

func (s *suite) resize() {
	src, dst := s.volume("src"), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"volsize": "16777216"}, src))
	s.change(src, "b")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
	equal(s, s.get(dst).VolSize, 16<<20)
	s.sameContent(dst+"@b", src+"@b")
}
