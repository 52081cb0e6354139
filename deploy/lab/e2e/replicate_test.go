//go:build lab

package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/pkg/api"
)

const (
	mib = 1 << 20
	// rounds after the full sync: the 1 % and three more.
	rounds = 4
)

// random gives the same bytes for the same seed.
func random(seed byte, size int) []byte {
	var key [32]byte
	key[0] = seed
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data) // it cannot fail
	return data
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// put writes data at an offset of a device or a file, past the machine's caches.
func (o node) put(t *testing.T, file string, offset int, data []byte) {
	t.Helper()
	var stderr bytes.Buffer
	command := fmt.Sprintf("dd of=%s bs=64K iflag=fullblock oflag=seek_bytes seek=%d conv=notrunc,fsync", file, offset)
	code, err := o.Stream(world.ctx, command, lab.Streams{Stdin: bytes.NewReader(data), Stderr: &stderr})
	if err != nil || code != 0 {
		t.Fatalf("on %s: %s: exit code %d, %v: %s", o.Name(), command, code, err, stderr.String())
	}
}

// device waits for the device node of a zvol, which udev makes when it comes to it.
func (o node) device(t *testing.T, dataset string) string {
	t.Helper()
	return o.sh(t, "d=/dev/zvol/%s; for i in $(seq 600); do test -b $d && (: <$d) 2>/dev/null && break; sleep 0.1; done; "+
		"test -b $d || { echo no device $d >&2; exit 1; }; echo $d", dataset)
}

// newestPoint stands for the newest of Tandem's snapshots, whatever its name is: the next sync may remove the one before.
const newestPoint = ""

// clone makes a snapshot readable outside Tandem's dataset; release undoes it.
func (o node) clone(t *testing.T, dataset, snapshot string) (clone string) {
	t.Helper()
	pool, _, _ := strings.Cut(dataset, "/")
	clone = pool + "/look-" + path.Base(dataset)
	name := dataset + "@" + snapshot
	if snapshot == newestPoint {
		name = fmt.Sprintf("$(zfs list -Hp -d1 -t snapshot -o name -s createtxg %s | grep @tandem_ | tail -n 1)", dataset)
	}
	o.sh(t, "for i in 1 2 3; do zfs clone -o readonly=on %s %s && exit; done; exit 1", name, clone)
	return clone
}

// hashSnapshot reads the device of a zvol's snapshot.
func (o node) hashSnapshot(t *testing.T, dataset, snapshot string) string {
	t.Helper()
	clone := o.clone(t, dataset, snapshot)
	defer o.release(t, clone)
	return o.sh(t, "sha256sum <%s", o.device(t, clone))[:64]
}

// release destroys a clone, which udev may still be looking at.
func (o node) release(t *testing.T, clone string) {
	t.Helper()
	o.sh(t, "udevadm settle; for i in $(seq 50); do zfs destroy %[1]s 2>/dev/null && exit; sleep 0.1; done; zfs destroy %[1]s", clone)
}

// guids are the GUIDs of a volume's snapshots, by name.
func (o node) guids(t *testing.T, dataset string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(o.sh(t, "zfs list -Hp -d1 -t snapshot -o name,guid %s", dataset)) {
		name, guid, _ := strings.Cut(strings.TrimSpace(line), "\t")
		_, snapshot, _ := strings.Cut(name, "@")
		found[snapshot] = guid
	}
	return found
}

// travelled checks that an operator's snapshot is on n2, the same one.
func travelled(t *testing.T, dataset, snapshot string) {
	t.Helper()
	want, got := n("n1").guids(t, dataset)[snapshot], n("n2").guids(t, dataset)[snapshot]
	if want == "" || got != want {
		t.Errorf("operator's snapshot %s@%s: GUID %q on n2, %q on n1", dataset, snapshot, got, want)
	}
}

// isReplica checks that nobody can write the replica, nor see it in the tree of files.
func isReplica(t *testing.T, dataset string) {
	t.Helper()
	want := map[string]string{"readonly": "on", "mounted": "no", "tandem:role": "replica"}
	if strings.Contains(dataset, "vm-") {
		want["mounted"] = "-"
	} else {
		want["canmount"] = "noauto"
	}
	got := map[string]string{}
	for property := range want {
		got[property] = n("n2").sh(t, "zfs get -Hp -o value %s %s", property, dataset)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("properties of the replica %s (-want +got):\n%s", dataset, diff)
	}
}

// sent checks that a run sent about what was changed: all of it, and not much more.
func sent(t *testing.T, run api.Run, kind string, changed int) {
	t.Helper()
	t.Logf("job %s run %d: %s, %d bytes for %d changed, %.1f s", run.Job, run.ID, run.Kind, run.Bytes, changed, run.End.Sub(run.Start).Seconds())
	if run.Kind != kind {
		t.Errorf("job %s: the run was %s, want %s", run.Job, run.Kind, kind)
	}
	low, high := int64(changed), int64(changed)*3/2+256<<10
	if run.Bytes < low || run.Bytes > high {
		t.Errorf("job %s: %s run sent %d bytes, want %d to %d", run.Job, kind, run.Bytes, low, high)
	}
}

// disk is a zvol on n1 and what must be on it.
type disk struct {
	dataset string
	want    []byte
}

func (d disk) write(t *testing.T, offset int, data []byte) {
	t.Helper()
	copy(d.want[offset:], data)
	n("n1").put(t, n("n1").device(t, d.dataset), offset, data)
}

// replicateDisk follows the disk of a virtual machine through a full sync and four more.
func replicateDisk(t *testing.T) {
	t.Parallel()
	const size = 48 * mib
	d := disk{"tank/guests/vm-100-disk-0", make([]byte, size)}
	n("n1").sh(t, "zfs create -V %d %s", size, d.dataset)
	d.write(t, 0, random(1, size))
	n("n1").sh(t, "zfs snapshot %s@before-tandem", d.dataset)
	old := hash(d.want)
	d.write(t, 8*mib, random(2, 4*mib)) // the snapshot has something of its own
	n("n1").sh(t, "tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0")
	begun := n("n1").clock(t)
	n("n1").sh(t, "tandem create-local-job 100-0 n2 --schedule '*/1'")

	run := n("n1").synced(t, "100-0", begun)
	sent(t, run, "full", size+4*mib)
	if got := n("n2").hashSnapshot(t, d.dataset, newestPoint); got != hash(d.want) {
		t.Fatalf("the zvol on n2 after the full sync: SHA-256 %s, want %s", got, hash(d.want))
	}
	isReplica(t, d.dataset)
	travelled(t, d.dataset, "before-tandem")
	if got := n("n2").hashSnapshot(t, d.dataset, "before-tandem"); got != old {
		t.Errorf("%s@before-tandem on n2: SHA-256 %s, want %s", d.dataset, got, old)
	}
	for round := 1; round <= rounds; round++ {
		change := random(byte(10+round), size/100&^0xffff)
		d.write(t, round*mib, change)
		taken := fmt.Sprintf("by-hand-%d", round)
		if round > 1 {
			n("n1").sh(t, "zfs snapshot %s@%s", d.dataset, taken)
		}
		run = n("n1").synced(t, "100-0", n("n1").clock(t))
		sent(t, run, "incremental", len(change))
		if got := n("n2").hashSnapshot(t, d.dataset, newestPoint); got != hash(d.want) {
			t.Fatalf("the zvol on n2 after round %d: SHA-256 %s, want %s", round, got, hash(d.want))
		}
		if round > 1 {
			travelled(t, d.dataset, taken)
		}
		isReplica(t, d.dataset)
	}
	travelled(t, d.dataset, "before-tandem")
}

// makeTree fills the filesystem with what is easily lost on the way: owners, modes, xattrs, holes, links, odd names, times.
const makeTree = `set -e; cd %s
mkdir -p etc var/empty home/user 'odd names'
for i in $(seq 1 60); do yes "line of $i" | head -c 20000 >etc/file-$i; done
chown 1000:1001 home/user; chmod 2775 home/user; chmod 1777 var; chmod 0000 etc/file-1; chmod 4755 etc/file-2
chown 65534:7 etc/file-3
setfattr -n user.comment -v 'known value' etc/file-4
setfattr -n trusted.hidden -v 0xdeadbeef etc/file-5
setfattr -n user.folder -v yes home/user
setfattr -n security.capability -v 0x0100000202040000000000000000000000000000 etc/file-6
truncate -s 24M holes; printf tail | dd of=holes bs=1 seek=20000000 conv=notrunc status=none
ln etc/file-7 etc/file-7-again; ln -s ../etc/file-8 home/user/link; ln -s /nowhere home/user/dangling
mkfifo var/pipe; mknod var/null c 1 3
printf x >'odd names/äöü ☃'; printf y >"odd names/new
line"; touch -d '2001-02-03 04:05:06.789 UTC' etc/file-9; : >empty
`

// manifest lists everything that is known of the files below a folder.
const manifest = `cd %s && { find . -printf '%%P|%%y|%%m|%%U|%%G|%%s|%%n|%%T@|%%l\0' | sort -z | tr '\0' '\n'
find . -type f -print0 | sort -z | xargs -0 sha256sum
find . -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex; }`

// tree reads the manifest of the newest point through a clone that is mounted outside Tandem's dataset and gone afterwards.
func (o node) tree(t *testing.T, dataset string) string {
	t.Helper()
	clone := o.clone(t, dataset, newestPoint)
	o.sh(t, "zfs set mountpoint=/mnt/look %s", clone)
	defer o.release(t, clone)
	blocks := o.sh(t, "stat -c '%%s %%b' /mnt/look/holes")
	var length, sectors int
	if _, err := fmt.Sscan(blocks, &length, &sectors); err != nil || length != 24*mib || sectors*512 > mib {
		t.Errorf("%s: the file with holes: length and sectors %q: the holes are filled", dataset, blocks)
	}
	return o.sh(t, manifest, "/mnt/look")
}

// replicateTree follows the filesystem of a container in the same way.
func replicateTree(t *testing.T) {
	t.Parallel()
	const (
		dataset = "tank/guests/subvol-200-disk-0"
		root    = "/srv/200"
		size    = 20 * mib
	)
	n("n1").sh(t, "zfs create -o mountpoint=%s -o xattr=sa %s", root, dataset)
	n("n1").sh(t, makeTree, root)
	data := random(3, size)
	n("n1").put(t, root+"/data", 0, data)
	n("n1").sh(t, "zfs snapshot %s@before-tandem", dataset)
	n("n1").sh(t, "rm %s/etc/file-60", root)
	n("n1").sh(t, "tandem guest add 200 --type ct --name mail --volume local-zfs:subvol-200-disk-0")
	begun := n("n1").clock(t)
	n("n1").sh(t, "tandem create-local-job 200-0 n2 --schedule '*/1'")

	check := func(run api.Run) {
		t.Helper()
		want := n("n1").sh(t, manifest, root)
		known := []string{"holes|f|644|0|0|25165824|1|", "etc/file-2|f|4755|0|0|", "user.folder=0x796573", "trusted.hidden=0xdeadbeef", hash(data)}
		for _, line := range known {
			if !strings.Contains(want, line) {
				t.Fatalf("the manifest of the source lacks %q:\n%s", line, want)
			}
		}
		if diff := cmp.Diff(want, n("n2").tree(t, dataset)); diff != "" {
			t.Fatalf("the files on n2, run %d (-n1 +n2):\n%s", run.ID, diff)
		}
		isReplica(t, dataset)
		if mounts := n("n2").sh(t, "findmnt -rn -t zfs -o SOURCE || true"); strings.Contains(mounts, "subvol-200") {
			t.Errorf("on n2 the replica is mounted: %s", mounts)
		}
	}
	run := n("n1").synced(t, "200-0", begun)
	sent(t, run, "full", size)
	check(run)
	travelled(t, dataset, "before-tandem")
	for round := 1; round <= rounds; round++ {
		// Whole records: ZFS sends nothing smaller.
		change := random(byte(20+round), 2*128<<10)
		copy(data[round*mib:], change)
		n("n1").put(t, root+"/data", round*mib, change)
		n("n1").sh(t, `set -e; cd %s; mv etc/file-%d 'odd names/moved'; chown %d etc/file-40; chmod %d etc/file-41
setfattr -n user.round -v %d etc/file-42; rm etc/file-4%d; echo %d >>home/user/log`, root, 10+round, round, 600+round, round, 3+round, round)
		taken := fmt.Sprintf("by-hand-%d", round)
		if round > 1 {
			n("n1").sh(t, "zfs snapshot %s@%s", dataset, taken)
		}
		run = n("n1").synced(t, "200-0", n("n1").clock(t))
		sent(t, run, "incremental", len(change))
		check(run)
		if round > 1 {
			travelled(t, dataset, taken)
		}
	}
}

// refuseForeign checks that a volume which is no replica of Tandem's is left alone, and that the operator is told.
func refuseForeign(t *testing.T) {
	t.Parallel()
	const dataset = "tank/guests/vm-300-disk-0"
	for _, name := range []string{"n1", "n2"} {
		n(name).sh(t, "zfs create -V 8M %s", dataset)
		n(name).put(t, n(name).device(t, dataset), 0, random(name[1], 2*mib))
	}
	n("n2").sh(t, "zfs snapshot %s@mine", dataset)
	look := "zfs list -Hp -d1 -t all -o name,guid,used,written,readonly " + dataset + "; sha256sum </dev/zvol/" + dataset +
		"; zfs get -Hp -s local,received all " + dataset
	before := n("n2").sh(t, "sync; sleep 6; zpool sync; %s", look) // until the figures have settled
	n("n1").sh(t, "tandem guest add 300 --type vm --name other --volume local-zfs:vm-300-disk-0")
	const create = "tandem create-local-job 300-0 n2 --schedule '*/1' --disable"
	out := n("n1").sh(t, "if %s 2>&1; then echo made; fi", create)
	t.Logf("the job is refused: %s", out)
	if strings.Contains(out, "made") || !strings.Contains(out, dataset) || !strings.Contains(out, "n2") {
		t.Errorf("a job onto a foreign volume: %s", out)
	}
	// One that is put in the job's way later is refused by the sync.
	n("n2").sh(t, "zfs rename %s tank/elsewhere", dataset)
	n("n1").sh(t, "%s", create)
	n("n2").sh(t, "zfs rename tank/elsewhere %s", dataset)
	n("n1").sh(t, "tandem enable 300-0")
	var job api.JobStatus
	eventually(t, "job 300-0 is refused", 2*time.Minute, 2*time.Second, func() (bool, string) {
		job = n("n1").job(t, "300-0")
		return job.FailCount > 0 && job.Error != "", fmt.Sprintf("%+v", job)
	})
	t.Logf("refused: %s\nhint: %s", job.Error, job.Hint)
	if !strings.Contains(job.Error, "vm-300-disk-0") || !strings.Contains(job.Error+job.Hint, "n2") {
		t.Errorf("the error names neither the volume nor the node: %s", job.Error)
	}
	if diff := cmp.Diff(before, n("n2").sh(t, "%s", look)); diff != "" {
		t.Errorf("the foreign volume on n2 has changed (-before +after):\n%s", diff)
	}
}
