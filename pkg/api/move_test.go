package api_test

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

func (b *backend) Migrate(_ context.Context, r api.MigrateRequest) (api.StartedMigration, error) {
	return respond[api.StartedMigration](b, r)
}

func (b *backend) WatchMigration(_ context.Context, r api.WatchMigrationRequest) (api.Migration, error) {
	return respond[api.Migration](b, r)
}

func (b *backend) CancelMigration(_ context.Context, id guest.ID) (api.StartedMigration, error) {
	return respond[api.StartedMigration](b, id)
}

func (b *backend) RecoverGuest(_ context.Context, r api.RecoverRequest) (api.Recovery, error) {
	return respond[api.Recovery](b, r)
}

func (b *backend) RecoverNode(_ context.Context, r api.RecoverNodeRequest) (api.NodeRecovery, error) {
	return respond[api.NodeRecovery](b, r)
}

// moveMethods has an entry for every method of MoveBackend.
func moveMethods(at time.Time) []method {
	downtime := 1.5
	started := api.StartedMigration{Guest: 100, ID: "m", Node: "n1", To: "n2"}
	migrate := api.MigrateRequest{ID: 100, To: "n2", NoStart: true, DeleteSource: true}
	watch := api.WatchMigrationRequest{Guest: 100, Node: "n1", Phase: "presync", Lines: 3}
	recover := api.RecoverRequest{ID: 100, On: "n2", DryRun: true, OwnerIsOff: true, Owner: "n1", Term: "3-g", Point: "p"}
	node := api.RecoverNodeRequest{Node: "n1", DryRun: true, OwnerIsOff: true, Shown: []api.RecoverRequest{recover}}
	recovery := api.Recovery{
		Version: 1, Guest: 100, Name: "web", Owner: "n1", Term: "3-g", On: "n2", Point: "p", Loss: []string{"l"}, Refused: "r", Hint: "h",
		Fence: true, Done: true, Error: &api.Error{Code: api.CodeRefused, Message: "m", Hint: "h"},
		Candidates: []api.RecoveryCandidate{{
			Node: "n2", Point: "p", Taken: at, Lacks: []guest.Volume{{Storage: "s", Name: "d"}}, Why: "w", Newer: []string{"n"},
		}},
	}
	return []method{
		{"Migrate", func(ctx context.Context, b api.Backend) (any, error) { return b.Migrate(ctx, migrate) }, []any{migrate}, started},
		{
			"WatchMigration", func(ctx context.Context, b api.Backend) (any, error) { return b.WatchMigration(ctx, watch) },
			[]any{watch},
			api.Migration{
				Version: 1, ID: "m", Guest: 100, From: "n1", To: "n2", By: "root@n1", Begun: at, Time: at, Phase: "sent", Since: at, Round: 2,
				Progress: &api.Progress{Started: at, Phase: "send", Sent: 1, Total: 2}, Lines: []api.LogLine{{Time: at, Level: "info", Message: "l"}},
				InDoubt: at, Advice: "a", Trouble: "t", Outcome: api.MigrationMoved, Reason: "r", Started: true, Downtime: &downtime, Bytes: 7,
				Warnings: []string{"w"}, Finished: at,
			},
		},
		{
			"CancelMigration", func(ctx context.Context, b api.Backend) (any, error) { return b.CancelMigration(ctx, 100) },
			[]any{guest.ID(100)},
			started,
		},
		{"RecoverGuest", func(ctx context.Context, b api.Backend) (any, error) { return b.RecoverGuest(ctx, recover) }, []any{recover}, recovery},
		{
			"RecoverNode", func(ctx context.Context, b api.Backend) (any, error) { return b.RecoverNode(ctx, node) },
			[]any{node},
			api.NodeRecovery{Version: 1, Node: "n1", Guests: []api.Recovery{recovery}, Fence: true},
		},
	}
}
