package cli_test

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// moveWorld is what the daemon of a script says of migrations and recoveries.
type moveWorld struct {
	// Migrations are the answers of WatchMigration, one after the other; after the
	// last one whoever watches is stopped, once.
	Migrations []api.Migration `json:"migrations_watched"`
	// Cancelled are those after a cancel.
	Cancelled []api.Migration  `json:"migrations_cancelled"`
	Recovery  api.Recovery     `json:"recovery"`
	NodePlan  api.NodeRecovery `json:"node_recovery"`
	NodeDone  api.NodeRecovery `json:"node_recovered"`
}

func (d *daemon) Migrate(_ context.Context, r api.MigrateRequest) (api.StartedMigration, error) {
	return answer(d, "Migrate", r, func(*world) (api.StartedMigration, error) {
		return api.StartedMigration{Guest: r.ID, ID: "m", Node: "n1", To: r.To}, nil
	})
}

func (d *daemon) WatchMigration(ctx context.Context, r api.WatchMigrationRequest) (api.Migration, error) {
	m, err := answer(d, "WatchMigration", r, func(w *world) (api.Migration, error) {
		if len(w.Migrations) == 0 {
			return api.Migration{}, nil
		}
		next := w.Migrations[0]
		w.Migrations = w.Migrations[1:]
		return next, nil
	})
	if err == nil && m.ID == "" {
		d.stop()
		<-ctx.Done()
	}
	return m, err
}

func (d *daemon) CancelMigration(_ context.Context, id guest.ID) (api.StartedMigration, error) {
	return answer(d, "CancelMigration", id, func(w *world) (api.StartedMigration, error) {
		w.Migrations = w.Cancelled
		return api.StartedMigration{Guest: id, ID: "m", Node: "n1", To: "n2"}, nil
	})
}

func (d *daemon) RecoverGuest(_ context.Context, r api.RecoverRequest) (api.Recovery, error) {
	return answer(d, "RecoverGuest", r, func(w *world) (api.Recovery, error) {
		out := w.Recovery
		out.Done = !r.DryRun
		return out, nil
	})
}

func (d *daemon) RecoverNode(_ context.Context, r api.RecoverNodeRequest) (api.NodeRecovery, error) {
	return answer(d, "RecoverNode", r, func(w *world) (api.NodeRecovery, error) {
		if r.DryRun {
			return w.NodePlan, nil
		}
		return w.NodeDone, nil
	})
}
