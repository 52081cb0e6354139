//go:build lab

package e2e_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// A virtual machine under tandem-vm@.service and a container under tandem-ct@.service, as Tandem ships them.
const (
	vmID, vmUnit, vmDataset = "101", "tandem-vm@101.service", "tank/guests/vm-101-disk-0"
	ctID, ctUnit, ctDataset = "201", "tandem-ct@201.service", "tank/guests/subvol-201-disk-0"
	ctRoot                  = "/srv/ct-201"
	// vmLimit is for a virtual machine to reach its boot sector, emulated within an emulated machine.
	vmLimit = 5 * time.Minute
	// vmPatience is what tandem-vm@.service gives a virtual machine between the press of the power button and the end.
	vmPatience = 60 * time.Second
)

// bootSector is a whole system: it counts its boots on the disk, says the new number on the serial console, and powers off when its
// button is pressed, unless this is the third boot.
var bootSector = []byte{
	0xfa,       // cli
	0x31, 0xc0, // xor ax, ax
	0x8e, 0xd8, // mov ds, ax
	0x8e, 0xc0, // mov es, ax
	0x8e, 0xd0, // mov ss, ax
	0xbc, 0x00, 0x7c, // mov sp, 0x7c00
	0xfb, // sti
	0xfc, // cld
	0x52, // push dx: the drive
	// Read the second sector to 0x7e00.
	0xb8, 0x01, 0x02, // mov ax, 0x0201
	0xbb, 0x00, 0x7e, // mov bx, 0x7e00
	0xb9, 0x02, 0x00, // mov cx, 2
	0xb6, 0x00, // mov dh, 0
	0xcd, 0x13, // int 0x13
	0x72, 0x37, // jc idle
	// Count, and write it back.
	0xfe, 0x06, 0x0d, 0x7e, // inc byte [0x7e0d]
	0x5a,             // pop dx
	0xb8, 0x01, 0x03, // mov ax, 0x0301
	0xbb, 0x00, 0x7e, // mov bx, 0x7e00
	0xb9, 0x02, 0x00, // mov cx, 2
	0xb6, 0x00, // mov dh, 0
	0xcd, 0x13, // int 0x13
	0x72, 0x23, // jc idle
	// Say it.
	0xbe, 0x00, 0x7e, // mov si, 0x7e00
	0xba, 0xfd, 0x03, // say: mov dx, 0x3fd, the state of the serial port
	0xec,       // wait: in al, dx
	0xa8, 0x20, // test al, 0x20
	0x74, 0xfb, // jz wait
	0xac,       // lodsb
	0x84, 0xc0, // test al, al
	0x74, 0x05, // jz said
	0xb2, 0xf8, // mov dl, 0xf8: dx is 0x3f8, the serial port
	0xee,       // out dx, al
	0xeb, 0xee, // jmp say
	// Have the power button noted, which else nobody sees.
	0x80, 0x3e, 0x0d, 0x7e, '3', // said: cmp byte [0x7e0d], '3'
	0x74, 0x07, // je idle
	0xba, 0x02, 0x06, // mov dx, 0x602, PM1_EN
	0xb8, 0x00, 0x01, // mov ax, 0x100
	0xef, // out dx, ax
	// Sleep until the next tick of the clock.
	0xf4,             // idle: hlt
	0xba, 0x00, 0x06, // mov dx, 0x600, PM1_STS
	0xed,             // in ax, dx
	0xf6, 0xc4, 0x01, // test ah, 1
	0x74, 0xf6, // jz idle
	0xba, 0x04, 0x06, // mov dx, 0x604, PM1_CNT
	0xb8, 0x00, 0x20, // mov ax, 0x2000
	0xef,       // out dx, ax
	0xeb, 0xed, // jmp idle
}

// bootDisk are the boot sector and the one in which it counts.
func bootDisk() []byte {
	disk := make([]byte, 1024)
	copy(disk, bootSector)
	disk[510], disk[511] = 0x55, 0xaa
	copy(disk[512:], "Tandem: boot 0 of this disk\n")
	return disk
}

// ctInit is the only program of the container beside BusyBox: it writes numbered records and says on the console which are on the disk.
// It ends on SIGTERM and on what systemd-nspawn asks an init with, SIGRTMIN+3.
const ctInit = `#!/bin/busybox sh
b=/bin/busybox log=/data/log stop=
trap stop=1 TERM 37
start=$($b cut -c1-8 /proc/sys/kernel/random/boot_id) # systemd-nspawn gives each start its own
i=$($b cat $log 2>/dev/null | $b wc -l)
echo "${1:-init} begins at $i"
while [ -z "$stop" ]; do
	i=$((i+1))
	echo "$i $start $(echo $i $start | $b sha256sum | $b cut -c1-16)" | $b dd of=$log bs=4k oflag=append conv=notrunc,fsync 2>/dev/null || exit 1
	echo "record $i"
	$b sleep 1
done
echo "ends after $i"
`

// ctConfig has the program run as a command, which an empty configuration does not.
const ctConfig = "command = [\"/sbin/init\", \"command\"]\nkill_signal = \"SIGTERM\"\n"

// runGuests has a virtual machine and a container of Tandem's own units change their node, by a migration each and by the loss of their
// node.
func runGuests(t *testing.T) {
	onFailure(t)
	makeGuests(t)
	t.Run("migrate", func(t *testing.T) {
		t.Run("vm", migrateVM)
		t.Run("ct", migrateCT)
	})
	if t.Failed() {
		return
	}
	replicated := loseGuests(t)
	t.Run("recover", func(t *testing.T) {
		t.Run("vm", recoverVM)
		t.Run("ct", func(t *testing.T) { recoverCT(t, replicated) })
		t.Run("return", returnLoser)
	})
	if t.Failed() {
		return
	}
	drop(t, "n1", vmID+"-0", ctID+"-0")
	n("n1").sh(t, "tandem guest remove %s && tandem guest remove %s", vmID, ctID)
}

// makeGuests makes both on n1, replicates them to n2, and starts them.
func makeGuests(t *testing.T) {
	t.Helper()
	o := n("n1")
	o.sh(t, "zfs create -V 8M %s && zfs create -o mountpoint=%s %s", vmDataset, ctRoot, ctDataset)
	o.put(t, o.device(t, vmDataset), 0, bootDisk())
	o.sh(t, "cd %s && mkdir -p bin sbin usr etc root data && cp /bin/busybox bin && printf 'ID=records\\nNAME=Records\\n' >etc/os-release", ctRoot)
	o.write(t, ctRoot+"/sbin/init", ctInit)
	o.sh(t, "chmod +x %s/sbin/init", ctRoot)
	o.write(t, "/root/vm.toml", "memory = 32\n")
	o.write(t, "/root/ct.toml", ctConfig)
	o.sh(t, "tandem guest add %s --type vm --name boots --volume local-zfs:vm-101-disk-0 --unit %s --config /root/vm.toml", vmID, vmUnit)
	o.sh(t, "tandem guest add %s --type ct --name records --volume local-zfs:subvol-201-disk-0 --unit %s --config /root/ct.toml --quiesce freeze", ctID, ctUnit)
	since := o.clock(t)
	for _, id := range []string{vmID, ctID} {
		o.sh(t, "tandem create-local-job %[1]s-0 n2 --schedule 'sat 03:00' && tandem guest start %[1]s && tandem schedule-now %[1]s-0", id)
	}
	for _, id := range []string{vmID, ctID} {
		o.synced(t, id+"-0", since)
	}
}

func migrateVM(t *testing.T) {
	t.Parallel()
	booted(t, "n1", 1)
	t.Log(n("n3").sh(t, "tandem guest migrate %s n2", vmID))
	onlyOn(t, vmUnit, "n2")
	booted(t, "n2", 2)
}

// migrateCT also stops the container and starts it in another way, on the node to which it went.
func migrateCT(t *testing.T) {
	t.Parallel()
	says(t, "n1", "command begins at 0")
	acknowledged(t, "n1", 5)
	t.Log(n("n3").sh(t, "tandem guest migrate %s n2", ctID))
	onlyOn(t, ctUnit, "n2")
	last := acknowledged(t, "n1", 5)
	says(t, "n1", "ends after")
	says(t, "n2", "command begins at")
	acknowledged(t, "n2", last+3)
	came := 0
	for i, starts := 0, ctRecords(t, "n2"); i < len(starts) && starts[i] == starts[0]; i++ {
		came++
	}
	if came < last {
		t.Errorf("n1 had written %d records, and %d of them are on n2", last, came)
	}

	n("n3").sh(t, "tandem guest stop %s", ctID)
	says(t, "n2", "ends after")
	wellEnded(t, "n2", ctUnit)
	n("n3").sh(t, "tandem guest set %[1]s --config '' && tandem guest start %[1]s", ctID)
	says(t, "n2", "init begins at")
	acknowledged(t, "n2", len(ctRecords(t, "n2"))+3)
}

// loseGuests takes the power of their node away and gives both to the other one. It returns how many records that one has for certain.
func loseGuests(t *testing.T) (replicated int) {
	t.Helper()
	replicated = acknowledged(t, "n2", 1)
	since := n("n2").clock(t)
	for _, id := range []string{vmID, ctID} {
		n("n2").sh(t, "tandem schedule-now %s-0", id)
	}
	n("n2").synced(t, vmID+"-0", since)
	if run := n("n2").synced(t, ctID+"-0", since); run.Consistency != guest.Frozen {
		t.Errorf("the container was not frozen for its point: %s", run.Consistency)
	}
	must(t, n("n2").Kill(world.ctx))
	for _, id := range []string{vmID, ctID} {
		eventually(t, "guest "+id+" is recovered", 2*time.Minute, time.Second, func() (bool, string) {
			r := n("n3").run(t, "tandem guest recover %s --on n1 --yes --owner-is-off", id)
			return r.Code == 0, r.Stdout + r.Stderr
		})
	}
	return replicated
}

// recoverVM also stops the virtual machine, which does not heed its power button this time.
func recoverVM(t *testing.T) {
	t.Parallel()
	onlyOn(t, vmUnit, "n1", "n2")
	booted(t, "n1", 3)
	begun := time.Now()
	n("n3").sh(t, "tandem guest stop %s", vmID)
	took := time.Since(begun)
	t.Logf("a virtual machine that does not heed its power button was stopped after %s", took)
	if took < vmPatience {
		t.Errorf("it was given less than %s", vmPatience)
	}
	wellEnded(t, "n1", vmUnit)
}

func recoverCT(t *testing.T, replicated int) {
	t.Helper()
	t.Parallel()
	onlyOn(t, ctUnit, "n1", "n2")
	says(t, "n1", "init begins at")
	eventually(t, "the container goes on", time.Minute, time.Second, func() (bool, string) {
		have := len(ctRecords(t, "n1"))
		return have >= replicated+3, strconv.Itoa(have)
	})
	n("n3").sh(t, "tandem guest stop %s", ctID)
	wellEnded(t, "n1", ctUnit)
}

// returnLoser brings the node back that was lost, whose guests have gone on without it: what the container did there alone is kept, and
// both are replicas again.
func returnLoser(t *testing.T) {
	t.Parallel()
	boot(t, "n2")
	eventually(t, "what the container did alone is set aside", 3*time.Minute, 2*time.Second, func() (bool, string) {
		var kept api.DivergedList
		n("n1").ask(t, &kept, "diverged list --guest %s", ctID)
		return len(kept.Copies) == 1 && kept.Copies[0].Node == "n2", fmt.Sprintf("%+v", kept)
	})
	since := n("n1").clock(t)
	for _, id := range []string{vmID, ctID} {
		n("n1").sh(t, "tandem schedule-now %s-0", id)
	}
	for _, id := range []string{vmID, ctID} {
		if run := n("n1").synced(t, id+"-0", since); run.Kind == "full" {
			t.Errorf("guest %s came to n2 again by %d bytes, all of it", id, run.Bytes)
		}
	}
	if roles := n("n2").sh(t, "zfs get -H -o value tandem:role %s %s", vmDataset, ctDataset); roles != "replica\nreplica" {
		t.Errorf("the roles of the volumes on n2 are %q", roles)
	}
}

// booted waits until the virtual machine tells of its boot on the serial console.
func booted(t *testing.T, where string, times int) {
	t.Helper()
	line := fmt.Sprintf("Tandem: boot %d of this disk", times)
	eventually(t, fmt.Sprintf("boot %d, on %s", times, where), vmLimit, 2*time.Second, func() (bool, string) {
		said := n(where).sh(t, "journalctl -u %s -o cat --no-pager", vmUnit)
		return strings.Contains(said, line), said
	})
}

// says waits for a line of the container's console.
func says(t *testing.T, where, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q on %s", text, where), time.Minute, time.Second, func() (bool, string) {
		said := n(where).sh(t, "journalctl -u %s -o cat --no-pager", ctUnit)
		return strings.Contains(said, text), said
	})
}

// acknowledged waits until the container has said on a node that this record is on the disk, and returns the number of the last one.
func acknowledged(t *testing.T, where string, least int) int {
	t.Helper()
	var last int
	eventually(t, fmt.Sprintf("record %d, on %s", least, where), time.Minute, time.Second, func() (bool, string) {
		said := n(where).run(t, "journalctl --sync; journalctl -u %s -o cat --no-pager | sed -n 's/^record //p' | tail -n 1", ctUnit).Stdout
		last, _ = strconv.Atoi(strings.TrimSpace(said))
		return last >= least, said
	})
	return last
}

// ctRecords reads the container's records, numbered without a gap, none there twice, none damaged. It returns in which start of the
// container each was written.
func ctRecords(t *testing.T, where string) (starts []string) {
	t.Helper()
	for line := range strings.Lines(n(where).sh(t, "cat %s/data/log", ctRoot)) {
		var number int
		var start, sum string
		_, err := fmt.Sscan(line, &number, &start, &sum)
		if err != nil || number != len(starts)+1 || sum != hash(fmt.Appendf(nil, "%d %s\n", number, start))[:16] {
			t.Fatalf("on %s: record %d is %q (%v)", where, len(starts)+1, line, err)
		}
		starts = append(starts, start)
	}
	return starts
}

// onlyOn wants a unit to run on one node; off are machines that cannot be asked.
func onlyOn(t *testing.T, unit, where string, off ...string) {
	t.Helper()
	for _, name := range all {
		if slices.Contains(off, name) {
			continue
		}
		eventually(t, fmt.Sprintf("%s on %s is as it should be", unit, name), 2*time.Minute, time.Second, func() (bool, string) {
			state := n(name).run(t, "systemctl is-active %s", unit).Stdout
			return (strings.TrimSpace(state) == "active") == (name == where), state
		})
	}
}

// wellEnded wants a unit to have ended by itself and not by force.
func wellEnded(t *testing.T, where, unit string) {
	t.Helper()
	// Systemd keeps one that was killed or failed as failed.
	if got := n(where).sh(t, "systemctl show -P ActiveState %s", unit); got != "inactive" {
		t.Errorf("%s on %s is %s, want inactive", unit, where, got)
	}
}
