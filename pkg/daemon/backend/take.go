package backend

import (
	"context"

	"github.com/tandemd/tandem/pkg/guest"
)

// takeRequest has a guest's owner make datasets without marks the guest's volumes.
type takeRequest struct {
	Guest   guest.ID       `json:"guest"`
	Volumes []guest.Volume `json:"volumes"`
	// Index is how far the sender's ledger is.
	Index uint64 `json:"index"`
}

func (b *Backend) takeHere(ctx context.Context, r takeRequest) (struct{}, error) {
	c, err := b.cluster()
	if err != nil {
		return struct{}{}, err
	}
	b.catchUp(ctx, r.Index)
	return struct{}{}, c.Source.Take(ctx, r.Guest, r.Volumes)
}

// take has the owner of the guest do it.
func (b *Backend) take(ctx context.Context, g guest.Guest, volumes []guest.Volume) error {
	for _, v := range volumes {
		if !g.Has(v) {
			return invalid("guest %s has no volume %s", g.ID, v)
		}
	}
	if len(volumes) == 0 {
		return nil
	}
	ask := takeRequest{Guest: g.ID, Volumes: volumes, Index: b.Book.Current().Index}
	_, err := ofGuest(ctx, b, g, question{pathTake, ask}, func() (struct{}, error) { return b.takeHere(ctx, ask) })
	return err
}
