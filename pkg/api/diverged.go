package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// DivergedBackend is what clients ask about diverged data that was set aside.
type DivergedBackend interface {
	// Diverged are the copies on all nodes, or on one.
	Diverged(ctx context.Context, r DivergedRequest) (DivergedList, error)
	// DiscardDiverged destroys one copy for good, and tells what it was.
	DiscardDiverged(ctx context.Context, r DiscardRequest) (DivergedCopy, error)
}

// DivergedRequest limits what Diverged tells; zero fields limit nothing.
type DivergedRequest struct {
	Guest guest.ID       `json:"guest,omitempty"`
	Node  guest.NodeName `json:"node,omitempty"`
}

// DivergedList is the diverged data that was set aside.
type DivergedList struct {
	Version int            `json:"version"`
	Copies  []DivergedCopy `json:"copies"`
	// Silent are the members that did not answer.
	Silent   []guest.NodeName `json:"silent"`
	Warnings []string         `json:"warnings"`
}

// DivergedCopy is a volume as it was on a node when it had data that the owner
// did not have.
type DivergedCopy struct {
	Node    guest.NodeName `json:"node"`
	Dataset string         `json:"dataset"`
	Guest   guest.ID       `json:"guest"`
	Volume  guest.Volume   `json:"volume"`
	// SetAside is when, by that node's clock, Why is a sentence without its end.
	SetAside time.Time `json:"set_aside,omitzero"`
	Why      string    `json:"why,omitempty"`
	// Used is what discarding it would free at most, in bytes.
	Used uint64 `json:"used"`
	// Base is the snapshot that it shares with the replica; empty: none.
	Base string `json:"base,omitempty"`
	// Term is that of the owner from whom the data came.
	Term string `json:"term,omitempty"`
	// Owner was the guest's when it was set aside, at OwnerTerm.
	Owner     guest.NodeName `json:"owner,omitempty"`
	OwnerTerm string         `json:"owner_term,omitempty"`
}

// DiscardRequest names one copy.
type DiscardRequest struct {
	Node    guest.NodeName `json:"node"`
	Dataset string         `json:"dataset"`
}

func divergedRoutes(s server, mux *http.ServeMux, b Backend) {
	mux.Handle("GET /v1/diverged", endpoint(s, readDiverged, b.Diverged))
	mux.Handle("POST /v1/diverged/discard", endpoint(s, readBody[DiscardRequest], b.DiscardDiverged))
}

func readDiverged(r *http.Request) (DivergedRequest, error) {
	f, err := readFilter(r)
	return DivergedRequest(f), err
}

// Diverged is DivergedBackend's.
func (c *Client) Diverged(ctx context.Context, r DivergedRequest) (DivergedList, error) {
	q := url.Values{}
	if r.Guest != 0 {
		q.Set("guest", r.Guest.String())
	}
	if r.Node != "" {
		q.Set("node", string(r.Node))
	}
	return ask[DivergedList](ctx, c, call{method: http.MethodGet, path: "/v1/diverged", query: q})
}

// DiscardDiverged is DivergedBackend's.
func (c *Client) DiscardDiverged(ctx context.Context, r DiscardRequest) (DivergedCopy, error) {
	return ask[DivergedCopy](ctx, c, call{method: http.MethodPost, path: "/v1/diverged/discard", body: r})
}
