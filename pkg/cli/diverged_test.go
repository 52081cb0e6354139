package cli_test

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
)

// divergedWorld is what the daemon of a script says of single copies.
type divergedWorld struct {
	Detail   api.DivergedDetail `json:"diverged_detail"`
	Mount    api.DivergedMount  `json:"diverged_mount"`
	Restored api.Restored       `json:"restored"`
	KeptGone api.KeptRemoval    `json:"kept_removal"`
}

func (d *daemon) ShowDiverged(_ context.Context, r api.CopyRequest) (api.DivergedDetail, error) {
	return answer(d, "ShowDiverged", r, func(w *world) (api.DivergedDetail, error) { return w.Detail, nil })
}

func (d *daemon) MountDiverged(_ context.Context, r api.CopyRequest) (api.DivergedMount, error) {
	return answer(d, "MountDiverged", r, func(w *world) (api.DivergedMount, error) { return w.Mount, nil })
}

func (d *daemon) UnmountDiverged(_ context.Context, r api.CopyRequest) (api.DivergedCopy, error) {
	return answer(d, "UnmountDiverged", r, func(w *world) (api.DivergedCopy, error) { return w.Diverged.Copies[0], nil })
}

func (d *daemon) RestoreDiverged(_ context.Context, r api.RestoreRequest) (api.Restored, error) {
	return answer(d, "RestoreDiverged", r, func(w *world) (api.Restored, error) { return w.Restored, nil })
}

func (d *daemon) DiscardKept(_ context.Context, r api.KeptRequest) (api.KeptRemoval, error) {
	return answer(d, "DiscardKept", r, func(w *world) (api.KeptRemoval, error) { return w.KeptGone, nil })
}
