package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// MoveBackend is what clients ask about guests that change their node.
type MoveBackend interface {
	// Migrate begins to move a guest, and returns at once.
	Migrate(ctx context.Context, r MigrateRequest) (StartedMigration, error)
	// WatchMigration tells what is new of a migration. It waits a little for news.
	WatchMigration(ctx context.Context, r WatchMigrationRequest) (Migration, error)
	// CancelMigration wants a migration undone; it does not wait for that.
	CancelMigration(ctx context.Context, id guest.ID) (StartedMigration, error)
	// RecoverGuest gives the guest of a lost node to another, or tells how that would go.
	RecoverGuest(ctx context.Context, r RecoverRequest) (Recovery, error)
	// RecoverNode does that for all guests of a node.
	RecoverNode(ctx context.Context, r RecoverNodeRequest) (NodeRecovery, error)
}

// MigrateRequest asks for a migration.
type MigrateRequest struct {
	ID guest.ID       `json:"id"`
	To guest.NodeName `json:"to"`
	// NoStart leaves the guest stopped on the target.
	NoStart bool `json:"no_start,omitempty"`
	// DeleteSource removes the copy that stays on the source.
	DeleteSource bool `json:"delete_source,omitempty"`
}

// StartedMigration says where a migration is done.
type StartedMigration struct {
	Guest guest.ID `json:"guest"`
	ID    string   `json:"id"`
	// Node does it, and can be asked how it fares.
	Node guest.NodeName `json:"node"`
	To   guest.NodeName `json:"to"`
}

// WatchMigrationRequest is a cursor, as WatchRequest is.
type WatchMigrationRequest struct {
	Guest guest.ID       `json:"guest"`
	Node  guest.NodeName `json:"node"`
	// Phase is the one that is known already, Lines how many lines.
	Phase string `json:"phase"`
	Lines int    `json:"lines"`
}

// The outcomes of a migration.
const (
	MigrationMoved = "moved"
	// MigrationUndone: the guest is where it was, and nothing has changed.
	MigrationUndone = "undone"
	// MigrationSuperseded: the guest went to another node meanwhile, or was removed.
	MigrationSuperseded = "superseded"
)

// Migration is a migration as it is now.
type Migration struct {
	Version int            `json:"version"`
	ID      string         `json:"id"`
	Guest   guest.ID       `json:"guest"`
	From    guest.NodeName `json:"from"`
	To      guest.NodeName `json:"to"`
	By      string         `json:"by,omitempty"`
	Begun   time.Time      `json:"begun"`
	// Time is now, by the clock of the node that does it.
	Time time.Time `json:"time"`
	// Phase is prepared, presync, stopping, stopped, sealed, final, sent, confirmed, back
	// or ended; Since is when it was entered.
	Phase string    `json:"phase"`
	Since time.Time `json:"since"`
	// Round is the number of the sync that runs or was the last.
	Round    int       `json:"round,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Lines    []LogLine `json:"lines"`
	// InDoubt is since when nobody knows whether the owner has changed; the guest is
	// stopped on both nodes. Advice is what to do about that.
	InDoubt time.Time `json:"in_doubt,omitzero"`
	Advice  string    `json:"advice,omitempty"`
	// Trouble is why it does not go on at the moment.
	Trouble string `json:"trouble,omitempty"`
	// Outcome is set in phase ended; Reason is why it was undone.
	Outcome string `json:"outcome,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Started says that the guest runs on the target; Downtime is from the beginning of
	// its stop to its start, in seconds; nil: not measured.
	Started  bool      `json:"started,omitempty"`
	Downtime *float64  `json:"downtime,omitempty"`
	Bytes    uint64    `json:"bytes,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
	Finished time.Time `json:"finished,omitzero"`
}

// Move is a way of a guest to another node that has ended.
type Move struct {
	ID string `json:"id"`
	// Kind is migration or recovery.
	Kind string         `json:"kind"`
	From guest.NodeName `json:"from"`
	To   guest.NodeName `json:"to"`
	By   string         `json:"by,omitempty"`
	// Begun and Finished are by the clock of the node that did it.
	Begun    time.Time `json:"begun"`
	Finished time.Time `json:"finished"`
	// Outcome and Reason are as in Migration; Point is the one from which the guest goes on.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	Point   string `json:"point,omitempty"`
	// Downtime is in seconds; nil: not measured.
	Downtime *float64 `json:"downtime,omitempty"`
	Started  bool     `json:"started,omitempty"`
	Bytes    uint64   `json:"bytes,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// The kinds of moves.
const (
	MoveMigration = "migration"
	MoveRecovery  = "recovery"
)

// Ended says that nothing more will come.
func (m Migration) Ended() bool { return m.Outcome != "" }

// RecoverRequest asks to recover a guest whose owner is lost.
type RecoverRequest struct {
	ID guest.ID `json:"id"`
	// On is the node that is to have it; empty: the one with the newest point.
	On guest.NodeName `json:"on,omitempty"`
	// DryRun only tells.
	DryRun bool `json:"dry_run,omitempty"`
	// OwnerIsOff is the operator's word that the old node is off. Without it there must be a fence command.
	OwnerIsOff bool `json:"owner_is_off,omitempty"`
	// NoStart leaves the guest stopped on its new owner.
	NoStart bool `json:"no_start,omitempty"`
	// Owner, Term and Point are what was shown; empty: not checked.
	Owner guest.NodeName `json:"owner,omitempty"`
	Term  string         `json:"term,omitempty"`
	Point string         `json:"point,omitempty"`
}

// Recovery is how a guest is recovered, or would be.
type Recovery struct {
	Version int            `json:"version"`
	Guest   guest.ID       `json:"guest"`
	Name    string         `json:"name"`
	Owner   guest.NodeName `json:"owner"`
	Term    string         `json:"term"`
	// On has the Point from which it goes on; empty where Refused says why not.
	On         guest.NodeName      `json:"on,omitempty"`
	Point      string              `json:"point,omitempty"`
	Candidates []RecoveryCandidate `json:"candidates"`
	// Tie is why On is taken before others that have as new a point.
	Tie string `json:"tie,omitempty"`
	// Loss are whole sentences about what is lost.
	Loss    []string `json:"loss"`
	Refused string   `json:"refused,omitempty"`
	Hint    string   `json:"hint,omitempty"`
	// Fence says that the node that was asked has a fence command.
	Fence bool `json:"fence,omitempty"`
	// Done says that the owner was changed.
	Done bool `json:"done,omitempty"`
	// Error is why it failed; only as a part of a node's recovery.
	Error *Error `json:"error,omitempty"`
}

// RecoveryCandidate is what a live node has of the guest.
type RecoveryCandidate struct {
	Node  guest.NodeName `json:"node"`
	Point string         `json:"point,omitempty"`
	// Taken is by the owner's clock.
	Taken time.Time      `json:"taken,omitzero"`
	Lacks []guest.Volume `json:"lacks,omitempty"`
	// Why is why it cannot be chosen.
	Why string `json:"why,omitempty"`
	// Newer are things of the owner's that it has besides.
	Newer []string `json:"newer,omitempty"`
}

// RecoverNodeRequest asks to recover all guests of a lost node.
type RecoverNodeRequest struct {
	Node       guest.NodeName `json:"node"`
	DryRun     bool           `json:"dry_run,omitempty"`
	OwnerIsOff bool           `json:"owner_is_off,omitempty"`
	// NoStart leaves all of them stopped.
	NoStart bool `json:"no_start,omitempty"`
	// Shown is the plan that was shown: guests that are not in it are left out, and it
	// must still hold for those that are. Nil: not checked.
	Shown []RecoverRequest `json:"shown,omitempty"`
}

// NodeRecovery is what became, or would become, of a node's guests.
type NodeRecovery struct {
	Version int            `json:"version"`
	Node    guest.NodeName `json:"node"`
	Guests  []Recovery     `json:"guests"`
	Fence   bool           `json:"fence,omitempty"`
}

func moveRoutes(s server, mux *http.ServeMux, b Backend) {
	mux.Handle("POST /v1/guests/{id}/migrate", endpoint(s, readAbout("guest", readGuestID, func(q MigrateRequest) guest.ID { return q.ID }), b.Migrate))
	mux.Handle("GET /v1/guests/{id}/migration", endpoint(s, readWatchMigration, b.WatchMigration))
	mux.Handle("DELETE /v1/guests/{id}/migration", endpoint(s, readGuestID, b.CancelMigration))
	mux.Handle("POST /v1/guests/{id}/recover", endpoint(s, readAbout("guest", readGuestID, func(q RecoverRequest) guest.ID { return q.ID }), b.RecoverGuest))
	mux.Handle("POST /v1/nodes/recover", endpoint(s, readBody[RecoverNodeRequest], b.RecoverNode))
}

func readWatchMigration(r *http.Request) (q WatchMigrationRequest, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "node", "phase", "lines"); err != nil {
		return q, err
	}
	if q.Guest, err = guest.ParseID(r.PathValue("id")); err != nil {
		return q, err
	}
	if s := params.Get("node"); s != "" {
		if q.Node, err = guest.ParseNodeName(s); err != nil {
			return q, err
		}
	}
	q.Phase = params.Get("phase")
	if s := params.Get("lines"); s != "" {
		if q.Lines, err = strconv.Atoi(s); err != nil || q.Lines < 0 {
			return q, fmt.Errorf("lines=%q: must be a number, at least 0", s)
		}
	}
	return q, nil
}

// Migrate is MoveBackend's.
func (c *Client) Migrate(ctx context.Context, r MigrateRequest) (StartedMigration, error) {
	return ask[StartedMigration](ctx, c, call{method: http.MethodPost, path: "/v1/guests/" + r.ID.String() + "/migrate", body: r})
}

// WatchMigration is MoveBackend's.
func (c *Client) WatchMigration(ctx context.Context, r WatchMigrationRequest) (Migration, error) {
	q := url.Values{"lines": {strconv.Itoa(r.Lines)}}
	if r.Node != "" {
		q.Set("node", string(r.Node))
	}
	if r.Phase != "" {
		q.Set("phase", r.Phase)
	}
	return ask[Migration](ctx, c, call{method: http.MethodGet, path: "/v1/guests/" + r.Guest.String() + "/migration", query: q})
}

// CancelMigration is MoveBackend's.
func (c *Client) CancelMigration(ctx context.Context, id guest.ID) (StartedMigration, error) {
	return ask[StartedMigration](ctx, c, call{method: http.MethodDelete, path: "/v1/guests/" + id.String() + "/migration"})
}

// RecoverGuest is MoveBackend's.
func (c *Client) RecoverGuest(ctx context.Context, r RecoverRequest) (Recovery, error) {
	return ask[Recovery](ctx, c, call{method: http.MethodPost, path: "/v1/guests/" + r.ID.String() + "/recover", body: r})
}

// RecoverNode is MoveBackend's.
func (c *Client) RecoverNode(ctx context.Context, r RecoverNodeRequest) (NodeRecovery, error) {
	return ask[NodeRecovery](ctx, c, call{method: http.MethodPost, path: "/v1/nodes/recover", body: r})
}
