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

// The outcomes of a drill.
const (
	DrillPassed = "passed"
	DrillFailed = "failed"
	// DrillEnded was ended before that could be told.
	DrillEnded = "ended"
)

// DrillBackend tries replicas.
type DrillBackend interface {
	// StartDrill begins to try a guest's replica on a node.
	StartDrill(ctx context.Context, r DrillRequest) (StartedDrill, error)
	// WatchDrill tells how that fares. It waits a little for the end; what nobody
	// watches is ended.
	WatchDrill(ctx context.Context, r DrillID) (Drill, error)
	// CancelDrill ends it.
	CancelDrill(ctx context.Context, r DrillID) error
}

// DrillRequest asks for a drill.
type DrillRequest struct {
	Guest guest.ID       `json:"guest"`
	On    guest.NodeName `json:"on"`
	// Check is the absolute path of an executable on that node; empty: the guest is started.
	Check string `json:"check,omitempty"`
	// Timeout is in seconds; 0: 5 minutes.
	Timeout int64 `json:"timeout,omitempty"`
}

// DrillID names a drill that was started.
type DrillID struct {
	Guest  guest.ID       `json:"guest"`
	Node   guest.NodeName `json:"node"`
	Number uint64         `json:"number"`
}

// StartedDrill is a drill that was started.
type StartedDrill struct {
	DrillID
}

// Drill is one as it is now.
type Drill struct {
	Version int `json:"version"`
	DrillID
	// Check is the command; empty where the guest is started.
	Check   string    `json:"check,omitempty"`
	Started time.Time `json:"started"`
	// Time is now, by the node's clock.
	Time time.Time `json:"time"`
	// Phase is what it does, in a word: clone, check, start, watch, clean.
	Phase string `json:"phase"`
	// Point is what is tried; Age is how old it was when the drill began, in seconds.
	Point string  `json:"point,omitempty"`
	Age   float64 `json:"age"`
	// Result is what came of it; nil while it goes on.
	Result *DrillResult `json:"result,omitempty"`
}

// DrillResult is what came of a drill.
type DrillResult struct {
	// Outcome is passed, failed or ended.
	Outcome string    `json:"outcome"`
	Ended   time.Time `json:"ended"`
	// Duration is in seconds, the cleaning included.
	Duration float64 `json:"duration"`
	Error    string  `json:"error,omitempty"`
	Hint     string  `json:"hint,omitempty"`
	// Output is the end of what the check, or the guest's console, said.
	Output []string `json:"output"`
	// Left is what could not be taken away yet; it is tried again.
	Left string `json:"left,omitempty"`
}

// Drilled is what is remembered of the drills of a guest's replica on a node.
type Drilled struct {
	// Time is when the last one ended, Outcome how; Duration and Age are in seconds.
	Time     time.Time `json:"time"`
	Outcome  string    `json:"outcome"`
	Check    string    `json:"check,omitempty"`
	Point    string    `json:"point,omitempty"`
	Age      float64   `json:"age"`
	Duration float64   `json:"duration"`
	By       string    `json:"by,omitempty"`
	// Passed is when the last one passed, at which point; zero: none did.
	Passed      time.Time `json:"passed,omitzero"`
	PassedPoint string    `json:"passed_point,omitempty"`
	// Failed is when the last one failed since then, at which point, and Error why.
	Failed      time.Time `json:"failed,omitzero"`
	FailedPoint string    `json:"failed_point,omitempty"`
	Error       string    `json:"error,omitempty"`
	// Running says that one goes on.
	Running bool `json:"running,omitempty"`
}

func drillRoutes(s server, mux *http.ServeMux, b DrillBackend) {
	mux.Handle("POST /v1/guests/{id}/drill", endpoint(s, readAbout("guest", readGuestID, func(q DrillRequest) guest.ID { return q.Guest }), b.StartDrill))
	mux.Handle("GET /v1/guests/{id}/drill/{number}", endpoint(s, readDrillID, b.WatchDrill))
	mux.Handle("DELETE /v1/guests/{id}/drill/{number}", endpoint(s, readDrillID, doing(b.CancelDrill)))
}

func readDrillID(r *http.Request) (q DrillID, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "node"); err != nil {
		return q, err
	}
	if q.Guest, err = guest.ParseID(r.PathValue("id")); err != nil {
		return q, err
	}
	if q.Node, err = guest.ParseNodeName(params.Get("node")); err != nil {
		return q, err
	}
	if q.Number, err = strconv.ParseUint(r.PathValue("number"), 10, 64); err != nil {
		return q, fmt.Errorf("drill %q: must be a number", r.PathValue("number"))
	}
	return q, nil
}

// StartDrill is Backend's.
func (c *Client) StartDrill(ctx context.Context, r DrillRequest) (StartedDrill, error) {
	return ask[StartedDrill](ctx, c, call{method: http.MethodPost, path: "/v1/guests/" + r.Guest.String() + "/drill", body: r})
}

func (r DrillID) call(method string) call {
	return call{
		method: method, path: fmt.Sprintf("/v1/guests/%s/drill/%d", r.Guest, r.Number),
		query: url.Values{"node": {string(r.Node)}},
	}
}

// WatchDrill is Backend's.
func (c *Client) WatchDrill(ctx context.Context, r DrillID) (Drill, error) {
	return ask[Drill](ctx, c, r.call(http.MethodGet))
}

// CancelDrill is Backend's.
func (c *Client) CancelDrill(ctx context.Context, r DrillID) error {
	return c.do(ctx, r.call(http.MethodDelete), &nothing{})
}
