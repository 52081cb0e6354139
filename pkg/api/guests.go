package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tandemd/tandem/pkg/guest"
)

// GuestBackend is what clients ask about single guests.
type GuestBackend interface {
	// Guest is one guest with its GuestDetail.
	Guest(ctx context.Context, id guest.ID) (Guest, error)
	SetGuest(ctx context.Context, r SetGuestRequest) (Guest, error)
	RemoveGuest(ctx context.Context, r RemoveGuestRequest) (GuestRemoval, error)
	// Discover finds datasets that look like volumes of guests that are not known.
	Discover(ctx context.Context, r DiscoverRequest) (Discovery, error)
	KeeperBackend
}

// GuestDetail is what is told of a single guest only.
type GuestDetail struct {
	// Config is the content of its configuration file.
	Config string        `json:"config,omitempty"`
	Jobs   []guest.JobID `json:"jobs,omitempty"`
	// Migration is the one that goes on, or the last that its owner knows of.
	Migration *Migration `json:"migration,omitempty"`
	// Moves are its last ways to other nodes, newest first.
	Moves []Move `json:"moves,omitempty"`
	// Traces are what a change did with datasets, Warnings what it could not check.
	Traces   []Trace  `json:"traces,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// SetGuestRequest changes a guest; nil fields stay.
type SetGuestRequest struct {
	ID   guest.ID `json:"id"`
	Name *string  `json:"name,omitempty"`
	// Unit may be empty: no unit.
	Unit *string `json:"unit,omitempty"`
	// Config is the content of its configuration file; empty: none.
	Config *string `json:"config,omitempty"`
	// OnBoot, BootOrder and BootDelay are those of guest.Boot.
	OnBoot    *bool `json:"on_boot,omitempty"`
	BootOrder *int  `json:"boot_order,omitempty"`
	BootDelay *int  `json:"boot_delay,omitempty"`
	// Quiesce may be empty: not at all.
	Quiesce       *guest.Quiesce `json:"quiesce,omitempty"`
	AddVolumes    []guest.Volume `json:"add_volumes,omitempty"`
	RemoveVolumes []guest.Volume `json:"remove_volumes,omitempty"`
	// TakeVolumes are volumes that it has, whose datasets on its owner carry no marks: an
	// operator says that they are the guest's data from now on.
	TakeVolumes []guest.Volume `json:"take_volumes,omitempty"`
	// DeleteData destroys the removed volumes, and their replicas.
	DeleteData bool `json:"delete_data,omitempty"`
	// Digest is that of the guest which the author saw; empty: not checked.
	Digest string `json:"digest,omitempty"`
}

// RemoveGuestRequest takes a guest out of Tandem's care.
type RemoveGuestRequest struct {
	ID guest.ID `json:"id"`
	// DeleteData destroys its volumes, and their replicas.
	DeleteData bool `json:"delete_data,omitempty"`
	// Digest is that of the guest which the author saw; empty: not checked.
	Digest string `json:"digest,omitempty"`
}

// GuestRemoval is what became of a guest's datasets.
type GuestRemoval struct {
	Version  int      `json:"version"`
	ID       guest.ID `json:"id"`
	Traces   []Trace  `json:"traces"`
	Warnings []string `json:"warnings"`
}

// The fates of datasets that Tandem no longer takes care of.
const (
	// FateKept is a volume with its data that is an ordinary dataset again.
	FateKept = "kept"
	// FateReplica is a replica that stays where it is.
	FateReplica = "replica"
	// FateDestroyed is gone, with its data.
	FateDestroyed = "destroyed"
	// FateLeft should have been changed or destroyed and was not.
	FateLeft = "left"
)

// Trace is a dataset of a volume that Tandem no longer takes care of.
type Trace struct {
	Node    guest.NodeName `json:"node"`
	Volume  guest.Volume   `json:"volume"`
	Dataset string         `json:"dataset"`
	Fate    string         `json:"fate"`
	// Reason is why it was left.
	Reason string `json:"reason,omitempty"`
}

// DiscoverRequest limits what Discover finds; zero fields limit nothing.
type DiscoverRequest struct {
	Node guest.NodeName `json:"node,omitempty"`
	// Pattern is that of guest.ParsePattern; empty: names as Proxmox VE gives them.
	Pattern string `json:"pattern,omitempty"`
}

// Discovery is what Discover found.
type Discovery struct {
	Version int          `json:"version"`
	Guests  []Discovered `json:"guests"`
	// Silent are the members that did not answer.
	Silent   []guest.NodeName `json:"silent"`
	Warnings []string         `json:"warnings"`
}

// Discovered is a guest whose volumes were found.
type Discovered struct {
	Node guest.NodeName `json:"node"`
	ID   guest.ID       `json:"id"`
	Type guest.Type     `json:"type"`
	// Name is a proposal.
	Name    string         `json:"name"`
	Volumes []guest.Volume `json:"volumes"`
	// Known says that the guest is known, and these volumes of it are not.
	Known bool `json:"known,omitempty"`
}

func guestRoutes(s server, mux *http.ServeMux, b Backend) {
	mux.Handle("GET /v1/guests/{id}", endpoint(s, readGuestID, b.Guest))
	mux.Handle("PATCH /v1/guests/{id}", endpoint(s, readAbout("guest", readGuestID, func(q SetGuestRequest) guest.ID { return q.ID }), b.SetGuest))
	mux.Handle("DELETE /v1/guests/{id}", endpoint(s, readRemoveGuest, b.RemoveGuest))
	mux.Handle("GET /v1/discover", endpoint(s, readDiscover, b.Discover))
	keeperRoutes(s, mux, b)
}

func readGuestID(r *http.Request) (guest.ID, error) {
	if err := onlyParams(r.URL.Query()); err != nil {
		return 0, err
	}
	return guest.ParseID(r.PathValue("id"))
}

func readRemoveGuest(r *http.Request) (q RemoveGuestRequest, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "delete_data", "digest"); err != nil {
		return q, err
	}
	if q.ID, err = guest.ParseID(r.PathValue("id")); err != nil {
		return q, err
	}
	q.Digest = params.Get("digest")
	if s := params.Get("delete_data"); s != "" {
		if q.DeleteData, err = strconv.ParseBool(s); err != nil {
			return q, fmt.Errorf("delete_data=%q: must be true or false", s)
		}
	}
	return q, nil
}

func readDiscover(r *http.Request) (q DiscoverRequest, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "node", "pattern"); err != nil {
		return q, err
	}
	q.Pattern = params.Get("pattern")
	if s := params.Get("node"); s != "" {
		q.Node, err = guest.ParseNodeName(s)
	}
	return q, err
}

// Guest is GuestBackend's.
func (c *Client) Guest(ctx context.Context, id guest.ID) (Guest, error) {
	return ask[Guest](ctx, c, call{method: http.MethodGet, path: "/v1/guests/" + id.String()})
}

// SetGuest is GuestBackend's.
func (c *Client) SetGuest(ctx context.Context, r SetGuestRequest) (Guest, error) {
	return ask[Guest](ctx, c, call{method: http.MethodPatch, path: "/v1/guests/" + r.ID.String(), body: r})
}

// RemoveGuest is GuestBackend's.
func (c *Client) RemoveGuest(ctx context.Context, r RemoveGuestRequest) (GuestRemoval, error) {
	q := url.Values{}
	if r.DeleteData {
		q.Set("delete_data", "true")
	}
	if r.Digest != "" {
		q.Set("digest", r.Digest)
	}
	return ask[GuestRemoval](ctx, c, call{method: http.MethodDelete, path: "/v1/guests/" + r.ID.String(), query: q})
}

// Discover is GuestBackend's.
func (c *Client) Discover(ctx context.Context, r DiscoverRequest) (Discovery, error) {
	q := url.Values{}
	if r.Node != "" {
		q.Set("node", string(r.Node))
	}
	if r.Pattern != "" {
		q.Set("pattern", r.Pattern)
	}
	return ask[Discovery](ctx, c, call{method: http.MethodGet, path: "/v1/discover", query: q})
}
