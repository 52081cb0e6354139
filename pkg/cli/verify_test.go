package cli_test

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// verifyWorld is what the daemon of a script says of verifications.
type verifyWorld struct {
	// Verifications are the answers of WatchVerify, one after the other.
	Verifications []api.Verification `json:"verifications"`
	// VerifyErrors are the answers to StartVerify by job.
	VerifyErrors map[guest.JobID]*api.Error `json:"verify_errors"`
}

func (d *daemon) StartVerify(_ context.Context, r api.VerifyRequest) (api.StartedVerify, error) {
	return answer(d, "StartVerify", r, func(w *world) (api.StartedVerify, error) {
		if e := w.VerifyErrors[r.Job]; e != nil {
			return api.StartedVerify{}, e
		}
		_, err := w.job(r.Job)
		return api.StartedVerify{VerifyID: api.VerifyID{Job: r.Job, Number: 4}, Node: "n1"}, err
	})
}

// WatchVerify tells the world's verifications; after the last one whoever watches
// is stopped.
func (d *daemon) WatchVerify(ctx context.Context, r api.VerifyID) (api.Verification, error) {
	v, err := answer(d, "WatchVerify", r, func(w *world) (api.Verification, error) {
		if len(w.Verifications) == 0 {
			return api.Verification{}, nil
		}
		next := w.Verifications[0]
		w.Verifications = w.Verifications[1:]
		return next, nil
	})
	if err == nil && v.Number == 0 {
		d.stop()
		<-ctx.Done()
	}
	return v, err
}

func (d *daemon) CancelVerify(_ context.Context, r api.VerifyID) error {
	_, err := answer(d, "CancelVerify", r, func(*world) (struct{}, error) { return struct{}{}, nil })
	return err
}

func (d *daemon) AcknowledgeVerify(_ context.Context, id guest.JobID) error {
	_, err := answer(d, "AcknowledgeVerify", id, func(w *world) (api.Job, error) { return w.job(id) })
	return err
}
