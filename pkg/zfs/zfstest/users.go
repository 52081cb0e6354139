package zfstest

import (
	"context"
	"errors"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Device is [zfs.ZFS.Device]; nobody waits for a node that does not come.
func (p *Pool) Device(ctx context.Context, dataset string) (string, error) {
	if err := check("open", zname.Dataset(dataset)); err != nil {
		return "", err
	}
	ev := Event{Op: "Device", Name: dataset, After: true}
	if err := p.At(ctx, ev); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := p.open("open", dataset)
	if err != nil {
		return "", err
	}
	if mode, _ := p.effective(d, "volmode"); d.Type != zfs.TypeVolume || mode == "none" {
		return "", &zfs.Error{Op: "open", Dataset: dataset, Class: zfs.ClassBusy, Exit: -1, Err: errors.New("no device node: is udev at work?")}
	}
	return "/dev/zvol/" + dataset, nil
}

// Users is [zfs.ZFS.Users]: somebody has what is busy, and what is mounted.
func (p *Pool) Users(_ context.Context, datasets ...string) ([]zfs.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []zfs.User
	for _, name := range datasets {
		d := p.datasets[name]
		switch {
		case d == nil:
		case d.Busy:
			found = append(found, zfs.User{Dataset: name, PID: 4711, Command: "qemu", How: "has it open"})
		case d.Mounted:
			found = append(found, zfs.User{Dataset: name, PID: 1, Command: "systemd", How: "has it mounted at /" + name})
		}
	}
	return found, nil
}
