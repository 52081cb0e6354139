// Package promote makes what a node has of a guest the owner's data: at the point from which the ledger says that the guest's
// term began, as a migration or a recovery chose it. It also tells which points a node has, for that choice.
//
// It works on the disks of its own node alone, from them and the guest's record in the ledger, and keeps no state: each of its
// steps can be the last before a power cut, and doing it again goes on from what is on the disks. Data that is newer than the
// point is set aside (pkg/replicate/aside), never destroyed. It decides nothing about owners, starts nothing and runs no guest:
// pkg/keeper calls it, once the ledger has given the guest to its node.
package promote

import (
	"context"
	"errors"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Target is this node's side that takes what owners send.
type Target interface {
	// EndStale ends receives whose sender is no longer the owner.
	EndStale()
	// Begun says whether this node began the first receive that was interrupted in a
	// dataset without marks, Ended forgets that.
	Begun(ctx context.Context, id guest.ID, v guest.Volume, d zfs.Dataset) bool
	Ended(id guest.ID, v guest.Volume) error
}

// Promoter does it on one node.
type Promoter struct {
	o      local.Options
	target Target
	aside  *aside.Keeper
}

// New makes that of a node. It shares the options, and with them the locks, of the node's syncs.
func New(o local.Options, target Target) (*Promoter, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	if target == nil {
		return nil, errors.New("promote: it needs the node's side that takes what owners send")
	}
	keeper, err := aside.New(o)
	if err != nil {
		return nil, err
	}
	return &Promoter{o: o, target: target, aside: keeper}, nil
}

// State is what became of a volume.
type State string

// The states.
const (
	// AsItWas: it was at the point already, or is the owner's for longer.
	AsItWas State = "as it was"
	// Cloned: it was made anew from the point; what was newer is set aside.
	Cloned State = "cloned"
	// Missing: this node does not have it: it was not in the point.
	Missing State = "missing"
)

// Volume is what became of one volume.
type Volume struct {
	Volume  guest.Volume `json:"volume"`
	Dataset string       `json:"dataset"`
	State   State        `json:"state"`
}

// Outcome is what a promotion did.
type Outcome struct {
	// Point is the name of the one from which the guest goes on; empty where it was the
	// owner's data before.
	Point   string   `json:"point,omitempty"`
	Volumes []Volume `json:"volumes"`
	// Aside are datasets with what was newer than the point, as they are called now.
	Aside    []string `json:"aside,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Ready says that every volume of the guest is here with role owner and the guest's term, writable, and mounted where ZFS mounts
// it by itself. It changes nothing.
func (p *Promoter) Ready(ctx context.Context, cluster string, g guest.Guest) (bool, error) {
	if g.Owner != p.o.Node {
		return false, nil
	}
	list, err := p.read(ctx, g)
	if err != nil {
		return false, err
	}
	for _, v := range list {
		if !v.finished(cluster, g) {
			return false, nil
		}
	}
	return true, nil
}

// Promote makes this node's volumes of the guest, which it owns, the owner's data: at the point of the guest's Beginning where
// they are a replica, as they are where they are the owner's already. Done again it changes nothing. An error names what is
// missing or in the way; nothing was changed then, or what was will be gone on with.
func (p *Promoter) Promote(ctx context.Context, cluster string, g guest.Guest) (Outcome, error) {
	x := &promotion{p: p, cluster: cluster, guest: g}
	err := x.run(ctx)
	return x.out, fault.Final(ctx, err)
}

// promotion is one that is going on.
type promotion struct {
	p       *Promoter
	cluster string
	guest   guest.Guest
	out     Outcome

	volumes []volume
	// want are the GUIDs of the point's snapshots; none where there is no point to begin from.
	want map[guest.Volume]uint64
	// stays are volumes that stay clones of what was set aside.
	stays map[guest.Volume]bool
	// cloned are those that this run has made anew.
	cloned map[guest.Volume]bool
}

func (x *promotion) run(ctx context.Context) error {
	if x.guest.Owner != x.p.o.Node {
		return fault.Never("", "guest %s: it is not this node's, its volumes are not made the owner's here", x.guest.ID)
	}
	x.stays, x.cloned = map[guest.Volume]bool{}, map[guest.Volume]bool{}
	x.p.target.EndStale()
	release, err := x.p.o.LockGuest(ctx, x.guest)
	if err != nil {
		return err
	}
	defer release()
	if err := x.data(ctx); err != nil {
		return err
	}
	if err := x.own(ctx); err != nil {
		return err
	}
	if err := x.use(ctx); err != nil {
		return err
	}
	x.remember()
	return nil
}

// remember notes which datasets are the guest's: another one in their place is not taken for them later.
func (x *promotion) remember() {
	seen := map[guest.Volume]uint64{}
	for _, v := range x.volumes {
		if v.data.Exists() {
			seen[v.Volume] = v.data.GUID
		}
	}
	if err := x.p.o.Identities.Saw(x.guest, seen); err != nil {
		x.warn("%v", err)
	}
}

// data brings every volume to the point, step by step, each of them found anew from what is on the disks.
func (x *promotion) data(ctx context.Context) error {
	for range 4 + 8*len(x.guest.Volumes) {
		if err := x.look(ctx); err != nil {
			return err
		}
		if err := x.choose(); err != nil {
			return err
		}
		i := slices.IndexFunc(x.volumes, func(v volume) bool { return x.next(v) != settled })
		if i < 0 {
			return nil
		}
		if err := x.do(ctx, x.volumes[i]); err != nil {
			return err
		}
	}
	return fault.Retry("", "guest %s: its volumes change while they are made the owner's", x.guest.ID)
}

// look reads the volumes, and what was set aside of them.
func (x *promotion) look(ctx context.Context) error {
	list, err := x.p.volumes(ctx, x.cluster, x.guest)
	if err != nil {
		return err
	}
	for i := range list {
		list[i].standing = x.standing(ctx, list[i])
	}
	x.volumes = list
	return nil
}

// again reads the volumes once more, which have no more to do with what was set aside.
func (x *promotion) again(ctx context.Context) error {
	list, err := x.p.read(ctx, x.guest)
	if err != nil {
		return err
	}
	for i := range list {
		x.volumes[i].data = list[i].data
	}
	return nil
}

// volumes reads the guest's volumes on this node, and what was set aside of them.
func (p *Promoter) volumes(ctx context.Context, cluster string, g guest.Guest) ([]volume, error) {
	list, err := p.read(ctx, g)
	if err != nil {
		return nil, err
	}
	copies, err := p.aside.Of(ctx, cluster, g.ID, g.Volumes)
	if err != nil {
		return nil, err
	}
	for i, v := range list {
		for _, c := range copies {
			if c.Volume == v.Volume {
				list[i].copies = append(list[i].copies, c)
			}
		}
	}
	return list, nil
}

// read reads the guest's volumes on this node.
func (p *Promoter) read(ctx context.Context, g guest.Guest) ([]volume, error) {
	names, err := p.o.Datasets(g.Volumes)
	if err != nil {
		return nil, err
	}
	list, err := p.o.ZFS.List(ctx, names...)
	if err != nil {
		return nil, fault.Wrap(err, "look at the volumes of guest %s", g.ID)
	}
	var out []volume
	for i, d := range list {
		v := volume{Volume: g.Volumes[i], name: names[i], data: d}
		if err := v.readable(); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
