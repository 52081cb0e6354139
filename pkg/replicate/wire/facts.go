package wire

import (
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// Ahead asks for volumes of a guest before the ledger has them, or the job, on it: what would stand in the way of a sync is told
// when somebody makes the job. It needs no job, but the guest's owner as ever.
type Ahead struct {
	// Volumes are asked for instead of the guest's own.
	Volumes []guest.Volume `json:"volumes,omitempty"`
	// Anew has the target look again at what seldom changes: the run before failed.
	Anew bool `json:"anew,omitempty"`
	// Preview says that no sync asks: nothing may be changed for it.
	Preview bool `json:"preview,omitempty"`
}

// Guest is the one to tell of: with the volumes that are asked for.
func (r InventoryRequest) Guest(g guest.Guest) (guest.Guest, error) {
	if len(r.Volumes) == 0 {
		return g, nil
	}
	if len(r.Volumes) > maxVolumes {
		return g, fault.Never("", "%d volumes are asked for, more than %d", len(r.Volumes), maxVolumes)
	}
	for i, v := range r.Volumes {
		if err := v.Validate(); err != nil {
			return g, fault.Never("", "request: %v", err)
		}
		if slices.Contains(r.Volumes[:i], v) {
			return g, fault.Never("", "request: volume %s twice", v)
		}
	}
	g.Volumes = r.Volumes
	return g, nil
}

// InventoryFacts is what a target tells of a volume beside its snapshots.
type InventoryFacts struct {
	// Mode is the one recorded on the replica.
	Mode string `json:"mode,omitempty"`
	// Own are its own values of native properties, Manifest what is written down of its owner's.
	Own      map[string]string `json:"own,omitempty"`
	Manifest string            `json:"manifest,omitempty"`
	// Pool is that of the storage.
	Pool         string            `json:"pool,omitempty"`
	PoolReadOnly bool              `json:"pool_readonly,omitempty"`
	Features     map[string]string `json:"features,omitempty"`
}

// Facts are those of the replica as the planner wants them.
func (f InventoryFacts) Facts() plan.Facts { return plan.Facts{Mode: f.Mode} }

// RootPool is the pool of the storage as the planner wants it.
func (f InventoryFacts) RootPool() plan.Pool {
	return plan.Pool{Name: f.Pool, ReadOnly: f.PoolReadOnly, Features: f.Features}
}

// Nature is what a volume is like beside its content; a target makes its replica so.
type Nature struct {
	// Mode is how its streams are made.
	Mode string `json:"mode,omitempty"`
	// Manifest are the values that were set on the owner's volume; see pkg/plan/manifest.
	Manifest map[string]string `json:"manifest,omitempty"`
}

// maxManifest bounds what a peer may tell.
const maxManifest = 100

// Validate refuses what no owner tells. Which properties count is the target's to decide.
func (n *Nature) Validate() error {
	if n == nil {
		return nil
	}
	if n.Mode != "" && n.Mode != plan.ModeRaw && n.Mode != plan.ModePlain {
		return fmt.Errorf("mode %q", n.Mode)
	}
	if len(n.Manifest) > maxManifest {
		return fmt.Errorf("%d properties, more than %d", len(n.Manifest), maxManifest)
	}
	return nil
}
