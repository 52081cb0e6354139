//go:build lab

package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// worker is a guest whose unit writes numbered, checksummed records for as long as it runs: each to a file on its filesystem and then
// to a block of its disk, synced one after the other.
type worker struct {
	id         string
	tree, disk bool // which volumes it has
}

func (w worker) unit() string        { return "records@" + w.id + ".service" }
func (w worker) folder() string      { return "/srv/records-" + w.id }
func (w worker) treeDataset() string { return "tank/guests/subvol-" + w.id + "-disk-0" }
func (w worker) diskDataset() string { return "tank/guests/vm-" + w.id + "-disk-0" }

// datasets are those of its volumes, in the order in which they are sent.
func (w worker) datasets() []string {
	var list []string
	if w.tree {
		list = append(list, w.treeDataset())
	}
	if w.disk {
		list = append(list, w.diskDataset())
	}
	return list
}

const workerText = `[Unit]
Description=Writes records as guest %i
[Service]
ExecStart=/usr/local/bin/number-records %i
`

// workerScript says of each start in which boot it was, and when. What an end left half is written again first, as a journal would.
const workerScript = `#!/bin/bash
f=/srv/records-$1/log d=/dev/zvol/tank/guests/vm-$1-disk-0 tree='' i=0
echo "$1 $(cat /proc/sys/kernel/random/boot_id) $(cut -d' ' -f1 /proc/uptime)" >>/var/tmp/starts; sync /var/tmp/starts
put() { [ ! -b "$d" ] || printf '%-511s\n' "$2" | dd of="$d" bs=512 seek="$1" conv=notrunc,fsync status=none || exit 1; }
if zfs list "tank/guests/subvol-$1-disk-0" >/dev/null 2>&1; then
	findmnt -rn "/srv/records-$1" >/dev/null || exit 1
	tree=yes; touch "$f"; i=$(wc -l <"$f")
	[ "$i" = 0 ] || put "$i" "$(tail -n 1 "$f")"
else
	i=$(tr '\0' ' ' <"$d" | grep -c '[0-9]')
fi
while :; do
	i=$((i+1)); r="$i $(echo $i | sha256sum | cut -c1-16) $(hostname)"
	[ -z "$tree" ] || { echo "$r" >>"$f" && sync "$f"; } || exit 1
	put "$i" "$r"
	echo "$i" >"/var/tmp/written-$1"
	sleep 0.3
done
`

// installWorkers makes every node able to run such guests.
func installWorkers(t *testing.T) {
	t.Helper()
	for _, name := range all {
		n(name).write(t, "/etc/systemd/system/records@.service", workerText)
		n(name).write(t, "/usr/local/bin/number-records", workerScript)
		// A unit whose file is empty after a power cut counts as masked.
		n(name).sh(t, "chmod +x /usr/local/bin/number-records; systemctl daemon-reload; sync")
	}
}

// diskSize is that of a worker's disk; its second half is not for records.
const diskSize = 16 * mib

// add makes the guest on a node, with options of `guest add`.
func (w worker) add(t *testing.T, owner, options string) {
	t.Helper()
	kind, volumes := "vm", ""
	if w.tree {
		kind = "ct"
		volumes += " --volume local-zfs:subvol-" + w.id + "-disk-0"
		n(owner).sh(t, "zfs create -o mountpoint=%s %s", w.folder(), w.treeDataset())
	}
	if w.disk {
		volumes += " --volume local-zfs:vm-" + w.id + "-disk-0"
		n(owner).sh(t, "zfs create -V %d %s", diskSize, w.diskDataset())
		n(owner).device(t, w.diskDataset())
	}
	n(owner).sh(t, "tandem guest add %s --type %s --name worker-%[1]s%[3]s --unit %[4]s %[5]s", w.id, kind, volumes, w.unit(), options)
}

// readRecords tells who wrote each of the records in a text. A last line that is torn is no record.
func readRecords(text string) (by []string, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || !strings.HasSuffix(line, "\n") {
			break
		}
		number := strconv.Itoa(len(by) + 1)
		sum := sha256.Sum256([]byte(number + "\n"))
		if len(f) != 3 || f[0] != number || f[1] != hex.EncodeToString(sum[:8]) {
			return by, fmt.Errorf("record %s is %q", number, line)
		}
		by = append(by, f[2])
	}
	return by, nil
}

// fromDisk prints the records on a device: its blocks without what fills them.
const fromDisk = `head -c %d %s | tail -c +513 | tr '\0' ' ' | tr -s ' '`

// look reads what the guest has written so far, on the node where it runs: none may be missing, nor differ, on any volume.
func (w worker) look(t *testing.T, name string) []string {
	t.Helper()
	command := "echo -n"
	if w.disk {
		command = fmt.Sprintf(fromDisk, diskSize/2, n(name).device(t, w.diskDataset()))
	}
	if w.tree {
		// The file before the disk, and after it: the guest goes on writing.
		command = fmt.Sprintf("wc -l <%[1]s/log; %[2]s; echo; echo ==; cat %[1]s/log", w.folder(), command)
	}
	said := n(name).run(t, "%s", command)
	if said.Code != 0 {
		t.Fatalf("on %s: %s: %s", name, command, said.Stderr)
	}
	if !w.tree {
		return w.good(t, name, said.Stdout)
	}
	first, rest, _ := strings.Cut(said.Stdout, "\n")
	before, err := strconv.Atoi(first)
	must(t, err)
	onDisk, inFile, _ := strings.Cut(rest, "\n==\n")
	by := w.good(t, name, inFile)
	if w.disk {
		disk := w.good(t, name, onDisk+"\n")
		if len(disk) < before-1 || len(disk) > len(by) || !slices.Equal(disk, by[:len(disk)]) {
			t.Errorf("on %s the file of guest %s has %d records and then %d, its disk %d: the volumes are not of one moment", name, w.id, before, len(by), len(disk))
		}
	}
	return by
}

func (w worker) good(t *testing.T, where, text string) []string {
	t.Helper()
	by, err := readRecords(text)
	if err != nil {
		t.Fatalf("guest %s on %s: %v", w.id, where, err)
	}
	return by
}

// writes waits until the guest has so many records on a node, and returns how many good ones there are.
func (w worker) writes(t *testing.T, name string, least int) int {
	t.Helper()
	var count int
	eventually(t, fmt.Sprintf("guest %s has %d records on %s", w.id, least, name), 2*time.Minute, time.Second, func() (bool, string) {
		if !w.tree {
			count = len(w.look(t, name))
			return count >= least, strconv.Itoa(count)
		}
		said := n(name).run(t, "wc -l <%s/log", w.folder())
		_, err := fmt.Sscan(said.Stdout, &count)
		return err == nil && count >= least, said.Stdout + said.Stderr
	})
	return len(w.look(t, name))
}

// keptAll wants the last record that the guest finished on a node to be that node's, too, where the guest went on.
func (w worker) keptAll(t *testing.T, from, to string) {
	t.Helper()
	last, err := strconv.Atoi(n(from).sh(t, "cat /var/tmp/written-%s", w.id))
	if err != nil {
		t.Logf("what %s wrote last is not known: %v", from, err) // a power cut
		return
	}
	if by := w.look(t, to); len(by) < last || by[last-1] != from {
		t.Errorf("guest %s finished record %d on %s; on %s %s's last record is %d of %d", w.id, last, from, to, from, lastOf(by, to), len(by))
	}
}

// remove ends the guest, which no job replicates any more, with its data.
func (w worker) remove(t *testing.T, owner string) {
	t.Helper()
	n(owner).sh(t, "tandem guest stop %s", w.id)
	n(owner).sh(t, "tandem guest remove %s --delete-data", w.id)
}

// readSnapshot reads the records from a snapshot, through a clone that is gone afterwards.
func (w worker) readSnapshot(t *testing.T, name, dataset, snapshot string) []string {
	t.Helper()
	clone := n(name).clone(t, dataset, snapshot)
	defer n(name).release(t, clone)
	if strings.Contains(dataset, "subvol-") {
		n(name).sh(t, "zfs set mountpoint=/mnt/records %s", clone)
		return w.good(t, name, n(name).run(t, "cat /mnt/records/log").Stdout)
	}
	return w.good(t, name, n(name).run(t, fromDisk, diskSize/2, n(name).device(t, clone)).Stdout)
}

// runsOnlyOn wants the unit on one node; off are machines that cannot be asked.
func (w worker) runsOnlyOn(t *testing.T, where string, off ...string) {
	t.Helper()
	for _, name := range all {
		if slices.Contains(off, name) {
			continue
		}
		eventually(t, fmt.Sprintf("the unit of guest %s on %s is as it should be", w.id, name), 2*time.Minute, time.Second, func() (bool, string) {
			state := n(name).run(t, "systemctl is-active %s", w.unit()).Stdout
			return (strings.TrimSpace(state) == "active") == (name == where), state
		})
	}
}

// owner is who has the guest, by what a node knows.
func (w worker) owner(t *testing.T, asked string) string {
	t.Helper()
	var guests struct{ Guests []api.Guest }
	n(asked).ask(t, &guests, "guest list")
	for _, g := range guests.Guests {
		if g.ID.String() == w.id {
			return string(g.Owner)
		}
	}
	t.Fatalf("%s does not know guest %s", asked, w.id)
	return ""
}

// others are the two nodes besides this one.
func others(name string) (a, b string) {
	rest := slices.DeleteFunc(slices.Clone(all), func(x string) bool { return x == name })
	return rest[0], rest[1]
}

// job is the one by which the guest goes from its owner to a node.
func (w worker) job(t *testing.T, owner, target string) string {
	t.Helper()
	var list struct{ Jobs []api.Job }
	n(owner).ask(t, &list, "list")
	for _, j := range list.Jobs {
		if j.Guest.String() == w.id && string(j.Source) == owner && string(j.Target) == target {
			return j.ID.String()
		}
	}
	t.Fatalf("%s knows no job of guest %s from %s to %s", owner, w.id, owner, target)
	return ""
}

// replicated waits until each of the owner's jobs has made its replica, and asks for another try where one failed.
func replicated(t *testing.T, owner string, jobs ...string) {
	t.Helper()
	for _, job := range jobs {
		eventually(t, job+" has made its replica", 6*time.Minute, 2*time.Second, func() (bool, string) {
			runs := n(owner).runs(t, job)
			if len(runs) == 0 || runs[len(runs)-1].End.IsZero() {
				return false, "it runs"
			}
			if runs[len(runs)-1].Error == "" {
				return true, ""
			}
			return false, runs[len(runs)-1].Error + n(owner).run(t, "tandem schedule-now %s", job).Stderr
		})
	}
}

// few is more than what a worker writes between two syncs: an increment has less.
const few = 4 * mib

// sync brings what the guest has written to nodes which have most of it.
func (w worker) sync(t *testing.T, owner string, targets ...string) {
	t.Helper()
	since := n(owner).clock(t)
	var jobs []string
	for _, target := range targets {
		job := w.job(t, owner, target)
		jobs = append(jobs, job)
		eventually(t, job+" is to run", time.Minute, time.Second, func() (bool, string) { // it may run already
			r := n(owner).run(t, "tandem schedule-now %s", job)
			return r.Code == 0, r.Stderr
		})
	}
	for _, job := range jobs {
		if run := n(owner).synced(t, job, since); run.Kind == "full" || run.Bytes > few {
			t.Errorf("job %s of the owner %s: %s, %d bytes: want an increment", job, owner, run.Kind, run.Bytes)
		}
	}
}
