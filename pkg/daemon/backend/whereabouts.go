package backend

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
)

// pathUnits asks a node how the units of guests fare that it owns or runs.
const pathUnits = "/guest/units"

// unitsPatience is how long a node has to tell it: it knows without asking anybody.
const unitsPatience = 3 * time.Second

type unitsRequest struct {
	// Guest is the one that is asked about; 0: all.
	Guest guest.ID `json:"guest,omitempty"`
	// Index is how far the sender's ledger is: the guest may have been moved just now.
	Index uint64 `json:"index"`
}

// unitWords are what a node says of units, by guest.
type unitWords = map[guest.ID]node.UnitWord

func (b *Backend) handleWhereabouts(mux *http.ServeMux) { peer.Handle(mux, pathUnits, b.unitsHere) }

// unitsHere is this node's own word.
func (b *Backend) unitsHere(ctx context.Context, r unitsRequest) (unitWords, error) {
	c, err := b.cluster()
	if err != nil {
		return nil, err
	}
	b.catchUp(ctx, r.Index)
	words := c.Units()
	if r.Guest == 0 {
		return words, nil
	}
	out := unitWords{}
	if w, ok := words[r.Guest]; ok {
		out[r.Guest] = w
	}
	return out, nil
}

// guestRuns tells of the guests with a unit, or of one, how they fare. The nodes are
// asked: gossip hears of a change some seconds later, and until then it would tell of a
// guest that was moved what was true before its new owner started it.
func (b *Backend) guestRuns(ctx context.Context, c *Cluster, id guest.ID) map[guest.ID]api.GuestRun {
	s, alive := b.Book.Current(), b.alive()
	members := slices.DeleteFunc(s.MemberList(), func(m ledger.Member) bool { return m.ID != b.Self && !alive[m.ID] })
	answers := poll.All(ctx, b.asker(), members, poll.Question[unitsRequest, unitWords]{
		Path: pathUnits, Ask: unitsRequest{Guest: id, Index: s.Index}, Here: b.unitsHere, Patience: unitsPatience,
	})
	heard := c.Heard()
	out := map[guest.ID]api.GuestRun{}
	for _, g := range s.GuestList() {
		if g.Unit == "" || id != 0 && g.ID != id {
			continue
		}
		run := api.GuestRun{State: api.GuestUnknown, On: []guest.NodeName{}}
		if w, told := answers[g.Owner].Said[g.ID]; told && answers[g.Owner].Err == nil {
			run.State = w.State
			if w.Since != 0 {
				run.Since = time.Unix(w.Since, 0)
			}
		}
		for _, m := range s.MemberList() {
			words := heard[m.ID]
			if a, asked := answers[m.ID]; asked && a.Err == nil {
				words = a.Said
			}
			if words[g.ID].State == api.GuestRunning {
				run.On = append(run.On, m.Name)
			}
		}
		out[g.ID] = run
	}
	return out
}
