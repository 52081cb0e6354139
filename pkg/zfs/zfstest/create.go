package zfstest

import (
	"context"
	"fmt"
	"maps"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

// CreateFilesystem is [zfs.ZFS.CreateFilesystem].
func (p *Pool) CreateFilesystem(ctx context.Context, name string, props map[string]string) error {
	if err := zfs.CheckCreate(name, props); err != nil {
		return err
	}
	return p.do(ctx, "CreateFilesystem", []string{name}, func() error {
		parent := p.datasets[parentOf(name)]
		switch {
		case parent == nil:
			return zerr.New("create", name, 1, fmt.Sprintf("cannot create '%s': parent does not exist", name))
		case parent.Type != zfs.TypeFilesystem:
			return zerr.New("create", name, 1, fmt.Sprintf("cannot create '%s': parent is not a filesystem", name))
		case p.datasets[name] != nil:
			return zerr.New("create", name, 1, fmt.Sprintf("cannot create '%s': dataset already exists", name))
		}
		maps.Copy(p.add(name, zfs.TypeFilesystem).Props, props)
		return nil
	})
}
