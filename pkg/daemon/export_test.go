package daemon

import (
	"github.com/tandemd/tandem/pkg/guest"
)

// Knows says whether this node's ledger has a guest, and whether gossip tells that its
// owner says so; it asks nobody.
func (d *Daemon) Knows(id guest.ID) (ledger, gossip bool) {
	g, ok := d.book.Current().Guests[id]
	c := d.cluster.Load()
	if !ok || c == nil {
		return ok, false
	}
	return true, c.gossip.Entries(g.Owner)["guest/"+id.String()] != nil
}
