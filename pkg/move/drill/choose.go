package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// point is the one that is tried.
type point struct {
	name string
	// age is how old its content is, as far as this node knows.
	age     time.Duration
	volumes []pointVolume // of the point's own list, in the guest's order
}

type pointVolume struct {
	volume  guest.Volume
	dataset string
	kind    zfs.Type
	guid    uint64
	// own are properties without which its files are not what they were.
	own map[string]string
}

func (p point) guids() map[guest.Volume][]uint64 {
	out := map[guest.Volume][]uint64{}
	for _, v := range p.volumes {
		out[v.volume] = []uint64{v.guid}
	}
	return out
}

// choose finds the newest complete point of the guest's replicas here.
func (d *Drills) choose(ctx context.Context, cluster string, g guest.Guest) (point, error) {
	names, err := d.o.Datasets(g.Volumes)
	if err != nil {
		return point{}, err
	}
	list, err := d.o.ZFS.List(ctx, names...)
	if err != nil {
		return point{}, fault.Wrap(err, "list the replicas of guest %s on %s", g.ID, d.o.Name)
	}
	have, found := map[guest.Volume][]plan.Snapshot{}, map[guest.Volume]zfs.Dataset{}
	for i, v := range g.Volumes {
		switch x := list[i]; {
		case x.Err != nil && zfs.ClassOf(x.Err) != zfs.ClassGone:
			return point{}, fault.WrapVolume(v, x.Err, "read it on %s", d.o.Name)
		case x.Exists() && local.MarksOf(x).Are(cluster, g.ID, v, plan.Replica):
			have[v], found[v] = local.Side(names[i], x).Snapshots, x
		}
	}
	points := plan.Points(have)
	i := slices.IndexFunc(points, plan.Point.Complete)
	if i < 0 {
		return point{}, fault.Retry("run the job to this node first", "node %s has no complete point of guest %s", d.o.Name, g.ID)
	}
	out := point{name: points[i].Name}
	for k, v := range g.Volumes {
		s, in := points[i].Snapshots[v]
		if !in {
			continue // It was added since.
		}
		x := found[v]
		if x.KeyStatus == "unavailable" {
			return point{}, fault.Person(v, fmt.Sprintf("load the key there (zfs load-key %s), drill, and unload it again", x.EncryptionRoot),
				"it is encrypted, and its key is not loaded on %s", d.o.Name)
		}
		out.volumes = append(out.volumes, pointVolume{volume: v, dataset: names[k], kind: x.Type, guid: s.GUID, own: nature(x)})
		out.age = max(out.age, d.age(x, s.GUID))
	}
	return out, nil
}

// nature are the properties by which files have their access lists and attributes.
func nature(d zfs.Dataset) map[string]string {
	out := map[string]string{}
	if d.Type != zfs.TypeFilesystem {
		return out
	}
	own := d.Own()
	for _, name := range []string{"acltype", "xattr"} {
		if value, ok := own[name]; ok {
			out[name] = value
		}
	}
	return out
}

// age is how old the content of a point is: the time since it arrived, and how old
// it was then.
func (d *Drills) age(x zfs.Dataset, guid uint64) time.Duration {
	i := slices.IndexFunc(x.Snapshots, func(s zfs.Snapshot) bool { return s.GUID == guid })
	var a local.Arrival
	if i < 0 || json.Unmarshal([]byte(x.Snapshots[i].Props[zfs.PropArrived]), &a) != nil {
		return 0
	}
	return max(0, d.o.Now().Sub(time.Unix(a.At, 0))) + time.Duration(a.Age)*time.Second
}

// there wants the point to be what it is taken for, after it was cloned by its name.
func (d *Drills) there(ctx context.Context, p point) error {
	var names []string
	for _, v := range p.volumes {
		names = append(names, v.dataset)
	}
	list, err := d.o.ZFS.List(ctx, names...)
	if err != nil {
		return err
	}
	for i, v := range p.volumes {
		same := func(s zfs.Snapshot) bool { return s.GUID == v.guid && s.Name == p.name }
		if !slices.ContainsFunc(list[i].Snapshots, same) {
			return fmt.Errorf("volume %s: %w: %s on %s", v.volume, errNotThere, p.name, d.o.Name)
		}
	}
	return nil
}
