package backend

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Guests is all guests, by ID.
func (b *Backend) Guests(context.Context) ([]api.Guest, error) {
	if _, err := b.cluster(); err != nil {
		return nil, err
	}
	s := b.Book.Current()
	out := []api.Guest{}
	for _, g := range s.GuestList() {
		out = append(out, guestOf(s, g))
	}
	return out, nil
}

func guestOf(s *ledger.State, g guest.Guest) api.Guest {
	return api.Guest{
		ID: g.ID, Type: g.Type, Name: g.Name, Volumes: g.Volumes, Unit: g.Unit,
		Owner: guest.NodeName(s.NameOf(g.Owner)), Term: g.Term.String(), Digest: ledger.Digest(g),
	}
}

// AddGuest takes a guest under Tandem's care, after its owner looked at the
// volumes.
func (b *Backend) AddGuest(ctx context.Context, r api.AddGuestRequest) (api.Guest, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Guest{}, err
	}
	if r.Node == "" {
		r.Node = b.Name
	}
	owner, err := b.member(r.Node)
	if err != nil {
		return api.Guest{}, err
	}
	g := guest.Guest{ID: r.ID, Type: r.Type, Name: r.Name, Volumes: r.Volumes, Unit: r.Unit, Owner: owner.ID}
	if err := g.Validate(); err != nil {
		return api.Guest{}, invalid("%v", err)
	}
	if owner.ID == b.Self {
		err = c.Source.Check(ctx, g)
	} else {
		err = b.Peers.Call(ctx, owner.ID, pathCheckGuest, g, nil)
	}
	if err != nil {
		return api.Guest{}, b.failure(err)
	}
	if err := b.edit(ctx, ledger.AddGuest{Guest: g}); err != nil {
		return api.Guest{}, err
	}
	s := b.Book.Current()
	return guestOf(s, s.Guests[r.ID]), nil
}
