package zfs

import (
	"context"
	"slices"

	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// CreateFilesystem makes a filesystem with these properties; its parent must exist. It is not mounted.
func (z *ZFS) CreateFilesystem(ctx context.Context, name string, props map[string]string) error {
	if err := CheckCreate(name, props); err != nil {
		return err
	}
	return z.change(ctx, "create", []string{name}, slices.Concat([]string{"create", "-u"}, options(props), []string{name}))
}

// CheckCreate tells what is wrong with the arguments of a CreateFilesystem call; nil if nothing is.
func CheckCreate(name string, props map[string]string) error {
	if err := zname.Dataset(name); err != nil {
		return refuse("create", name, err)
	}
	if err := zname.Props(props); err != nil {
		return refuse("create", name, err)
	}
	return nil
}
