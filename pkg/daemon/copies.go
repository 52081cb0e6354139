package daemon

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate"
)

// copyRequest asks a guest's owner to have a node's kept copy removed.
type copyRequest struct {
	Guest guest.ID     `json:"guest"`
	Node  guest.NodeID `json:"node"`
	// Index is how far the sender's ledger is.
	Index uint64 `json:"index"`
	// Unfinished takes only what a migration brought that has not ended.
	Unfinished bool `json:"unfinished,omitempty"`
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
	if r.Unfinished {
		return c.source.RemoveUnfinished(ctx, r.Guest, r.Node)
	}
	return c.source.RemoveCopy(ctx, r.Guest, r.Node)
}

const (
	// unfinishedTimeout is for one guest: a volume with many snapshots takes its time.
	unfinishedTimeout = 10 * time.Minute
	// unfinishedTries is how often an owner that does not answer is asked.
	unfinishedTries = 3
)

// removeUnfinished has the owners of guests take away what migrations to this node have brought that went back, once nobody has
// moved the guest for a while. An owner that does not answer, or sees a move, is asked again with the next look.
func (c *cluster) removeUnfinished(ctx context.Context) {
	replicas, err := c.target.Replicas(ctx)
	if err != nil {
		c.log.Debug("what migrations have left is not looked for everywhere", zap.Error(err))
	}
	for _, r := range replicas {
		if !r.Unfinished || ctx.Err() != nil || c.pins.Busy(r.Guest, c.d.now()) {
			continue
		}
		out, err := c.unfinished(ctx, r.Guest)
		fields := []zap.Field{zap.Stringer("guest", r.Guest), zap.Strings("destroyed", out.Destroyed), zap.Strings("left", out.Left), zap.Error(err)}
		if err != nil || len(out.Left) > 0 {
			c.log.Warn("what a migration has brought that did not end is not taken away yet", fields...)
		} else {
			c.log.Info("took away what a migration has brought that did not end", fields...)
		}
	}
}

// unfinished asks a guest's owner, a few times where it gives no answer.
func (c *cluster) unfinished(ctx context.Context, id guest.ID) (out replicate.RemoveResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, unfinishedTimeout)
	defer cancel()
	for try := 1; ; try++ {
		out, err = c.removeCopy(ctx, copyRequest{Guest: id, Node: c.d.id.Node, Index: c.d.book.Current().Index, Unfinished: true})
		var coded interface{ ErrorCode() string }
		if err == nil || errors.As(err, &coded) || try == unfinishedTries || !pause(ctx, leftoversRetry) {
			return out, err
		}
	}
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
