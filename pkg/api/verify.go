package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// The outcomes of a verification.
const (
	VerifyEqual   = "equal"
	VerifyDiffers = "differs"
	// VerifyFailed could not tell.
	VerifyFailed = "failed"
)

// VerifyBackend compares replicas with their sources.
type VerifyBackend interface {
	// StartVerify begins to compare a job's replica with its source.
	StartVerify(ctx context.Context, r VerifyRequest) (StartedVerify, error)
	// WatchVerify tells how that fares. It waits a little for the end; what nobody
	// watches is ended.
	WatchVerify(ctx context.Context, r VerifyID) (Verification, error)
	// CancelVerify ends it.
	CancelVerify(ctx context.Context, r VerifyID) error
	// AcknowledgeVerify ends the alarm about a difference that was found.
	AcknowledgeVerify(ctx context.Context, id guest.JobID) error
}

// VerifyRequest asks to compare a job's replica with its source.
type VerifyRequest struct {
	Job guest.JobID `json:"job"`
	// Rate limits the reading on either node, in MB/s (10^6 bytes); 0: no limit.
	Rate float64 `json:"rate,omitempty"`
}

// VerifyID names a verification that was started.
type VerifyID struct {
	Job    guest.JobID `json:"job"`
	Number uint64      `json:"number"`
}

// StartedVerify is a verification that was started.
type StartedVerify struct {
	VerifyID
	// Node leads it: the guest's owner.
	Node guest.NodeName `json:"node"`
}

// Verification is one as it is now.
type Verification struct {
	Version int `json:"version"`
	VerifyID
	Source  guest.NodeName `json:"source"`
	Target  guest.NodeName `json:"target"`
	Started time.Time      `json:"started"`
	// Time is now, by the clock of the guest's owner.
	Time time.Time `json:"time"`
	// Point is the one that both nodes read.
	Point string `json:"point,omitempty"`
	// Volume is being read; bytes were read on the owner so far, of Total, which is an
	// estimate.
	Volume string `json:"volume,omitempty"`
	Bytes  int64  `json:"bytes"`
	Total  int64  `json:"total"`
	// Result is what it found; nil while it goes on.
	Result *VerifyResult `json:"result,omitempty"`
}

// VerifyResult is what a verification found.
type VerifyResult struct {
	// Outcome is equal, differs or failed.
	Outcome string           `json:"outcome"`
	Ended   time.Time        `json:"ended"`
	Volumes []VerifiedVolume `json:"volumes"`
	// Error is why it could not tell of everything, and Hint what to do.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// VerifiedVolume is what was found of one volume.
type VerifiedVolume struct {
	Volume guest.Volume `json:"volume"`
	// Compared says that it was, to its end.
	Compared    bool         `json:"compared"`
	Differences []Difference `json:"differences"`
	// More is how many differences there are besides.
	More int `json:"more,omitempty"`
	// Problem is why it was not compared.
	Problem string `json:"problem,omitempty"`
}

// Difference is where the copies of a volume differ: a range of a zvol, or a file.
type Difference struct {
	// Offset and Length are in bytes.
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	Path   string `json:"path,omitempty"`
	// What differs: missing (the replica does not have it), extra (only the replica
	// has it), content, type, mode, owner, link, device, time, attributes.
	What []string `json:"what"`
}

// Verified is what is remembered of a job's verifications.
type Verified struct {
	// Time is when the last one ended, Outcome what it found, Error why it could not tell.
	Time    time.Time `json:"time"`
	Outcome string    `json:"outcome"`
	Point   string    `json:"point,omitempty"`
	Error   string    `json:"error,omitempty"`
	// Differs is when a difference was found, with what, since when no verification
	// was clean.
	Differs time.Time `json:"differs,omitzero"`
	What    []string  `json:"what,omitempty"`
	// Alarm is set until somebody acknowledges that; Acknowledged is who did.
	Alarm        bool   `json:"alarm,omitempty"`
	Acknowledged string `json:"acknowledged,omitempty"`
}

func verifyRoutes(s server, mux *http.ServeMux, b VerifyBackend) {
	mux.Handle("POST /v1/jobs/{id}/verify", endpoint(s, readAbout("job", readJobID, func(q VerifyRequest) guest.JobID { return q.Job }), b.StartVerify))
	mux.Handle("GET /v1/jobs/{id}/verify/{number}", endpoint(s, readVerifyID, b.WatchVerify))
	mux.Handle("DELETE /v1/jobs/{id}/verify/{number}", endpoint(s, readVerifyID, doing(b.CancelVerify)))
	mux.Handle("POST /v1/jobs/{id}/verify/acknowledge", endpoint(s, readJobID, doing(b.AcknowledgeVerify)))
}

func readVerifyID(r *http.Request) (q VerifyID, err error) {
	if q.Job, err = readJobID(r); err != nil {
		return q, err
	}
	if q.Number, err = strconv.ParseUint(r.PathValue("number"), 10, 64); err != nil {
		return q, fmt.Errorf("verification %q: must be a number", r.PathValue("number"))
	}
	return q, nil
}

// StartVerify is Backend's.
func (c *Client) StartVerify(ctx context.Context, r VerifyRequest) (StartedVerify, error) {
	return ask[StartedVerify](ctx, c, call{method: http.MethodPost, path: "/v1/jobs/" + r.Job.String() + "/verify", body: r})
}

func (r VerifyID) path() string { return fmt.Sprintf("/v1/jobs/%s/verify/%d", r.Job, r.Number) }

// WatchVerify is Backend's.
func (c *Client) WatchVerify(ctx context.Context, r VerifyID) (Verification, error) {
	return ask[Verification](ctx, c, call{method: http.MethodGet, path: r.path()})
}

// CancelVerify is Backend's.
func (c *Client) CancelVerify(ctx context.Context, r VerifyID) error {
	return c.do(ctx, call{method: http.MethodDelete, path: r.path()}, &nothing{})
}

// AcknowledgeVerify is Backend's.
func (c *Client) AcknowledgeVerify(ctx context.Context, id guest.JobID) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/jobs/" + id.String() + "/verify/acknowledge"}, &nothing{})
}
