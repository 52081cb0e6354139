package replicate

import (
	"context"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Claim stamps the guest's volumes on this node as the owner's, where they carry
// no mark at all, and checks the others.
func (s *Source) Claim(ctx context.Context, id guest.ID) error {
	view := s.o.Ledger.View()
	g, ok := view.Guests[id]
	if !ok || g.Owner != s.o.Node {
		return fault.Never("", "this node does not own guest %s", id)
	}
	own, err := s.read(ctx, g)
	if err != nil {
		return err
	}
	own, err = s.claim(ctx, view.Cluster, g, own)
	if err != nil {
		return fault.Final(ctx, err)
	}
	for i, v := range g.Volumes {
		want := local.Marks(view.Cluster, g, v, zfs.RoleOwner)
		for name, value := range want {
			if got := own[i].Props[name]; got != value {
				return fault.Person(v, "see `zfs get all "+own[i].Name+"`; if it is this guest's, run `zfs inherit` on each of its tandem: properties",
					"the dataset %s has %s=%q, the ledger says %q", own[i].Name, name, got, value)
			}
		}
	}
	return nil
}

// Check tells whether this node can own the guest, before it is on the ledger:
// the storages are known, the datasets exist and belong to no other guest.
func (s *Source) Check(ctx context.Context, g guest.Guest) error {
	for _, v := range g.Volumes {
		if why := v.Reserved(); why != "" {
			return fault.Person(v, "rename the dataset with `zfs rename`, and take it under its new name", "in every storage, Tandem keeps that name for %s", why)
		}
	}
	own, err := s.read(ctx, g)
	if err != nil {
		return err
	}
	if err := s.checkNew(g, namesOf(own)); err != nil {
		return err
	}
	for i, v := range g.Volumes {
		for _, p := range []string{zfs.PropGuest, zfs.PropRole, zfs.PropCluster} {
			if value := own[i].Props[p]; value != "" {
				return fault.Person(v, fmt.Sprintf("if that is over, run `zfs inherit PROPERTY %s` for each of its tandem: properties", own[i].Name),
					"the dataset %s is already marked as Tandem's: %s=%s", own[i].Name, p, value)
			}
		}
	}
	return s.o.Identities.Forget(g.ID, s.added(g))
}

// added are the volumes that the ledger does not have with the guest yet.
func (s *Source) added(g guest.Guest) []guest.Volume {
	known := s.o.Ledger.View().Guests[g.ID]
	return slices.DeleteFunc(slices.Clone(g.Volumes), known.Has)
}

// read lists the guest's volumes, which must all exist.
func (s *Source) read(ctx context.Context, g guest.Guest) ([]zfs.Dataset, error) {
	names, err := s.o.Datasets(g.Volumes)
	if err != nil {
		return nil, err
	}
	own, err := s.o.Together.List(ctx, names...)
	if err != nil {
		return nil, fault.Wrap(err, "list the volumes of guest %s", g.ID)
	}
	for i, d := range own {
		switch class := zfs.ClassOf(d.Err); {
		case d.Err == nil:
		case class == zfs.ClassGone:
			return nil, fault.Person(g.Volumes[i], "create it, or check the storage's dataset in the configuration",
				"the dataset %s does not exist on %s", names[i], s.o.Name)
		default:
			return nil, fault.WrapVolume(g.Volumes[i], d.Err, "read it")
		}
	}
	return own, nil
}

// claim stamps datasets without any mark, unless the guest had another one there; the list is returned as it is then.
func (s *Source) claim(ctx context.Context, cluster string, g guest.Guest, own []zfs.Dataset) ([]zfs.Dataset, error) {
	if err := s.unclaimed(g, own); err != nil {
		return nil, err
	}
	own, seen := slices.Clone(own), map[guest.Volume]uint64{}
	for i, v := range g.Volumes {
		if own[i].Exists() && local.MarksOf(own[i]).None() {
			props := stamp(cluster, g, v, own[i])
			if err := s.o.ZFS.SetProps(ctx, props, own[i].Name); err != nil {
				return nil, fault.WrapVolume(v, err, "mark it as the owner's")
			}
			own[i].Props = props
		}
		if own[i].Exists() && local.MarksOf(own[i]).Are(cluster, g.ID, v, zfs.RoleOwner) {
			seen[v] = own[i].GUID
		}
	}
	return own, s.o.Identities.Saw(g, seen)
}

// unclaimed refuses where a dataset without any mark is not the one that the guest had.
func (s *Source) unclaimed(g guest.Guest, own []zfs.Dataset) error {
	for i, v := range g.Volumes {
		if !own[i].Exists() || !local.MarksOf(own[i]).None() {
			continue
		}
		if err := s.o.Identities.Check(g, v, own[i]); err != nil {
			return err
		}
	}
	return nil
}

// Take makes datasets without any mark the volumes of a guest of this node because an operator says that they are, whatever was
// there before. Those that are already are left.
func (s *Source) Take(ctx context.Context, id guest.ID, volumes []guest.Volume) error {
	view := s.o.Ledger.View()
	g, ok := view.Guests[id]
	if !ok || g.Owner != s.o.Node {
		return fault.Never("", "this node does not own guest %s", id)
	}
	release, err := s.o.LockGuest(ctx, g)
	if err != nil {
		return err
	}
	defer release()
	own, err := s.read(ctx, g)
	if err != nil {
		return err
	}
	var taken []guest.Volume
	for i, v := range g.Volumes {
		m := local.MarksOf(own[i])
		switch {
		case !slices.Contains(volumes, v) || m.Are(view.Cluster, id, v, zfs.RoleOwner) && m.Term == g.Term.String():
		case !m.None():
			return fault.Person(v, "see `zfs get all "+own[i].Name+"`", "the dataset %s is marked already: %s; nothing was changed", own[i].Name, m)
		case own[i].ResumeToken != "":
			return fault.Retry("wait until all of it has arrived", "volume %s: a receive into %s has not ended", v, own[i].Name)
		default:
			taken = append(taken, v)
		}
	}
	if len(taken) == 0 {
		return nil
	}
	for i, v := range g.Volumes {
		if !slices.Contains(taken, v) {
			continue
		}
		if err := s.o.ZFS.SetProps(ctx, stamp(view.Cluster, g, v, own[i]), own[i].Name); err != nil {
			return fault.WrapVolume(v, err, "mark it as the owner's")
		}
	}
	return s.o.Identities.Forget(id, taken) // The next sync notes them.
}
