// Package zroot reads the root dataset of a storage and its pool with go-zfs. That library knows no deadlines and no contexts:
// pkg/zfs, its only caller, sees to them.
package zroot

import (
	"errors"

	gozfs "github.com/mistifyio/go-zfs/v3"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Root is the root dataset of a storage and the pool below it.
type Root struct {
	// Type is "filesystem" or "volume".
	Dataset, Type string
	// Available and Used are the dataset's, in bytes, quotas included.
	Available, Used uint64
	Pool            string
	// Health is the pool's: ONLINE, DEGRADED, ….
	Health             string
	PoolFree, PoolSize uint64
	PoolReadOnly       bool
}

// Read runs two processes, a zfs and a zpool, and waits for them however long they take.
func Read(dataset string) (Root, error) {
	d, err := gozfs.GetDataset(dataset)
	if err != nil {
		return Root{}, classify("zfs list", dataset, err)
	}
	pool, err := gozfs.GetZpool(zname.PoolOf(dataset))
	if err != nil {
		return Root{}, classify("zpool get", dataset, err)
	}
	return Root{
		Dataset: dataset, Type: d.Type, Available: d.Avail, Used: d.Used,
		Pool: pool.Name, Health: pool.Health, PoolFree: pool.Free, PoolSize: pool.Size, PoolReadOnly: pool.ReadOnly,
	}, nil
}

func classify(op, dataset string, err error) error {
	if e, ok := errors.AsType[*gozfs.Error](err); ok && e.Stderr != "" {
		return zerr.New(op, dataset, 1, e.Stderr)
	}
	return &zerr.Error{Op: op, Dataset: dataset, Class: zerr.Unknown, Exit: -1, Err: err}
}
