package promote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// step is what is to be done next with a volume's data.
type step int

// The steps.
const (
	// settled: its data is that of the point, or the owner's.
	settled step = iota
	// drop an interrupted receive.
	drop
	// part a clone from the copy that it was made from.
	part
	// park: set it aside.
	park
	// clone the point out of a copy.
	clone
)

// next is found from the disks alone, so that what was cut is gone on with.
func (x *promotion) next(v volume) step {
	guid, listed := x.want[v.Volume]
	parts := v.origin() >= 0 && !x.stays[v.Volume]
	switch v.standing {
	case unborn:
		return drop
	case leaving:
		if v.data.ResumeToken != "" {
			return drop
		}
		return park
	case made:
		if parts {
			return part
		}
	case absent:
		if listed {
			return clone
		}
	case replica:
		at := v.has(guid)
		switch {
		case !listed:
		case v.data.ResumeToken != "":
			return drop
		case parts:
			return part
		case at < 0 || newer(v.data, at) > 0:
			return park
		}
	case foreign, bare, owned:
	}
	return settled
}

// do does the next step.
func (x *promotion) do(ctx context.Context, v volume) error {
	switch x.next(v) {
	case drop:
		return x.drop(ctx, v)
	case part:
		return x.part(ctx, v)
	case park:
		return x.park(ctx, v)
	case clone:
		return x.clone(ctx, v)
	case settled:
	}
	return nil
}

// drop drops an interrupted receive: into the guest's replica, or the first one that this node began. None runs: this one has the
// volume's lock.
func (x *promotion) drop(ctx context.Context, v volume) error {
	if err := x.p.o.ZFS.AbortReceive(ctx, v.name); err != nil {
		return fault.WrapVolume(v.Volume, err, "drop the interrupted receive into %s", v.name)
	}
	if v.standing == unborn {
		return x.p.target.Ended(x.guest.ID, v.Volume)
	}
	return nil
}

// part makes a clone own the snapshots that it shares with what was set aside. Where names clash that does not work, and it
// stays a clone.
func (x *promotion) part(ctx context.Context, v volume) error {
	err := x.p.o.ZFS.Promote(ctx, v.name)
	copied := v.copies[v.origin()].Data.Name
	if errors.Is(err, zfs.ClassClones) && (v.standing == made || v.has(x.want[v.Volume]) >= 0) {
		x.stays[v.Volume] = true
		x.warn("volume %s: %s depends on %s: both have a snapshot of the same name (%v)", v.Volume, v.name, copied, err)
		return nil
	}
	return fault.WrapVolume(v.Volume, err, "part %s from %s", v.name, copied)
}

// park sets the dataset aside, with all that it has.
func (x *promotion) park(ctx context.Context, v volume) error {
	if err := x.idle(ctx, v); err != nil {
		return err
	}
	if v.data.Props[zfs.PropRole] == zfs.RoleOwner {
		if err := x.record(ctx, v); err != nil {
			return err
		}
	}
	c, err := x.p.aside.Set(ctx, x.cluster, v.data, aside.Case{Guest: x.guest, Volume: v.Volume, Base: x.want[v.Volume], Why: x.why(v)})
	if err != nil {
		return err
	}
	x.out.Aside = append(x.out.Aside, c.Data.Name)
	x.warn("volume %s: what is newer here than %s was set aside as %s; see `tandem diverged list`", v.Volume, x.out.Point, c.Data.Name)
	return nil
}

func (x *promotion) why(v volume) string {
	at := v.has(x.want[v.Volume])
	if at < 0 {
		return fmt.Sprintf("it does not have %s, from which the guest went on here", x.out.Point)
	}
	return fmt.Sprintf("it had %d bytes that are newer than %s, from which the guest went on here", newer(v.data, at), x.out.Point)
}

// idle refuses a dataset that somebody has open: ZFS would let the writer go on. One that is only mounted is unmounted when it
// is set aside.
func (x *promotion) idle(ctx context.Context, v volume) error {
	if v.data.Mounted {
		return nil
	}
	users, err := x.p.o.ZFS.Users(ctx, v.name)
	if err != nil || len(users) == 0 {
		return fault.WrapVolume(v.Volume, err, "look who uses %s", v.name)
	}
	return &fault.Error{
		Class: fault.ClassRetry, Volume: v.Volume, Hint: "end that process: the guest may not run from this data",
		Text: fmt.Sprintf("%s has to be set aside and is in use: %s", v.name, users[0]),
	}
}

// record writes down what a former owner's volume is like, before it is frozen: what is made anew from it is to be like it.
func (x *promotion) record(ctx context.Context, v volume) error {
	text, err := manifest.Demote(manifest.Kind(v.data.Type), v.data.Own()).Record.Text()
	if err == nil {
		err = x.p.o.ZFS.SetProps(ctx, map[string]string{zfs.PropManifest: text}, v.name)
	}
	return fault.WrapVolume(v.Volume, err, "write down what %s is like", v.name)
}

// clone makes the volume anew from the point, out of what was set aside.
func (x *promotion) clone(ctx context.Context, v volume) error {
	guid := x.want[v.Volume]
	from := v.copies[v.source(guid)].Data
	kind := manifest.Kind(from.Type)
	record := manifest.Parse(from.Props[zfs.PropManifest])
	props := local.Marks(x.cluster, x.guest, v.Volume, zfs.RoleReplica)
	props[zfs.PropMode] = local.Mode(from)
	if text := from.Props[zfs.PropManifest]; text != "" {
		props[zfs.PropManifest] = text
	}
	maps.Copy(props, record.Values.Replica(kind).Settable())
	maps.Copy(props, manifest.Guard(kind))
	snap := from.Name + "@" + from.Snapshots[place(from, guid)].Name
	if err := x.p.o.ZFS.Clone(ctx, snap, v.name, props); err != nil {
		return fault.WrapVolume(v.Volume, err, "make %s anew from %s", v.name, snap)
	}
	x.cloned[v.Volume] = true
	return nil
}

func (x *promotion) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(x.out.Warnings, w) { // Each step looks at all anew.
		x.out.Warnings = append(x.out.Warnings, w)
	}
}

// choose finds the point's snapshots on all volumes, or refuses and names all that is missing or in the way: before anything is
// changed, and again after each step.
func (x *promotion) choose() error {
	x.want = map[guest.Volume]uint64{}
	if b := x.guest.Beginning; b != nil {
		x.out.Point = b.Point
		maps.Copy(x.want, b.GUIDs)
	}
	missing, blocked := x.obstacles()
	if len(missing) > 0 && len(blocked) == 0 && x.later() {
		missing, blocked = x.obstacles()
	}
	if all := append(missing, blocked...); len(all) > 0 {
		return &fault.Error{
			Class: fault.ClassPerson, Text: fmt.Sprintf("guest %s cannot go on here: %s", x.guest.ID, strings.Join(all, "; ")),
			Hint: "nothing was changed; put right what is named, or recover the guest on a node that has the point",
		}
	}
	return nil
}

// obstacles are what keeps the volumes from being brought to the point.
func (x *promotion) obstacles() (missing, blocked []string) {
	for _, v := range x.volumes {
		guid, listed := x.want[v.Volume]
		switch {
		case v.standing == foreign:
			text := fmt.Sprintf("volume %s: the dataset %s (%s) is not of this guest", v.Volume, v.name, local.MarksOf(v.data))
			if local.MarksOf(v.data).None() && v.data.ResumeToken == "" {
				text += fmt.Sprintf(" (if it is its data from now on: `tandem guest set %s --take-volume %s`)", x.guest.ID, v.Volume)
			}
			blocked = append(blocked, text)
		case v.locked():
			blocked = append(blocked, fmt.Sprintf("volume %s: the key of %s is not loaded: run `zfs load-key`", v.Volume, v.name))
		case v.standing == replica && !listed && x.guest.Beginning == nil:
			blocked = append(blocked, fmt.Sprintf("volume %s: %s is a replica, and the ledger does not say from which point the guest began",
				v.Volume, v.name))
		case v.standing == owned || v.standing == bare || v.standing == made || !listed:
		case v.has(guid) < 0 && v.source(guid) < 0:
			missing = append(missing, fmt.Sprintf("volume %s: %s does not have the snapshot %s with GUID %d", v.Volume, v.name, x.out.Point, guid))
		}
	}
	return missing, blocked
}

// locked says that the key of an encrypted dataset is not loaded.
func (v volume) locked() bool { return v.data.Exists() && v.data.KeyStatus == "unavailable" }

// later takes a newer complete point where that of the Beginning is gone: the owner before sent it while the ledger changed, and
// with it the word that the older one can go.
func (x *promotion) later() bool {
	b := x.guest.Beginning
	for _, h := range points(x.guest, x.volumes) {
		if h.Term != b.Term.String() || !follows(h.Name, b.Point) {
			continue
		}
		all := true
		for v := range b.GUIDs {
			_, ok := h.GUIDs[v]
			all = all && (ok || !x.guest.Has(v))
		}
		if all {
			x.warn("the point %s is gone here; the guest goes on from %s, which came after it", b.Point, h.Name)
			x.out.Point, x.want = h.Name, h.GUIDs
			return true
		}
	}
	return false
}

// follows says that the same owner took a point after the other, in the same term. Names decide it here because the other one's
// snapshots are gone.
func follows(name, before string) bool {
	n, err := guest.ParseSnapshotName(name)
	if err != nil {
		return false
	}
	b, err := guest.ParseSnapshotName(before)
	return err == nil && n.Term == b.Term && n.After(b)
}
