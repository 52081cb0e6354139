package contract

import (
	"bytes"
	"io"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/zfs"
)

func (s *suite) reading(snap string, typ zfs.Type) zfs.ContentsSpec {
	return zfs.ContentsSpec{
		Snapshot: snap, Type: typ, Clone: s.ds("tandem-reading-1"), Guest: "100", Cluster: "c", Folder: s.TempDir(),
	}
}

// contents reads a snapshot through a clone, and does something meanwhile.
func (s *suite) contents(spec zfs.ContentsSpec, meanwhile func()) []byte {
	s.Helper()
	r, err := s.env.ZFS.Contents(s.ctx, spec)
	s.ok(err)
	head := make([]byte, 512)
	_, err = io.ReadFull(r, head)
	s.ok(err)
	meanwhile()
	rest, err := io.ReadAll(r)
	s.ok(err)
	s.ok(r.Close())
	s.ok(r.Close())
	s.wantClass(s.get(spec.Clone).Err, zfs.ClassGone)
	return append(head, rest...)
}

// readVolume reads a replica's snapshot while the next one arrives.
func (s *suite) readVolume() {
	src := s.volume("src")
	dst := s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"volmode": "none"}, dst))
	s.change(src, "b")
	want, err := s.env.Read(src + "@a")
	s.ok(err)
	got := s.contents(s.reading(dst+"@a", zfs.TypeVolume), func() {
		s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, dst, []string{"a"}), zfs.ClassClones)
		s.ok(s.receive(dst, s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})))
	})
	if !bytes.Equal(got, want) {
		s.Errorf("read %d bytes that are not the snapshot's %d", len(got), len(want))
	}
	d := s.get(dst)
	equal(s, d.Written, 0)
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, dst, []string{"a"}))
}

// readFilesystem reads the same of a source and of its replica, which is never mounted.
func (s *suite) readFilesystem() {
	src, dst := s.ds("fs"), s.ds("replica")
	s.ok(s.env.Create(src, 0, nil))
	s.ok(s.env.Write(src, 0, noise("files", 20)))
	s.snap(src + "@a")
	_, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{Dataset: dst, Type: zfs.TypeFilesystem}, bytes.NewReader(s.stream(zfs.SendSpec{Snapshot: src + "@a"})))
	s.ok(err)
	own := s.contents(s.reading(src+"@a", zfs.TypeFilesystem), func() {})
	copied := s.contents(s.reading(dst+"@a", zfs.TypeFilesystem), func() {
		if s.get(dst).Mounted {
			s.Error("the replica is mounted")
		}
	})
	if d := cmp.Diff(own, copied); d != "" {
		s.Errorf("the replica reads differently: %d and %d bytes", len(own), len(copied))
	}
	if !bytes.Contains(own, noise("files", 20)[:4096]) {
		s.Error("the archive does not hold the data")
	}
	equal(s, s.get(dst).Written, 0)
}

// dropContents takes away what a process left that died, and nothing else.
func (s *suite) dropContents() {
	vol := s.volume("vol")
	spec := s.reading(vol+"@a", zfs.TypeVolume)
	s.ok(s.env.ZFS.DropContents(s.ctx, spec))
	s.ok(s.env.ZFS.Clone(s.ctx, spec.Snapshot, spec.Clone, spec.Props()))
	s.settle()
	foreign := spec
	foreign.Guest = "101"
	s.wantClass(s.env.ZFS.DropContents(s.ctx, foreign), zfs.ClassRefused)
	foreign.Clone = vol
	s.wantClass(s.env.ZFS.DropContents(s.ctx, foreign), zfs.ClassRefused)
	s.ok(s.env.ZFS.DropContents(s.ctx, spec))
	s.wantClass(s.get(spec.Clone).Err, zfs.ClassGone)
	_, err := s.env.ZFS.Contents(s.ctx, s.reading(vol+"@none", zfs.TypeVolume))
	s.wantClass(err, zfs.ClassGone)
}
