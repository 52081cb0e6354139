package backend

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/recovery"
	"github.com/tandemd/tandem/pkg/peer"
)

// pathMoves asks a node for a guest's moves of which it has the record.
const pathMoves = "/guest/moves"

const (
	// shownMoves is how many are told.
	shownMoves = 10
	// movesPatience is how long a node has to tell.
	movesPatience = 3 * time.Second
)

func (b *Backend) handleMoves(mux *http.ServeMux) { peer.Handle(mux, pathMoves, b.movesHere) }

func (b *Backend) movesHere(_ context.Context, id guest.ID) ([]history.Move, error) {
	return b.History.Moves(id, shownMoves)
}

// moves are a guest's last ones, from the nodes that did them and are alive.
func (b *Backend) moves(ctx context.Context, id guest.ID) []api.Move {
	alive := b.alive()
	members := slices.DeleteFunc(b.Book.Current().MemberList(), func(m ledger.Member) bool { return m.ID != b.Self && !alive[m.ID] })
	var all []history.Move
	for _, a := range poll.All(ctx, b.asker(), members, poll.Question[guest.ID, []history.Move]{
		Path: pathMoves, Ask: id, Here: b.movesHere, Patience: movesPatience,
	}) {
		all = append(all, a.Said...)
	}
	slices.SortFunc(all, func(x, y history.Move) int { return y.Finished.Compare(x.Finished) })
	var out []api.Move
	for _, m := range all[:min(len(all), shownMoves)] {
		out = append(out, moveOf(m))
	}
	return out
}

func moveOf(m history.Move) api.Move {
	out := api.Move{
		ID: m.ID, Kind: string(m.Kind), From: m.From, To: m.To, By: m.By, Begun: m.Begun, Finished: m.Finished,
		Outcome: m.Outcome, Reason: m.Reason, Point: m.Point, Started: m.Started, Bytes: m.Bytes, Warnings: m.Warnings,
	}
	if m.Downtime != nil {
		d := m.Downtime.Seconds()
		out.Downtime = &d
	}
	return out
}

// recovered keeps a recovery in the history, which may be lost without harm: a file
// that cannot be written is told by the store.
func (b *Backend) recovered(ctx context.Context, p recovery.Plan, begun time.Time) {
	s := b.Book.Current()
	_ = b.History.AddMove(history.Move{
		ID: consensus.NewCommandID(), Guest: p.Guest.ID, Kind: history.Recovery, By: b.caller(ctx),
		From: guest.NodeName(s.NameOf(p.Guest.Owner)), To: guest.NodeName(s.NameOf(p.Chosen.Node)),
		Begun: begun, Finished: time.Now(), Outcome: api.MigrationMoved, Point: p.Chosen.Point.Name, Warnings: p.Loss,
	})
}
