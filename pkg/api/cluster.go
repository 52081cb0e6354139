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

// ClusterBackend is what clients ask about the cluster itself, beside Backend's
// own methods.
type ClusterBackend interface {
	// Expected makes the asked node quorate by itself; see ExpectedRequest.
	Expected(ctx context.Context, r ExpectedRequest) (Expectation, error)
	// Yield has the asked node give its generation up for another.
	Yield(ctx context.Context, r YieldRequest) (Cluster, error)
	// RemoveMember takes a node off the member list, or only tells what that means.
	RemoveMember(ctx context.Context, r RemoveMemberRequest) (Removal, error)
	// Log is the n newest changes of the ledger, the newest first; n below 1 means all.
	Log(ctx context.Context, n int) ([]Change, error)
	SetCluster(ctx context.Context, r SetClusterRequest) (Cluster, error)
	// Storages are those of all members, or of one.
	Storages(ctx context.Context, node guest.NodeName) ([]NodeStorages, error)
}

// Standing is what a cluster is, beside who is in it; a part of Cluster.
type Standing struct {
	// Name is what people call the cluster; it may be empty.
	Name string `json:"name,omitempty"`
	// Digest is that of the cluster's settings.
	Digest string `json:"digest,omitempty"`
	// Forced is set while the cluster runs on forced quorum.
	Forced bool `json:"forced,omitempty"`
	// Lineage tells how the generation came about, the oldest fork first; it is
	// empty where quorum was never forced.
	Lineage []Fork `json:"lineage,omitempty"`
	// Alarms are whole sentences that need a person: generations met and nobody yields.
	Alarms []string `json:"alarms,omitempty"`
	// Others are generations of the same cluster that other nodes follow.
	Others []Generation `json:"others,omitempty"`
	// Meeting is a sentence: what the last meeting of generations came to, and why.
	Meeting string `json:"meeting,omitempty"`
	// Yielding is the generation to which this node goes over just now.
	Yielding string `json:"yielding,omitempty"`
	// Waiting says what this node waits for before it takes part.
	Waiting string `json:"waiting,omitempty"`
	// Removed is set where this node was taken off the member list.
	Removed *Removed `json:"removed,omitempty"`
	// Aside are folders of the ledger that were set aside on this node.
	Aside []string `json:"aside,omitempty"`
}

// Fork is how a generation began: a node was forced to go on without a majority.
type Fork struct {
	Generation string `json:"generation"`
	Parent     string `json:"parent"`
	// Index is how much of the parent's log it took over.
	Index uint64         `json:"index"`
	Node  guest.NodeName `json:"node"`
	By    string         `json:"by"`
	At    time.Time      `json:"at"`
}

// Generation is one that other nodes follow.
type Generation struct {
	ID    string           `json:"id"`
	Nodes []guest.NodeName `json:"nodes"`
}

// Removed tells a node that it was taken off the member list.
type Removed struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// InitRequest makes a cluster.
type InitRequest struct {
	// Name is what people call it; empty: nothing.
	Name string `json:"name,omitempty"`
}

// ExpectedRequest asks a node to go on without a majority: "Only if this is not
// possible at the moment, you may use the following command to enforce quorum on
// the current node".
type ExpectedRequest struct {
	// Votes are the expected votes from now on.
	Votes int `json:"votes"`
}

// Expectation is what became of an ExpectedRequest.
type Expectation struct {
	Version  int      `json:"version"`
	Cluster  Cluster  `json:"cluster"`
	Warnings []string `json:"warnings"`
}

// YieldRequest asks a node to give its generation up.
type YieldRequest struct {
	// Generation to follow; empty: the only other one.
	Generation string `json:"generation,omitempty"`
}

// RemoveMemberRequest takes a node off the member list.
type RemoveMemberRequest struct {
	Node guest.NodeName `json:"node"`
	// Force drops the jobs to the node without cleaning up after them, and does so on
	// forced quorum too.
	Force bool `json:"force,omitempty"`
	// Keep leaves the replicas on the node.
	Keep bool `json:"keep,omitempty"`
	// DryRun only tells what would be done.
	DryRun bool `json:"dry_run,omitempty"`
}

// Removal is what the removal of a member means.
type Removal struct {
	Version int            `json:"version"`
	Node    guest.NodeName `json:"node"`
	ID      guest.NodeID   `json:"id"`
	// Steps are what is done, in order; Leaves what stays behind, and where.
	Steps    []string `json:"steps"`
	Leaves   []string `json:"leaves"`
	Warnings []string `json:"warnings"`
	// Done is set where it was carried out.
	Done bool `json:"done"`
}

// Change is one change of the ledger.
type Change struct {
	Index uint64    `json:"index"`
	Time  time.Time `json:"time"`
	By    string    `json:"by"`
	What  string    `json:"what"`
}

// SetClusterRequest changes the cluster's settings; nil fields stay.
type SetClusterRequest struct {
	Name *string `json:"name,omitempty"`
	// Digest is that of the settings which the author saw; empty: not checked.
	Digest string `json:"digest,omitempty"`
}

// NodeStorages are the storages of one member, as it tells them itself.
type NodeStorages struct {
	Node guest.NodeName `json:"node"`
	// Silent says that it did not answer: only the names of its storages are known.
	Silent   bool      `json:"silent,omitempty"`
	Storages []Storage `json:"storages"`
}

func clusterRoutes(s server, mux *http.ServeMux, b Backend) {
	mux.Handle("POST /v1/cluster/init", endpoint(s, readBody[InitRequest], b.InitCluster))
	mux.Handle("POST /v1/cluster/expected", endpoint(s, readBody[ExpectedRequest], b.Expected))
	mux.Handle("POST /v1/cluster/yield", endpoint(s, readBody[YieldRequest], b.Yield))
	mux.Handle("POST /v1/cluster/remove", endpoint(s, readBody[RemoveMemberRequest], b.RemoveMember))
	mux.Handle("GET /v1/cluster/log", endpoint(s, readCount, b.Log))
	mux.Handle("PATCH /v1/cluster", endpoint(s, readBody[SetClusterRequest], b.SetCluster))
	mux.Handle("GET /v1/storages", endpoint(s, readNode, b.Storages))
}

func readCount(r *http.Request) (n int, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "n"); err != nil {
		return 0, err
	}
	if s := params.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil {
			return 0, fmt.Errorf("n=%q: must be a number", s)
		}
	}
	return n, nil
}

func readNode(r *http.Request) (guest.NodeName, error) {
	params := r.URL.Query()
	if err := onlyParams(params, "node"); err != nil {
		return "", err
	}
	if s := params.Get("node"); s != "" {
		return guest.ParseNodeName(s)
	}
	return "", nil
}

// Expected is ClusterBackend's.
func (c *Client) Expected(ctx context.Context, r ExpectedRequest) (Expectation, error) {
	return ask[Expectation](ctx, c, call{method: http.MethodPost, path: "/v1/cluster/expected", body: r})
}

// Yield is ClusterBackend's.
func (c *Client) Yield(ctx context.Context, r YieldRequest) (Cluster, error) {
	return ask[Cluster](ctx, c, call{method: http.MethodPost, path: "/v1/cluster/yield", body: r})
}

// RemoveMember is ClusterBackend's.
func (c *Client) RemoveMember(ctx context.Context, r RemoveMemberRequest) (Removal, error) {
	return ask[Removal](ctx, c, call{method: http.MethodPost, path: "/v1/cluster/remove", body: r})
}

// Log is ClusterBackend's.
func (c *Client) Log(ctx context.Context, n int) ([]Change, error) {
	q := url.Values{"n": {strconv.Itoa(n)}}
	return ask[[]Change](ctx, c, call{method: http.MethodGet, path: "/v1/cluster/log", query: q})
}

// SetCluster is ClusterBackend's.
func (c *Client) SetCluster(ctx context.Context, r SetClusterRequest) (Cluster, error) {
	return ask[Cluster](ctx, c, call{method: http.MethodPatch, path: "/v1/cluster", body: r})
}

// Storages is ClusterBackend's.
func (c *Client) Storages(ctx context.Context, node guest.NodeName) ([]NodeStorages, error) {
	q := url.Values{}
	if node != "" {
		q.Set("node", string(node))
	}
	return ask[[]NodeStorages](ctx, c, call{method: http.MethodGet, path: "/v1/storages", query: q})
}
