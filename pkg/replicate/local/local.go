// Package local is what both sides of a sync need of their own node: ZFS, the
// ledger's copy, small files, locks, and datasets as the planner wants them.
// pkg/replicate and pkg/replicate/replica share it; it decides nothing.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// ZFS is what a sync needs of pkg/zfs.
type ZFS interface {
	Reader
	Changer
	Streamer
	Keeper
	Mover
	Viewer
}

// Viewer lets operators look into datasets.
type Viewer interface {
	MountAt(ctx context.Context, dataset, dir string) error
	UnmountAt(ctx context.Context, dataset, dir string) error
	MountedAt(dataset string) (string, error)
	Diff(ctx context.Context, from, to string) (zfs.Diff, error)
}

// Reader asks and changes nothing.
type Reader interface {
	Version(ctx context.Context) (zfs.Version, error)
	PoolFacts(ctx context.Context, pool string) (zfs.PoolFacts, error)
	List(ctx context.Context, names ...string) ([]zfs.Dataset, error)
	Children(ctx context.Context, root string) ([]zfs.Dataset, error)
	TokenInfo(ctx context.Context, dataset, token string) (zfs.Token, error)
	Properties(ctx context.Context, props []string, names ...string) (map[string]map[string]zfs.Property, error)
	Holds(ctx context.Context, snaps ...string) ([]zfs.Hold, error)
	Mounted(dataset string) (bool, error)
	// Device waits for the device node of a zvol.
	Device(ctx context.Context, dataset string) (string, error)
	// Users are who has datasets open or mounted.
	Users(ctx context.Context, datasets ...string) ([]zfs.User, error)
}

// Changer changes snapshots and properties, and destroys replicas under guard.
type Changer interface {
	Change(ctx context.Context, changes ...zfs.Change) ([]zfs.Changed, error)
	SetProps(ctx context.Context, props map[string]string, names ...string) error
	Inherit(ctx context.Context, prop string, names ...string) error
	DestroyDataset(ctx context.Context, spec zfs.DestroySpec) error
}

// Keeper keeps what may not go: by holds, and by bookmarks of what goes.
type Keeper interface {
	Hold(ctx context.Context, tag string, snaps ...string) error
	Release(ctx context.Context, tag string, snaps ...string) error
	DestroyBookmark(ctx context.Context, bookmark string) error
}

// Mover takes datasets out of the way and puts others in their place.
type Mover interface {
	CreateFilesystem(ctx context.Context, name string, props map[string]string) error
	Mount(ctx context.Context, dataset string) error
	Unmount(ctx context.Context, dataset string) error
	Rename(ctx context.Context, from, to string) error
	Clone(ctx context.Context, snap, dataset string, props map[string]string) error
	Promote(ctx context.Context, dataset string) error
}

// Streamer sends and receives.
type Streamer interface {
	Send(ctx context.Context, spec zfs.SendSpec) (zfs.Stream, error)
	Receive(ctx context.Context, spec zfs.ReceiveSpec, r io.Reader) (zfs.Received, error)
	AbortReceive(ctx context.Context, dataset string) error
}

// Quiescer has a running guest stand still while a point of it is taken.
type Quiescer interface {
	// Quiesce never fails: where it cannot, the guest is Crash-consistent and the warning
	// says why. Thaw must be called, once; its error says that the guest did not stand
	// still until then, or still does.
	Quiesce(ctx context.Context, g guest.Guest) (how guest.Consistency, thaw func() error, warning string)
}

// Ledger is the node's copy of the agreed state.
type Ledger interface {
	View() *ledger.State
	// WaitApplied waits until the command at index has been applied here.
	WaitApplied(ctx context.Context, index uint64) error
}

// Store keeps small checksummed files by name. Read of an absent one is fs.ErrNotExist.
type Store interface {
	Read(name string, v any) error
	Write(name string, v any) error
}

// Options are what both sides need.
type Options struct {
	Node guest.NodeID
	Name guest.NodeName
	// Storages maps names of storages to datasets of this node.
	Storages map[string]string
	ZFS      ZFS
	Ledger   Ledger
	Store    Store
	// LockDir is an existing folder for the lock files.
	LockDir string
	// Locks are those of LockDir; the sides of one node must share them. Default: new ones.
	Locks *Locks
	// Together is that of ZFS; the sides of one node should share it. Default: a new one.
	Together *Together
	// Pins are snapshots that are being read; who reads must share them with the
	// source. Default: none.
	Pins *Pins
	// Identities are those of Store; who owns guests on one node should share them.
	// Default: new ones.
	Identities *Identities
	// Quiescer is for guests that ask for it; nil: their points are as after a power cut.
	Quiescer Quiescer
	Now      func() time.Time
	// Quorate is how long this node has been quorate in all, as far as it knows; it
	// may begin anew. Default: as if it had always been.
	Quorate func() time.Duration
	// KeepBase is for how much of that the base of a target that does not answer stays
	// a snapshot; then it becomes a bookmark. Default: 7 days.
	KeepBase time.Duration
	// Streams is how many volumes of one sync travel side by side; default 2.
	Streams int
	// CatchUp is how long a target waits for its ledger to reach the sender's; default 5 s.
	CatchUp time.Duration
	// CallTimeout is the deadline of one call to a target; default 5 minutes, as much
	// as one zfs process there may take.
	CallTimeout time.Duration
	// LockWait is how long a target waits for a receive that is just ending, and a
	// source for another run that takes or cleans points of the guest; default 15 s.
	LockWait time.Duration
}

// WithDefaults checks the options and fills in what is left out.
func (o Options) WithDefaults() (Options, error) {
	if err := o.Node.Validate(); err != nil {
		return o, err
	}
	if _, err := guest.ParseNodeName(string(o.Name)); err != nil {
		return o, err
	}
	for name, dataset := range o.Storages {
		if err := zname.Dataset(dataset); err != nil {
			return o, fmt.Errorf("storage %s: %w", name, err)
		}
	}
	if o.ZFS == nil || o.Ledger == nil || o.Store == nil || o.Now == nil || o.LockDir == "" {
		return o, errors.New("ZFS, Ledger, Store, Now and LockDir are needed")
	}
	if o.Locks == nil {
		o.Locks = NewLocks(o.LockDir)
	}
	if o.Together == nil {
		o.Together = NewTogether(o.ZFS)
	}
	if o.Pins == nil {
		o.Pins = NewPins()
	}
	if o.Identities == nil {
		o.Identities = NewIdentities(o.Store)
	}
	if o.Quorate == nil {
		now := o.Now
		o.Quorate = func() time.Duration { return time.Duration(now().Unix()) * time.Second }
	}
	if o.KeepBase == 0 {
		o.KeepBase = 7 * 24 * time.Hour
	}
	if o.Streams == 0 {
		o.Streams = 2
	}
	if o.CatchUp == 0 {
		o.CatchUp = 5 * time.Second
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 5 * time.Minute
	}
	if o.LockWait == 0 {
		o.LockWait = 15 * time.Second
	}
	return o, nil
}

// Dataset is where a volume stands on this node.
func (o Options) Dataset(v guest.Volume) (string, error) {
	root, ok := o.Storages[v.Storage]
	if !ok {
		return "", &fault.Error{
			Class: fault.ClassPerson, Volume: v, Text: fmt.Sprintf("node %s has no storage %s", o.Name, v.Storage),
			Hint: "add it to the storages in " + string(o.Name) + "'s configuration and restart its daemon",
		}
	}
	return root + "/" + v.Name, nil
}

// Datasets are those of all volumes, in order.
func (o Options) Datasets(volumes []guest.Volume) ([]string, error) {
	var out []string
	for _, v := range volumes {
		d, err := o.Dataset(v)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// Version is that of the kernel module, asked once.
type Version struct {
	mu    sync.Mutex
	known string
}

// Get asks at the first call.
func (v *Version) Get(ctx context.Context, z ZFS) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == "" {
		got, err := z.Version(ctx)
		if err != nil {
			return "", fault.Wrap(err, "ask for the version of ZFS")
		}
		v.known = got.Kernel
	}
	return v.known, nil
}

// Marks are the properties that a volume of the guest carries.
func Marks(cluster string, g guest.Guest, v guest.Volume, role string) map[string]string {
	return map[string]string{
		zfs.PropCluster: cluster, zfs.PropGuest: g.ID.String(), zfs.PropRole: role,
		zfs.PropTerm: g.Term.String(), zfs.PropVolume: v.String(),
	}
}

// Values of the property tandem:received. A former one came from an earlier owner of the
// guest, and the one after it was never known to have it: nobody but an operator removes it.
const (
	ReceivedPoint    = "point"
	ReceivedSnapshot = "snapshot"
	ReceivedFormer   = "former"
)

// Arrival is the value of the property tandem:arrived.
type Arrival struct {
	// At is in seconds since 1970 by the target's clock.
	At int64 `json:"at"`
	// Age is that of the point at its arrival, by the source's clock, in seconds.
	Age int64 `json:"age"`
}

// Property is the form in which it is written down.
func (a Arrival) Property() (string, error) {
	b, err := json.Marshal(a)
	return string(b), err
}

// Side is a dataset of this node as the planner wants it.
func Side(name string, d zfs.Dataset) plan.Side {
	s := plan.Side{Dataset: name}
	if !d.Exists() {
		return s
	}
	s.Exists, s.Kind, s.Mounted, s.Written = true, plan.Kind(d.Type), d.Mounted, d.Written
	s.GUID, s.Origin = d.GUID, d.Origin
	s.Encrypted, s.Facts = Encrypted(d), Facts(d)
	s.Marks = MarksOf(d)
	for _, x := range d.Snapshots {
		s.Snapshots = append(s.Snapshots, Snapshot(x, s.Marks.Role))
	}
	for _, b := range d.Bookmarks {
		s.Bookmarks = append(s.Bookmarks, plan.Bookmark{Name: b.Name, GUID: b.GUID, TXG: b.CreateTXG})
	}
	return s
}

// MarksOf are those that a dataset carries.
func MarksOf(d zfs.Dataset) plan.Marks {
	return plan.Marks{
		Cluster: d.Props[zfs.PropCluster], Guest: d.Props[zfs.PropGuest], Role: d.Props[zfs.PropRole],
		Term: d.Props[zfs.PropTerm], Volume: d.Props[zfs.PropVolume],
	}
}

// Encrypted says that a dataset is encrypted at rest.
func Encrypted(d zfs.Dataset) bool {
	return d.Encryption != "" && d.Encryption != "off" && d.Encryption != "-"
}

// Snapshot is a snapshot of a dataset with that role as the planner wants it.
func Snapshot(x zfs.Snapshot, role string) plan.Snapshot {
	s := plan.Snapshot{Name: x.Name, GUID: x.GUID, TXG: x.CreateTXG, Written: x.Written}
	s.Received = x.Props[zfs.PropReceived] != "" && x.Props[zfs.PropReceived] != ReceivedFormer
	s.Complete = x.Props[zfs.PropComplete] != ""
	s.Held = x.UserRefs > 0
	s.Tandem = x.Props[zfs.PropReceived] == ReceivedPoint
	if p, err := guest.ParsePoint(x.Props[zfs.PropPoint]); err == nil {
		s.Tandem, s.Volumes = true, p.Volumes
		// What the owner took itself is complete: all volumes were snapshotted at once.
		s.Complete = s.Complete || role == zfs.RoleOwner
	}
	return s
}
