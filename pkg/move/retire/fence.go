package retire

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Seal makes the guest's volumes here read-only, unmounts its filesystems, and makes sure of both and that nobody has them open.
// Volumes that are not the owner's are passed over, but where this node owns the guest: then all must be, at its term. Done again
// it makes sure again. After an error some may be read-only. A promotion of the same owner makes them writable again.
//
// A guest without a unit is stopped by nobody here: while somebody uses its volumes none of them is made read-only.
func (r *Retirer) Seal(ctx context.Context, cluster string, g guest.Guest) error {
	release, err := r.o.LockGuest(ctx, g)
	if err != nil {
		return fault.Final(ctx, err)
	}
	defer release()
	list, err := r.owned(ctx, cluster, g)
	if err == nil && g.Owner == r.o.Node {
		err = r.all(g, list)
	}
	if err == nil && g.Unit == "" {
		err = r.vacated(ctx, list, inUse)
	}
	if err == nil {
		err = r.fence(ctx, g, list)
	}
	return fault.Final(ctx, err)
}

// all refuses where a volume of the guest is not the owner's at its term.
func (r *Retirer) all(g guest.Guest, list []volume) error {
	for _, v := range g.Volumes {
		found := false
		for _, x := range list {
			found = found || x.Volume == v && x.data.Props[zfs.PropTerm] == g.Term.String()
		}
		if !found {
			name, _ := r.o.Dataset(v) // It was read before.
			return fault.Person(v, "see `zfs get all "+name+"`", "the dataset %s is not the owner's volume of guest %s at term %s", name, g.ID, g.Term)
		}
	}
	return nil
}

// fence ends all writes to the volumes. Setting them read-only ends those of who has them open, too; but nobody shall have.
func (r *Retirer) fence(ctx context.Context, g guest.Guest, list []volume) error {
	if len(list) == 0 {
		return nil
	}
	seal := map[string]string{"readonly": "on", zfs.PropSealed: g.Term.String()}
	if err := r.o.ZFS.SetProps(ctx, seal, names(list)...); err != nil {
		return fault.Wrap(err, "make the volumes of guest %s read-only", g.ID)
	}
	if err := r.vacated(ctx, list, stillInUse); err != nil {
		return err
	}
	return r.verified(ctx, list)
}

// How a volume is that somebody uses.
const (
	inUse      = "is in use"
	stillInUse = "is read-only now, and still in use"
)

// vacated unmounts the filesystems, and makes sure that nobody has the volumes open or mounted.
func (r *Retirer) vacated(ctx context.Context, list []volume, how string) error {
	for _, v := range list {
		if v.data.Type != zfs.TypeFilesystem {
			continue
		}
		if err := r.o.ZFS.Unmount(ctx, v.data.Name); err != nil {
			users, _ := r.o.ZFS.Users(ctx, v.data.Name)
			return r.told(v, how, users, err)
		}
	}
	return r.unused(ctx, list, how)
}

// unused makes sure that nobody has the volumes open or mounted.
func (r *Retirer) unused(ctx context.Context, list []volume, how string) error {
	users, err := local.Users(ctx, r.o.ZFS.Users, names(list)...)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fault.Wrap(err, "look who has the volumes open")
	case len(users) == 0:
		return nil
	}
	at := slices.IndexFunc(list, func(v volume) bool { return v.data.Name == users[0].Dataset })
	return r.told(list[max(at, 0)], how, users, nil)
}

func (r *Retirer) told(v volume, how string, users []zfs.User, err error) error {
	text := fmt.Sprintf("%s %s on %s", v.data.Name, how, r.o.Name)
	if len(users) > 0 {
		var all []string
		for _, u := range users[:min(len(users), 4)] {
			all = append(all, u.String())
		}
		text += ": " + strings.Join(all, "; ")
	}
	return &fault.Error{
		Class: fault.ClassRetry, Volume: v.Volume, Text: text, Err: err, Hint: "end what uses it; for a filesystem, `fuser -vm` tells who that is",
	}
}

// verified reads the volumes again.
func (r *Retirer) verified(ctx context.Context, list []volume) error {
	again, err := r.o.ZFS.List(ctx, names(list)...)
	if err != nil {
		return fault.Wrap(err, "look whether the volumes are read-only")
	}
	for i, d := range again {
		v := list[i]
		switch {
		case d.Err != nil:
			return fault.WrapVolume(v.Volume, d.Err, "look whether it is read-only")
		case d.GUID != v.data.GUID || local.MarksOf(d) != local.MarksOf(v.data):
			return fault.Retry("", "volume %s: %s is not what it was a moment ago", v.Volume, d.Name)
		case !d.ReadOnly || d.Mounted:
			return fault.Retry("", "volume %s: %s is still writable or mounted after it was sealed", v.Volume, d.Name)
		}
		list[i].data = d
	}
	return nil
}

func names(list []volume) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.data.Name)
	}
	return out
}
