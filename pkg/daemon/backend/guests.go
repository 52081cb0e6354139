package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Guests is all guests, by ID.
func (b *Backend) Guests(ctx context.Context) ([]api.Guest, error) {
	c, err := b.cluster()
	if err != nil {
		return nil, err
	}
	runs := b.guestRuns(ctx, c, 0)
	s := b.Book.Current()
	out := []api.Guest{}
	for _, g := range s.GuestList() {
		one := guestOf(s, g)
		if run, ok := runs[g.ID]; ok {
			one.Run = &run
		}
		out = append(out, one)
	}
	return out, nil
}

func guestOf(s *ledger.State, g guest.Guest) api.Guest {
	return api.Guest{
		ID: g.ID, Type: g.Type, Name: g.Name, Volumes: g.Volumes, Unit: g.Unit, Boot: g.Boot, Quiesce: g.Quiesce,
		Owner: guest.NodeName(s.NameOf(g.Owner)), Term: g.Term.String(), Digest: ledger.Digest(g),
	}
}

// guest finds a guest by its ID.
func (b *Backend) guest(id guest.ID) (*ledger.State, guest.Guest, error) {
	if _, err := b.cluster(); err != nil {
		return nil, guest.Guest{}, err
	}
	s := b.Book.Current()
	g, ok := s.Guests[id]
	if !ok {
		return nil, g, &api.Error{
			Code: api.CodeNotFound, Message: fmt.Sprintf("guest %s does not exist", id), Hint: "`tandem guest list` shows all",
		}
	}
	return s, g, nil
}

// Guest is one guest with its configuration and its jobs.
func (b *Backend) Guest(ctx context.Context, id guest.ID) (api.Guest, error) {
	s, g, err := b.guest(id)
	if err != nil {
		return api.Guest{}, err
	}
	out := guestOf(s, g)
	out.Config = g.Config
	for _, j := range s.JobsOf(id) {
		out.Jobs = append(out.Jobs, j.ID)
	}
	var wg sync.WaitGroup // Each asks the other nodes.
	if c := b.Running(); c != nil {
		wg.Go(func() {
			if run, ok := b.guestRuns(ctx, c, id)[id]; ok {
				out.Run = &run
			}
		})
	}
	wg.Go(func() { out.Moves = b.moves(ctx, id) })
	wg.Go(func() { out.Migration = b.migrationOf(ctx, id) })
	wg.Wait()
	return out, nil
}

// AddGuest takes a guest under Tandem's care, after its owner looked at the
// volumes.
func (b *Backend) AddGuest(ctx context.Context, r api.AddGuestRequest) (api.Guest, error) {
	if _, err := b.cluster(); err != nil {
		return api.Guest{}, err
	}
	if r.Node == "" {
		r.Node = b.Name
	}
	owner, err := b.member(r.Node)
	if err != nil {
		return api.Guest{}, err
	}
	g := guest.Guest{
		ID: r.ID, Type: r.Type, Name: r.Name, Volumes: r.Volumes, Unit: r.Unit, Config: r.Config, Boot: r.Boot, Quiesce: r.Quiesce,
		Owner: owner.ID,
	}
	if err := g.Validate(); err != nil {
		return api.Guest{}, invalid("%v", err)
	}
	if err := b.checkVolumes(ctx, owner, g); err != nil {
		return api.Guest{}, err
	}
	if err := b.edit(ctx, ledger.AddGuest{Guest: g, Force: r.Force}); err != nil {
		return api.Guest{}, err
	}
	s := b.Book.Current()
	return guestOf(s, s.Guests[r.ID]), nil
}

// checkVolumes has the owner look at a guest's volumes before they are its own.
func (b *Backend) checkVolumes(ctx context.Context, owner ledger.Member, g guest.Guest) error {
	var err error
	if owner.ID == b.Self {
		err = b.checkHere(ctx, g)
	} else {
		err = b.Peers.Call(ctx, owner.ID, pathCheckGuest, g, nil)
	}
	if err != nil {
		return b.failure(err)
	}
	return nil
}

// checkHere says whether this node can own the guest's volumes. Marks that the
// removal of a guest left are taken off first.
func (b *Backend) checkHere(ctx context.Context, g guest.Guest) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	if err := c.Releaser.Clear(ctx, g); err != nil {
		return err
	}
	return c.Source.Check(ctx, g)
}

// SetGuest changes a guest. A volume that is added is checked where the guest is
// and where it is replicated to; one that is removed is released everywhere.
func (b *Backend) SetGuest(ctx context.Context, r api.SetGuestRequest) (api.Guest, error) {
	s, old, err := b.guest(r.ID)
	if err != nil {
		return api.Guest{}, err
	}
	next, err := changed(old, r)
	if err != nil {
		return api.Guest{}, err
	}
	if err := b.take(ctx, old, r.TakeVolumes); err != nil {
		return api.Guest{}, err
	}
	if len(r.TakeVolumes) > 0 && r.Digest == "" && ledger.Digest(next) == ledger.Digest(old) {
		return b.Guest(ctx, r.ID)
	}
	if err := b.checkUnit(ctx, s, old, next); err != nil {
		return api.Guest{}, err
	}
	warnings, err := b.checkAdded(ctx, s, next, r.AddVolumes)
	if err != nil {
		return api.Guest{}, err
	}
	gone := removal{guest: old, volumes: r.RemoveVolumes, delete: r.DeleteData}
	if err := b.checkGone(ctx, &gone); err != nil {
		return api.Guest{}, err
	}
	digest := ledger.Digest(old)
	if r.Digest != "" {
		digest = r.Digest
	}
	if err := b.letGo(ctx, gone, ledger.SetGuest{Guest: next, Digest: digest}); err != nil {
		return api.Guest{}, err
	}
	out, err := b.Guest(ctx, r.ID)
	if err != nil {
		return out, err
	}
	out.Traces, out.Warnings = b.release(ctx, gone)
	out.Warnings = append(warnings, out.Warnings...)
	return out, nil
}

// changed is the guest as the request wants it.
func changed(g guest.Guest, r api.SetGuestRequest) (guest.Guest, error) {
	if r.Name != nil {
		g.Name = *r.Name
	}
	if r.Unit != nil {
		g.Unit = *r.Unit
	}
	if r.Config != nil {
		g.Config = *r.Config
	}
	if r.OnBoot != nil {
		g.Boot.On = *r.OnBoot
	}
	if r.BootOrder != nil {
		g.Boot.Order = *r.BootOrder
	}
	if r.BootDelay != nil {
		g.Boot.Delay = *r.BootDelay
	}
	if r.Quiesce != nil {
		g.Quiesce = *r.Quiesce
	}
	g.Volumes = slices.Clone(g.Volumes)
	for _, v := range r.RemoveVolumes {
		i := slices.Index(g.Volumes, v)
		if i < 0 {
			return g, invalid("guest %s has no volume %s", g.ID, v)
		}
		g.Volumes = slices.Delete(g.Volumes, i, i+1)
	}
	g.Volumes = append(g.Volumes, r.AddVolumes...)
	if err := g.Validate(); err != nil {
		return g, invalid("%v", err)
	}
	return g, nil
}

// checkAdded checks volumes that a guest is to have.
func (b *Backend) checkAdded(ctx context.Context, s *ledger.State, g guest.Guest, added []guest.Volume) (warnings []string, err error) {
	if len(added) == 0 {
		return nil, nil
	}
	for _, v := range added {
		if other, taken := s.GuestOf(v); taken {
			return nil, &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("guest %s: volume %s belongs to guest %s already", g.ID, v, other.ID)}
		}
	}
	only := g
	only.Volumes = added
	if err := b.checkVolumes(ctx, s.Members[g.Owner], only); err != nil {
		return nil, err
	}
	for _, j := range s.JobsOf(g.ID) {
		w, err := b.checkStorages(ctx, "guest "+g.ID.String(), s.Members[j.Target], added)
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, w...)
		if w, err = b.foresee(ctx, "guest "+g.ID.String(), foreseeRequest{Guest: g, Job: j}, added); err != nil {
			return nil, err
		}
		warnings = append(warnings, w...)
	}
	return warnings, nil
}

// RemoveGuest takes a guest out of Tandem's care.
func (b *Backend) RemoveGuest(ctx context.Context, r api.RemoveGuestRequest) (api.GuestRemoval, error) {
	s, g, err := b.guest(r.ID)
	if err != nil {
		return api.GuestRemoval{}, err
	}
	if jobs := s.JobsOf(g.ID); len(jobs) > 0 {
		var ids []string
		for _, j := range jobs {
			ids = append(ids, j.ID.String())
		}
		return api.GuestRemoval{}, &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("guest %s has replication jobs: %s", g.ID, strings.Join(ids, ", ")),
			Hint: fmt.Sprintf("delete them first, like `tandem delete %s`, and wait until `tandem list` shows them no more", ids[0]),
		}
	}
	// One that has changed the owner already is over for the guest.
	if m, err := b.find(ctx, g.ID); err == nil && string(m.Node) == s.NameOf(g.Owner) {
		return api.GuestRemoval{}, &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("guest %s is being moved to %s", g.ID, m.To),
			Hint: fmt.Sprintf("wait for its end, which `tandem guest show %s` tells, or end it: `tandem guest migrate %s --cancel`; then try again", g.ID, g.ID),
		}
	}
	gone := removal{guest: g, volumes: g.Volumes, delete: r.DeleteData, whole: true}
	if err := b.checkGone(ctx, &gone); err != nil {
		return api.GuestRemoval{}, err
	}
	digest := ledger.Digest(g)
	if r.Digest != "" {
		digest = r.Digest
	}
	if err := b.letGo(ctx, gone, ledger.RemoveGuest{ID: g.ID, Digest: digest}); err != nil {
		return api.GuestRemoval{}, err
	}
	traces, warnings := b.release(ctx, gone)
	return api.GuestRemoval{Version: api.Version, ID: g.ID, Traces: some(traces), Warnings: some(warnings)}, nil
}
