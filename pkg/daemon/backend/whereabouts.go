package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
)

// pathUnits asks a node how the units of guests fare that it owns or runs.
const pathUnits = "/guest/units"

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
	if r.Guest == 0 {
		return c.Units(), nil
	}
	return UnitWords(map[guest.ID]keeper.Condition{r.Guest: c.Keeper.Look(ctx, r.Guest)}), nil
}

// UnitWords are what a node tells of the units of guests that are its own or run there.
func UnitWords(all map[guest.ID]keeper.Condition) map[guest.ID]node.UnitWord {
	out := unitWords{}
	for id, cond := range all {
		if cond.State == "" || !cond.Own && cond.State != keeper.StateRunning {
			continue
		}
		w := node.UnitWord{State: cond.State}
		if !cond.Since.IsZero() {
			w.Since = cond.Since.Unix()
		}
		out[id] = w
	}
	return out
}

// guestRuns tells of the guests with a unit, or of one, how they fare. The nodes are
// asked: gossip hears of a change some seconds later, and until then it would tell of a
// guest that was moved what was true before its new owner started it.
func (b *Backend) guestRuns(ctx context.Context, c *Cluster, id guest.ID) map[guest.ID]api.GuestRun {
	ctx, cancel := context.WithTimeout(ctx, overview.ReportTimeout)
	defer cancel()
	s, alive := b.Book.Current(), b.alive()
	members := slices.DeleteFunc(s.MemberList(), func(m ledger.Member) bool { return m.ID != b.Self && !alive[m.ID] })
	answers := poll.All(ctx, b.asker(), members, poll.Question[unitsRequest, unitWords]{
		Path: pathUnits, Ask: unitsRequest{Guest: id, Index: s.Index}, Here: b.unitsHere, Patience: overview.ReportTimeout,
	})
	heard := c.Heard()
	for from, a := range answers {
		if a.Err == nil {
			heard[from] = a.Said
		}
	}
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
			if heard[m.ID][g.ID].State == api.GuestRunning {
				run.On = append(run.On, m.Name)
			}
		}
		out[g.ID] = run
	}
	return out
}

// checkUnit refuses another unit for a guest that runs: the one that runs would have the
// guest's volumes open, and nobody would see to it any more.
func (b *Backend) checkUnit(ctx context.Context, s *ledger.State, old, next guest.Guest) error {
	c, err := b.cluster()
	if err != nil || old.Unit == "" || old.Unit == next.Unit {
		return err
	}
	run := b.guestRuns(ctx, c, old.ID)[old.ID]
	switch {
	case len(run.On) > 0:
		return &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("guest %s runs, as %s: its unit cannot be changed", old.ID, old.Unit),
			Hint: fmt.Sprintf("stop it first: `tandem guest stop %s`; start it again after the change", old.ID),
		}
	case run.State == api.GuestUnknown:
		return &api.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("guest %s: its owner %s does not tell whether it runs, so its unit cannot be changed", old.ID, s.NameOf(old.Owner)),
			Hint:    "see with `tandem cluster status` whether it is alive; if it is lost, `tandem guest recover` comes first",
		}
	default:
		return nil
	}
}
