package cli_test

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// verbsWorld is what the daemon of a script says of the cluster and its guests.
type verbsWorld struct {
	Changes   []api.Change       `json:"changes"`
	Storages  []api.NodeStorages `json:"storages"`
	Removal   api.Removal        `json:"removal"`
	Discovery api.Discovery      `json:"discovery"`
	Traces    []api.Trace        `json:"traces"`
	Forced    []string           `json:"expected_warnings"`
	Diverged  api.DivergedList   `json:"diverged"`
	divergedWorld
}

func (d *daemon) Expected(_ context.Context, r api.ExpectedRequest) (api.Expectation, error) {
	return answer(d, "Expected", r, func(w *world) (api.Expectation, error) {
		return api.Expectation{Version: api.Version, Cluster: w.Cluster, Warnings: w.Forced}, nil
	})
}

func (d *daemon) Yield(_ context.Context, r api.YieldRequest) (api.Cluster, error) {
	return answer(d, "Yield", r, func(w *world) (api.Cluster, error) { return w.Cluster, nil })
}

func (d *daemon) RemoveMember(_ context.Context, r api.RemoveMemberRequest) (api.Removal, error) {
	return answer(d, "RemoveMember", r, func(w *world) (api.Removal, error) {
		out := w.Removal
		out.Done = !r.DryRun
		return out, nil
	})
}

func (d *daemon) Log(_ context.Context, n int) ([]api.Change, error) {
	return answer(d, "Log", n, func(w *world) ([]api.Change, error) { return w.Changes[:min(n, len(w.Changes))], nil })
}

func (d *daemon) SetCluster(_ context.Context, r api.SetClusterRequest) (api.Cluster, error) {
	return answer(d, "SetCluster", r, func(w *world) (api.Cluster, error) {
		c := w.Cluster
		c.Name = *r.Name
		return c, nil
	})
}

func (d *daemon) Storages(_ context.Context, node guest.NodeName) ([]api.NodeStorages, error) {
	return answer(d, "Storages", node, func(w *world) ([]api.NodeStorages, error) {
		var out []api.NodeStorages
		for _, n := range w.Storages {
			if node == "" || n.Node == node {
				out = append(out, n)
			}
		}
		return out, nil
	})
}

func (w *world) guest(id guest.ID) (api.Guest, error) {
	for _, g := range w.Guests {
		if g.ID == id {
			return g, nil
		}
	}
	return api.Guest{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("guest %s does not exist", id), Hint: "`tandem guest list` shows all"}
}

func (d *daemon) Guest(_ context.Context, id guest.ID) (api.Guest, error) {
	return answer(d, "Guest", id, func(w *world) (api.Guest, error) { return w.guest(id) })
}

func (d *daemon) SetGuest(_ context.Context, r api.SetGuestRequest) (api.Guest, error) {
	return answer(d, "SetGuest", r, func(w *world) (api.Guest, error) {
		g, err := w.guest(r.ID)
		if len(r.RemoveVolumes) > 0 {
			g.Traces = w.Traces
		}
		return g, err
	})
}

func (d *daemon) RemoveGuest(_ context.Context, r api.RemoveGuestRequest) (api.GuestRemoval, error) {
	return answer(d, "RemoveGuest", r, func(w *world) (api.GuestRemoval, error) {
		_, err := w.guest(r.ID)
		return api.GuestRemoval{Version: api.Version, ID: r.ID, Traces: w.Traces, Warnings: []string{"node n3 did not answer: replicas may be left there"}}, err
	})
}

func (d *daemon) StartGuest(_ context.Context, id guest.ID) error {
	_, err := answer(d, "StartGuest", id, func(w *world) (api.Guest, error) { return w.guest(id) })
	return err
}

func (d *daemon) StopGuest(_ context.Context, id guest.ID) error {
	_, err := answer(d, "StopGuest", id, func(w *world) (api.Guest, error) { return w.guest(id) })
	return err
}

func (d *daemon) MayStart(_ context.Context, id guest.ID) error {
	_, err := answer(d, "MayStart", id, func(w *world) (api.Guest, error) { return w.guest(id) })
	return err
}

func (d *daemon) Diverged(_ context.Context, r api.DivergedRequest) (api.DivergedList, error) {
	return answer(d, "Diverged", r, func(w *world) (api.DivergedList, error) { return w.Diverged, nil })
}

func (d *daemon) DiscardDiverged(_ context.Context, r api.CopyRequest) (api.DivergedCopy, error) {
	return answer(d, "DiscardDiverged", r, func(w *world) (api.DivergedCopy, error) { return w.Diverged.Copies[0], nil })
}

func (d *daemon) Discover(_ context.Context, r api.DiscoverRequest) (api.Discovery, error) {
	return answer(d, "Discover", r, func(w *world) (api.Discovery, error) { return w.Discovery, nil })
}
