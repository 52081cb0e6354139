package contract

import (
	"bytes"
	"path/filepath"

	"github.com/tandemd/tandem/pkg/zfs"
)

// trials makes a replica usable beside itself, writes there while the next state arrives, and takes that away again.
func (s *suite) trials() {
	for _, typ := range []zfs.Type{zfs.TypeVolume, zfs.TypeFilesystem} {
		src, dst := s.ds("src-"+string(typ)), s.ds("dst-"+string(typ))
		size := uint64(8 << 20)
		if typ == zfs.TypeFilesystem {
			size = 0
		}
		s.ok(s.env.Create(src, size, nil))
		s.ok(s.env.Write(src, 0, noise(src, 8)))
		s.snap(src + "@a")
		arrive := func(spec zfs.SendSpec) {
			_, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{Dataset: dst, Type: typ}, bytes.NewReader(s.stream(spec)))
			s.ok(err)
		}
		arrive(zfs.SendSpec{Snapshot: src + "@a"})
		spec := zfs.TrialSpec{
			Snapshot: dst + "@a", Type: typ, Clone: s.ds("tandem-drill-" + string(typ)), Guest: "100", Cluster: "c",
			Dir: filepath.Join(s.TempDir(), "trial"),
		}
		path, err := s.env.ZFS.Try(s.ctx, spec)
		s.ok(err)
		if want := map[zfs.Type]string{zfs.TypeVolume: "/dev/zvol/" + spec.Clone, zfs.TypeFilesystem: spec.Dir}[typ]; path != want {
			s.Errorf("the path is %s, want %s", path, want)
		}
		equal(s, s.get(spec.Clone).ReadOnly, false)
		s.settle()
		s.change(src, "b")
		arrive(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
		s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, dst, []string{"a"}), zfs.ClassClones)
		foreign := spec
		foreign.Clone, foreign.Type = dst, zfs.TypeVolume
		s.wantClass(s.env.ZFS.DropTrial(s.ctx, foreign), zfs.ClassRefused)
		s.ok(s.env.ZFS.DropTrial(s.ctx, spec))
		s.ok(s.env.ZFS.DropTrial(s.ctx, spec))
		s.wantClass(s.get(spec.Clone).Err, zfs.ClassGone)
		equal(s, s.get(dst).Written, 0)
		s.ok(s.env.ZFS.DestroySnapshots(s.ctx, dst, []string{"a"}))
	}
}
