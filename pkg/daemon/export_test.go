package daemon

import (
	"context"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Propose carries a command to the ledger.
func (d *Daemon) Propose(ctx context.Context, op ledger.Op) error {
	return d.cluster.Load().edit(ctx, "test", op)
}

// Ledger is what this node knows.
func (d *Daemon) Ledger() *ledger.State { return d.book.Current() }

// Knows says whether this node's ledger has a guest, and whether gossip tells that its
// owner says so; it asks nobody.
func (d *Daemon) Knows(id guest.ID) (byLedger, byGossip bool) {
	g, ok := d.book.Current().Guests[id]
	c := d.cluster.Load()
	if !ok || c == nil {
		return ok, false
	}
	return true, c.gossip.Entries(g.Owner)["guest/"+id.String()] != nil
}
