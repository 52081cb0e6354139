package zfs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/zfs"
)

// kernel is what a kernel shows of processes and devices, in files.
type kernel struct {
	t   *testing.T
	dir string
}

func (k kernel) file(path, text string) {
	k.t.Helper()
	full := filepath.Join(k.dir, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k kernel) link(path, to string) {
	k.t.Helper()
	full := filepath.Join(k.dir, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Symlink(strings.ReplaceAll(to, "/DEV", filepath.Join(k.dir, "dev")), full); err != nil {
		k.t.Fatal(err)
	}
}

func TestUsers_AreFoundWhereverTheKernelShowsThem(t *testing.T) {
	k := kernel{t: t, dir: t.TempDir()}
	for i, name := range []string{"a", "b"} { // zd0 is tank/a, zd16 is tank/b
		dev := []string{"zd0", "zd16"}[i]
		k.file("dev/"+dev, "")
		k.link("dev/zvol/tank/"+name, "/DEV/"+dev)
		k.file("sys/block/"+dev+"/dev", []string{"230:0\n", "230:16\n"}[i])
	}
	k.file("sys/block/zd16/zd16p1/dev", "230:17\n")
	k.file("sys/block/zd16/zd16p1/holders/dm-3/x", "")
	k.file("proc/swaps", "Filename Type Size Used Priority\n"+k.dir+"/dev/zd0 partition 1 0 -2\n")
	process := func(pid, comm, space, mounts string, files ...string) {
		k.file("proc/"+pid+"/comm", comm+"\n")
		k.file("proc/"+pid+"/mountinfo", mounts)
		k.link("proc/"+pid+"/ns/mnt", space)
		for i, f := range files {
			k.link("proc/"+pid+"/fd/"+string(rune('0'+i)), f)
		}
	}
	host := "30 1 0:25 / / rw - ext4 /dev/sda1 rw\n40 30 0:44 / /srv/web rw shared:1 - zfs tank/fs rw\n41 30 0:45 / /srv/other rw - zfs tank/fs2 rw\n"
	process("1", "systemd", "mnt:[1]", host, "/dev/null", "socket:[7]")
	process("70", "bash", "mnt:[1]", host, "/DEV/sda1")
	process("4711", "qemu-system-x86", "mnt:[1]", host, "/DEV/zd16p1", "/DEV/zd16p1")
	process("99", "systemd-nspawn", "mnt:[2]", "50 1 0:44 /root /mnt rw - zfs tank/fs rw\n51 1 230:17 / /boot rw - ext4 /dev/x rw\n")
	process("4712", "rsync", "mnt:[1]", host, "/srv/webalizer/log", "/srv/web/index.html")
	process("4713", "bash", "mnt:[1]", host)
	k.link("proc/4713/cwd", "/srv/web")
	k.file("proc/self-is-no-process", "")
	z, err := zfs.New(zfs.Options{
		ZFS: "/bin/false", ZPool: "/bin/false", Proc: filepath.Join(k.dir, "proc"), Sys: filepath.Join(k.dir, "sys"), Dev: filepath.Join(k.dir, "dev"),
	})
	if err != nil {
		t.Fatal(err)
	}
	users, err := z.Users(t.Context(), "tank/a", "tank/b", "tank/fs", "tank/none")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range users {
		got = append(got, strings.ReplaceAll(u.String(), k.dir, ""))
	}
	slices.Sort(got)
	diff(t, got, []string{
		"process 1 (systemd) has it mounted at /srv/web",
		"process 4711 (qemu-system-x86) has /dev/zd16p1 open",
		"process 4712 (rsync) uses /srv/web/index.html",
		"process 4713 (bash) uses /srv/web",
		"process 99 (systemd-nspawn) has it mounted at /boot",
		"process 99 (systemd-nspawn) has it mounted at /mnt",
		"tank/a is used as swap",
		"tank/b is part of the device dm-3",
	})
	users, err = z.Users(t.Context(), "tank/fs3", "tank/none")
	if err != nil || len(users) > 0 {
		t.Errorf("got %v, %v", users, err)
	}
	_, err = z.Users(t.Context(), "-x")
	wantClass(t, err, zfs.ClassRefused)
}
