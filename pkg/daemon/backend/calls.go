package backend

import (
	"context"
	"net/http"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/peer"
)

// The calls between the backends of the nodes.
const (
	pathStorages   = "/node/storages"
	pathCheckGuest = "/node/check-guest"
	pathRuns       = "/node/runs"
	pathAsk        = "/node/schedule-now"
	pathRun        = "/node/run"
	pathWatch      = "/node/watch"
	pathExplain    = "/node/explain"
	pathRelease    = "/node/release"
	pathTake       = "/node/take"
	pathLook       = "/node/look-for-volumes"
	pathDiverged   = "/node/diverged"
	pathDiscard    = "/node/discard-diverged"
	pathShow       = "/node/show-diverged"
	pathMount      = "/node/mount-diverged"
	pathUnmount    = "/node/unmount-diverged"
	pathRestore    = "/node/restore-diverged"
)

type runsRequest struct {
	Job guest.JobID `json:"job"`
	N   int         `json:"n"`
}

type jobRequest struct {
	Job guest.JobID `json:"job"`
	// Index is how far the sender's ledger is: the job may have been made just now.
	Index uint64 `json:"index,omitempty"`
}

// Handle answers the other nodes' backends.
func (b *Backend) Handle(mux *http.ServeMux) {
	peer.Handle(mux, pathStorages, func(ctx context.Context, _ struct{}) ([]api.Storage, error) {
		return b.Own.Look(ctx), nil
	})
	peer.Handle(mux, pathCheckGuest, func(ctx context.Context, g guest.Guest) (struct{}, error) {
		return struct{}{}, b.checkHere(ctx, g)
	})
	peer.Handle(mux, pathRelease, b.releaseHere)
	peer.Handle(mux, pathTake, b.takeHere)
	peer.Handle(mux, pathLook, b.lookHere)
	peer.Handle(mux, pathDiverged, b.divergedHere)
	peer.Handle(mux, pathDiscard, b.discardHere)
	peer.Handle(mux, pathShow, b.showHere)
	peer.Handle(mux, pathMount, b.mountHere)
	peer.Handle(mux, pathUnmount, b.unmountHere)
	peer.Handle(mux, pathRestore, b.restoreHere)
	peer.Handle(mux, pathRuns, func(_ context.Context, r runsRequest) ([]history.Run, error) {
		return b.runs(r.Job, r.N)
	})
	peer.Handle(mux, pathAsk, func(ctx context.Context, r jobRequest) (struct{}, error) {
		b.catchUp(ctx, r.Index)
		return struct{}{}, b.scheduleNow(ctx, r.Job)
	})
	b.handleRuns(mux)
	b.handleForesee(mux)
	b.handleVerify(mux)
	b.handleMove(mux)
	b.handleDrills(mux)
	b.handleKeeper(mux)
	b.handleWhereabouts(mux)
	b.handleMoves(mux)
}
