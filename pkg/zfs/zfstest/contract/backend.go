package contract

import (
	"context"
	"io"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// Backend is what real and in-memory ZFS both are. Consumers declare the few methods that they need.
type Backend interface {
	Version(ctx context.Context) (zfs.Version, error)
	PoolFacts(ctx context.Context, pool string) (zfs.PoolFacts, error)
	PoolTrouble(pool string) (zfs.PoolTrouble, error)
	Storage(ctx context.Context, dataset string) (zfs.Storage, error)
	List(ctx context.Context, names ...string) ([]zfs.Dataset, error)
	Children(ctx context.Context, root string) ([]zfs.Dataset, error)
	Properties(ctx context.Context, props []string, names ...string) (map[string]map[string]zfs.Property, error)
	Snapshot(ctx context.Context, snaps []string, props map[string]string) error
	DestroySnapshots(ctx context.Context, dataset string, names []string) error
	Change(ctx context.Context, changes ...zfs.Change) ([]zfs.Changed, error)
	Mounted(dataset string) (bool, error)
	Bookmark(ctx context.Context, snap, bookmark string) error
	DestroyBookmark(ctx context.Context, bookmark string) error
	Hold(ctx context.Context, tag string, snaps ...string) error
	Release(ctx context.Context, tag string, snaps ...string) error
	Holds(ctx context.Context, snaps ...string) ([]zfs.Hold, error)
	SetProps(ctx context.Context, props map[string]string, names ...string) error
	Inherit(ctx context.Context, prop string, names ...string) error
	CreateFilesystem(ctx context.Context, name string, props map[string]string) error
	Rename(ctx context.Context, from, to string) error
	Promote(ctx context.Context, dataset string) error
	Clone(ctx context.Context, snap, dataset string, props map[string]string) error
	Mount(ctx context.Context, dataset string) error
	MountAt(ctx context.Context, dataset, dir string) error
	UnmountAt(ctx context.Context, dataset, dir string) error
	MountedAt(dataset string) (string, error)
	Diff(ctx context.Context, from, to string) (zfs.Diff, error)
	Unmount(ctx context.Context, dataset string) error
	AbortReceive(ctx context.Context, dataset string) error
	DestroyDataset(ctx context.Context, spec zfs.DestroySpec) error
	EstimateSend(ctx context.Context, spec zfs.SendSpec) (uint64, error)
	TokenInfo(ctx context.Context, dataset, token string) (zfs.Token, error)
	Send(ctx context.Context, spec zfs.SendSpec) (zfs.Stream, error)
	Receive(ctx context.Context, spec zfs.ReceiveSpec, r io.Reader) (zfs.Received, error)
	Contents(ctx context.Context, spec zfs.ContentsSpec) (zfs.Stream, error)
	Device(ctx context.Context, dataset string) (string, error)
	Users(ctx context.Context, datasets ...string) ([]zfs.User, error)
	DropContents(ctx context.Context, spec zfs.ContentsSpec) error
	Try(ctx context.Context, spec zfs.TrialSpec) (path string, err error)
	DropTrial(ctx context.Context, spec zfs.TrialSpec) error
	Counters() zfs.Counters
}

var (
	_ Backend = (*zfs.ZFS)(nil)
	_ Backend = (*zfstest.Pool)(nil)
)
