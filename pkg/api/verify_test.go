package api_test

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

func (b *backend) StartVerify(_ context.Context, r api.VerifyRequest) (api.StartedVerify, error) {
	return respond[api.StartedVerify](b, r)
}

func (b *backend) WatchVerify(_ context.Context, r api.VerifyID) (api.Verification, error) {
	return respond[api.Verification](b, r)
}

func (b *backend) CancelVerify(_ context.Context, r api.VerifyID) error {
	_, err := respond[struct{}](b, r)
	return err
}

func (b *backend) AcknowledgeVerify(_ context.Context, id guest.JobID) error {
	_, err := respond[struct{}](b, id)
	return err
}

// verifyMethods has an entry for every method of VerifyBackend.
func verifyMethods(id guest.JobID, at time.Time) []method {
	start, ref := api.VerifyRequest{Job: id, Rate: 1.5}, api.VerifyID{Job: id, Number: 7}
	return []method{
		{
			"StartVerify", func(ctx context.Context, b api.Backend) (any, error) { return b.StartVerify(ctx, start) },
			[]any{start},
			api.StartedVerify{VerifyID: ref, Node: "n1"},
		},
		{
			"WatchVerify", func(ctx context.Context, b api.Backend) (any, error) { return b.WatchVerify(ctx, ref) },
			[]any{ref},
			api.Verification{
				Version: 1, VerifyID: ref, Source: "n1", Target: "n2", Started: at, Time: at, Point: "p", Volume: "v", Bytes: 1, Total: 2,
				Result: &api.VerifyResult{Outcome: api.VerifyDiffers, Ended: at, Error: "e", Hint: "h", Volumes: []api.VerifiedVolume{{
					Volume: guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-0"}, Compared: true, More: 3, Problem: "p",
					Differences: []api.Difference{{Offset: 4, Length: 5, Path: "f", What: []string{"content"}}},
				}}},
			},
		},
		{"CancelVerify", func(ctx context.Context, b api.Backend) (any, error) { return nil, b.CancelVerify(ctx, ref) }, []any{ref}, nil},
		{"AcknowledgeVerify", func(ctx context.Context, b api.Backend) (any, error) { return nil, b.AcknowledgeVerify(ctx, id) }, []any{id}, nil},
	}
}
