// Package qemu runs one machine as one QEMU process: its arguments, its monitor, and the accelerator that works on this host.
// It knows the image and the address plan, and no lab; package lab starts the processes and ends them.
package qemu

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tandemd/tandem/deploy/lab/image"
	"github.com/tandemd/tandem/deploy/lab/network"
)

// Accelerators of QEMU that the lab uses.
const (
	KVM = "kvm"
	TCG = "tcg"
)

// Spec is all that decides how QEMU runs one machine.
type Spec struct {
	Number    int // Number gives the machine its name and addresses
	Accel     string
	MemoryMiB int
	CPUs      int
	Image     image.Image
	Disks     string // Disks is the folder with root.qcow2 and data.qcow2
	Run       string // Run is the folder for sockets and logs
	Incoming  string // Incoming is the saved state to start from, stopped; the machine boots where it is empty
}

// Names of a machine's files, in its folders for disks and for sockets and logs.
const (
	RootDisk      = "root.qcow2"
	DataDisk      = "data.qcow2"
	SavedState    = "state.zst"
	MonitorSocket = "qmp.sock"
	ConsoleSocket = "console.sock"
	ConsoleLog    = "console.log"
	Log           = "qemu.log"
)

// cpuArgs are the words that choose accelerator and CPU. Under emulation some features are left out: la57, because a fifth
// level of page tables only costs time; cx16, because the cmpxchg16b of QEMU 7.2 leaves garbage in the flags: Linux 6.12
// uses it for its allocator and crashed with double faults in one boot of two; and the instructions for AES, which is
// emulated byte by byte: whoever believes the processor encrypts 10 MB/s, and 35 to 55 with ChaCha20, which Go and ssh take
// where there are none.
func cpuArgs(accel string) []string {
	if accel == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,-cx16,-la57,-aes,-pclmulqdq,-vaes,-vpclmulqdq"}
}

// kernelCommandLine is what the machine's kernel and the scripts of the image read.
func (s Spec) kernelCommandLine() string {
	return strings.Join([]string{
		"root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet loglevel=4",
		// The rest makes booting under emulation fast.
		"mitigations=off cryptomgr.notests 8250.nr_uarts=1 audit=0 apparmor=0 systemd.show_status=0 random.trust_cpu=on",
		// An emulated timer may come too late for the kernel's test of it, which panics then: "IO-APIC + timer doesn't work".
		"no_timer_check",
		"tandem.node=" + network.NodeName(s.Number),
		"tandem.addr=" + network.ClusterAddress(s.Number).String(),
		"tandem.mgmt=" + network.ToolAddress(s.Number).String(),
	}, " ")
}

// Args are QEMU's arguments.
func (s Spec) Args() []string {
	name := network.NodeName(s.Number)
	file := func(name string) string { return filepath.Join(s.Run, name) }
	args := []string{
		"-name", name, "-machine", "q35", "-m", strconv.Itoa(s.MemoryMiB), "-smp", strconv.Itoa(s.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none", "-daemonize", "-D", file(Log),
		"-rtc", "base=utc,clock=host",
		"-kernel", s.Image.Kernel(), "-initrd", s.Image.Initrd(), "-append", s.kernelCommandLine(),
		// Writes that the machine has not flushed are lost with QEMU's process; what it has flushed is in the host's files.
		"-drive", "if=none,id=root,format=qcow2,cache=writeback,discard=unmap,file=" + filepath.Join(s.Disks, RootDisk),
		"-device", "virtio-blk-pci,drive=root",
		"-drive", "if=none,id=data,format=qcow2,cache=writeback,discard=unmap,file=" + filepath.Join(s.Disks, DataDisk),
		"-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-hd,bus=scsi.0,drive=data,serial=tank",
		"-netdev", "tap,id=cluster,script=no,downscript=no,ifname=" + network.ClusterTap(name),
		"-device", "virtio-net-pci,netdev=cluster,romfile=,mac=" + network.ClusterMAC(s.Number),
		"-netdev", "tap,id=tool,script=no,downscript=no,ifname=" + network.ToolTap(name),
		"-device", "virtio-net-pci,netdev=tool,romfile=,mac=" + network.ToolMAC(s.Number),
		// A restored machine learns here that it was copied, and draws new random numbers.
		"-device", "vmgenid,guid=auto",
		"-chardev", fmt.Sprintf("socket,id=console,path=%s,server=on,wait=off,logfile=%s,logappend=on", file(ConsoleSocket), file(ConsoleLog)),
		"-serial", "chardev:console",
		"-qmp", fmt.Sprintf("unix:%s,server=on,wait=off", file(MonitorSocket)),
	}
	args = append(args, cpuArgs(s.Accel)...)
	if s.Incoming != "" {
		args = append(args, "-incoming", "exec:zstd -q -d -c "+s.Incoming)
	}
	return args
}

// probeArgs run a machine without disks that prints a line and ends, as customize's first stage does with `tandem.probe`.
func probeArgs(img image.Image, accel string) []string {
	args := []string{
		"-machine", "q35", "-m", "256", "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", img.Kernel(), "-initrd", img.Initrd(), "-append", "console=ttyS0 tandem.probe",
		"-chardev", "stdio,id=console", "-serial", "chardev:console",
	}
	return append(args, cpuArgs(accel)...)
}
