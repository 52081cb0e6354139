package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Mounts is what is done to filesystems that Delete is to destroy.
type Mounts string

// Before the ledger lets go of the volumes it is made sure that all of them can go, and
// undone where it does not let go.
const (
	Unmount Mounts = "unmount"
	Remount Mounts = "mount"
)

// unused looks who uses what is not mounted: who has a zvol open, or a filesystem in a place of his own. Of what is mounted
// unmounting it tells.
func (r *Releaser) unused(ctx context.Context, list []*volume) {
	var names []string
	for _, x := range list {
		if x.Left == "" && !x.data.Mounted {
			names = append(names, x.Dataset)
		}
	}
	if len(names) == 0 {
		return
	}
	users, err := local.Users(ctx, r.zfs.Users, names...)
	for _, x := range list {
		of := slices.DeleteFunc(slices.Clone(users), func(u zfs.User) bool { return u.Dataset != x.Dataset })
		switch {
		case !slices.Contains(names, x.Dataset):
		case err != nil:
			x.Left = fmt.Sprintf("who has it in use cannot be told: %v", err)
		case len(of) > 0:
			x.Left = inUse("it is in use", of, nil)
		}
	}
}

// unmount unmounts what is mounted, without force, or nothing: then it is the dataset that
// somebody uses.
func (r *Releaser) unmount(ctx context.Context, list []*volume) (blocked string) {
	for _, x := range list {
		if !x.data.Mounted || x.Left != "" {
			continue
		}
		err := r.zfs.Unmount(ctx, x.Dataset)
		x.Unmounted = err == nil
		users, failed := r.zfs.Users(ctx, x.Dataset)
		if err == nil && len(users) == 0 && failed == nil {
			continue
		}
		x.Left = inUse("it is mounted and in use", users, errors.Join(err, failed))
		r.remount(ctx, list)
		return x.Dataset
	}
	return ""
}

// remount mounts again what was unmounted.
func (r *Releaser) remount(ctx context.Context, list []*volume) {
	for _, x := range list {
		if !x.Unmounted {
			continue
		}
		if err := r.zfs.Mount(ctx, x.Dataset); err != nil {
			x.Left = strings.TrimPrefix(fmt.Sprintf("%s; it was unmounted and cannot be mounted again: %v", x.Left, err), "; ")
			continue
		}
		x.Unmounted = false
	}
}

// inUse names who uses a dataset, as far as that is known; that it is mounted is no news
// as long as somebody does more than that.
func inUse(text string, users []zfs.User, err error) string {
	busy := slices.DeleteFunc(slices.Clone(users), func(u zfs.User) bool { return strings.HasPrefix(u.How, "has it mounted") })
	if len(busy) == 0 {
		busy = users
	}
	var all []string
	for _, u := range busy[:min(len(busy), maxUsers)] {
		all = append(all, u.String())
	}
	if more := len(busy) - len(all); more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	if len(all) > 0 {
		text += ": " + strings.Join(all, "; ")
	}
	if err != nil {
		text += fmt.Sprintf(" (%v)", err)
	}
	return text
}

// maxUsers is how many of them are named.
const maxUsers = 4
