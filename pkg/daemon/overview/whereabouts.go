package overview

import (
	"time"

	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
)

// Observe is told, by one goroutine, that the ledger or gossip changed.
func (o *Overview) Observe(now time.Time) {
	next := o.currentPace().See(o.Book.Current(), o.heard(), now)
	o.pace.Store(&next)
}

func (o *Overview) currentPace() node.Pace {
	if p := o.pace.Load(); p != nil {
		return *p
	}
	return node.Pace{}
}

// heard is what the others that are alive say of themselves, without what they say
// of guests.
func (o *Overview) heard() map[guest.NodeID]node.Word {
	out := map[guest.NodeID]node.Word{}
	for _, m := range o.Gossip.Members() {
		if m.State == gossip.Alive && m.Node != o.Self {
			out[m.Node] = node.Word{Generation: m.Meta.Generation, Applied: m.Meta.Applied}
		}
	}
	return out
}

// disagreements are where gossip and the ledger contradict each other.
func (o *Overview) disagreements(s *ledger.State, now time.Time) []string {
	heard := o.heard()
	for id, w := range heard {
		w.Entries = o.Gossip.Entries(id)
		heard[id] = w
	}
	var strangers []node.Stranger
	for _, x := range o.Gossip.Strangers() {
		strangers = append(strangers, node.Stranger(x))
	}
	return append(node.Disagreements(s, heard, o.currentPace(), now), node.Strange(s, strangers, now)...)
}
