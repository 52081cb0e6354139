package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs/zvol"
)

// Env is the machine. Its zero fields take the places of a real one.
type Env struct {
	// Configs is the folder of the guests' configuration files.
	Configs string
	// Sockets is the folder with one folder for each guest.
	Sockets string
	// Devices are those of the zvols.
	Devices zvol.Devices
	// Mounts is the list of what is mounted, as the kernel tells it.
	Mounts string
	// Arch is Go's name of the machine's architecture.
	Arch string
	// Wait is how long the volumes may take to appear; default 30 s.
	Wait time.Duration
	// Drill says that it is a replica that is tried, beside the guest: it has another
	// name, no network, and of the file's arguments only those for drills. The others may
	// name the network, or things of the machine that only the guest itself may use.
	Drill bool
}

func (e Env) withDefaults() Env {
	set := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	set(&e.Configs, "/var/lib/tandem/guests")
	set(&e.Sockets, "/run/tandem-guests")
	set(&e.Mounts, "/proc/self/mountinfo")
	set(&e.Arch, runtime.GOARCH)
	if e.Wait == 0 {
		e.Wait = 30 * time.Second
	}
	return e
}

// Disk is a volume of the guest and its dataset on this node.
type Disk struct {
	Volume  guest.Volume
	Dataset string
}

// Machine is the command line of QEMU for a virtual machine. It waits for its zvols'
// devices, which udev makes.
func (e Env) Machine(ctx context.Context, id guest.ID, disks []Disk) ([]string, error) {
	e = e.withDefaults()
	text, file, err := e.read(id)
	if err != nil {
		return nil, err
	}
	conf, err := ParseVM(text)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %s: %w", id, file, err)
	}
	program, machine, err := emulator(e.Arch)
	if err != nil {
		return nil, err
	}
	dir := path.Join(e.Sockets, id.String())
	further := conf.Args
	if e.Drill {
		further = conf.DrillArgs
	}
	argv := []string{
		program, "-name", e.name(id), "-machine", machine + ",accel=kvm:tcg", "-cpu", "max",
		"-m", strconv.Itoa(conf.Memory), "-smp", strconv.Itoa(conf.Cores),
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + path.Join(dir, "qmp"), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + path.Join(dir, "agent"),
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
	}
	for i, d := range disks {
		device, err := e.device(ctx, d.Dataset)
		if err != nil {
			return nil, fmt.Errorf("guest %s: volume %s: %w", id, d.Volume, err)
		}
		node := "disk" + strconv.Itoa(i)
		block, err := json.Marshal(map[string]any{
			"driver": "host_device", "node-name": node, "filename": device, "discard": "unmap", "cache": map[string]any{"direct": true},
		})
		if err != nil {
			return nil, err
		}
		argv = append(argv, "-blockdev", string(block),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s,bootindex=%d", node, node, i))
	}
	return append(argv, further...), nil
}

// name is the guest's for those who look at the machine.
func (e Env) name(id guest.ID) string {
	if e.Drill {
		return "tandem-drill-" + id.String()
	}
	return "tandem-" + id.String()
}

// emulator is QEMU's program and board for an architecture.
func emulator(arch string) (program, machine string, err error) {
	switch arch {
	case "amd64":
		return "qemu-system-x86_64", "q35", nil
	case "arm64":
		return "qemu-system-aarch64", "virt", nil
	default:
		return "", "", fmt.Errorf("tandem-vm@.service does not know how to run virtual machines on %s: use a unit of your own", arch)
	}
}

// device waits for a zvol's device.
func (e Env) device(ctx context.Context, dataset string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Wait)
	defer cancel()
	name, err := e.Devices.Wait(ctx, dataset)
	if err != nil {
		return "", fmt.Errorf("its device cannot be opened (%w); a virtual machine needs zvols", err)
	}
	info, err := os.Stat(name)
	if err == nil && (info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0) {
		err = fmt.Errorf("%s is not the device of a zvol; a virtual machine needs zvols", name)
	}
	return name, err
}

// Container is the command line of systemd-nspawn for a container, whose root is its
// first volume.
func (e Env) Container(id guest.ID, disks []Disk) ([]string, error) {
	e = e.withDefaults()
	text, file, err := e.read(id)
	if err != nil {
		return nil, err
	}
	conf, err := ParseCT(text)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %s: %w", id, file, err)
	}
	argv := []string{
		"systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--link-journal=no",
		"--machine=" + e.name(id),
	}
	further := conf.Args
	if e.Drill {
		further = append([]string{"--private-network"}, conf.DrillArgs...)
	}
	for i, d := range disks {
		at, err := e.mountpoint(d.Dataset)
		if err != nil {
			return nil, fmt.Errorf("guest %s: volume %s: %w", id, d.Volume, err)
		}
		inside, named := conf.Mounts[d.Volume]
		switch {
		case i == 0 && named:
			return nil, fmt.Errorf("guest %s: %s: mounts: %s is the root of the container", id, file, d.Volume)
		case i == 0:
			argv = append(argv, "--directory="+at)
		case !named:
			return nil, fmt.Errorf("guest %s: %s: volume %s has no place in the container: name one in [mounts]", id, file, d.Volume)
		default:
			argv = append(argv, "--bind="+strings.ReplaceAll(at, ":", `\:`)+":"+inside)
		}
	}
	argv = append(argv, further...)
	if conf.KillSignal != "" {
		argv = append(argv, "--kill-signal="+conf.KillSignal)
	}
	if len(conf.Command) == 0 {
		return append(argv, "--boot"), nil
	}
	return append(append(argv, "--"), conf.Command...), nil
}

// mountpoint is where a filesystem of ZFS is mounted.
func (e Env) mountpoint(dataset string) (string, error) {
	f, err := os.Open(e.Mounts)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// ID, parent, device, root, mount point, options, optional fields, -, type, source, options: proc(5).
		before, after, ok := strings.Cut(lines.Text(), " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if ok && len(where) > 4 && len(what) > 1 && what[0] == "zfs" && unescaped(what[1]) == dataset {
			return unescaped(where[4]), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	return "", fmt.Errorf("%s is not mounted; `zfs mount %s` tells why. A container needs filesystems", dataset, dataset)
}

// unescaped reads the kernel's \040 for a space, and the like.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// errNotRunning: there is no QEMU to talk to.
var errNotRunning = errors.New("the virtual machine does not run")

// PowerDown asks the guest system to power off, and after the patience QEMU to end. It
// returns once QEMU has.
func (e Env) PowerDown(ctx context.Context, id guest.ID, patience time.Duration) error {
	e = e.withDefaults()
	err := e.powerDown(ctx, id, patience)
	if errors.Is(err, errNotRunning) {
		return nil
	}
	return err
}

func (e Env) powerDown(ctx context.Context, id guest.ID, patience time.Duration) error {
	q, err := dialQMP(ctx, path.Join(e.Sockets, id.String(), "qmp"))
	if err != nil {
		return err
	}
	defer q.conn.Close() //nolint:errcheck // what was to be said was said
	stop := context.AfterFunc(ctx, func() { _ = q.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := q.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for _, command := range []string{"qmp_capabilities", "system_powerdown"} {
		if err := q.execute(command); err != nil {
			return ended(err)
		}
	}
	if _, err := io.Copy(io.Discard, q.in); err == nil {
		return nil // QEMU has hung up.
	}
	if err := q.conn.SetDeadline(time.Now().Add(quitTimeout)); err != nil {
		return err
	}
	if err := q.execute("quit"); err != nil {
		return ended(err)
	}
	_, err = io.Copy(io.Discard, q.in)
	return ended(err)
}

// ended takes it for good that QEMU hangs up, also where it has not read all that it was told.
func ended(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}
