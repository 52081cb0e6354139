package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
	"github.com/tandemd/tandem/deploy/lab/network"
	"github.com/tandemd/tandem/deploy/lab/qemu"
)

// State is what a machine is doing.
type State string

// States of a machine.
const (
	StateOff     State = "off"
	StateRunning State = "running"
	StatePaused  State = "paused"
)

const (
	readyLine    = "tandem-lab: ready"
	panicLine    = "Kernel panic"
	zfsLine      = "spl: "         // the first that ZFS's modules say
	bootTimeout  = 5 * time.Minute // three machines under emulation need less than one
	startTimeout = time.Minute     // loading a saved state takes seconds
)

// Machine is one machine of a lab.
type Machine struct {
	lab    *Lab
	name   string
	number int

	connecting sync.Mutex // held while the shared SSH connection is made
}

// Name is n1, n2 and so on.
func (m *Machine) Name() string { return m.name }

// Address is the machine's address on the cluster's network, the one whose cable Cut cuts.
func (m *Machine) Address() netip.Addr { return network.ClusterAddress(m.number).Addr() }

// ConsoleLog is the path of a file with everything that the machine said on its serial console.
func (m *Machine) ConsoleLog() string { return m.file(qemu.ConsoleLog) }

// ConsoleSocket is the path of the Unix socket that is the other end of the machine's serial console.
func (m *Machine) ConsoleSocket() string { return m.file(qemu.ConsoleSocket) }

func (m *Machine) runDir() string          { return filepath.Join(m.lab.runDir(), m.name) }
func (m *Machine) diskDir() string         { return filepath.Join(m.lab.diskDir(), m.name) }
func (m *Machine) file(name string) string { return filepath.Join(m.runDir(), name) }

// State asks QEMU what the machine is doing.
func (m *Machine) State(ctx context.Context) (State, error) {
	alive, err := host.Running(m.file(qemu.MonitorSocket))
	if err != nil || !alive {
		return StateOff, err
	}
	mon, err := qemu.Dial(ctx, m.file(qemu.MonitorSocket))
	if err != nil {
		return "", err
	}
	defer mon.Close()
	status, err := mon.Status(ctx)
	if err != nil {
		return "", err
	}
	if status == "running" {
		return StateRunning, nil
	}
	return StatePaused, nil
}

// Cut pulls the machine's cluster cable: nothing passes any more, and the machine is not told. Run works on.
func (m *Machine) Cut(ctx context.Context) error {
	return m.lab.ns.Cut(ctx, m.name)
}

// Mend puts the cluster cable back.
func (m *Machine) Mend(ctx context.Context) error {
	return m.lab.ns.Mend(ctx, m.name)
}

// IsCut reports whether the machine's cluster cable is cut.
func (m *Machine) IsCut(ctx context.Context) (bool, error) {
	return m.lab.ns.IsCut(ctx, m.name)
}

// Kill is a power cut: what the machine has not flushed to its disks is lost. A machine that is off stays off.
func (m *Machine) Kill(ctx context.Context) error {
	if err := host.KillAll(ctx, m.file(qemu.MonitorSocket)); err != nil {
		return fmt.Errorf("kill %s: %w", m.name, err)
	}
	return m.hangUp(ctx)
}

// Start boots a machine that is off, from its disks as they are, and waits until it is ready.
func (m *Machine) Start(ctx context.Context) error {
	state, err := m.State(ctx)
	if err != nil {
		return err
	}
	if state != StateOff {
		return fmt.Errorf("start %s: it is %s", m.name, state)
	}
	if err := m.hangUp(ctx); err != nil {
		return err
	}
	return m.boot(ctx, m.spec(m.diskDir()))
}

// Pause stalls the machine: its processors stop, its clock with them, and the world goes on.
func (m *Machine) Pause(ctx context.Context) error {
	return m.tell(ctx, "stop")
}

// Resume lets a paused machine go on. Its clock is late by the length of the pause, as after a real stall.
func (m *Machine) Resume(ctx context.Context) error {
	return m.tell(ctx, "cont")
}

// tell sends one command without arguments to QEMU's monitor.
func (m *Machine) tell(ctx context.Context, command string) error {
	mon, err := qemu.Dial(ctx, m.file(qemu.MonitorSocket))
	if err != nil {
		return fmt.Errorf("%s: is it off? %w", m.name, err)
	}
	defer mon.Close()
	if err := mon.Execute(ctx, command, nil, nil); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

// spec says how the machine runs on the disks in a folder.
func (m *Machine) spec(disks string) qemu.Spec {
	return qemu.Spec{
		Number: m.number, Accel: m.lab.rec.Accel, MemoryMiB: m.lab.opts.MemoryMiB, CPUs: m.lab.opts.CPUs,
		Image: m.lab.img, Disks: disks, Run: m.runDir(),
	}
}

// launch starts QEMU and returns when it has opened everything that it needs.
func (m *Machine) launch(ctx context.Context, spec qemu.Spec) error {
	if err := os.MkdirAll(spec.Run, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	words := m.lab.ns.Enter("qemu-system-x86_64", spec.Args()...)
	if err := host.RunDetached(ctx, m.file("qemu.start"), "nsenter", words...); err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	return nil
}

// errEmulation is a panic of a kernel that had not loaded anything of what is tried here.
var errEmulation = errors.New("the kernel panicked before it had loaded ZFS")

// boot launches the machine and waits until it says that it is ready. Emulation makes a kernel panic now and then: where that
// cannot be ZFS's, it is said and the machine boots again.
func (m *Machine) boot(ctx context.Context, spec qemu.Spec) error {
	for tries := 3; ; tries-- {
		err := m.bootOnce(ctx, spec)
		if !errors.Is(err, errEmulation) || tries == 1 || m.lab.rec.Accel == qemu.KVM {
			return err
		}
		m.lab.progress.Say("%v; it boots again", err)
		if err := m.Kill(ctx); err != nil {
			return err
		}
	}
}

func (m *Machine) bootOnce(ctx context.Context, spec qemu.Spec) error {
	var seen int64
	if info, err := os.Stat(m.ConsoleLog()); err == nil {
		seen = info.Size()
	}
	if err := m.launch(ctx, spec); err != nil {
		return err
	}
	limit, cancel := context.WithTimeoutCause(ctx, bootTimeout,
		fmt.Errorf("%s is not ready after %s; its console: %s", m.name, bootTimeout, m.ConsoleLog()))
	defer cancel()
	return host.Poll(limit, 100*time.Millisecond, func() (bool, error) {
		text, err := folder.ReadFrom(m.ConsoleLog(), seen)
		switch {
		case err != nil:
			return false, err
		case strings.Contains(text, readyLine):
			return true, nil
		case strings.Contains(text, panicLine):
			return false, m.panicked(text)
		}
		return false, m.checkAlive()
	})
}

// panicked is the error of a machine whose kernel has said its last words.
func (m *Machine) panicked(console string) error {
	before, after, _ := strings.Cut(console, panicLine)
	words := host.Tail(before, 15) + " " + panicLine + after[:min(len(after), 2000)]
	if strings.Contains(before, zfsLine) {
		return fmt.Errorf("the kernel of %s panicked; its console, %s: %s", m.name, m.ConsoleLog(), words)
	}
	return fmt.Errorf("%s: %w; its console, %s: %s", m.name, errEmulation, m.ConsoleLog(), words)
}

// load launches the machine from a saved state and waits until the state is loaded; the machine is stopped then.
func (m *Machine) load(ctx context.Context, spec qemu.Spec) error {
	if err := m.launch(ctx, spec); err != nil {
		return err
	}
	limit, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%s did not load its saved state in %s", m.name, startTimeout))
	defer cancel()
	mon, err := qemu.Dial(limit, m.file(qemu.MonitorSocket))
	if err != nil {
		return m.loadFailure(err)
	}
	defer mon.Close()
	return host.Poll(limit, 50*time.Millisecond, func() (bool, error) {
		status, err := mon.Status(limit)
		if err != nil {
			return false, m.loadFailure(err)
		}
		return status != "inmigrate", nil
	})
}

// loadFailure adds QEMU's own words, which it wrote before it ended.
func (m *Machine) loadFailure(err error) error {
	text, readErr := folder.ReadFrom(m.file(qemu.Log), 0)
	return fmt.Errorf("load the saved state of %s: %w: %s", m.name, errors.Join(err, readErr), host.Tail(text, 3))
}

// checkAlive fails where the machine's QEMU has ended.
func (m *Machine) checkAlive() error {
	alive, err := host.Running(m.file(qemu.MonitorSocket))
	if err == nil && !alive {
		err = fmt.Errorf("%s ended while it booted; its console: %s", m.name, m.ConsoleLog())
	}
	return err
}
