//go:build lab

package contest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// prepareMachine makes two pools of the disk, and a second sshd that is counted with its clients.
const prepareMachine = `
set -eu
disk=/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_tank
zpool destroy tank
for part in "$disk"-part*; do zpool labelclear -f "$part" 2>/dev/null || true; done
printf 'label: gpt\nsize=6G\nsize=+\n' | sfdisk --quiet --wipe always --wipe-partitions always "$disk"
udevadm settle
i=1
for pool in source target; do
	zpool create -f -o ashift=12 -O compression=lz4 -O canmount=off -O mountpoint=none "$pool" "$disk-part$i"
	for set in plain syncoid tandem; do zfs create -o canmount=off -o mountpoint=none "$pool/$set"; done
	i=2
done
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/bench
cat /root/.ssh/bench.pub >>/root/.ssh/authorized_keys
cat >/root/.ssh/config <<'END'
Host target
	HostName 127.0.0.4
	Port 2222
	User root
	IdentityFile /root/.ssh/bench
	StrictHostKeyChecking no
	UserKnownHostsFile /dev/null
	LogLevel ERROR
END
mkdir -p /run/sshd
`

// shell runs a script in a group and returns an error with what it said.
func shell(ctx context.Context, g *group, script string) error {
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -o pipefail\n"+script)
	enter(cmd, g)
	said, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.TrimSpace(script), err, said)
	}
	return nil
}

// enter has a command run in a group.
func enter(cmd *exec.Cmd, g *group) {
	if g != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.Fd())}
	}
}

// start runs a server until the test ends; what it says goes to a file.
func start(t *testing.T, g *group, log string, words ...string) *exec.Cmd {
	t.Helper()
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	enter(cmd, g)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait()
		_ = out.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("%s said at its end:\n%s", strings.Join(words, " "), text[max(0, len(text)-8000):])
		}
	})
	return cmd
}

// volumes makes zvols and fills their first bytes with noise.
func volumes(t *testing.T, size, filled int, datasets ...string) {
	t.Helper()
	for _, dataset := range datasets {
		if err := shell(t.Context(), nil, fmt.Sprintf("zfs create -s -V %d %s", size, dataset)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dataset := range datasets {
		noise(t, dataset, filled, inOrder)
	}
}

// places says where data is written on a volume of so many blocks.
type places func(blocks int) []int

// anywhere is all over the volume, in random order.
func anywhere(blocks int) []int { return rand.Perm(blocks) }

// inOrder is from the start on.
func inOrder(blocks int) []int {
	all := make([]int, blocks)
	for i := range all {
		all[i] = i
	}
	return all
}

// noise writes random data in blocks of 64 KiB.
func noise(t *testing.T, dataset string, size int, where places) {
	t.Helper()
	device := "/dev/zvol/" + dataset
	var file *os.File
	var err error
	for range 300 {
		if file, err = os.OpenFile(device, os.O_WRONLY, 0); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const block = 64 << 10
	blocks, err := file.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	blocks /= block
	data := make([]byte, block)
	for _, place := range where(int(blocks))[:size/block] {
		fillRandom(data)
		if _, err := file.WriteAt(data, int64(place)*block); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
}

func fillRandom(data []byte) {
	for i := 0; i+8 <= len(data); i += 8 {
		v := rand.Uint64()
		data[i], data[i+1], data[i+2], data[i+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
		data[i+4], data[i+5], data[i+6], data[i+7] = byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56)
	}
}

// settle waits until nothing of what was done before goes on.
func settle(t *testing.T) {
	t.Helper()
	unix.Sync()
	if err := shell(t.Context(), nil, "zpool sync && zpool wait -t free source && zpool wait -t free target && udevadm settle --timeout=60"); err != nil {
		t.Fatal(err)
	}
	quiet(t, 300*time.Millisecond)
}

// quiet waits until no zfs process has been there for some time: the daemons clean up after a sync has ended.
func quiet(t *testing.T, long time.Duration) {
	t.Helper()
	last := time.Now()
	until(t, "no zfs process is there", func() bool {
		if zfsRuns() {
			last = time.Now()
		}
		return time.Since(last) > long
	})
}
