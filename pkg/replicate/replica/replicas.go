package replica

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Status is what this node has of one guest that another owns.
type Status struct {
	Guest guest.ID `json:"guest"`
	// Term is the last one that was received from.
	Term    string         `json:"term"`
	Volumes []VolumeStatus `json:"volumes"`
	// Kept says that no job points here: it stays as it is, until one does again.
	Kept bool `json:"kept,omitempty"`
	// Unfinished goes with Kept: all of it was brought by a migration that has not ended.
	// The next one goes on from it.
	Unfinished bool `json:"unfinished,omitempty"`
	// Point is the newest complete one; nil where there is none yet.
	Point *PointStatus `json:"point,omitempty"`
}

// VolumeStatus is one volume of it.
type VolumeStatus struct {
	Volume  guest.Volume `json:"volume"`
	Dataset string       `json:"dataset"`
	// Used is in bytes, snapshots included.
	Used uint64 `json:"used"`
	// Partial says that an interrupted receive is kept, of which PartialBytes have arrived.
	Partial      bool   `json:"partial,omitempty"`
	PartialBytes uint64 `json:"partial_bytes,omitempty"`
	// Modified says that it was written to since its newest snapshot.
	Modified bool `json:"modified,omitempty"`
}

// PointStatus is a point on the target.
type PointStatus struct {
	Name string `json:"name"`
	// Taken is by the source's clock.
	Taken       time.Time         `json:"taken"`
	Consistency guest.Consistency `json:"consistency"`
	// Arrived is by this node's clock: when the point was committed or, where nothing
	// was written since, when the owner last said so. Age is the content's at that time.
	Arrived time.Time     `json:"arrived"`
	Age     time.Duration `json:"age"`
}

// Lag is "on the target: time since its newest complete point arrived, plus that
// point's age at arrival by the source's clock".
func (p PointStatus) Lag(now time.Time) time.Duration { return max(0, now.Sub(p.Arrived)) + p.Age }

// Replicas tells what this node has, from its disks, ordered by guest. A storage or a
// volume that cannot be read makes an error beside what the others have.
func (t *Target) Replicas(ctx context.Context) ([]Status, error) {
	view := t.o.Ledger.View()
	byGuest := map[guest.ID]*Status{}
	snapshots := map[guest.ID]map[guest.Volume][]zfs.Snapshot{}
	var errs []error
	for _, storage := range slices.Sorted(maps.Keys(t.o.Storages)) {
		list, err := t.replicas(ctx, storage, view.Cluster)
		if err != nil {
			errs = append(errs, fmt.Errorf("storage %s: %w", storage, err))
			continue
		}
		for _, l := range list {
			if l.data.Err != nil && zfs.ClassOf(l.data.Err) != zfs.ClassGone {
				errs = append(errs, fault.WrapVolume(l.volume, l.data.Err, "read it"))
				continue
			}
			id, err := guest.ParseID(l.data.Props[zfs.PropGuest])
			if err != nil || !l.replica(view.Cluster, id) {
				continue
			}
			s := byGuest[id]
			if s == nil {
				s = &Status{Guest: id, Term: l.data.Props[zfs.PropTerm], Kept: !t.pointed(view, id)}
				s.Unfinished = s.Kept
				byGuest[id], snapshots[id] = s, map[guest.Volume][]zfs.Snapshot{}
			}
			s.Volumes = append(s.Volumes, t.volumeStatus(ctx, l))
			s.Unfinished = s.Unfinished && l.landing(view.Guests[id])
			snapshots[id][l.volume] = l.data.Snapshots
		}
	}
	var out []Status
	for id, s := range byGuest {
		s.Point = t.newestPoint(id, snapshots[id])
		slices.SortFunc(s.Volumes, func(a, b VolumeStatus) int { return a.Volume.Compare(b.Volume) })
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Guest, b.Guest) })
	return out, fault.Worst(errs)
}

// landing says that a migration of the guest's present owner began the replica, which no job has brought anything since.
func (l found) landing(g guest.Guest) bool { return l.data.Props[zfs.PropLanding] == g.Term.String() }

// landed takes the mark of a migration off replicas that are a job's from now on.
func (t *Target) landed(ctx context.Context, list []found) error {
	for _, l := range list {
		if l.data.Props[zfs.PropLanding] == "" {
			continue
		}
		if err := t.o.ZFS.Inherit(ctx, zfs.PropLanding, l.name); err != nil {
			return fault.WrapVolume(l.volume, err, "make %s the replica of a job", l.name)
		}
	}
	return nil
}

// pointed says that a job of the guest points to this node.
func (t *Target) pointed(view *ledger.State, id guest.ID) bool {
	return slices.ContainsFunc(view.JobsOf(id), func(j guest.Job) bool { return j.Target == t.o.Node })
}

// replicas lists the datasets of a storage that are marked as replicas, with their snapshots.
func (t *Target) replicas(ctx context.Context, storage, cluster string) ([]found, error) {
	root := t.o.Storages[storage]
	children, err := t.o.ZFS.Children(ctx, root)
	if err != nil {
		return nil, err
	}
	var out []found
	var names []string
	for _, d := range children {
		v := guest.Volume{Storage: storage, Name: d.Name[min(len(d.Name), len(root)+1):]}
		if d.Props[zfs.PropRole] == zfs.RoleReplica && d.Props[zfs.PropCluster] == cluster && v.Validate() == nil {
			out = append(out, found{volume: v, name: d.Name})
			names = append(names, d.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	list, err := t.o.ZFS.List(ctx, names...)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].data = list[i]
	}
	return out, nil
}

func (t *Target) volumeStatus(ctx context.Context, l found) VolumeStatus {
	v := VolumeStatus{Volume: l.volume, Dataset: l.name, Used: l.data.Used, Modified: l.data.Written > 0}
	if l.data.ResumeToken != "" {
		v.Partial = true
		info, _ := t.o.ZFS.TokenInfo(ctx, l.name, l.data.ResumeToken) // What it says is filled in where it cannot be sent from here.
		v.PartialBytes = info.Bytes
	}
	return v
}

// newestPoint is the newest complete one of a guest by its snapshots here.
func (t *Target) newestPoint(id guest.ID, volumes map[guest.Volume][]zfs.Snapshot) *PointStatus {
	sides, props := map[guest.Volume][]plan.Snapshot{}, map[uint64]map[string]string{}
	for v, list := range volumes {
		for _, s := range list {
			sides[v] = append(sides[v], local.Snapshot(s, zfs.RoleReplica))
			props[s.GUID] = s.Props
		}
	}
	points := plan.Points(sides)
	i := slices.IndexFunc(points, plan.Point.Complete)
	if i < 0 {
		return nil
	}
	status := &PointStatus{Name: points[i].Name}
	note := t.note(id).Current
	for _, s := range points[i].Snapshots {
		if p, err := guest.ParsePoint(props[s.GUID][zfs.PropPoint]); err == nil {
			status.Taken, status.Consistency = time.Unix(p.Taken, 0), p.Consistency
		}
		var a local.Arrival
		if err := json.Unmarshal([]byte(props[s.GUID][zfs.PropArrived]), &a); err == nil && status.Arrived.IsZero() {
			status.Arrived, status.Age = time.Unix(a.At, 0), time.Duration(a.Age)*time.Second
		}
		if note != nil && note.Point == s.Name && note.GUID == s.GUID {
			status.Arrived, status.Age = time.Unix(note.At, 0), time.Duration(note.Age)*time.Second
		}
	}
	return status
}
