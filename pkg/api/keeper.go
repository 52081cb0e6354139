package api

import (
	"context"
	"net/http"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// KeeperBackend is what clients ask about what runs.
type KeeperBackend interface {
	// StartGuest starts a guest on its owner, and waits until its unit has started.
	StartGuest(ctx context.Context, id guest.ID) error
	// StopGuest stops it there, and waits until its unit has stopped.
	StopGuest(ctx context.Context, id guest.ID) error
	// MayStart says whether the asked node may start the guest now: systemd asks it.
	MayStart(ctx context.Context, id guest.ID) error
}

// The states of a guest's unit.
const (
	GuestRunning = "running"
	GuestStopped = "stopped"
	GuestFailed  = "failed"
	// GuestUnknown: its owner does not tell.
	GuestUnknown = "unknown"
)

// GuestRun is how a guest's unit fares on its owner, and where it runs.
type GuestRun struct {
	State string `json:"state"`
	// Since is when it entered the state, by the owner's clock; zero: not since it has booted.
	Since time.Time `json:"since,omitzero"`
	// On are the nodes that say that they run it: its owner and no other, where all is well.
	On []guest.NodeName `json:"on"`
}

func keeperRoutes(s server, mux *http.ServeMux, b Backend) {
	mux.Handle("POST /v1/guests/{id}/start", endpoint(s, readGuestID, doing(b.StartGuest)))
	mux.Handle("POST /v1/guests/{id}/stop", endpoint(s, readGuestID, doing(b.StopGuest)))
	mux.Handle("GET /v1/guests/{id}/may-start", endpoint(s, readGuestID, doing(b.MayStart)))
}

// StartGuest is KeeperBackend's.
func (c *Client) StartGuest(ctx context.Context, id guest.ID) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/guests/" + id.String() + "/start"}, &nothing{})
}

// StopGuest is KeeperBackend's.
func (c *Client) StopGuest(ctx context.Context, id guest.ID) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/guests/" + id.String() + "/stop"}, &nothing{})
}

// MayStart is KeeperBackend's.
func (c *Client) MayStart(ctx context.Context, id guest.ID) error {
	return c.do(ctx, call{method: http.MethodGet, path: "/v1/guests/" + id.String() + "/may-start"}, &nothing{})
}
