package promote

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// own makes the volumes the owner's: first what they are like, then, for all together, role, term and that they can be written.
// Until then nobody takes them for the owner's.
func (x *promotion) own(ctx context.Context) error {
	var names, sealed []string
	for _, v := range x.volumes {
		state := x.state(v)
		x.out.Volumes = append(x.out.Volumes, Volume{Volume: v.Volume, Dataset: v.name, State: state})
		if state == Missing {
			continue
		}
		if err := x.prepare(ctx, v); err != nil {
			return err
		}
		if m := local.MarksOf(v.data); m.Role != zfs.RoleOwner || m.Term != x.guest.Term.String() || v.data.ReadOnly {
			names = append(names, v.name)
		}
		if v.standing == owned && v.data.ReadOnly {
			sealed = append(sealed, v.name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if len(sealed) > 0 { // For a move that went back.
		if err := x.p.o.ZFS.Inherit(ctx, zfs.PropSealed, sealed...); err != nil {
			return fault.Wrap(err, "make the volumes of guest %s writable again", x.guest.ID)
		}
	}
	stamp := map[string]string{zfs.PropRole: zfs.RoleOwner, zfs.PropTerm: x.guest.Term.String(), "readonly": "off"}
	return fault.Wrap(x.p.o.ZFS.SetProps(ctx, stamp, names...), "mark the volumes of guest %s as the owner's", x.guest.ID)
}

// state is what became of a volume.
func (x *promotion) state(v volume) State {
	_, listed := x.want[v.Volume]
	switch {
	case v.standing == absent || v.standing == replica && !listed:
		return Missing
	case v.standing == made || x.cloned[v.Volume]:
		return Cloned
	default:
		return AsItWas
	}
}

// prepare gives a volume the properties that it has as the owner's.
func (x *promotion) prepare(ctx context.Context, v volume) error {
	switch v.standing {
	case bare:
		props := local.Marks(x.cluster, x.guest, v.Volume, zfs.RoleOwner)
		props[zfs.PropMode] = local.Mode(v.data)
		return fault.WrapVolume(v.Volume, x.p.o.ZFS.SetProps(ctx, props, v.name), "mark it as the guest's")
	case replica, made:
		if v.data.Props[zfs.PropRole] == zfs.RoleReplica {
			return x.restore(ctx, v)
		}
	case absent, foreign, unborn, leaving, owned:
	}
	return nil
}

// restore sets what was written down on a replica for the time when it becomes the owner's volume.
func (x *promotion) restore(ctx context.Context, v volume) error {
	own := v.data.Own()
	c := manifest.Parse(v.data.Props[zfs.PropManifest]).Restore(manifest.Kind(v.data.Type))
	delete(c.Set, "readonly")
	reserve := map[string]string{}
	maps.DeleteFunc(c.Set, func(name, value string) bool {
		same := own[name] == value || value == "none" && (own[name] == "0" || own[name] == "") && name != "mountpoint"
		if !same && strings.HasSuffix(name, "reservation") {
			reserve[name] = value
		}
		return same || strings.HasSuffix(name, "reservation")
	})
	if len(c.Set) > 0 {
		if err := x.p.o.ZFS.SetProps(ctx, c.Set, v.name); err != nil {
			return fault.WrapVolume(v.Volume, err, "give it the properties of the owner's volume")
		}
	}
	for _, name := range c.Inherit {
		if _, set := own[name]; !set {
			continue
		}
		if err := x.p.o.ZFS.Inherit(ctx, name, v.name); err != nil {
			return fault.WrapVolume(v.Volume, err, "give it the properties of the owner's volume")
		}
	}
	return x.reserve(ctx, v, reserve)
}

// reserve sets the owner's reservations. A guest is not kept from its data for want of room that it does not use yet.
func (x *promotion) reserve(ctx context.Context, v volume, props map[string]string) error {
	if len(props) == 0 {
		return nil
	}
	err := x.p.o.ZFS.SetProps(ctx, props, v.name)
	switch class := zfs.ClassOf(err); {
	case err == nil:
	case ctx.Err() != nil || class == zfs.ClassHung || class == zfs.ClassPool || class == zfs.ClassPoolAbsent:
		return fault.WrapVolume(v.Volume, err, "reserve its space")
	default:
		var what []string
		for _, name := range slices.Sorted(maps.Keys(props)) {
			what = append(what, fmt.Sprintf("`zfs set %s=%s %s`", name, props[name], v.name))
		}
		x.warn("volume %s: it does not have the space reserved that it had on the owner before (%v): make room, then run %s",
			v.Volume, err, strings.Join(what, ", "))
	}
	return nil
}

// use looks at the volumes again, mounts filesystems, and waits for the devices of zvols.
func (x *promotion) use(ctx context.Context) error {
	if err := x.again(ctx); err != nil {
		return err
	}
	var missing []string
	for i, v := range x.volumes {
		if x.out.Volumes[i].State == Missing {
			missing = append(missing, v.String())
			continue
		}
		m := local.MarksOf(v.data)
		if !v.data.Exists() || m.Role != zfs.RoleOwner || m.Term != x.guest.Term.String() || v.data.ReadOnly {
			return fault.Retry("", "volume %s: after it was made the owner's, %s is %s, read-only: %v", v.Volume, v.name, m, v.data.ReadOnly)
		}
		switch {
		case v.data.Type == zfs.TypeVolume && v.data.Native["volmode"].Value != "none":
			if _, err := x.p.o.ZFS.Device(ctx, v.name); err != nil {
				return fault.WrapVolume(v.Volume, err, "wait for its device")
			}
		case v.data.Unmounted():
			if err := x.p.o.ZFS.Mount(ctx, v.name); err != nil {
				return fault.WrapVolume(v.Volume, err, "mount %s", v.name)
			}
		}
	}
	if len(missing) > 0 {
		return &fault.Error{
			Class: fault.ClassPerson,
			Text: fmt.Sprintf("guest %s is this node's, but its volumes %s are not here: they were not in the point %s from which it goes on",
				x.guest.ID, strings.Join(missing, ", "), x.out.Point),
			Hint: "take them off the guest with `tandem guest set`, or put datasets with these names in place",
		}
	}
	return nil
}
