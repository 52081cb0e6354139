package wire

import (
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// InventoryAside is the part of an InventoryVolume that matters where a replica
// has diverged.
type InventoryAside struct {
	// GUID is the dataset's own.
	GUID uint64 `json:"dataset_guid,omitempty"`
	// Origin is the snapshot of which it is a clone.
	Origin string `json:"origin,omitempty"`
	// Modified says that as it is now it has refused an increment.
	Modified bool `json:"modified,omitempty"`
	// Aside are the copies of the volume that were set aside. They are looked for
	// only where there is no replica, or one that is such a clone.
	Aside []InventoryCopy `json:"aside,omitempty"`
	// Moved are datasets of the storage that carry the marks of the volume's replica
	// under another name. They are looked for only where there is no replica.
	Moved []InventoryCopy `json:"moved,omitempty"`
}

// InventoryCopy is a diverged copy of a volume that was set aside, or a replica under another name.
type InventoryCopy struct {
	Dataset   string              `json:"dataset"`
	Kind      plan.Kind           `json:"kind"`
	Snapshots []InventorySnapshot `json:"snapshots,omitempty"`
}

// AsideRequest asks to do one step of setting aside.
type AsideRequest struct {
	Request
	Volume guest.Volume `json:"volume"`
	// Verb is plan.SetAside or plan.Promote.
	Verb plan.Verb `json:"verb"`
	// Dataset is the GUID of the dataset that was seen; SetAside only.
	Dataset uint64 `json:"dataset_guid,omitempty"`
	// Base is the GUID of the snapshot that the source has too; 0: none.
	Base uint64 `json:"base,omitempty"`
	// Why is what SetAside notes with it.
	Why string `json:"why,omitempty"`
	// Superseded are GUIDs of snapshots that the source sent and destroyed since.
	Superseded []uint64 `json:"superseded,omitempty"`
}

// AsideReply says what was done.
type AsideReply struct {
	// Dataset is the name that what was set aside has now; empty: nothing was to be done.
	Dataset string `json:"dataset,omitempty"`
}

// Validate refuses what no plan asks for.
func (r AsideRequest) Validate() error {
	if err := r.Request.Validate(); err != nil {
		return err
	}
	switch {
	case r.Verb != plan.SetAside && r.Verb != plan.Promote:
		return fault.Never("", "volume %s: set aside: verb %q", r.Volume, r.Verb)
	case len(r.Superseded) > maxSnapshots:
		return fault.Never("", "volume %s: set aside: %d snapshots: more than %d", r.Volume, len(r.Superseded), maxSnapshots)
	}
	return nil
}

func (a InventoryAside) validate() error {
	if a.Origin != "" {
		if err := zname.Snapshot(a.Origin); err != nil {
			return err
		}
	}
	for _, c := range slices.Concat(a.Aside, a.Moved) {
		if err := zname.Dataset(c.Dataset); err != nil {
			return err
		}
		if len(c.Snapshots) > maxSnapshots {
			return fmt.Errorf("%d snapshots: more than %d", len(c.Snapshots), maxSnapshots)
		}
		for _, s := range c.Snapshots {
			if err := zname.Own(s.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Copies are what was set aside of the volume, as the planner wants it. The target
// tells only what carries the marks of the guest's volume.
func (v InventoryVolume) Copies(cluster string, g guest.ID) []plan.Side {
	var out []plan.Side
	for _, c := range v.Aside {
		s := c.planned()
		s.Marks = plan.Marks{Cluster: cluster, Guest: g.String(), Role: plan.Aside, Volume: v.Volume.String()}
		out = append(out, s)
	}
	return out
}

// Renamed are the volume's replicas under other names, as the planner wants them.
func (v InventoryVolume) Renamed() []plan.Side {
	var out []plan.Side
	for _, c := range v.Moved {
		out = append(out, c.planned())
	}
	return out
}

func (c InventoryCopy) planned() plan.Side {
	s := plan.Side{Dataset: c.Dataset, Exists: true, Kind: c.Kind}
	for _, x := range c.Snapshots {
		s.Snapshots = append(s.Snapshots, x.planned())
	}
	return s
}

// Told is a snapshot as a target tells it.
func Told(x plan.Snapshot) InventorySnapshot {
	return InventorySnapshot{
		Name: x.Name, GUID: x.GUID, TXG: x.TXG, Written: x.Written, Tandem: x.Tandem, Received: x.Received, Complete: x.Complete, Held: x.Held,
	}
}
