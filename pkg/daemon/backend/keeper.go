package backend

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/peer"
)

// Keeper is what starts and stops this node's guests; *keeper.Keeper.
type Keeper interface {
	Start(ctx context.Context, id guest.ID) error
	Stop(ctx context.Context, id guest.ID) error
	MayStart(ctx context.Context, id guest.ID) error
	// Look asks systemd how a guest's unit fares.
	Look(ctx context.Context, id guest.ID) keeper.Condition
}

// The calls about guests that another node owns.
const (
	pathStartGuest = "/guest/start"
	pathStopGuest  = "/guest/stop"
)

// unitPatience is how long a unit of another node may take: systemd's units have
// timeouts of their own.
const unitPatience = 30 * time.Minute

type guestRequest struct {
	Guest guest.ID `json:"guest"`
	// Index is how far the sender's ledger is: the guest may have been moved just now.
	Index uint64 `json:"index"`
}

func (b *Backend) handleKeeper(mux *http.ServeMux) {
	peer.Handle(mux, pathStartGuest, func(ctx context.Context, r guestRequest) (struct{}, error) {
		b.catchUp(ctx, r.Index)
		return struct{}{}, b.startHere(ctx, r.Guest)
	})
	peer.Handle(mux, pathStopGuest, func(ctx context.Context, r guestRequest) (struct{}, error) {
		b.catchUp(ctx, r.Index)
		return struct{}{}, b.stopHere(ctx, r.Guest)
	})
}

// StartGuest starts a guest on its owner.
func (b *Backend) StartGuest(ctx context.Context, id guest.ID) error {
	return b.onOwner(ctx, id, pathStartGuest, b.startHere)
}

// StopGuest stops a guest on its owner.
func (b *Backend) StopGuest(ctx context.Context, id guest.ID) error {
	return b.onOwner(ctx, id, pathStopGuest, b.stopHere)
}

// onOwner has the guest's owner do something with it.
func (b *Backend) onOwner(ctx context.Context, id guest.ID, path string, here func(context.Context, guest.ID) error) error {
	s, g, err := b.guest(id)
	if err != nil {
		return err
	}
	if g.Owner != b.Self {
		limited, cancel := context.WithTimeout(ctx, unitPatience)
		defer cancel()
		ctx = limited
	}
	_, err = ofGuest(ctx, b, g, question{path, guestRequest{Guest: id, Index: s.Index}}, func() (struct{}, error) { return struct{}{}, here(ctx, id) })
	return err
}

func (b *Backend) startHere(ctx context.Context, id guest.ID) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	return b.kept(c.Keeper.Start(ctx, id))
}

func (b *Backend) stopHere(ctx context.Context, id guest.ID) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	return b.kept(c.Keeper.Stop(ctx, id))
}

// MayStart says whether this node may start the guest now.
func (b *Backend) MayStart(ctx context.Context, id guest.ID) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	return b.kept(c.Keeper.MayStart(ctx, id))
}

// kept is failure for the keeper's errors: what it wraps around a cause is not lost.
func (b *Backend) kept(err error) error {
	if err == nil {
		return nil
	}
	f, _ := errors.AsType[*api.Error](b.failure(err))
	if _, refused := errors.AsType[*keeper.Refusal](err); refused {
		f.Message = b.Book.Current().Named(err.Error())
	}
	if f.Code == api.CodeInternal {
		f.Code = api.CodeRefused
	}
	return f
}
