package backend

import (
	"context"
	"net/http"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/move/drill"
	"github.com/tandemd/tandem/pkg/peer"
)

// The calls between the backends about drills.
const (
	pathDrill       = "/node/drill"
	pathDrillWatch  = "/node/drill-watch"
	pathDrillCancel = "/node/drill-cancel"
)

type startDrill struct {
	api.DrillRequest
	By string `json:"by"`
	// Index is how far the sender's ledger is: the guest may have been added just now.
	Index uint64 `json:"index"`
}

// handleDrills answers the other nodes' backends about drills.
func (b *Backend) handleDrills(mux *http.ServeMux) {
	peer.Handle(mux, pathDrill, func(ctx context.Context, r startDrill) (api.StartedDrill, error) {
		b.catchUp(ctx, r.Index)
		return b.startDrill(r)
	})
	peer.Handle(mux, pathDrillWatch, b.watchDrill)
	peer.Handle(mux, pathDrillCancel, func(_ context.Context, r api.DrillID) (struct{}, error) { return struct{}{}, b.cancelDrill(r) })
}

// onTarget asks the node that is to have the replica.
func onTarget[A any](ctx context.Context, b *Backend, name guest.NodeName, q question, here func() (A, error)) (A, error) {
	return atNode(ctx, b, named{name, "which is to have the replica"}, q, here)
}

// StartDrill begins to try a replica, on the node that has it.
func (b *Backend) StartDrill(ctx context.Context, r api.DrillRequest) (api.StartedDrill, error) {
	s, _, err := b.guest(r.Guest)
	if err != nil {
		return api.StartedDrill{}, err
	}
	q := startDrill{DrillRequest: r, By: b.caller(ctx), Index: s.Index}
	return onTarget(ctx, b, r.On, question{pathDrill, q}, func() (api.StartedDrill, error) { return b.startDrill(q) })
}

func (b *Backend) startDrill(r startDrill) (api.StartedDrill, error) {
	c, err := b.cluster()
	if err != nil {
		return api.StartedDrill{}, err
	}
	if r.Timeout < 0 || r.Timeout > int64(drill.MaxTimeout/time.Second) {
		return api.StartedDrill{}, invalid("timeout of %d seconds: must be from a second to %s", r.Timeout, drill.MaxTimeout)
	}
	n, err := c.Drills.Start(drill.Request{Guest: r.Guest, Check: r.Check, Timeout: time.Duration(r.Timeout) * time.Second, By: r.By})
	return api.StartedDrill{DrillID: api.DrillID{Guest: r.Guest, Node: b.Name, Number: n}}, err
}

// WatchDrill tells how a drill fares.
func (b *Backend) WatchDrill(ctx context.Context, r api.DrillID) (api.Drill, error) {
	return onTarget(ctx, b, r.Node, question{pathDrillWatch, r}, func() (api.Drill, error) { return b.watchDrill(ctx, r) })
}

func (b *Backend) watchDrill(ctx context.Context, r api.DrillID) (api.Drill, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Drill{}, err
	}
	st, err := c.Drills.Watch(ctx, r.Guest, r.Number)
	if err != nil {
		return api.Drill{}, err
	}
	out := api.Drill{
		Version: api.Version, DrillID: api.DrillID{Guest: r.Guest, Node: b.Name, Number: r.Number}, Check: st.Check,
		Started: st.Started, Time: time.Now(), Phase: string(st.Phase), Point: st.Point, Age: st.Age.Seconds(),
	}
	if x := st.Result; x != nil {
		named := b.Book.Current().Named
		out.Result = &api.DrillResult{
			Outcome: string(x.Outcome), Ended: x.Ended, Duration: x.Ended.Sub(x.Started).Seconds(), Error: named(x.Error), Hint: named(x.Hint),
			Output: append([]string{}, x.Output...), Left: x.Left,
		}
	}
	return out, nil
}

// CancelDrill ends a drill.
func (b *Backend) CancelDrill(ctx context.Context, r api.DrillID) error {
	_, err := onTarget(ctx, b, r.Node, question{pathDrillCancel, r}, func() (struct{}, error) { return struct{}{}, b.cancelDrill(r) })
	return err
}

func (b *Backend) cancelDrill(r api.DrillID) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	c.Drills.Cancel(r.Guest, r.Number)
	return nil
}

// Drilled is what status tells of a replica's drills.
func Drilled(r drill.Record) api.Drilled {
	out := api.Drilled{
		Time: r.Last.Ended, Outcome: string(r.Last.Outcome), Check: r.Last.Check, Point: r.Last.Point, Age: r.Last.Age.Seconds(),
		Duration: r.Last.Ended.Sub(r.Last.Started).Seconds(), By: r.Last.By,
	}
	if r.Good != nil {
		out.Passed, out.PassedPoint = r.Good.Ended, r.Good.Point
	}
	if r.Bad != nil {
		out.Failed, out.FailedPoint, out.Error = r.Bad.Ended, r.Bad.Point, r.Bad.Error
	}
	return out
}
