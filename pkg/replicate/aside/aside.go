// Package aside keeps diverged data of guests on this node, apart from the
// replicas: it renames a dataset to STORAGE/diverged/GUEST/…, with marks that say
// whose it was, why and since when, finds such copies again, and destroys one on
// an operator's command.
//
// It works on the disks of its own node alone and keeps no state: each of its
// steps can be the last before a power cut, and doing it again goes on from what
// is on the disks. It does not decide what has diverged and brings nothing in
// the place of what it takes away: pkg/replicate does, and pkg/move.
package aside

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Folder is the name of the filesystem in each storage that holds what was set aside.
const Folder = guest.DivergedFolder

// Keeper keeps the diverged data of one node. Its methods take no locks, but
// Discard: whoever calls the others has that of the volume.
type Keeper struct{ o local.Options }

// New makes the keeper of a node.
func New(o local.Options) (*Keeper, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	return &Keeper{o: o}, nil
}

// Case is why a volume is set aside.
type Case struct {
	Guest  guest.Guest
	Volume guest.Volume
	// Base is the GUID of the snapshot that the owner has too; 0: there is none.
	Base uint64
	// Why is a sentence without its end.
	Why string
	// Superseded are the GUIDs of all snapshots in it that are newer than the base,
	// where they are nothing but copies of snapshots that the owner sent and destroyed
	// since: then the whole can go once nothing depends on it.
	Superseded []uint64
}

// note is the value of the property tandem:diverged.
type note struct {
	// At is when it was set aside, in seconds since 1970 by this node's clock.
	At  int64  `json:"at"`
	Why string `json:"why"`
	// Owner and Term are those of the ledger then; the term of the data is in its marks.
	Owner      guest.NodeID `json:"owner"`
	Term       string       `json:"term"`
	Superseded []uint64     `json:"superseded,omitempty"`
}

// Copy is diverged data that was set aside.
type Copy struct {
	Guest  guest.ID
	Volume guest.Volume
	// Term is that of the last owner from whom it was received, or that it had itself.
	Term string
	At   time.Time
	Why  string
	// Owner was that of the guest, at ByTerm, when it was set aside.
	Owner  guest.NodeID
	ByTerm string
	// Data is the dataset. Its Origin is the snapshot that it shares with the
	// replica once that has taken the shared ones over; until then it is empty.
	Data zfs.Dataset
	// Superseded are the GUIDs of snapshots that nobody needs.
	Superseded []uint64
}

// Side is the copy as the planner wants it.
func (c Copy) Side() plan.Side { return local.Side(c.Data.Name, c.Data) }

// maxSuperseded bounds what has to fit into a property.
const maxSuperseded = 64

// superseded are the case's, if they are indeed all that is newer than the base.
func (c Case) superseded(d zfs.Dataset) []uint64 {
	at := slices.IndexFunc(d.Snapshots, func(s zfs.Snapshot) bool { return s.GUID == c.Base })
	if at < 0 || d.Written > 0 || len(c.Superseded) > maxSuperseded || !within(d.Snapshots[at+1:], c.Superseded) {
		return nil
	}
	return c.Superseded
}

func within(snaps []zfs.Snapshot, guids []uint64) bool {
	return !slices.ContainsFunc(snaps, func(s zfs.Snapshot) bool { return !slices.Contains(guids, s.GUID) })
}

// tag is that of the holds for a copy: by its dataset, so that each copy has its
// own where two depend on the same snapshot.
func tag(d zfs.Dataset) string { return fmt.Sprintf("%s%016x", tagPrefix, d.GUID) }

const tagPrefix = "tandem-diverged-"

// Set puts a dataset of the guest's volume aside: nothing can be written to it
// any more, what was written is in a snapshot, its newest snapshot and the base
// are held, and it has another name. It may have role replica or owner, or have
// been on its way before. Whoever gives it knows that it runs no guest.
func (k *Keeper) Set(ctx context.Context, cluster string, d zfs.Dataset, c Case) (Copy, error) {
	m := local.MarksOf(d)
	roles := []string{zfs.RoleReplica, zfs.RoleOwner, zfs.RoleDiverged}
	if m.Cluster != cluster || m.Guest != c.Guest.ID.String() || m.Volume != c.Volume.String() || !slices.Contains(roles, m.Role) {
		return Copy{}, fault.Person(c.Volume, "it was not touched; if it is not needed, rename or destroy it", "%s (%s) is not of guest %s",
			d.Name, m, c.Guest.ID)
	}
	if d.ResumeToken != "" {
		return Copy{}, fault.Retry("", "volume %s: an interrupted receive into %s has to be dropped before it is set aside", c.Volume, d.Name)
	}
	name, err := k.name(ctx, d, c)
	if err != nil {
		return Copy{}, err
	}
	if d, err = k.freeze(ctx, d, c); err != nil {
		return Copy{}, err
	}
	if err := k.hold(ctx, d, c); err != nil {
		return Copy{}, err
	}
	if err := k.folders(ctx, cluster, c); err != nil {
		return Copy{}, err
	}
	if err := k.o.ZFS.Rename(ctx, d.Name, name); err != nil {
		return Copy{}, fault.WrapVolume(c.Volume, err, "set %s aside as %s", d.Name, name)
	}
	d.Name = name
	found, err := k.read(ctx, cluster, []zfs.Dataset{d})
	if err == nil && len(found) != 1 {
		err = fault.Retry("", "volume %s: %s cannot be found after it was set aside", c.Volume, name)
	}
	if err != nil {
		return Copy{}, err
	}
	return found[0], nil
}

// name is a free one for the dataset, checked for its length with all that it has.
func (k *Keeper) name(ctx context.Context, d zfs.Dataset, c Case) (string, error) {
	folder, err := k.folder(c.Volume.Storage, c.Guest.ID)
	if err != nil {
		return "", err
	}
	taken, err := k.o.ZFS.Children(ctx, folder)
	if err != nil && zfs.ClassOf(err) != zfs.ClassGone {
		return "", fault.WrapVolume(c.Volume, err, "look for a name to set %s aside", d.Name)
	}
	stem := folder + "/" + c.Volume.Name + "_" + stamp(k.o.Now())
	name := stem
	for n := 2; slices.ContainsFunc(taken, func(t zfs.Dataset) bool { return t.Name == name }); n++ {
		name = fmt.Sprintf("%s_%d", stem, n)
	}
	longest := len(snapshotName(k.o.Now()))
	for _, s := range d.Snapshots {
		longest = max(longest, len(s.Name))
	}
	if n := len(name) + 1 + longest; n > plan.MaxName {
		return "", fault.Person(c.Volume, "rename the snapshot with the longest name, or use a storage with a shorter name",
			"%s cannot be set aside as %s: the longest name of a snapshot there would have %d bytes, ZFS allows %d", d.Name, name, n, plan.MaxName)
	}
	return name, nil
}

func stamp(now time.Time) string { return now.UTC().Format("20060102T150405Z") }

func snapshotName(now time.Time) string { return "diverged_" + stamp(now) }

func (k *Keeper) folder(storage string, g guest.ID) (string, error) {
	root, ok := k.o.Storages[storage]
	if !ok {
		return "", fault.Never("", "node %s has no storage %s", k.o.Name, storage)
	}
	return root + "/" + Folder + "/" + g.String(), nil
}

// freeze marks the dataset, so that it is a replica no more, ends writes to it,
// and snapshots what was written.
func (k *Keeper) freeze(ctx context.Context, d zfs.Dataset, c Case) (zfs.Dataset, error) {
	if d.Props[zfs.PropRole] != zfs.RoleDiverged {
		n, err := json.Marshal(note{
			At: k.o.Now().Unix(), Why: printable(c.Why), Owner: c.Guest.Owner, Term: c.Guest.Term.String(), Superseded: c.superseded(d),
		})
		if err != nil {
			return d, err
		}
		props := map[string]string{
			"readonly": "on", "refreservation": "none", zfs.PropRole: zfs.RoleDiverged, zfs.PropDiverged: string(n),
		}
		if d.Type == zfs.TypeFilesystem {
			props["canmount"] = "noauto"
		}
		if err := k.o.ZFS.SetProps(ctx, props, d.Name); err != nil {
			return d, fault.WrapVolume(c.Volume, err, "mark %s as diverged", d.Name)
		}
	}
	if d.Mounted {
		if err := k.o.ZFS.Unmount(ctx, d.Name); err != nil {
			return d, &fault.Error{
				Class: fault.ClassRetry, Volume: c.Volume, Text: "it is mounted and in use on " + string(k.o.Name), Err: err,
				Hint: "see who uses it with `fuser -vm " + d.Name + "`, or unmount it",
			}
		}
	}
	d, err := k.look(ctx, d, c) // Since the writes ended.
	if err != nil || d.Written == 0 && len(d.Snapshots) > 0 {
		return d, err
	}
	name := snapshotName(k.o.Now())
	for n := 2; slices.ContainsFunc(d.Snapshots, func(s zfs.Snapshot) bool { return s.Name == name }); n++ {
		name = fmt.Sprintf("%s_%d", snapshotName(k.o.Now()), n)
	}
	done, err := k.o.Together.Change(ctx, zfs.Change{Volumes: []zfs.VolumeChange{{Dataset: d.Name, GUID: d.GUID}}, Take: name})
	if err = cmp.Or(err, done.Err); err != nil {
		return d, fault.WrapVolume(c.Volume, err, "snapshot what was written to %s", d.Name)
	}
	return k.look(ctx, d, c)
}

func (k *Keeper) look(ctx context.Context, d zfs.Dataset, c Case) (zfs.Dataset, error) {
	list, err := k.o.ZFS.List(ctx, d.Name)
	if err == nil {
		err = list[0].Err
	}
	switch {
	case err != nil:
		return d, fault.WrapVolume(c.Volume, err, "read %s", d.Name)
	case list[0].GUID != d.GUID:
		return d, fault.Retry("", "volume %s: %s is another dataset by now", c.Volume, d.Name)
	}
	return list[0], nil
}

// hold keeps the newest snapshot and the base: no pruning takes them.
func (k *Keeper) hold(ctx context.Context, d zfs.Dataset, c Case) error {
	var snaps []string
	for i, s := range d.Snapshots {
		if i == len(d.Snapshots)-1 || s.GUID == c.Base {
			snaps = append(snaps, d.Name+"@"+s.Name)
		}
	}
	return fault.WrapVolume(c.Volume, k.o.ZFS.Hold(ctx, tag(d), snaps...), "hold what diverged in %s", d.Name)
}

// folders makes the filesystems above the copies, which are never mounted.
func (k *Keeper) folders(ctx context.Context, cluster string, c Case) error {
	folder, err := k.folder(c.Volume.Storage, c.Guest.ID)
	if err != nil {
		return err
	}
	// OpenZFS makes a dataset first and sets its properties then: another volume's turn may not come in between, and find a
	// folder that is nobody's.
	turn := k.o.Locks.Turn("diverged-" + c.Volume.Storage)
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-turn }()
	top := folder[:strings.LastIndexByte(folder, '/')]
	list, err := k.o.ZFS.List(ctx, top, folder)
	if err != nil {
		return fault.WrapVolume(c.Volume, err, "look for %s", folder)
	}
	for _, d := range list {
		props := map[string]string{"canmount": "off", "mountpoint": "none", zfs.PropCluster: cluster, zfs.PropRole: zfs.RoleFolder}
		if d.Name == folder {
			props[zfs.PropGuest] = c.Guest.ID.String()
		}
		switch {
		case d.Err == nil && (d.Props[zfs.PropRole] != zfs.RoleFolder || d.Props[zfs.PropCluster] != cluster):
			return fault.Person(c.Volume, "rename it; Tandem needs the name for diverged data", "%s on %s was not made by Tandem", d.Name, k.o.Name)
		case d.Err == nil:
			continue
		case zfs.ClassOf(d.Err) != zfs.ClassGone:
			return fault.WrapVolume(c.Volume, d.Err, "look for %s", d.Name)
		}
		if err := k.o.ZFS.CreateFilesystem(ctx, d.Name, props); err != nil && zfs.ClassOf(err) != zfs.ClassExists {
			return fault.WrapVolume(c.Volume, err, "make %s", d.Name)
		}
	}
	return nil
}

// printable keeps control characters out of a property.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s[:min(len(s), 1024)])
}
