package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/qemu"
)

// templateFormat is part of the key of saved machines: raise it when what runs in them before they are saved changes.
const templateFormat = "1"

// warmUp waits until the machine has booted completely and brings into its memory what every test uses.
const warmUp = `systemctl is-system-running --wait >/dev/null
zpool list tank >/dev/null && zfs list -t all >/dev/null && journalctl -n 1 >/dev/null && date >/dev/null && tar --version >/dev/null && sync`

// templateKey tells apart machines that cannot be started from each other's saved state.
func templateKey(version, cpu string, spec qemu.Spec, diskGiB int) string {
	spec.Run, spec.Disks, spec.Incoming, spec.Number = "RUN", "DISKS", "", 1
	words := append(spec.Args(), version, strconv.Itoa(diskGiB), templateFormat, warmUp)
	if spec.Accel == qemu.KVM {
		words = append(words, cpu)
	}
	return folder.Key(words...)
}

// ensureTemplates returns the saved freshly booted machines, by name. Machines that the cache does not have are booted,
// all at once, and saved.
func (l *Lab) ensureTemplates(ctx context.Context) (map[string]savedMachine, error) {
	version, err := qemu.Version(ctx)
	if err != nil {
		return nil, err
	}
	key := templateKey(version, qemu.HostCPU(), l.machines[0].spec(""), l.opts.DiskGiB)
	dir := filepath.Join(l.img.Templates(), key)
	lock, err := folder.WaitLock(ctx, dir, func() { l.progress.Say("another lab boots the same machines; waiting for it") })
	if err != nil {
		return nil, fmt.Errorf("lock the saved machines in %s: %w", dir, err)
	}
	defer lock.Release()
	if err := sweepTemplates(filepath.Dir(l.img.Templates())); err != nil {
		return nil, err
	}
	templates := map[string]savedMachine{}
	var missing []*Machine
	for _, m := range l.machines {
		saved := savedMachine{dir: filepath.Join(dir, m.name), state: StateRunning}
		templates[m.name] = saved
		if !folder.Exists(saved.dir) {
			missing = append(missing, m)
		}
	}
	if len(missing) == 0 {
		return templates, nil
	}
	l.progress.Say("booting %s for the first time (their state is kept)", machineNames(missing))
	err = eachOf(ctx, missing, func(ctx context.Context, m *Machine) error {
		return m.makeTemplate(ctx, templates[m.name].dir)
	})
	if err != nil {
		return nil, err
	}
	return templates, nil
}

// sweepTemplates removes what interrupted labs of any kind have left in the folder of all saved machines.
func sweepTemplates(templates string) error {
	dirs, err := filepath.Glob(filepath.Join(templates, "*", "*"))
	if err != nil {
		return fmt.Errorf("look for saved machines: %w", err)
	}
	for _, dir := range dirs {
		if err := folder.Sweep(dir); err != nil {
			return err
		}
	}
	return nil
}

// makeTemplate boots the machine on new disks and saves it as final. It runs on no disks of its own afterwards.
func (m *Machine) makeTemplate(ctx context.Context, final string) (err error) {
	work, lock, err := folder.Work(filepath.Dir(final))
	if err != nil {
		return err
	}
	defer lock.Release()
	defer func() {
		if err != nil {
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
			defer cancel()
			err = errors.Join(err, m.Kill(after), os.RemoveAll(work))
		}
	}()
	if err := qemu.Overlay(ctx, filepath.Join(work, qemu.RootDisk), m.lab.img.Root()); err != nil {
		return err
	}
	if err := qemu.Blank(ctx, filepath.Join(work, qemu.DataDisk), m.lab.opts.DiskGiB); err != nil {
		return err
	}
	if err := m.boot(ctx, m.spec(work)); err != nil {
		return err
	}
	m.lab.progress.Say("%s has booted", m.name)
	if _, err := m.Output(ctx, warmUp); err != nil {
		return fmt.Errorf("after the boot: %w", err)
	}
	if err := m.hangUp(ctx); err != nil {
		return err
	}
	if err := m.tell(ctx, "stop"); err != nil {
		return err
	}
	if err := m.saveState(ctx, filepath.Join(work, qemu.SavedState)); err != nil {
		return err
	}
	if err := m.quit(ctx); err != nil {
		return err
	}
	if err := folder.Publish(work, final); err != nil {
		return err
	}
	m.lab.progress.Say("%s is saved", m.name)
	return nil
}

func machineNames(machines []*Machine) string {
	var names []string
	for _, m := range machines {
		names = append(names, m.name)
	}
	return strings.Join(names, ", ")
}
