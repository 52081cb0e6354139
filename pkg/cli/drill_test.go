package cli_test

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
)

// drillWorld is what the daemon of a script says of drills.
type drillWorld struct {
	// Drills are the answers of WatchDrill, one after the other; after the last one
	// whoever watches is stopped, once.
	Drills []api.Drill `json:"drills_watched"`
	// DrillsEnded are those after a cancel.
	DrillsEnded []api.Drill `json:"drills_ended"`
	DrillError  *api.Error  `json:"drill_error"`
}

func (d *daemon) StartDrill(_ context.Context, r api.DrillRequest) (api.StartedDrill, error) {
	return answer(d, "StartDrill", r, func(w *world) (api.StartedDrill, error) {
		if w.DrillError != nil {
			return api.StartedDrill{}, w.DrillError
		}
		return api.StartedDrill{DrillID: api.DrillID{Guest: r.Guest, Node: r.On, Number: 4}}, nil
	})
}

func (d *daemon) WatchDrill(ctx context.Context, r api.DrillID) (api.Drill, error) {
	x, err := answer(d, "WatchDrill", r, func(w *world) (api.Drill, error) {
		if len(w.Drills) == 0 {
			return api.Drill{}, nil
		}
		next := w.Drills[0]
		w.Drills = w.Drills[1:]
		return next, nil
	})
	if err == nil && x.Number == 0 {
		d.stop()
		<-ctx.Done()
	}
	return x, err
}

func (d *daemon) CancelDrill(_ context.Context, r api.DrillID) error {
	_, err := answer(d, "CancelDrill", r, func(w *world) (struct{}, error) {
		w.Drills = w.DrillsEnded
		return struct{}{}, nil
	})
	return err
}
