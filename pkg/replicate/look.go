package replicate

import (
	"context"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// look asks both sides what they have, at the same time.
func (r *run) look(ctx context.Context) error {
	r.phase(PhasePlan, 0)
	r.inv = wire.Inventory{}
	asked, question := make(chan error, 1), r.inventory()
	go func() {
		asked <- r.s.call(ctx, r.job.Target, wire.PathInventory, question, &r.inv)
	}()
	listed := r.list(ctx)
	r.near.Next(local.StepTake)
	if err := <-asked; err != nil {
		return fault.Wrap(err, "ask %s what it has", r.target)
	}
	if listed != nil {
		return listed
	}
	if err := r.inv.Validate(r.guest); err != nil {
		return err
	}
	var err error
	if r.zfs, err = r.s.version.Get(ctx, r.s.o.ZFS); err != nil {
		return err
	}
	if r.own, err = r.s.claim(ctx, r.view.Cluster, r.guest, r.own); err != nil {
		return err
	}
	if err := r.ready(); err != nil {
		return err
	}
	if err := r.pair(ctx); err != nil {
		return err
	}
	if err := r.s.bases.put(r.guest, r.job.Target, heldNow(r.pairs)); err != nil {
		return err
	}
	return r.s.bases.meet(r.guest, r.targets(), r.pairs)
}

// ready says whether the volumes were made the owner's since the guest was given to this
// node, or got a new term: it is about to happen, and no failure.
func (r *run) ready() error {
	for i, d := range r.own {
		m := local.MarksOf(d)
		promoted := m.Role == zfs.RoleOwner || r.guest.Beginning == nil
		if !d.Exists() || !m.Are(r.view.Cluster, r.guest.ID, r.guest.Volumes[i], m.Role) || promoted && m.Term == r.guest.Term.String() {
			continue
		}
		if promoted && m.Role != zfs.RoleOwner {
			continue // Nothing says from which point it could be made the owner's.
		}
		return fault.Busy("it is tried again every minute; where it stays so, `tandem status` says why",
			"guest %s was given to this node, and its volumes are not made the owner's yet", r.guest.ID)
	}
	return nil
}

// list reads this node's volumes, with those of others that are due.
func (r *run) list(ctx context.Context) error {
	own, err := r.near.List(ctx, r.s.o.Together, r.names...)
	if err != nil {
		return fault.Wrap(err, "list the volumes of guest %s", r.guest.ID)
	}
	for i, d := range own {
		if d.Err != nil && zfs.ClassOf(d.Err) != zfs.ClassGone {
			return fault.WrapVolume(r.guest.Volumes[i], d.Err, "read it")
		}
	}
	r.own = own
	return nil
}

// pair puts both sides together; resume tokens are asked what they are.
func (r *run) pair(ctx context.Context) error {
	r.pairs = nil
	for i, v := range r.guest.Volumes {
		told := r.inv.Volumes[i]
		p := plan.Pair{
			Volume: v, Source: local.Side(r.names[i], r.own[i]), Target: told.Side(),
			Root:  plan.Root{Dataset: told.Root, Available: told.Available, Encrypted: told.RootEncrypted},
			Aside: told.Copies(r.view.Cluster, r.guest.ID), Moved: told.Renamed(),
		}
		r.facts(ctx, &p, told)
		p.Sent = r.s.bases.sent(r.guest, r.job.Target, p)
		if told.Token != "" {
			partial, err := r.partial(ctx, v, r.names[i], told)
			if err != nil {
				return err
			}
			p.Target.Partial = partial
		}
		r.pairs = append(r.pairs, p)
	}
	return nil
}

// stuckAfter is how often it may be tried to go on with a partial receive that has the same bytes:
// streams of objects only had no point to resume from before ZFS 2.2.4.
const stuckAfter = 3

func (r *run) partial(ctx context.Context, v guest.Volume, dataset string, told wire.InventoryVolume) (*plan.Partial, error) {
	info, err := r.s.o.ZFS.TokenInfo(ctx, dataset, told.Token)
	p := &plan.Partial{Token: told.Token, ToGUID: info.ToGUID, FromGUID: info.FromGUID, Bytes: info.Bytes, Valid: err == nil, Ours: told.Ours}
	switch class := zfs.ClassOf(err); {
	case err == nil && zname.DatasetOf(info.ToName) != dataset:
		p.Valid, p.Problem = false, "it was sent from "+info.ToName
	case err == nil:
	case class == zfs.ClassToken || class == zfs.ClassGone:
		p.Problem = err.Error()
	default:
		return nil, fault.WrapVolume(v, err, "read the target's resume token")
	}
	p.Stuck = r.s.tries(tokenKey{target: r.job.Target, volume: v}, p).times >= stuckAfter
	return p, nil
}

// tried counts that a stream was opened to go on with a partial receive.
func (r *run) tried(v guest.Volume) {
	key, p := tokenKey{target: r.job.Target, volume: v}, r.pairs[slices.Index(r.guest.Volumes, v)].Target.Partial
	seen := r.s.tries(key, p)
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	seen.times++
	r.s.tokens[key] = seen
}

// tries are how often it was tried to go on with this very partial receive.
func (s *Source) tries(key tokenKey, p *plan.Partial) tokenSeen {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.tokens[key]
	if seen.guid != p.ToGUID || seen.bytes != p.Bytes {
		seen = tokenSeen{guid: p.ToGUID, bytes: p.Bytes}
	}
	return seen
}
