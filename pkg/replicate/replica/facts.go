package replica

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// admitInventory checks a request for what this node has. One that asks ahead of the ledger needs no job.
func (t *Target) admitInventory(ctx context.Context, from guest.NodeID, req wire.InventoryRequest) (*ledger.State, guest.Guest, error) {
	if len(req.Volumes) == 0 {
		return t.admitJob(ctx, from, req.Request)
	}
	view, g, err := t.admit(ctx, from, req.Request)
	if err != nil {
		return nil, g, err
	}
	for _, v := range req.Volumes {
		if other, taken := view.GuestOf(v); taken && other.ID != g.ID {
			return nil, g, fault.Never("", "volume %s belongs to guest %s", v, other.ID)
		}
	}
	g, err = req.Guest(g)
	return view, g, err
}

// facts is what this node tells of a volume beside its snapshots.
func (t *Target) facts(ctx context.Context, l found) wire.InventoryFacts {
	pool := t.pools.Get(ctx, t.o.ZFS, zname.PoolOf(l.root.Name))
	out := wire.InventoryFacts{Pool: pool.Name, PoolReadOnly: pool.ReadOnly, Features: pool.Features}
	if !l.data.Exists() {
		return out
	}
	out.Mode, out.Manifest = l.data.Props[zfs.PropMode], l.data.Props[zfs.PropManifest]
	own := l.data.Own()
	out.Own = local.Manifest(l.data)
	for name := range manifest.Guard(manifest.Kind(l.data.Type)) {
		if value, ok := own[name]; ok {
			out.Own[name] = value
		}
	}
	return out
}

// compare is what has to change on a replica so that it is as its owner's volume.
func compare(l found, n wire.Nature) manifest.Change {
	kind := manifest.Kind(l.data.Type)
	return manifest.Compare(kind, manifest.Of(kind, n.Manifest), l.data.Own(), manifest.Parse(l.data.Props[zfs.PropManifest]))
}

// properties are what a receive sets: the marks and, where it makes the dataset, all that a replica carries.
func (t *Target) properties(marks map[string]string, h wire.ReceiveHeader, l found) (map[string]string, error) {
	props := maps.Clone(marks)
	if h.Mode != "" {
		props[zfs.PropMode] = h.Mode
	}
	if l.data.Exists() && !l.unborn() {
		return props, nil
	}
	kind := manifest.Kind(h.Kind)
	record := manifest.Record{Values: manifest.Of(kind, h.Manifest)}
	text, err := record.Text()
	if err != nil {
		return nil, fault.WrapVolume(h.Volume, err, "make the replica")
	}
	props[zfs.PropManifest] = text
	maps.Copy(props, record.Values.Replica(kind).Settable())
	maps.Copy(props, manifest.Guard(kind))
	return props, nil
}

// prepare gives a replica that is there its owner's properties, and tells what the receive is to set.
func (t *Target) prepare(ctx context.Context, marks map[string]string, h wire.ReceiveHeader, l found) (
	props map[string]string, warning string, err error,
) {
	if props, err = t.properties(marks, h, l); err != nil {
		return nil, "", err
	}
	p := l.data.Props
	if l.data.Exists() && p[zfs.PropRole] == zfs.RoleReplica && p[zfs.PropGuest] == marks[zfs.PropGuest] && p[zfs.PropCluster] == marks[zfs.PropCluster] {
		warning, err = t.adopt(ctx, l, h.Nature)
	}
	return props, warning, err
}

// adopt gives a replica the properties of its owner's volume, and the guard that keeps it a replica: one process where anything
// differs, none where nothing does. What cannot be set (a quota below what is used) is told and stops nothing, but for the guard.
func (t *Target) adopt(ctx context.Context, l found, n wire.Nature) (warning string, err error) {
	c := compare(l, n)
	if c.None() && c.Record.Same(manifest.Parse(l.data.Props[zfs.PropManifest])) {
		return "", nil
	}
	text, err := c.Record.Text()
	if err != nil {
		return "", fault.WrapVolume(l.volume, err, "give the replica its properties")
	}
	set := map[string]string{zfs.PropManifest: text}
	maps.Copy(set, c.Set)
	failed := t.o.ZFS.SetProps(ctx, set, l.name)
	for _, name := range c.Inherit {
		if failed == nil {
			failed = t.o.ZFS.Inherit(ctx, name, l.name)
		}
	}
	if failed == nil {
		return "", nil
	}
	if err := t.guard(ctx, l); err != nil {
		return "", err
	}
	// zfs may have set some of them, the record among them: without it the next sync tries again.
	if err := t.o.ZFS.Inherit(ctx, zfs.PropManifest, l.name); err != nil {
		return "", fault.WrapVolume(l.volume, err, "give the replica its properties")
	}
	return "the replica " + l.name + " does not have all properties of the owner's volume: " + failed.Error(), nil
}

// guard sees to it that a replica is read-only, and that nothing mounts it or opens its device.
func (t *Target) guard(ctx context.Context, l found) error {
	own := l.data.Own()
	missing := map[string]string{}
	for name, value := range manifest.Guard(manifest.Kind(l.data.Type)) {
		if own[name] != value {
			missing[name] = value
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fault.WrapVolume(l.volume, t.o.ZFS.SetProps(ctx, missing, l.name), "make the replica %s read-only again", l.name)
}

// guarded looks at a replica after a receive: what the stream or somebody else changed of the guard is put right, and looked at
// again; if that does not help, the job stops.
func (t *Target) guarded(ctx context.Context, l found) error {
	if err := t.guard(ctx, l); err != nil {
		return err
	}
	if !l.data.ReadOnly {
		again, err := t.one(ctx, l.volume)
		if err != nil {
			return err
		}
		l = again
	}
	if l.data.Mounted || !l.data.ReadOnly {
		return fault.Person(l.volume, "run `zfs set readonly=on "+l.name+"` and unmount it",
			"after the receive, %s on %s is mounted or not read-only", l.name, t.o.Name)
	}
	return nil
}

// lift takes limits off a replica that stood in the way of a receive, if they are those of its owner's volume. A copy may need
// more room than the original: other snapshots, another layout of the disks.
func (t *Target) lift(ctx context.Context, l found, failed error) error {
	z, ok := errors.AsType[*zfs.Error](failed)
	if !ok || z.Class != zfs.ClassSpace || !strings.Contains(z.Stderr, "quota") || !l.data.Exists() {
		return failed
	}
	set, record, ok := manifest.Lift(manifest.Kind(l.data.Type), l.data.Own(), manifest.Parse(l.data.Props[zfs.PropManifest]))
	if !ok {
		return failed
	}
	text, err := record.Text()
	if err != nil {
		return failed
	}
	set[zfs.PropManifest] = text
	if err := t.o.ZFS.SetProps(ctx, set, l.name); err != nil {
		return failed
	}
	return fault.Retry("the next run goes on; the limit comes back when the replica becomes the owner's volume",
		"the limit that the owner's volume has was too low for the replica %s and was taken off it: %v", l.name, failed)
}

// adopt gives replicas the properties that changed without a stream.
func (c *commit) adopt(ctx context.Context) error {
	for i, l := range c.list {
		n := c.req.Volumes[i].Nature
		if n == nil {
			continue
		}
		w, err := c.t.adopt(ctx, l, *n)
		if err != nil {
			return err
		}
		if w != "" {
			c.warnings = append(c.warnings, w)
		}
	}
	return nil
}
