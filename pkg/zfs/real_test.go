//go:build realzfs

package zfs_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/contract"
)

var poolDir = flag.String("pooldir", "/var/tmp", "where the test makes the file of its pool")

// TestZFS_KeepsTheContract needs root and a machine with ZFS: go test -c -tags realzfs, and run the binary there.
func TestZFS_KeepsTheContract(t *testing.T) {
	pool, z := newPool(t)
	key := filepath.Join(*poolDir, pool+".key")
	if err := os.WriteFile(key, bytes.Repeat([]byte("k"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(key) })
	var n atomic.Int64
	contract.Run(t, func(t *testing.T) contract.Env {
		t.Helper()
		root := fmt.Sprintf("%s/t%d", pool, n.Add(1))
		must(t, "zfs", "create", root)
		m := machine{pool: pool, root: root}
		return contract.Env{
			ZFS: z, Root: root, Create: m.create, Write: m.write, Read: m.read,
			Rollback: func(snap string) error { return m.run("zfs", "rollback", "-r", snap) },
			Destroy:  func(name string) error { return m.run("zfs", "destroy", "-r", name) },
			Settle:   func() { _ = m.run("udevadm", "settle") },
			Cipher: contract.Cipher{
				Encrypt: map[string]string{"encryption": "aes-256-gcm", "keyformat": "raw", "keylocation": "file://" + key},
				Key: func(name string, loaded bool) error {
					if loaded {
						return m.run("zfs", "load-key", "-L", "file://"+key, name)
					}
					return m.run("zfs", "unload-key", name)
				},
				Device: func(name string) bool {
					_ = m.run("udevadm", "settle")
					_, err := os.Stat("/dev/zvol/" + name)
					return err == nil
				},
			},
		}
	})
	if c := z.Counters(); c.Running != 0 || c.Abandoned != 0 || c.Started == 0 {
		t.Errorf("counters at the end: %+v", c)
	}
}

// TestZFS_FindsADeviceWithoutItsLink has no link to a zvol: udev makes none where it could not open the device.
func TestZFS_FindsADeviceWithoutItsLink(t *testing.T) {
	pool, z := newPool(t)
	name := pool + "/vm-100-disk-0"
	must(t, "zfs", "create", "-V", "8M", name)
	link, err := z.Device(t.Context(), name)
	if want := "/dev/zvol/" + name; err != nil || link != want {
		t.Fatalf("Device: %s, %v; want %s", link, err, want)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	device, err := z.Device(t.Context(), name)
	if err != nil || filepath.Dir(device) != "/dev" {
		t.Fatalf("Device without a link: %s, %v; want the kernel's name", device, err)
	}
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	users, err := z.Users(t.Context(), name)
	if err != nil || len(users) != 1 || users[0].PID != os.Getpid() {
		t.Errorf("Users: %v, %v; want this process", users, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// newPool makes a pool in a file, for the length of the test.
func newPool(t *testing.T) (pool string, z *zfs.ZFS) {
	t.Helper()
	pool = "tandemtest" + strconv.FormatInt(time.Now().UnixNano(), 36)
	dir, err := os.MkdirTemp(*poolDir, pool) //nolint:usetesting // t.TempDir is in memory on many systems
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 2<<30); err != nil {
		t.Fatal(err)
	}
	// A pool that is thrown away needs no log: every write is followed by a `zpool sync`.
	must(t, "zpool", "create", "-O", "mountpoint="+dir+"/mnt", "-O", "atime=off", "-O", "sync=disabled", pool, file)
	t.Cleanup(func() {
		must(t, "zpool", "destroy", "-f", pool)
		_ = os.RemoveAll(dir)
	})
	z, err = zfs.New(zfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return pool, z
}

func must(t *testing.T, name string, args ...string) {
	t.Helper()
	if err := (machine{}).run(name, args...); err != nil {
		t.Fatal(err)
	}
}

// machine does what an operator or guest does, past the adapter.
type machine struct{ pool, root string }

func (machine) run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func (m machine) create(name string, volsize uint64, props map[string]string) error {
	args := []string{"create"}
	if volsize > 0 {
		args = append(args, "-s", "-b", "4096", "-V", strconv.FormatUint(volsize, 10))
	}
	for k, v := range props {
		args = append(args, "-o", k+"="+v)
	}
	return m.run("zfs", append(args, name)...)
}

// open opens a zvol's device or a filesystem's one file.
func (m machine) open(name string, flags int) (*os.File, error) {
	out, err := exec.CommandContext(context.Background(), "zfs", "get", "-Hp", "-o", "value", "type,mountpoint", name).Output()
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	fields := strings.Fields(string(out))
	if fields[0] == "filesystem" {
		return os.OpenFile(filepath.Join(fields[1], "data"), flags|os.O_CREATE, 0o600)
	}
	var f *os.File
	for range 100 {
		if f, err = os.OpenFile("/dev/zvol/"+name, flags, 0); err == nil {
			return f, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, err
}

func (m machine) write(name string, offset int64, data []byte) error {
	f, err := m.open(name, os.O_WRONLY)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, offset); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return m.run("zpool", "sync", m.pool)
}

// read reads a snapshot by a clone of it.
func (m machine) read(snap string) ([]byte, error) {
	clone := m.root + "/read-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := m.run("zfs", "clone", snap, clone); err != nil {
		return nil, err
	}
	f, err := m.open(clone, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	_, err = content.ReadFrom(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	for range 50 {
		_ = m.run("udevadm", "settle")
		if err = m.run("zfs", "destroy", clone); err == nil {
			return content.Bytes(), nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, err
}
