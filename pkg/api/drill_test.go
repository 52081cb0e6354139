package api_test

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

func (b *backend) StartDrill(_ context.Context, r api.DrillRequest) (api.StartedDrill, error) {
	return respond[api.StartedDrill](b, r)
}

func (b *backend) WatchDrill(_ context.Context, r api.DrillID) (api.Drill, error) {
	return respond[api.Drill](b, r)
}

func (b *backend) CancelDrill(_ context.Context, r api.DrillID) error {
	_, err := respond[struct{}](b, r)
	return err
}

// drillMethods has an entry for every method of DrillBackend.
func drillMethods(at time.Time) []method {
	start := api.DrillRequest{Guest: 100, On: "n2", Check: "/etc/tandem/check", Timeout: 60}
	ref := api.DrillID{Guest: 100, Node: "n2", Number: 7}
	return []method{
		{
			"StartDrill", func(ctx context.Context, b api.Backend) (any, error) { return b.StartDrill(ctx, start) },
			[]any{start},
			api.StartedDrill{DrillID: ref},
		},
		{
			"WatchDrill", func(ctx context.Context, b api.Backend) (any, error) { return b.WatchDrill(ctx, ref) },
			[]any{ref},
			api.Drill{
				Version: 1, DrillID: ref, Check: "/etc/tandem/check", Started: at, Time: at, Phase: "check", Point: "p", Age: 90,
				Result: &api.DrillResult{Outcome: api.DrillFailed, Ended: at, Duration: 4, Error: "e", Hint: "h", Output: []string{"o"}, Left: "l"},
			},
		},
		{"CancelDrill", func(ctx context.Context, b api.Backend) (any, error) { return nil, b.CancelDrill(ctx, ref) }, []any{ref}, nil},
	}
}
