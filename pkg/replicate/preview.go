package replicate

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Preview is what the next sync of a job would do, as things are now.
type Preview struct {
	// Kind is empty as that of its volumes.
	Kind Kind
	// Base is the newest state that both sides have; empty for a full sync.
	Base string
	// Bytes is about how many would travel: the estimate with which a sync begins.
	Bytes    uint64
	Volumes  []PreviewVolume
	Warnings []string
	// Cleans are what goes once the point has arrived.
	Cleans []PreviewClean
	// Refusals are why it would refuse, each with its volume and hint.
	Refusals []*Error
	// Silent is why the target did not tell what it has; nil: it did. What it has
	// is then what this node remembers of it.
	Silent error
	// Unknown says that nothing is remembered either: there is no plan.
	Unknown bool
}

// PreviewVolume is the part of one volume.
type PreviewVolume struct {
	Volume guest.Volume
	// Kind is empty where something has to be dropped first and what follows is not known.
	Kind  Kind
	Base  string
	Bytes uint64
	// Steps are what would be done, in words.
	Steps  []string
	Reason string
}

// Preview plans the next sync of a job and does nothing of it: nothing is taken,
// sent, marked or noted on either side. The target has patience to tell what it
// has. Its error says why this node cannot even plan.
func (s *Source) Preview(ctx context.Context, id guest.JobID, patience time.Duration) (Preview, error) {
	r, err := s.begin(Task{Job: id})
	if err != nil {
		return Preview{}, fault.Final(ctx, err)
	}
	if r.job.Removing {
		return Preview{}, fault.Never("", "job %s is being removed", id)
	}
	r.preview = true
	out, err := r.foresee(ctx, patience)
	return out, fault.Final(ctx, err)
}

func (r *run) foresee(ctx context.Context, patience time.Duration) (Preview, error) {
	if err := r.list(ctx); err != nil {
		return Preview{}, err
	}
	var err error
	if r.zfs, err = r.s.version.Get(ctx, r.s.o.ZFS); err != nil {
		return Preview{}, err
	}
	if err := r.s.unclaimed(r.guest, r.own); err != nil {
		return Preview{}, err
	}
	r.own = r.marked()
	silent := r.ask(ctx, patience)
	if silent != nil && !r.remember() {
		return Preview{Silent: silent, Unknown: true}, nil
	}
	if err := r.pair(ctx); err != nil {
		return Preview{}, err
	}
	out := r.outlook()
	out.Silent = silent
	return out, nil
}

// marked is what a sync would see after it has claimed the volumes.
func (r *run) marked() []zfs.Dataset {
	own := slices.Clone(r.own)
	for i, v := range r.guest.Volumes {
		if own[i].Exists() && local.MarksOf(own[i]).None() {
			own[i].Props = stamp(r.view.Cluster, r.guest, v, own[i])
		}
	}
	return own
}

// ask is the target's own word.
func (r *run) ask(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r.inv = wire.Inventory{}
	err := r.s.call(ctx, r.job.Target, wire.PathInventory, r.inventory(), &r.inv)
	if err != nil {
		return fault.Wrap(err, "ask %s what it has", r.target)
	}
	return r.inv.Validate(r.guest)
}

// remember puts what the target last told in place of its answer: replicas with
// the points that it had, and room enough. It is false where this owner has not
// heard of that target yet.
func (r *run) remember() bool {
	known := r.s.bases.targets(r.guest, []guest.NodeID{r.job.Target})[0]
	if !known.Known {
		return false
	}
	r.inv = wire.Inventory{Version: wire.Version, ZFS: r.zfs}
	for i, v := range r.guest.Volumes {
		own := local.Side(r.names[i], r.own[i])
		told := wire.InventoryVolume{
			Volume: v, Root: r.target, Available: math.MaxUint64, RootEncrypted: own.Encrypted,
			Dataset: r.names[i], Kind: own.Kind, Encrypted: own.Encrypted,
			Cluster: r.view.Cluster, Guest: r.guest.ID.String(), Role: plan.Replica, Marked: v.String(),
		}
		for _, s := range own.Snapshots {
			if slices.Contains(known.Volumes[v].Has, s.GUID) {
				told.Exists = true
				told.Snapshots = append(told.Snapshots, wire.InventorySnapshot{
					Name: s.Name, GUID: s.GUID, TXG: s.TXG, Tandem: true, Received: true, Complete: true,
				})
			}
		}
		r.inv.Volumes = append(r.inv.Volumes, told)
	}
	return true
}

// outlook is the plan that the sync would begin with.
func (r *run) outlook() Preview {
	point, unwritten := plan.Unchanged(r.pairs)
	if !unwritten {
		point = r.pointAhead()
	}
	p := plan.Make(r.input(point))
	r.warnings(p)
	out := Preview{Warnings: r.result.Warnings}
	for _, refusal := range p.Refusals {
		out.Refusals = append(out.Refusals, &fault.Error{
			Class: fault.ClassOf(refusal), Volume: refusal.Volume, Hint: refusal.Hint, Err: refusal,
		})
	}
	if len(out.Refusals) > 0 {
		return out
	}
	name, current := plan.Current(r.pairs)
	if current {
		point, p = name, plan.Make(r.input(name))
	}
	if p.Again() {
		p = p.First()
	} else {
		out.Cleans = r.cleans(p, point)
	}
	for _, v := range p.Volumes {
		out.add(v)
	}
	if current {
		out.Kind, out.Base, out.Bytes = KindNothing, name, 0
	}
	return out
}

// add puts one volume to the whole: what is sent whole goes before what is
// resumed, that before increments.
func (p *Preview) add(v plan.VolumePlan) {
	pv := PreviewVolume{Volume: v.Volume, Kind: KindNothing, Bytes: v.Bytes, Reason: v.Reason}
	if v.Base != nil {
		pv.Base = v.Base.Name
	}
	for _, s := range v.Steps {
		pv.Steps = append(pv.Steps, describe(s))
	}
	switch {
	case len(v.Steps) == 0:
	case v.Steps[0].Verb == plan.Abort, v.Steps[0].Verb == plan.SetAside, v.Steps[0].Verb == plan.Promote:
		pv.Kind = "" // What follows is planned then.
	default:
		pv.Kind = kindOf(v, KindNothing)
	}
	p.Volumes = append(p.Volumes, pv)
	p.Bytes += pv.Bytes
	if p.Base == "" {
		p.Base = pv.Base
	}
	order := []Kind{"", KindNothing, KindIncremental, KindResumed, KindFull}
	if slices.Index(order, pv.Kind) > slices.Index(order, p.Kind) {
		p.Kind = pv.Kind
	}
	if p.Kind == KindFull {
		p.Base = ""
	}
}
