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
	// ShowDiverged tells all of one copy.
	ShowDiverged(ctx context.Context, r CopyRequest) (DivergedDetail, error)
	// MountDiverged makes one copy readable on its node, and says where.
	MountDiverged(ctx context.Context, r CopyRequest) (DivergedMount, error)
	// UnmountDiverged ends that.
	UnmountDiverged(ctx context.Context, r CopyRequest) (DivergedCopy, error)
	// RestoreDiverged makes a guest of its own out of copies, which stay.
	RestoreDiverged(ctx context.Context, r RestoreRequest) (Restored, error)
	// DiscardDiverged destroys one copy for good, and tells what it was.
	DiscardDiverged(ctx context.Context, r CopyRequest) (DivergedCopy, error)
	// DiscardKept destroys a node's kept copy of a guest.
	DiscardKept(ctx context.Context, r KeptRequest) (KeptRemoval, error)
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
	// Kept are replicas to which no job points.
	Kept []KeptCopy `json:"kept"`
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

// CopyRequest names one copy.
type CopyRequest struct {
	Node    guest.NodeName `json:"node"`
	Dataset string         `json:"dataset"`
}

// DivergedDetail is all that is told of one copy.
type DivergedDetail struct {
	Version int `json:"version"`
	DivergedCopy
	// Type is filesystem or volume.
	Type string `json:"type"`
	// Newer is how many bytes were written since Base, or in all where there is none.
	Newer     uint64             `json:"newer"`
	Snapshots []DivergedSnapshot `json:"snapshots"`
	// At is where it can be read on its node now: a folder or a device; empty: nowhere.
	At string `json:"at,omitempty"`
	// Clones are datasets that depend on it, and the guests that they were restored as.
	Clones []DivergedClone `json:"clones"`
	// Diff are the files that differ from Base; nil: they were not compared. Trouble is why it is not all.
	Diff    *FileDiff `json:"diff,omitempty"`
	Trouble string    `json:"trouble,omitempty"`
}

// DivergedSnapshot is a snapshot of a copy that the replica does not have.
type DivergedSnapshot struct {
	Name  string    `json:"name"`
	Taken time.Time `json:"taken"`
	// Written is in bytes, since the one before.
	Written uint64 `json:"written"`
}

// DivergedClone is a dataset that was cloned from a copy.
type DivergedClone struct {
	Dataset string `json:"dataset"`
	// Guest is whose volume it is; 0: nobody's.
	Guest guest.ID `json:"guest,omitempty"`
}

// FileDiff counts files.
type FileDiff struct {
	Added    int `json:"added"`
	Removed  int `json:"removed"`
	Modified int `json:"modified"`
	Renamed  int `json:"renamed"`
	// First are some of them, as `zfs diff -H` prints them.
	First []string `json:"first"`
}

// DivergedMount says where a copy can be read.
type DivergedMount struct {
	Version int            `json:"version"`
	Node    guest.NodeName `json:"node"`
	Dataset string         `json:"dataset"`
	// At is a folder, or the device of a zvol, on that node.
	At     string `json:"at"`
	Device bool   `json:"device,omitempty"`
}

// RestoreRequest asks for a guest of its own out of copies of one guest on one node.
type RestoreRequest struct {
	Node     guest.NodeName `json:"node"`
	Datasets []string       `json:"datasets"`
	// As is the new guest's ID; 0: one above the highest.
	As guest.ID `json:"as,omitempty"`
	// Force adds it while the cluster runs on forced quorum.
	Force bool `json:"force,omitempty"`
}

// Restored is the guest that was made.
type Restored struct {
	Version int            `json:"version"`
	Guest   guest.ID       `json:"guest"`
	Name    string         `json:"name"`
	Node    guest.NodeName `json:"node"`
	// From is the guest that the data was of.
	From     guest.ID         `json:"from"`
	Volumes  []RestoredVolume `json:"volumes"`
	Warnings []string         `json:"warnings"`
}

// RestoredVolume is a copy and the new guest's volume that was cloned from it.
type RestoredVolume struct {
	Copy    string       `json:"copy"`
	Volume  guest.Volume `json:"volume"`
	Dataset string       `json:"dataset"`
}

// KeptCopy is what a node has of another node's guest to which no job points: a replica that stays as it is.
type KeptCopy struct {
	Node    guest.NodeName `json:"node"`
	Guest   guest.ID       `json:"guest"`
	Volumes []KeptVolume   `json:"volumes"`
	// Owner is the guest's; empty: the cluster does not know the guest any more.
	Owner guest.NodeName `json:"owner,omitempty"`
	// Used is what removing it would free at most, in bytes.
	Used uint64 `json:"used"`
	// Point is its newest complete one; Age is how old that is, in seconds. Empty and nil: it has none.
	Point string   `json:"point,omitempty"`
	Age   *float64 `json:"age,omitempty"`
	// Only says that no job brings the guest to any other node: there is no other copy that is kept up.
	Only bool `json:"only,omitempty"`
	// Unfinished: it is none, but what a migration has brought that has not ended. The next one
	// goes on from it, or it is removed by itself.
	Unfinished bool `json:"unfinished,omitempty"`
}

// KeptVolume is one volume of a kept copy.
type KeptVolume struct {
	Volume  guest.Volume `json:"volume"`
	Dataset string       `json:"dataset"`
	Used    uint64       `json:"used"`
}

// KeptRequest names a node's kept copy of a guest.
type KeptRequest struct {
	Node  guest.NodeName `json:"node"`
	Guest guest.ID       `json:"guest"`
}

// KeptRemoval is what became of a kept copy.
type KeptRemoval struct {
	Version   int            `json:"version"`
	Node      guest.NodeName `json:"node"`
	Guest     guest.ID       `json:"guest"`
	Destroyed []string       `json:"destroyed"`
	// Left names each dataset that stays, with the reason.
	Left []string `json:"left"`
}

func divergedRoutes(s server, mux *http.ServeMux, b Backend) {
	mux.Handle("GET /v1/diverged", endpoint(s, readDiverged, b.Diverged))
	mux.Handle("GET /v1/diverged/copy", endpoint(s, readCopy, b.ShowDiverged))
	mux.Handle("POST /v1/diverged/mount", endpoint(s, readBody[CopyRequest], b.MountDiverged))
	mux.Handle("POST /v1/diverged/unmount", endpoint(s, readBody[CopyRequest], b.UnmountDiverged))
	mux.Handle("POST /v1/diverged/restore", endpoint(s, readBody[RestoreRequest], b.RestoreDiverged))
	mux.Handle("POST /v1/diverged/discard", endpoint(s, readBody[CopyRequest], b.DiscardDiverged))
	mux.Handle("POST /v1/diverged/discard-kept", endpoint(s, readBody[KeptRequest], b.DiscardKept))
}

func readCopy(r *http.Request) (q CopyRequest, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "node", "dataset"); err != nil {
		return q, err
	}
	q.Dataset = params.Get("dataset")
	q.Node, err = guest.ParseNodeName(params.Get("node"))
	return q, err
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

// ShowDiverged is DivergedBackend's.
func (c *Client) ShowDiverged(ctx context.Context, r CopyRequest) (DivergedDetail, error) {
	q := url.Values{"node": {string(r.Node)}, "dataset": {r.Dataset}}
	return ask[DivergedDetail](ctx, c, call{method: http.MethodGet, path: "/v1/diverged/copy", query: q})
}

// MountDiverged is DivergedBackend's.
func (c *Client) MountDiverged(ctx context.Context, r CopyRequest) (DivergedMount, error) {
	return ask[DivergedMount](ctx, c, call{method: http.MethodPost, path: "/v1/diverged/mount", body: r})
}

// UnmountDiverged is DivergedBackend's.
func (c *Client) UnmountDiverged(ctx context.Context, r CopyRequest) (DivergedCopy, error) {
	return ask[DivergedCopy](ctx, c, call{method: http.MethodPost, path: "/v1/diverged/unmount", body: r})
}

// RestoreDiverged is DivergedBackend's.
func (c *Client) RestoreDiverged(ctx context.Context, r RestoreRequest) (Restored, error) {
	return ask[Restored](ctx, c, call{method: http.MethodPost, path: "/v1/diverged/restore", body: r})
}

// DiscardDiverged is DivergedBackend's.
func (c *Client) DiscardDiverged(ctx context.Context, r CopyRequest) (DivergedCopy, error) {
	return ask[DivergedCopy](ctx, c, call{method: http.MethodPost, path: "/v1/diverged/discard", body: r})
}

// DiscardKept is DivergedBackend's.
func (c *Client) DiscardKept(ctx context.Context, r KeptRequest) (KeptRemoval, error) {
	return ask[KeptRemoval](ctx, c, call{method: http.MethodPost, path: "/v1/diverged/discard-kept", body: r})
}
