package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// modified is the state in which a replica has refused an increment. It is what
// it was as long as all of it is the same.
type modified struct {
	Dataset uint64 `json:"dataset_guid"`
	// Newest is the GUID of its newest snapshot.
	Newest  uint64 `json:"newest"`
	Written uint64 `json:"written"`
}

func stateOf(d zfs.Dataset) modified {
	m := modified{Dataset: d.GUID, Written: d.Written}
	if n := len(d.Snapshots); n > 0 {
		m.Newest = d.Snapshots[n-1].GUID
	}
	return m
}

// refused notes that ZFS took the replica for modified, so that the next plan
// sets it aside; any other error passes.
func (t *Target) refused(ctx context.Context, id guest.ID, v guest.Volume, err error) error {
	if !errors.Is(err, zfs.ClassDiverged) {
		return err
	}
	l, failed := t.one(ctx, v)
	if failed != nil || !l.data.Exists() {
		return err
	}
	if failed := t.annotate(id, func(n *notes) { n.Modified[v] = stateOf(l.data) }); failed != nil {
		return failed
	}
	return &fault.Error{Class: fault.ClassAgain, Text: "the replica was changed", Err: err}
}

// tellAside adds to an inventory what matters to volumes that have diverged. What
// was set aside is looked for only where the replica is missing, or a clone.
func (t *Target) tellAside(ctx context.Context, cluster string, id guest.ID, list []found, out []wire.InventoryVolume) error {
	var ask []guest.Volume
	note := t.note(id)
	for i, l := range list {
		if m, ok := note.Modified[l.volume]; ok && l.data.Exists() {
			out[i].Modified = m == stateOf(l.data)
		}
		if !l.data.Exists() || l.data.Origin != "" {
			ask = append(ask, l.volume)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	copies, err := t.aside.Of(ctx, cluster, id, ask)
	if err != nil {
		return err
	}
	for _, c := range copies {
		i := slices.IndexFunc(list, func(l found) bool { return l.volume == c.Volume })
		out[i].Aside = append(out[i].Aside, told(c.Data))
		// A first receive out of such a copy is known by its origin.
		out[i].Ours = out[i].Ours || list[i].unborn() && zname.DatasetOf(list[i].data.Origin) == c.Data.Name
	}
	return nil
}

// mayAbort says that an interrupted receive is the guest's: into its replica, into
// one that is being set aside, or of a first stream that this node began, be it
// out of what was set aside.
func (t *Target) mayAbort(ctx context.Context, cluster string, id guest.ID, l found) bool {
	switch {
	case l.replica(cluster, id) || l.marked(cluster, id, zfs.RoleDiverged):
		return true
	case !l.unborn():
		return false
	case t.begun(ctx, id, l):
		return true
	}
	copies, err := t.aside.Of(ctx, cluster, id, []guest.Volume{l.volume})
	return err == nil && slices.ContainsFunc(copies, func(c aside.Copy) bool {
		return c.Data.Name == zname.DatasetOf(l.data.Origin)
	})
}

// origin is the snapshot of which a Branch makes a clone; empty for other streams.
// What they go into is not mounted then.
func (t *Target) origin(ctx context.Context, cluster string, g guest.Guest, h wire.ReceiveHeader, l found) (string, error) {
	if h.Verb != plan.Branch {
		return "", t.unmount(ctx, h.Volume, l)
	}
	copies, err := t.aside.Of(ctx, cluster, g.ID, []guest.Volume{h.Volume})
	if err != nil {
		return "", err
	}
	for _, c := range slices.Backward(copies) {
		if string(c.Data.Type) != string(h.Kind) {
			continue
		}
		for _, s := range c.Data.Snapshots {
			if s.GUID == h.From {
				return c.Data.Name + "@" + s.Name, nil
			}
		}
	}
	return "", fault.Retry("", "volume %s: nothing that was set aside on %s has the base of the stream", h.Volume, t.o.Name)
}

// unmount takes a replica off its mountpoint before data comes in: nothing has to
// be mounted there.
func (t *Target) unmount(ctx context.Context, v guest.Volume, l found) error {
	if !l.data.Mounted {
		return nil
	}
	if err := t.o.ZFS.Unmount(ctx, l.name); err != nil {
		return &fault.Error{
			Class: fault.ClassRetry, Volume: v, Text: fmt.Sprintf("the replica %s is mounted and in use on %s", l.name, t.o.Name), Err: err,
			Hint: "see who uses it with `fuser -vm " + l.name + "` there, or unmount it",
		}
	}
	return nil
}

// Aside does one step of setting a replica aside. It can be asked again.
func (t *Target) Aside(ctx context.Context, from guest.NodeID, req wire.AsideRequest) (wire.AsideReply, error) {
	if err := req.Validate(); err != nil {
		return wire.AsideReply{}, err
	}
	view, g, err := t.admitJob(ctx, from, req.Request)
	if err != nil {
		return wire.AsideReply{}, err
	}
	if !g.Has(req.Volume) {
		return wire.AsideReply{}, fault.Never("", "guest %s has no volume %s", g.ID, req.Volume)
	}
	release, err := t.lockFor(ctx, from, req.Request, req.Volume)
	if err != nil {
		return wire.AsideReply{}, err
	}
	defer release()
	l, err := t.one(ctx, req.Volume)
	if err != nil {
		return wire.AsideReply{}, err
	}
	if req.Verb == plan.Promote {
		return wire.AsideReply{}, t.promote(ctx, view.Cluster, g, l)
	}
	leaving := l.marked(view.Cluster, g.ID, zfs.RoleDiverged)
	switch {
	case !l.data.Exists():
		return wire.AsideReply{}, nil // It was done.
	case l.data.GUID != req.Dataset:
		return wire.AsideReply{}, fault.Again("volume %s: %s on %s is not the dataset that was seen", req.Volume, l.name, t.o.Name)
	case !leaving && !l.replica(view.Cluster, g.ID):
		return wire.AsideReply{}, t.foreign(g, l)
	}
	c, err := t.aside.Set(ctx, view.Cluster, l.data, aside.Case{
		Guest: g, Volume: req.Volume, Base: req.Base, Why: req.Why, Superseded: req.Superseded,
	})
	if err != nil {
		return wire.AsideReply{}, err
	}
	return wire.AsideReply{Dataset: c.Data.Name}, nil
}

// promote parts a replica from what it was made out of; one that is parted is left.
func (t *Target) promote(ctx context.Context, cluster string, g guest.Guest, l found) error {
	if l.data.Exists() && l.data.Origin == "" {
		return nil
	}
	if !l.replica(cluster, g.ID) {
		return t.foreign(g, l)
	}
	copies, err := t.aside.Of(ctx, cluster, g.ID, []guest.Volume{l.volume})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(copies, func(c aside.Copy) bool {
		return c.Data.Name == zname.DatasetOf(l.data.Origin)
	})
	if i < 0 {
		return fault.Again("volume %s: %s on %s is a clone of %s, which is no copy of it", l.volume, l.name, t.o.Name, l.data.Origin)
	}
	if err := t.o.ZFS.Promote(ctx, l.name); err != nil {
		return fault.WrapVolume(l.volume, err, "part %s from %s", l.name, copies[i].Data.Name)
	}
	_, err = t.tidy(ctx, cluster, g.ID, []guest.Volume{l.volume})
	return err
}

// Tidy destroys what was set aside on this node and is superseded, where a power
// cut came before that. It returns how many copies those were; one that cannot go
// does not keep the others.
func (t *Target) Tidy(ctx context.Context) (n int, err error) {
	cluster := t.o.Ledger.View().Cluster
	copies, err := t.aside.All(ctx, cluster)
	for _, c := range copies {
		if len(c.Superseded) == 0 {
			continue
		}
		release, failed := t.lock(ctx, c.Volume)
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		done, failed := t.tidy(ctx, cluster, c.Guest, []guest.Volume{c.Volume})
		release()
		n, err = n+done, errors.Join(err, failed)
	}
	return n, err
}

// tidy destroys copies that are superseded: what they have the owner sent and
// destroyed since. The caller has the volumes' locks.
func (t *Target) tidy(ctx context.Context, cluster string, id guest.ID, volumes []guest.Volume) (n int, err error) {
	copies, err := t.aside.Of(ctx, cluster, id, volumes)
	if err != nil {
		return 0, err
	}
	for _, c := range copies {
		done, failed := t.aside.Tidy(ctx, c)
		if err = errors.Join(err, failed); done && failed == nil {
			n++
		}
	}
	return n, err
}
