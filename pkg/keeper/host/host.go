// Package host is this machine as pkg/keeper needs it: the guests' volumes
// as ZFS shows them, their configuration files, which boot this is.
//
// It decides nothing; pkg/daemon fills it, and pkg/cli's forced start uses it without
// a daemon.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Volumes are the guests' volumes on this node.
type Volumes struct {
	// Storages maps names of storages to datasets of this node.
	Storages map[string]string
	// List reads datasets, as [zfs.ZFS.List] does.
	List func(ctx context.Context, names ...string) ([]zfs.Dataset, error)
}

// Look reads what a guest's volumes carry. What cannot be read is an error, never
// absent: a pool that is away has what it has.
func (v Volumes) Look(ctx context.Context, cluster string, g guest.Guest) ([]rules.Volume, error) {
	out := make([]rules.Volume, 0, len(g.Volumes))
	var names []string
	for _, vol := range g.Volumes {
		out = append(out, rules.Volume{Volume: vol, Missing: true})
		if root, ok := v.Storages[vol.Storage]; ok {
			names = append(names, root+"/"+vol.Name)
		}
	}
	if len(names) == 0 {
		return out, nil
	}
	list, err := v.List(ctx, names...)
	if err != nil {
		return nil, err
	}
	for i := range out {
		root, ok := v.Storages[out[i].Volume.Storage]
		if !ok {
			continue
		}
		for _, d := range list {
			if d.Name != root+"/"+out[i].Volume.Name {
				continue
			}
			if d.Err != nil && zfs.ClassOf(d.Err) != zfs.ClassGone {
				return nil, d.Err
			}
			out[i] = volumeOf(cluster, g, out[i].Volume, d)
		}
	}
	return out, nil
}

// volumeOf is what a dataset says.
func volumeOf(cluster string, g guest.Guest, v guest.Volume, d zfs.Dataset) rules.Volume {
	out := rules.Volume{Volume: v, ReadOnly: d.ReadOnly, Unmounted: d.Unmounted()}
	role := d.Props[zfs.PropRole]
	switch {
	case !d.Exists():
		out.Missing = true
	case role == "" && d.Props[zfs.PropGuest] == "" && d.Props[zfs.PropCluster] == "":
	case d.Props[zfs.PropCluster] != cluster || d.Props[zfs.PropGuest] != g.ID.String() || d.Props[zfs.PropVolume] != v.String():
		out.Foreign = true
	default:
		term, err := guest.ParseTerm(d.Props[zfs.PropTerm])
		out.Marked, out.Role, out.Term = true, role, term
		out.Foreign = err != nil
		// A retirement seals first and takes the seal off last. What is set aside gets another name at the end, be it by a
		// retirement, or for a sync or a migration whose owner does not come back to it.
		out.Unfinished = !out.Foreign && role != zfs.RoleOwner && (role == zfs.RoleDiverged || d.Props[zfs.PropSealed] != "")
	}
	return out
}

// Files are the configuration files of guests, ID.conf in a folder that is root's
// alone.
type Files struct{ Dir string }

func (f Files) path(id guest.ID) string { return filepath.Join(f.Dir, id.String()+".conf") }

// Put has the file hold the content: the old one or the new one, whenever the machine
// stops. Empty: there is none.
func (f Files) Put(id guest.ID, content string) error {
	if content == "" {
		return f.Remove(id)
	}
	path := f.path(id)
	if old, err := os.ReadFile(path); err == nil && string(old) == content {
		return nil
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return err
	}
	aside := path + ".new"
	if err := write(aside, content); err != nil {
		return errors.Join(err, gone(os.Remove(aside)))
	}
	if err := os.Rename(aside, path); err != nil {
		return errors.Join(err, gone(os.Remove(aside)))
	}
	return f.sync()
}

func write(path, content string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteString(content); err != nil {
		return err
	}
	return f.Sync()
}

// Remove takes the file away, if it is there.
func (f Files) Remove(id guest.ID) error {
	path := f.path(id)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := gone(os.Remove(path)); err != nil {
		return err
	}
	return f.sync()
}

// gone is nil where there was nothing to remove.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f Files) sync() (err error) {
	dir, err := os.Open(f.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}

// BootID names this run of the machine.
func BootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("which boot this is: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// A Permit lets the unit of a guest start while there is no daemon to ask, until the
// machine boots or a daemon starts: a start that was forced.
type Permit struct {
	Boot string     `json:"boot"`
	Term guest.Term `json:"term"`
}

const permitSuffix = ".forced"

// PermitPath is where the permit of a guest is, as a state file.
func (f Files) PermitPath(id guest.ID) string {
	return filepath.Join(f.Dir, id.String()+permitSuffix)
}

// EndPermits ends all: from now on there is a daemon to ask.
func (f Files) EndPermits() error {
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return gone(err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), permitSuffix) {
			errs = append(errs, gone(os.Remove(filepath.Join(f.Dir, e.Name()))))
		}
	}
	return errors.Join(errs...)
}
