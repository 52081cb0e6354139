package launch_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/cli/launch"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs/zvol"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func disk(name string) launch.Disk {
	return launch.Disk{Volume: guest.Volume{Storage: "local-zfs", Name: name}, Dataset: "tank/guests/" + name}
}

func TestParse_NamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ vm, ct, want string }{
		{vm: "memory = 8", want: "memory = 8: must be from 16"},
		{vm: "cores = 0", want: "cores = 0: must be from 1"},
		{vm: "memroy = 512", want: "unknown key"},
		{vm: "memory = ", want: "memory"},
		{vm: `args = ["-vga", ""]`, want: `the argument ""`},
		{ct: `command = ["sh"]`, want: "absolute path"},
		{ct: `kill_signal = "kill all"`, want: "the name of a signal"},
		{ct: `command = ["/bin/sh"]` + "\n" + `kill_signal = "kill all"`, want: "the name of a signal"},
		{ct: "[mounts]\n\"local-zfs:subvol-200-disk-1\" = \"srv\"", want: "absolute path in the container"},
		{ct: "[mounts]\n\"local-zfs:subvol-200-disk-1\" = \"/srv:/etc\"", want: "absolute path in the container"},
		{ct: "memory = 512", want: "unknown key"},
	} {
		_, err := launch.ParseVM([]byte(c.vm))
		if c.ct != "" {
			_, err = launch.ParseCT([]byte(c.ct))
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s%s: %v, want %q", c.vm, c.ct, err, c.want)
		}
	}
}

func TestMachine_CommandLine(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "100.conf"), "memory = 512\ncores = 2\nargs = [\"-nic\", \"bridge,br=br0\"]\n")
	// A block device that every machine has is not to be had without root: /dev/loop0 or so stands in where it is.
	devices, _ := filepath.Glob("/dev/loop[0-9]*")
	more, _ := filepath.Glob("/dev/vd[a-z]")
	devices = slices.DeleteFunc(append(devices, more...), func(device string) bool {
		f, err := os.Open(device)
		return err != nil || f.Close() != nil
	})
	if len(devices) == 0 {
		t.Skip("this machine has no block device that may be opened")
	}
	if err := os.MkdirAll(filepath.Join(dir, "zvol/tank/guests"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(devices[0], filepath.Join(dir, "zvol/tank/guests/vm-100-disk-0")); err != nil {
		t.Fatal(err)
	}
	e := launch.Env{Configs: dir, Devices: zvol.Devices{Dev: dir}, Arch: "amd64", Wait: 50 * time.Millisecond}
	got, err := e.Machine(t.Context(), 100, []launch.Disk{disk("vm-100-disk-0")})
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(got, " ")
	for _, want := range []string{
		"qemu-system-x86_64 ", " -machine q35,accel=kvm:tcg ", " -m 512 -smp 2 ", "path=/run/tandem-guests/100/agent ", "path=/run/tandem-guests/100/qmp ",
		`"filename":"` + dir + `/zvol/tank/guests/vm-100-disk-0"`, "drive=disk0,serial=disk0,bootindex=0 -nic bridge,br=br0",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	trial := e
	trial.Drill = true
	got, err = trial.Machine(t.Context(), 100, []launch.Disk{disk("vm-100-disk-0")})
	if line := strings.Join(got, " "); err != nil || !strings.Contains(line, " -name tandem-drill-100 ") || strings.Contains(line, "-nic") {
		t.Errorf("in a drill: %s, %v", line, err)
	}
	if _, err := e.Machine(t.Context(), 100, []launch.Disk{disk("vm-100-disk-9")}); err == nil || !strings.Contains(err.Error(), "vm-100-disk-9") {
		t.Errorf("without its zvol: %v", err)
	}
	put(t, filepath.Join(dir, "zvol/tank/guests/subvol"), "")
	if _, err := e.Machine(t.Context(), 100, []launch.Disk{disk("subvol")}); err == nil || !strings.Contains(err.Error(), "needs zvols") {
		t.Errorf("on a file: %v", err)
	}
	e.Arch = "s390x"
	if _, err := e.Machine(t.Context(), 100, nil); err == nil || !strings.Contains(err.Error(), "s390x") {
		t.Errorf("on another machine: %v", err)
	}
}

const mounts = `22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:50 / /tank/guests/subvol-200-disk-0 rw,noatime shared:9 - zfs tank/guests/subvol-200-disk-0 rw,xattr
41 22 0:51 / /srv/a\040b rw shared:9 master:3 - zfs tank/guests/subvol-200-disk-1 rw,xattr
`

func TestContainer_CommandLine(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "mounts"), mounts)
	e := launch.Env{Configs: dir, Mounts: filepath.Join(dir, "mounts")}
	root, data := disk("subvol-200-disk-0"), disk("subvol-200-disk-1")
	base := []string{"systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--link-journal=no", "--machine=tandem-200", "--directory=/tank/guests/subvol-200-disk-0"}
	for name, c := range map[string]struct {
		conf  string
		disks []launch.Disk
		want  []string
		fails string
	}{
		"init": {disks: []launch.Disk{root}, want: append(base[:7:7], "--boot")},
		// The init of BusyBox and OpenRC does not know the signal on which systemd's powers off.
		"another init": {conf: "kill_signal = \"SIGUSR2\"\n", disks: []launch.Disk{root}, want: append(base[:7:7], "--kill-signal=SIGUSR2", "--boot")},
		"command": {
			conf: "command = [\"/bin/sh\", \"-c\", \"exec /app\"]\nkill_signal = \"SIGTERM\"\nargs = [\"--network-veth\"]\n", disks: []launch.Disk{root},
			want: append(base[:7:7], "--network-veth", "--kill-signal=SIGTERM", "--", "/bin/sh", "-c", "exec /app"),
		},
		"two volumes": {
			conf: "[mounts]\n\"local-zfs:subvol-200-disk-1\" = \"/srv\"\n", disks: []launch.Disk{root, data},
			want: append(base[:7:7], "--bind=/srv/a b:/srv", "--boot"),
		},
		"volume without a place": {disks: []launch.Disk{root, data}, fails: "has no place in the container"},
		"not mounted":            {disks: []launch.Disk{disk("subvol-200-disk-9")}, fails: "is not mounted"},
		"root with a place":      {conf: "[mounts]\n\"local-zfs:subvol-200-disk-0\" = \"/srv\"\n", disks: []launch.Disk{root}, fails: "is the root"},
		"unknown key":            {conf: "cores = 2\n", disks: []launch.Disk{root}, fails: "200.conf: unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			put(t, filepath.Join(dir, "200.conf"), c.conf)
			got, err := e.Container(200, c.disks)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("command line (-want +got):\n%s", diff)
			}
			if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("the error is %v, want %q", err, c.fails)
			}
		})
	}
}

// manner is how a virtual machine takes it that it is to end.
type manner string

const (
	heeds   manner = "heeds"
	ignores manner = "ignores"
	// resets: QEMU ends before it has read the end of the line that told it to.
	resets manner = "resets"
)

// oneByOne reads no more of a stream than it was asked for.
type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }

// monitor is that of such a virtual machine.
func monitor(t *testing.T, how manner) (sockets string, asked func() []string) {
	t.Helper()
	sockets, err := os.MkdirTemp("", "qmp") //nolint:usetesting // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(sockets, "100", "x"), "")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(sockets, "100", "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan []string, 1)
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.RemoveAll(sockets)
	})
	go func() {
		var got []string
		defer func() { said <- got }()
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, `{"QMP": {"version": {}, "capabilities": []}}`+"\n")
		in := bufio.NewReaderSize(oneByOne{c}, 16)
		for {
			command, err := in.ReadString('}')
			if err != nil {
				return
			}
			got = append(got, strings.TrimSpace(command))
			if how != resets {
				_, _ = in.ReadByte()
			}
			_, _ = fmt.Fprint(c, "{\"return\": {}}\n{\"event\": \"POWERDOWN\"}\n")
			if strings.Contains(command, "quit") || how == heeds && strings.Contains(command, "system_powerdown") {
				return
			}
		}
	}()
	return sockets, func() []string { return <-said }
}

func TestPowerDown(t *testing.T) {
	asked := []string{`{"execute":"qmp_capabilities"}`, `{"execute":"system_powerdown"}`, `{"execute":"quit"}`}
	for how, want := range map[manner][]string{heeds: asked[:2], ignores: asked, resets: asked} {
		t.Run(string(how), func(t *testing.T) {
			sockets, asked := monitor(t, how)
			if err := (launch.Env{Sockets: sockets}).PowerDown(t.Context(), 100, 300*time.Millisecond); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(want, asked()); diff != "" {
				t.Errorf("QEMU was asked (-want +got):\n%s", diff)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := (launch.Env{Sockets: t.TempDir()}).PowerDown(ctx, 100, time.Second); err != nil {
		t.Errorf("one that does not run: %v", err)
	}
}
