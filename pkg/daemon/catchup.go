package daemon

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/ledger"
)

// catchUpEvery bounds how often the members' lists are fetched.
const catchUpEvery = 5 * time.Second

// catchUp fetches the ledger from the members that this node knows: at the
// start, and when a key is met that may be a newer member's.
func (c *cluster) catchUp(ctx context.Context) {
	for {
		for _, m := range c.d.book.Current().MemberList() {
			if m.ID == c.d.id.Node {
				continue
			}
			call, cancel := context.WithTimeout(ctx, catchUpEvery)
			var reply ledger.State
			err := c.d.peer.Call(call, m.ID, pathLedger, struct{}{}, &reply)
			cancel()
			if err == nil && reply.Validate() == nil && c.d.book.Learn(&reply) {
				c.log.Info("learnt of a newer member list", zap.String("node", string(m.Name)), zap.Uint64("index", reply.Index))
			}
		}
		if !pause(ctx, catchUpEvery) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.d.book.Missed():
		}
	}
}

// declare tells the cluster when this node's configuration is no longer what
// the member list says.
func (c *cluster) declare(ctx context.Context) {
	for pause(ctx, time.Second) {
		want := c.d.self()
		got, ok := c.cons.View().Members[want.ID]
		if !ok || got.Peer == want.Peer && got.Gossip == want.Gossip && got.Format == want.Format &&
			slices.Equal(got.Storages, want.Storages) {
			if ok {
				return
			}
			continue
		}
		op := ledger.SetMember{ID: want.ID, Peer: want.Peer, Gossip: want.Gossip, Storages: want.Storages, Format: want.Format}
		if err := c.propose(ctx, string(want.Name), op); err != nil {
			c.log.Warn("the cluster does not know this node's new configuration yet", zap.Error(err))
			if !pause(ctx, catchUpEvery) {
				return
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
