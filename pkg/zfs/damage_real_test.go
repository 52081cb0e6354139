//go:build realzfs

package zfs_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/zfs"
)

var (
	damages    = flag.Int("damages", 50, "at how many offsets a byte of a stream is changed")
	damageSeed = flag.Uint64("damage-seed", uint64(time.Now().UnixNano()), "which they are") //nolint:gosec // any number will do
)

// damaged is a volume with two snapshots, its streams, and what the snapshots hold.
type damaged struct {
	t       *testing.T
	z       *zfs.ZFS
	m       machine
	src     string
	streams [2][]byte // full to a, increment to b
	content [2][]byte
	guids   [2]uint64
}

// TestZFS_AChangedByteIsNoReplica needs root and a machine with ZFS. Wherever one byte of a stream changes before zfs receive
// sees it, there is no snapshot, and what was kept of it can be gone on with to the right one.
func TestZFS_AChangedByteIsNoReplica(t *testing.T) {
	t.Logf("seed %d", *damageSeed)
	rnd := rand.New(rand.NewPCG(*damageSeed, 0))
	d := newDamaged(t)
	inc := d.m.root + "/inc"
	if err := d.receive(inc, d.streams[0]); err != nil {
		t.Fatal(err)
	}
	refused, resumed, harmless := 0, 0, 0
	for i := range *damages {
		which := i % 2
		dst := inc
		if which == 0 {
			dst = fmt.Sprintf("%s/full%d", d.m.root, i)
		}
		bad := bytes.Clone(d.streams[which])
		at := offset(rnd, i, len(bad))
		bad[at] ^= byte(1 + rnd.IntN(255))
		err := d.receive(dst, bad)
		if err == nil {
			// A byte that means nothing: it is the replica.
			d.good(dst, which)
			harmless++
		} else {
			t.Logf("offset %d of %d: %v", at, len(bad), err)
			refused++
			if d.bad(dst, which, i%5 < 2) {
				resumed++
			}
		}
		d.reset(dst, which)
		if t.Failed() {
			t.Fatalf("offset %d of %d of stream %d", at, len(bad), which)
		}
	}
	t.Logf("%d changed bytes: %d streams were refused, of which %d were resumed; %d bytes meant nothing", *damages, refused, resumed, harmless)
	if refused < *damages/2 {
		t.Error("most changed bytes meant nothing")
	}
}

// offset is in the first record, in the last ones, or anywhere.
func offset(rnd *rand.Rand, i, size int) int {
	switch i % 10 {
	case 0, 1:
		return rnd.IntN(312)
	case 2:
		return size - 1 - rnd.IntN(624)
	default:
		return rnd.IntN(size)
	}
}

func newDamaged(t *testing.T) *damaged {
	t.Helper()
	pool, z := newPool(t)
	d := &damaged{t: t, z: z, m: machine{pool: pool, root: pool + "/t"}, src: pool + "/t/src"}
	must(t, "zfs", "create", d.m.root)
	if err := d.m.create(d.src, 4<<20, nil); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"a", "b"} {
		data := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		copy(data[len(data)/2:], bytes.Repeat([]byte("compressible "), len(data)/26))
		if err := d.m.write(d.src, int64(i)<<19, data[:len(data)/(i+1)]); err != nil {
			t.Fatal(err)
		}
		spec := zfs.SendSpec{Snapshot: d.src + "@" + name}
		if err := z.Snapshot(t.Context(), []string{spec.Snapshot}, nil); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			spec.From = d.src + "@a"
		}
		d.streams[i] = d.send(spec)
		var err error
		if d.content[i], err = d.m.read(spec.Snapshot); err != nil {
			t.Fatal(err)
		}
		d.guids[i] = d.list(d.src).Snapshots[i].GUID
	}
	return d
}

func (d *damaged) send(spec zfs.SendSpec) []byte {
	d.t.Helper()
	s, err := d.z.Send(d.t.Context(), spec)
	if err != nil {
		d.t.Fatal(err)
	}
	data, err := io.ReadAll(s)
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

func (d *damaged) receive(dst string, stream []byte) error {
	_, err := d.z.Receive(d.t.Context(), zfs.ReceiveSpec{Dataset: dst, Type: zfs.TypeVolume}, bytes.NewReader(stream))
	return err
}

func (d *damaged) list(name string) zfs.Dataset {
	d.t.Helper()
	l, err := d.z.List(d.t.Context(), name)
	if err != nil {
		d.t.Fatal(err)
	}
	return l[0]
}

// good wants the snapshot to be the one that was sent.
func (d *damaged) good(dst string, which int) {
	d.t.Helper()
	snaps := d.list(dst).Snapshots
	if len(snaps) != which+1 || snaps[which].GUID != d.guids[which] {
		d.t.Errorf("%s has %+v, want the GUID %d", dst, snaps, d.guids[which])
		return
	}
	got, err := d.m.read(dst + "@" + snaps[which].Name)
	if err != nil {
		d.t.Error(err)
	}
	if !bytes.Equal(got, d.content[which]) {
		d.t.Errorf("%s holds something else than what was sent", dst)
	}
}

// bad wants no snapshot, and goes on with what was kept; it says whether there was something.
func (d *damaged) bad(dst string, which int, resume bool) bool {
	d.t.Helper()
	l := d.list(dst)
	if slices.ContainsFunc(l.Snapshots, func(s zfs.Snapshot) bool { return which == 1 && s.Name == "b" || which == 0 }) {
		d.t.Errorf("the receive failed, and %s has %+v", dst, l.Snapshots)
	}
	if !l.Exists() || l.ResumeToken == "" || !resume {
		return false
	}
	// A token that names something else than what is there is what the planner drops.
	info, err := d.z.TokenInfo(d.t.Context(), d.src, l.ResumeToken)
	if err != nil || info.ToGUID != d.guids[which] {
		return false
	}
	if err := d.receive(dst, d.send(zfs.SendSpec{Token: l.ResumeToken, Dataset: d.src})); err != nil {
		d.t.Errorf("go on with what was kept: %v", err)
		return false
	}
	d.good(dst, which)
	return true
}

// reset takes away what a try left.
func (d *damaged) reset(dst string, which int) {
	d.t.Helper()
	l := d.list(dst)
	if !l.Exists() {
		return
	}
	if l.ResumeToken != "" {
		if err := d.z.AbortReceive(d.t.Context(), dst); err != nil {
			d.t.Error(err)
		}
	}
	if which == 1 && len(l.Snapshots) == 2 {
		must(d.t, "zfs", "rollback", "-r", dst+"@a")
	}
	if which == 0 && len(l.Snapshots) > 0 {
		_ = d.m.run("udevadm", "settle")
		must(d.t, "zfs", "destroy", "-r", dst)
	}
}
