package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
	"github.com/tandemd/tandem/deploy/lab/qemu"
)

// savedMachine is a machine on the disk: its disks, and its memory where it was running.
type savedMachine struct {
	dir   string
	state State
}

// savedLab is the record beside the machines of a saved lab.
type savedLab struct {
	States map[string]State `json:"states"`
	Cut    []string         `json:"cut"`
}

const savedFile = "save.json"

var saveName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func (l *Lab) savePath(name string) (string, error) {
	if !saveName.MatchString(name) {
		return "", fmt.Errorf("name of a save %q: want letters, digits and _.- only, at most 64", name)
	}
	return filepath.Join(l.diskDir(), "saves", name), nil
}

// SaveAll saves all machines in the same moment, memory, disks and cables, under a name that RestoreAll takes, and lets them
// go on. Saves live as long as the lab; a name is used once.
func (l *Lab) SaveAll(ctx context.Context, name string) error {
	final, err := l.savePath(name)
	if err != nil {
		return err
	}
	lock, err := folder.WaitLock(ctx, l.runDir(), nil)
	if err != nil {
		return fmt.Errorf("lock the lab: %w", err)
	}
	defer lock.Release()
	if folder.Exists(final) {
		return fmt.Errorf("save %q is there already: machines may run on its disks, so it is not replaced", name)
	}
	work, workLock, err := folder.Work(filepath.Dir(final))
	if err != nil {
		return err
	}
	defer workLock.Release()
	l.progress.Say("saving %q", name)
	save, err := l.saveStates(ctx, work)
	if err != nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return errors.Join(err, l.goOn(after, save), os.RemoveAll(work))
	}
	// From here on the machines exist as what was saved only: go through with it.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*cleanupTimeout)
	defer cancel()
	if err := l.freeze(after, work, final, save); err != nil {
		return err
	}
	return l.restore(after, name)
}

// saveStates stops all machines and writes the memory of those that were on. The result tells which states they had, also
// where it fails.
func (l *Lab) saveStates(ctx context.Context, work string) (savedLab, error) {
	save := savedLab{States: map[string]State{}}
	for _, m := range l.machines {
		state, err := m.State(ctx)
		if err != nil {
			return save, err
		}
		cut, err := m.IsCut(ctx)
		if err != nil {
			return save, err
		}
		save.States[m.name] = state
		if cut {
			save.Cut = append(save.Cut, m.name)
		}
	}
	for _, m := range l.machines {
		if save.States[m.name] == StateRunning {
			if err := m.Pause(ctx); err != nil {
				return save, err
			}
		}
	}
	return save, l.each(ctx, func(ctx context.Context, m *Machine) error {
		dir := filepath.Join(work, m.name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		if save.States[m.name] == StateOff {
			return nil
		}
		return m.saveState(ctx, filepath.Join(dir, qemu.SavedState))
	})
}

// goOn lets the machines run that ran before a save that failed.
func (l *Lab) goOn(ctx context.Context, save savedLab) error {
	var errs []error
	for _, m := range l.machines {
		if save.States[m.name] != StateRunning {
			continue
		}
		// Refused where nothing is being written, which is as good.
		_ = m.tell(ctx, "migrate_cancel")
		limit, cancel := context.WithTimeout(ctx, qemu.Timeout)
		var last error
		err := host.Poll(limit, 100*time.Millisecond, func() (bool, error) {
			last = m.Resume(limit)
			return last == nil, nil
		})
		cancel()
		if err != nil {
			errs = append(errs, last)
		}
	}
	return errors.Join(errs...)
}

// freeze ends the machines and moves their disks into the save, which gets its name then.
func (l *Lab) freeze(ctx context.Context, work, final string, save savedLab) error {
	for _, m := range l.machines {
		if save.States[m.name] != StateOff {
			if err := m.quit(ctx); err != nil {
				return err
			}
		}
		for _, disk := range []string{qemu.RootDisk, qemu.DataDisk} {
			if err := os.Rename(filepath.Join(m.diskDir(), disk), filepath.Join(work, m.name, disk)); err != nil {
				return fmt.Errorf("save the disks of %s: %w", m.name, err)
			}
		}
	}
	if err := folder.WriteJSON(filepath.Join(work, savedFile), save); err != nil {
		return err
	}
	// A save does not outlive the lab: it need not be on the disk.
	if err := os.Rename(work, final); err != nil {
		return fmt.Errorf("name the save: %w", err)
	}
	return nil
}

// RestoreAll throws away what all machines are and brings back what they were when SaveAll saved them, with their cables.
// Their clocks are set to the host's.
func (l *Lab) RestoreAll(ctx context.Context, name string) error {
	lock, err := folder.WaitLock(ctx, l.runDir(), nil)
	if err != nil {
		return fmt.Errorf("lock the lab: %w", err)
	}
	defer lock.Release()
	l.progress.Say("restoring %q", name)
	return l.restore(ctx, name)
}

func (l *Lab) restore(ctx context.Context, name string) error {
	path, err := l.savePath(name)
	if err != nil {
		return err
	}
	var save savedLab
	if err := folder.ReadJSON(filepath.Join(path, savedFile), &save); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("there is no save %q in lab %q", name, l.opts.Name)
		}
		return err
	}
	for _, m := range l.machines {
		if err := errors.Join(m.Kill(ctx), m.Mend(ctx)); err != nil {
			return err
		}
	}
	for _, cut := range save.Cut {
		m, err := l.Machine(cut)
		if err != nil {
			return err
		}
		if err := m.Cut(ctx); err != nil {
			return err
		}
	}
	return l.startFrom(ctx, func(m *Machine) savedMachine {
		return savedMachine{dir: filepath.Join(path, m.name), state: save.States[m.name]}
	})
}

// startFrom starts all machines on new disks over saved ones: first all states are loaded, then all go on together.
func (l *Lab) startFrom(ctx context.Context, saved func(*Machine) savedMachine) error {
	l.progress.Say("starting %s from their saved states", machineNames(l.machines))
	err := l.each(ctx, func(ctx context.Context, m *Machine) error {
		from := saved(m)
		if err := os.MkdirAll(m.diskDir(), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		for _, disk := range []string{qemu.RootDisk, qemu.DataDisk} {
			if err := qemu.Overlay(ctx, filepath.Join(m.diskDir(), disk), filepath.Join(from.dir, disk)); err != nil {
				return err
			}
		}
		if from.state == StateOff {
			return nil
		}
		spec := m.spec(m.diskDir())
		spec.Incoming = filepath.Join(from.dir, qemu.SavedState)
		return m.load(ctx, spec)
	})
	if err != nil {
		return err
	}
	for _, m := range l.machines {
		if saved(m).state == StateRunning {
			if err := m.Resume(ctx); err != nil {
				return err
			}
		}
	}
	return l.each(ctx, func(ctx context.Context, m *Machine) error {
		if saved(m).state != StateRunning {
			return nil
		}
		return m.SetClock(ctx)
	})
}

// saveState writes the stopped machine's memory and devices into a file.
func (m *Machine) saveState(ctx context.Context, path string) error {
	mon, err := qemu.Dial(ctx, m.file(qemu.MonitorSocket))
	if err != nil {
		return fmt.Errorf("save %s: %w", m.name, err)
	}
	defer mon.Close()
	if err := mon.SaveState(ctx, path); err != nil {
		return fmt.Errorf("save %s: %w", m.name, err)
	}
	return nil
}

// quit ends a machine whose state was saved: QEMU closes its disks in order.
func (m *Machine) quit(ctx context.Context) error {
	if err := m.tell(ctx, "quit"); err != nil {
		return err
	}
	limit, cancel := context.WithTimeoutCause(ctx, qemu.Timeout, fmt.Errorf("QEMU of %s does not end", m.name))
	defer cancel()
	err := host.Poll(limit, 20*time.Millisecond, func() (bool, error) {
		alive, err := host.Running(m.file(qemu.MonitorSocket))
		return !alive, err
	})
	if err != nil {
		return err
	}
	return m.hangUp(ctx)
}
