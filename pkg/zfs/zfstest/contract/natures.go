package contract

import (
	"bytes"

	"github.com/tandemd/tandem/pkg/zfs"
)

// Cipher is what an operator does with encrypted datasets and device nodes.
type Cipher struct {
	// Encrypt are the properties with which an encrypted dataset is created, with a key of its own.
	Encrypt map[string]string
	// Key loads or unloads the key of an encryption root.
	Key func(name string, loaded bool) error
	// Device tells whether a zvol has a device node; nil where there are none.
	Device func(name string) bool
}

// encrypted makes a zvol below an encrypted filesystem, whose key it has, with data and its first snapshot.
func (s *suite) encrypted() string {
	s.Helper()
	s.ok(s.env.Create(s.ds("enc"), 0, s.env.Encrypt))
	full := s.ds("enc/src")
	s.ok(s.env.Create(full, 8<<20, nil))
	s.ok(s.env.Write(full, 0, noise("secret", 64)))
	s.snap(full + "@a")
	return full
}

func (s *suite) raw() {
	src, dst := s.encrypted(), s.ds("dst")
	d := s.get(src)
	equal(s, []any{d.Encryption, d.EncryptionRoot, d.KeyStatus}, []any{"aes-256-gcm", s.ds("enc"), "available"})
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a", Raw: true})
	d = s.get(dst)
	equal(s, []any{d.Encryption, d.EncryptionRoot, d.KeyStatus, d.ReadOnly}, []any{"aes-256-gcm", dst, "unavailable", true})
	equal(s, guids(d), guids(s.get(src)))
	s.change(src, "b")
	s.ok(s.env.ZFS.Bookmark(s.ctx, src+"@a", src+"#a"))
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@b", From: src + "#a", Raw: true})
	equal(s, guids(s.get(dst)), guids(s.get(src)))

	// An empty snapshot of somebody's is in the way of raw streams, and of those only.
	s.change(src, "c")
	s.snap(dst + "@autosnap")
	err := s.receive(dst, s.stream(zfs.SendSpec{Snapshot: src + "@c", From: src + "@b", Raw: true}))
	s.wantClass(err, zfs.ClassDiverged)
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, dst, []string{"autosnap"}))
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@c", From: src + "@b", Raw: true})
	s.ok(s.env.Key(dst, true))
	s.sameContent(dst+"@c", src+"@c")
}

// Without the key nothing but raw is sent, nor received below.
func (s *suite) mixed() {
	src, dst := s.encrypted(), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a", Raw: true})
	s.change(src, "b")
	plain := s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})
	s.wantClass(s.receive(dst, plain), zfs.ClassKey)
	equal(s, snapNames(s.get(dst)), []string{"a"})
}

func (s *suite) rawOntoPlain() {
	src, dst := s.encrypted(), s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	equal(s, s.get(dst).Encryption, "off")
	s.change(src, "b")
	s.wantClass(s.receive(dst, s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a", Raw: true})), zfs.ClassFeature)
	equal(s, snapNames(s.get(dst)), []string{"a"})
}

// What a receive sets is the dataset's own, is told by the list, and stays with the next increments.
func (s *suite) properties() {
	src, dst := s.ds("src"), s.ds("dst")
	s.ok(s.env.Create(src, 0, map[string]string{"recordsize": "16384", "xattr": "dir"}))
	s.ok(s.env.Write(src, 0, noise("fs", 4)))
	s.snap(src + "@a")
	s.ok(s.env.Write(src, 4*block, noise("more", 4)))
	s.snap(src + "@b")
	d := s.get(src)
	equal(s, []string{d.Own()["recordsize"], d.Own()["xattr"], d.Own()["quota"]}, []string{"16384", "dir", ""})
	equal(s, d.BlockSize(), 16384)
	want := map[string]string{
		"recordsize": "16384", "xattr": "dir", "quota": "33554432", "refquota": "16777216", "compression": "zstd-3", "atime": "off",
		"acltype": "posix", "readonly": "on", "canmount": "noauto",
	}
	spec := zfs.ReceiveSpec{Dataset: dst, Type: zfs.TypeFilesystem, Props: want}
	for _, send := range []zfs.SendSpec{{Snapshot: src + "@a"}, {Snapshot: src + "@b", From: src + "@a"}} {
		_, err := s.env.ZFS.Receive(s.ctx, spec, bytes.NewReader(s.stream(send)))
		s.ok(err)
		own := s.get(dst).Own()
		for name, value := range want {
			equal(s, name+"="+own[name], name+"="+value)
		}
		spec.Props = nil
	}
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"quota": "none", "xattr": "on"}, dst))
	s.ok(s.env.ZFS.Inherit(s.ctx, "recordsize", dst))
	if err := s.env.ZFS.SetProps(s.ctx, map[string]string{"quota": "0"}, dst); err == nil {
		s.Error("a quota of 0 was taken: it is none")
	}
	own := s.get(dst).Own()
	equal(s, []string{own["quota"], own["recordsize"]}, []string{"0", ""})
	s.sameContent(dst+"@b", src+"@b")
}

// A replica's zvol has no device node, also not for a moment that anybody could open it; what makes it the owner's gives it one.
func (s *suite) device() {
	src, dst := s.volume("src"), s.ds("dst")
	spec := zfs.ReceiveSpec{Dataset: dst, Type: zfs.TypeVolume, Props: map[string]string{"volmode": "none"}}
	_, err := s.env.ZFS.Receive(s.ctx, spec, bytes.NewReader(s.stream(zfs.SendSpec{Snapshot: src + "@a"})))
	s.ok(err)
	s.change(src, "b")
	spec.Props = nil
	_, err = s.env.ZFS.Receive(s.ctx, spec, bytes.NewReader(s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})))
	s.ok(err)
	equal(s, s.get(dst).Own()["volmode"], "none")
	if s.env.Device != nil && s.env.Device(dst) {
		s.Error("the replica has a device node")
	}
	s.ok(s.env.ZFS.Inherit(s.ctx, "volmode", dst))
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "off"}, dst))
	if s.env.Device != nil && !s.env.Device(dst) {
		s.Error("the device node does not come back")
	}
	s.ok(s.env.Write(dst, 0, noise("written", 2)))
}

func (s *suite) poolFacts() {
	pool, _, _ := bytes.Cut([]byte(s.env.Root), []byte("/"))
	facts, err := s.env.ZFS.PoolFacts(s.ctx, string(pool))
	s.ok(err)
	equal(s, facts.ReadOnly, false)
	for _, f := range []string{"encryption", "bookmark_v2", "large_blocks", "lz4_compress", "embedded_data", "zstd_compress", "large_dnode"} {
		if facts.Features[f] == "" {
			s.Errorf("no word of the feature %s: %v", f, facts.Features)
		}
	}
	_, err = s.env.ZFS.PoolFacts(s.ctx, "nosuchpool")
	s.wantClass(err, zfs.ClassPoolAbsent)
	trouble, err := s.env.ZFS.PoolTrouble(string(pool))
	s.ok(err)
	equal(s, trouble, "")
	trouble, err = s.env.ZFS.PoolTrouble("nosuchpool")
	s.ok(err)
	equal(s, trouble, zfs.PoolNotImported)
}
