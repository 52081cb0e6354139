package daemon

import (
	"context"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate"
)

// copyRequest asks a guest's owner to have a node's kept copy removed.
type copyRequest struct {
	Guest guest.ID     `json:"guest"`
	Node  guest.NodeID `json:"node"`
	// Index is how far the sender's ledger is.
	Index uint64 `json:"index"`
}

// removeCopy asks the guest's owner, which alone knows what it has itself.
func (c *cluster) removeCopy(ctx context.Context, r copyRequest) (out replicate.RemoveResult, err error) {
	g, ok := c.d.book.Current().Guests[r.Guest]
	if !ok || g.Owner == c.d.id.Node {
		return c.copyOfOwn(ctx, r)
	}
	return out, c.d.peer.Call(ctx, g.Owner, pathCopy, r, &out)
}

// copyOfOwn does it for a guest of this node.
func (c *cluster) copyOfOwn(ctx context.Context, r copyRequest) (replicate.RemoveResult, error) {
	wait, cancel := context.WithTimeout(ctx, catchUpEvery)
	defer cancel()
	if err := (view{c}).WaitApplied(wait, r.Index); err != nil {
		return replicate.RemoveResult{}, err
	}
	return c.source.RemoveCopy(ctx, r.Guest, r.Node)
}

// copies is what a client's commands about copies need of this node.
type copies struct{ c *cluster }

// Remove destroys a node's kept copy of a guest, as far as the guest's owner has it all.
func (x copies) Remove(ctx context.Context, id guest.ID, node guest.NodeID) (destroyed, left []string, err error) {
	out, err := x.c.removeCopy(ctx, copyRequest{Guest: id, Node: node, Index: x.c.d.book.Current().Index})
	return out.Destroyed, out.Left, err
}

// Own makes the volumes of a guest of this node ready to be used.
func (x copies) Own(ctx context.Context, id guest.ID) (warnings []string, err error) {
	view := x.c.d.book.Current()
	out, err := x.c.promoter.Promote(ctx, view.Cluster, view.Guests[id])
	return out.Warnings, err
}
