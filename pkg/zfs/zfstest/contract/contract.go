// Package contract is what real and in-memory ZFS both keep: one suite of tests, run against pkg/zfs/zfstest's Pool in every
// `go test`, and against pkg/zfs on a machine that has ZFS (build tag realzfs). Where the two differ, the in-memory one is wrong.
package contract

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/zfs"
)

// Env is a backend with an empty dataset to work in, and what an operator or guest can do to it.
type Env struct {
	ZFS Backend
	// Root is an empty filesystem with room for 64 MiB.
	Root string
	// Create makes a zvol of volsize bytes, or a filesystem if it is 0.
	Create func(name string, volsize uint64, props map[string]string) error
	// Write writes blocks of 4 KiB into a dataset.
	Write func(name string, offset int64, data []byte) error
	// Read reads a snapshot (full name).
	Read func(name string) ([]byte, error)
	// Rollback is `zfs rollback -r`, Destroy `zfs destroy -r`.
	Rollback func(snap string) error
	Destroy  func(name string) error
	// Settle waits until nothing but the test has the volumes open (udev looks into new ones); may be nil.
	Settle func()
	Cipher
}

const block = 4096

// Run runs the suite. newEnv is called for each test.
func Run(t *testing.T, newEnv func(t *testing.T) Env) {
	t.Helper()
	for name, test := range withAside(map[string]func(*suite){
		"ListTellsTypesPropertiesAndOrder":   (*suite).list,
		"ListTellsWhatIsAbsent":              (*suite).listAbsent,
		"PropertiesAreNeverInherited":        (*suite).ownProps,
		"SnapshotIsAllOrNothing":             (*suite).snapshotAtomic,
		"DestroyTakesNamesAndSparesTheHeld":  (*suite).destroySnapshots,
		"BookmarkKeepsIdentity":              (*suite).bookmarks,
		"ReplicatesFullAndIncrements":        (*suite).replicate,
		"SendsFromBookmark":                  (*suite).fromBookmark,
		"FilesystemReplicaIsNotMounted":      (*suite).filesystem,
		"ResumesACutReceive":                 (*suite).resume,
		"ResumesACutIncrement":               (*suite).resumeIncrement,
		"ResumesAKilledReceive":              (*suite).resumeKilled,
		"TellsStaleTokens":                   (*suite).staleToken,
		"AbortsAReceive":                     (*suite).abort,
		"RefusesWhatDoesNotFit":              (*suite).refuses,
		"ToleratesForeignEmptySnapshot":      (*suite).foreignSnapshot,
		"ReceivesTheSameTwice":               (*suite).twice,
		"DetectsDamage":                      (*suite).damage,
		"RecoversAStaleOwnerByClone":         (*suite).staleOwner,
		"RenamesAndPromotes":                 (*suite).promoteConflict,
		"DestroysOnlyTheReplicaThatIsMeant":  (*suite).destroyDataset,
		"RollbackTakesNewerAway":             (*suite).rollback,
		"SendSaysWhatIsMissing":              (*suite).sendMissing,
		"FailedReadOfTheStreamBlamesThePeer": (*suite).peer,
		"VolumeGrowsWithTheIncrement":        (*suite).resize,
		"EncryptedGoesRaw":                   (*suite).raw,
		"RawAndPlainDoNotMix":                (*suite).mixed,
		"RawNeedsAnEncryptedReplica":         (*suite).rawOntoPlain,
		"PropertiesComeWithTheReceive":       (*suite).properties,
		"ZvolWithoutADeviceNode":             (*suite).device,
		"PoolTellsItsFeatures":               (*suite).poolFacts,
		"ChangeTakesAllOrNothing":            (*suite).changeTakes,
		"ChangesAreIndependent":              (*suite).changesApart,
		"ChangeMarksWhatIsStillThere":        (*suite).changeMarks,
		"ChangeDestroysWhatIsMarked":         (*suite).changeDestroys,
		"ChangeRefusesWhatIsNotAsExpected":   (*suite).changeRefuses,
		"ChangeOfManyIsOneProcess":           (*suite).changeMany,
		"ReadsAVolumeThatGoesOn":             (*suite).readVolume,
		"ReadsAFilesystemUnmounted":          (*suite).readFilesystem,
		"DropsWhatAReadingLeft":              (*suite).dropContents,
		"TriesAReplicaThatGoesOn":            (*suite).trials,
	}) {
		t.Run(name, func(t *testing.T) {
			s := &suite{T: t, env: newEnv(t), ctx: t.Context()}
			test(s)
		})
	}
}

type suite struct {
	*testing.T
	env Env
	ctx context.Context // the test's
}

func (s *suite) ds(name string) string { return s.env.Root + "/" + name }

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("unexpected error of class %q: %v", zfs.ClassOf(err), err)
	}
}

func (s *suite) settle() {
	if s.env.Settle != nil {
		s.env.Settle()
	}
}

func (s *suite) wantClass(err error, want zfs.Class) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("got class %q (%v), want %q", zfs.ClassOf(err), err, want)
	}
}

func equal[V any](s *suite, got, want V) {
	s.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		s.Errorf("(-want +got)\n%s", diff)
	}
}

// noise is data that does not compress and is the same in every run.
func noise(seed string, blocks int) []byte {
	var out []byte
	sum := sha256.Sum256([]byte(seed))
	for len(out) < blocks*block {
		sum = sha256.Sum256(sum[:])
		out = append(out, sum[:]...)
	}
	return out
}

// volume makes a zvol of 8 MiB with data and its first snapshot.
func (s *suite) volume(name string) string {
	s.Helper()
	full := s.ds(name)
	s.ok(s.env.Create(full, 8<<20, nil))
	s.ok(s.env.Write(full, 0, noise(name, 64)))
	s.snap(full + "@a")
	return full
}

func (s *suite) snap(full string) {
	s.Helper()
	s.ok(s.env.ZFS.Snapshot(s.ctx, []string{full}, nil))
}

// change writes other data and takes a snapshot of it.
func (s *suite) change(ds, name string) {
	s.Helper()
	s.ok(s.env.Write(ds, 16*block, noise(ds+name, 32)))
	s.snap(ds + "@" + name)
}

func (s *suite) get(ds string) zfs.Dataset {
	s.Helper()
	list, err := s.env.ZFS.List(s.ctx, ds)
	s.ok(err)
	return list[0]
}

func (s *suite) stream(spec zfs.SendSpec) []byte {
	s.Helper()
	st, err := s.env.ZFS.Send(s.ctx, spec)
	s.ok(err)
	data, err := io.ReadAll(st)
	s.ok(err)
	s.ok(st.Wait())
	s.ok(st.Close())
	return data
}

func (s *suite) receive(ds string, stream []byte) error {
	_, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{Dataset: ds, Type: zfs.TypeVolume}, bytes.NewReader(stream))
	return err
}

func (s *suite) copyTo(ds string, spec zfs.SendSpec) {
	s.Helper()
	s.ok(s.receive(ds, s.stream(spec)))
}

func (s *suite) sameContent(a, b string) {
	s.Helper()
	got, err := s.env.Read(a)
	s.ok(err)
	want, err := s.env.Read(b)
	s.ok(err)
	if !bytes.Equal(got, want) {
		s.Errorf("%s and %s differ", a, b)
	}
}

func snapNames(d zfs.Dataset) []string {
	var names []string
	for _, snap := range d.Snapshots {
		names = append(names, snap.Name)
	}
	return names
}

func guids(d zfs.Dataset) map[string]uint64 {
	m := map[string]uint64{}
	for _, snap := range d.Snapshots {
		m[snap.Name] = snap.GUID
	}
	return m
}

func (s *suite) list() {
	vol, fs := s.volume("vol"), s.ds("fs")
	s.ok(s.env.Create(fs, 0, nil))
	s.change(vol, "Z")
	s.change(vol, "0 b")
	s.ok(s.env.Write(vol, 0, noise("more", 1)))

	list, err := s.env.ZFS.List(s.ctx, fs, vol)
	s.ok(err)
	equal(s, list[0].Type, zfs.TypeFilesystem)
	equal(s, list[0].Mounted, true)
	d := list[1]
	equal(s, []any{d.Name, d.Type, d.VolSize, d.ReadOnly, d.Origin, d.ResumeToken, d.Encryption, d.CanMount},
		[]any{vol, zfs.TypeVolume, uint64(8 << 20), false, "", "", "off", ""})
	equal(s, snapNames(d), []string{"a", "Z", "0 b"})
	for i, snap := range d.Snapshots {
		if snap.GUID == 0 || snap.CreateTXG == 0 || snap.Creation.IsZero() || i > 0 && snap.CreateTXG <= d.Snapshots[i-1].CreateTXG {
			s.Errorf("snapshot %d: %+v", i, snap)
		}
	}
	if d.GUID == 0 || d.Available == 0 || d.Referenced == 0 {
		s.Errorf("empty figures: %+v", d)
	}

	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropGuest: "100", zfs.PropPoint: `{"a": "b c"}`}, vol, vol+"@Z"))
	d = s.get(vol)
	want := map[string]string{zfs.PropGuest: "100", zfs.PropPoint: `{"a": "b c"}`}
	equal(s, d.Props, want)
	equal(s, d.Snapshots[1].Props, want)
	s.ok(s.env.ZFS.Inherit(s.ctx, zfs.PropGuest, vol))
	equal(s, s.get(vol).Props, map[string]string{zfs.PropPoint: `{"a": "b c"}`})

	children, err := s.env.ZFS.Children(s.ctx, s.env.Root)
	s.ok(err)
	var names []string
	for _, c := range children {
		names = append(names, c.Name)
	}
	equal(s, names, []string{fs, vol})

	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "on"}, vol))
	props, err := s.env.ZFS.Properties(s.ctx, []string{"readonly", zfs.PropGuest}, vol, vol+"@a")
	s.ok(err)
	equal(s, props[vol], map[string]zfs.Property{"readonly": {Value: "on", Source: "local"}, zfs.PropGuest: {Value: "-", Source: "-"}})
	storage, err := s.env.ZFS.Storage(s.ctx, s.env.Root)
	s.ok(err)
	equal(s, []any{storage.Type, storage.Health, storage.PoolReadOnly}, []any{"filesystem", "ONLINE", false})
	version, err := s.env.ZFS.Version(s.ctx)
	s.ok(err)
	equal(s, version.AtLeast(2, 1, 0), true)
}

func (s *suite) listAbsent() {
	vol := s.volume("vol")
	list, err := s.env.ZFS.List(s.ctx, s.ds("none"), vol, "nosuchpool/x", s.ds("none2/deep"))
	s.ok(err)
	s.wantClass(list[0].Err, zfs.ClassGone)
	equal(s, list[1].Exists(), true)
	s.wantClass(list[2].Err, zfs.ClassPoolAbsent)
	s.wantClass(list[2].Err, zfs.ClassPool)
	s.wantClass(list[3].Err, zfs.ClassGone)
	_, err = s.env.ZFS.Storage(s.ctx, s.ds("none"))
	s.wantClass(err, zfs.ClassGone)
	_, err = s.env.ZFS.Storage(s.ctx, "nosuchpool/x")
	s.wantClass(err, zfs.ClassPoolAbsent)
	_, err = s.env.ZFS.List(s.ctx, "-r")
	s.wantClass(err, zfs.ClassRefused)
}

func (s *suite) ownProps() {
	fs := s.ds("fs")
	s.ok(s.env.Create(fs, 0, nil))
	s.ok(s.env.Create(fs+"/child", 0, nil))
	s.snap(fs + "@a")
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropRole: zfs.RoleReplica}, fs))
	d := s.get(fs)
	equal(s, d.Props, map[string]string{zfs.PropRole: zfs.RoleReplica})
	equal(s, d.Snapshots[0].Props, nil)
	equal(s, s.get(fs+"/child").Props, nil)
	equal(s, len(d.Snapshots), 1)
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "on"}, fs))
	equal(s, s.get(fs+"/child").ReadOnly, true)
}

func (s *suite) snapshotAtomic() {
	one, two := s.volume("one"), s.volume("two")
	err := s.env.ZFS.Snapshot(s.ctx, []string{one + "@b", two + "@a"}, nil)
	s.wantClass(err, zfs.ClassExists)
	equal(s, snapNames(s.get(one)), []string{"a"})
	s.ok(s.env.ZFS.Snapshot(s.ctx, []string{one + "@b", two + "@b"}, map[string]string{zfs.PropPoint: "p"}))
	list, err := s.env.ZFS.List(s.ctx, one, two)
	s.ok(err)
	equal(s, list[0].Snapshots[1].CreateTXG, list[1].Snapshots[1].CreateTXG)
	equal(s, list[1].Snapshots[1].Props, map[string]string{zfs.PropPoint: "p"})
	s.wantClass(s.env.ZFS.Snapshot(s.ctx, []string{one + "@c", s.ds("none") + "@c"}, nil), zfs.ClassGone)
	s.wantClass(s.env.ZFS.Snapshot(s.ctx, []string{one + "@c", "other/x@c"}, nil), zfs.ClassRefused)
	equal(s, len(s.get(one).Snapshots), 2)
}

func (s *suite) destroySnapshots() {
	vol := s.volume("vol")
	for _, name := range []string{"b", "c", "d"} {
		s.change(vol, name)
	}
	s.ok(s.env.ZFS.Hold(s.ctx, "tandem", vol+"@b"))
	s.ok(s.env.ZFS.Hold(s.ctx, "tandem", vol+"@b", vol+"@c"))
	holds, err := s.env.ZFS.Holds(s.ctx, vol+"@b", vol+"@a")
	s.ok(err)
	equal(s, holds, []zfs.Hold{{Snapshot: vol + "@b", Tag: "tandem"}})
	equal(s, s.get(vol).Snapshots[1].UserRefs, 1)
	err = s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"a", "b"})
	if !errors.Is(err, zfs.ClassHeld) && !errors.Is(err, zfs.ClassBusy) {
		s.Errorf("got %v, want held (from 2.3 on) or busy", err)
	}
	equal(s, snapNames(s.get(vol)), []string{"a", "b", "c", "d"})
	s.ok(s.env.ZFS.Release(s.ctx, "tandem", vol+"@b", vol+"@c", vol+"@d"))
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"a", "nothing", "c"}))
	equal(s, snapNames(s.get(vol)), []string{"b", "d"})
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"nothing"}))
	s.ok(s.env.ZFS.Clone(s.ctx, vol+"@b", s.ds("clone"), nil))
	s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"b"}), zfs.ClassClones)
	s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"b%d"}), zfs.ClassRefused)
	s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"b,d"}), zfs.ClassRefused)
	s.wantClass(s.env.ZFS.DestroySnapshots(s.ctx, s.ds("none"), []string{"b"}), zfs.ClassGone)
}

func (s *suite) bookmarks() {
	vol := s.volume("vol")
	s.ok(s.env.ZFS.Bookmark(s.ctx, vol+"@a", vol+"#m"))
	s.wantClass(s.env.ZFS.Bookmark(s.ctx, vol+"@a", vol+"#m"), zfs.ClassExists)
	s.ok(s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"a"}))
	s.change(vol, "b")
	s.wantClass(s.env.ZFS.Bookmark(s.ctx, vol+"@a", vol+"#n"), zfs.ClassGone)
	d := s.get(vol)
	if len(d.Bookmarks) != 1 || d.Bookmarks[0].Name != "m" || d.Bookmarks[0].GUID == 0 || d.Bookmarks[0].CreateTXG >= d.Snapshots[0].CreateTXG {
		s.Errorf("bookmarks: %+v", d.Bookmarks)
	}
	s.ok(s.env.ZFS.DestroyBookmark(s.ctx, vol+"#m"))
	s.wantClass(s.env.ZFS.DestroyBookmark(s.ctx, vol+"#m"), zfs.ClassGone)
}

func (s *suite) refuses() {
	src := s.volume("src")
	s.change(src, "b")
	dst := s.ds("dst")
	s.copyTo(dst, zfs.SendSpec{Snapshot: src + "@a"})
	s.wantClass(s.receive(dst, s.stream(zfs.SendSpec{Snapshot: src + "@a"})), zfs.ClassExists)

	other := s.volume("other")
	s.wantClass(s.receive(other, s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})), zfs.ClassDiverged)
	s.wantClass(s.receive(s.ds("none/x"), s.stream(zfs.SendSpec{Snapshot: src + "@a"})), zfs.ClassGone)
	s.wantClass(s.receive(s.ds("new"), s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})), zfs.ClassGone)

	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "off"}, dst))
	s.ok(s.env.Write(dst, 0, noise("foreign", 1)))
	s.wantClass(s.receive(dst, s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})), zfs.ClassDiverged)
	s.snap(dst + "@theirs")
	s.wantClass(s.receive(dst, s.stream(zfs.SendSpec{Snapshot: src + "@b", From: src + "@a"})), zfs.ClassDiverged)
	equal(s, snapNames(s.get(dst)), []string{"a", "theirs"})

	long := src + "@" + strings.Repeat("x", 255-len(src)-1)
	s.snap(long)
	err := s.receive(s.ds("much-longer-than-src"), s.stream(zfs.SendSpec{Snapshot: long}))
	s.wantClass(err, zfs.ClassBadArg)
}

func (s *suite) destroyDataset() {
	src := s.volume("src")
	dst := s.ds("dst")
	_, err := s.env.ZFS.Receive(s.ctx, zfs.ReceiveSpec{
		Dataset: dst, Type: zfs.TypeVolume,
		Props: map[string]string{zfs.PropGuest: "100", zfs.PropRole: zfs.RoleReplica},
	}, bytes.NewReader(s.stream(zfs.SendSpec{Snapshot: src + "@a"})))
	s.ok(err)
	s.snap(dst + "@theirs")
	d := s.get(dst)
	good := zfs.DestroySpec{Dataset: dst, GUID: d.GUID, Guest: "100", Snapshots: []uint64{d.Snapshots[0].GUID, d.Snapshots[1].GUID}}
	for why, spoil := range map[string]func(*zfs.DestroySpec){
		"guid": func(spec *zfs.DestroySpec) { spec.GUID++ }, "guest": func(spec *zfs.DestroySpec) { spec.Guest = "101" },
		"snapshot": func(spec *zfs.DestroySpec) { spec.Snapshots = spec.Snapshots[:1] },
	} {
		spec := good
		spoil(&spec)
		if err := s.env.ZFS.DestroyDataset(s.ctx, spec); !errors.Is(err, zfs.ClassRefused) {
			s.Errorf("wrong %s: got %v, want a refusal", why, err)
		}
	}
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropRole: zfs.RoleOwner}, dst))
	s.wantClass(s.env.ZFS.DestroyDataset(s.ctx, good), zfs.ClassRefused)
	equal(s, len(s.get(dst).Snapshots), 2)
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropRole: zfs.RoleReplica}, dst))
	s.settle()
	owner := good
	owner.Role = zfs.RoleOwner
	s.wantClass(s.env.ZFS.DestroyDataset(s.ctx, owner), zfs.ClassRefused)
	s.ok(s.env.ZFS.DestroyDataset(s.ctx, good))
	s.wantClass(s.get(dst).Err, zfs.ClassGone)
	s.wantClass(s.env.ZFS.DestroyDataset(s.ctx, good), zfs.ClassGone)
}
