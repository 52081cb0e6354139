package api

import (
	"context"
	"net/http"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Explanation is what `tandem explain` shows.
type Explanation struct {
	Version int `json:"version"`
	// Node is who explains it: the guest's owner or, where that does not answer,
	// the asked node from what it knows itself.
	Node guest.NodeName `json:"node"`
	Time time.Time      `json:"time"`
	Job  Job            `json:"job"`
	// Status is that of the job, as `tandem status` tells it.
	Status JobStatus `json:"status"`
	// Why are sentences: why it is in its state.
	Why []string `json:"why"`
	// Next are sentences: what will happen next, and when.
	Next []string `json:"next"`
	// Plan is what the next sync would do now; nil where that cannot be told, and
	// NoPlan says why.
	Plan   *PlannedSync `json:"plan,omitempty"`
	NoPlan string       `json:"no_plan,omitempty"`
	// Silent are the nodes among owner and target that did not answer.
	Silent []guest.NodeName `json:"silent"`
}

// PlannedSync is a sync that was planned and not begun.
type PlannedSync struct {
	// Kind is full, incremental, resumed or nothing; empty where an interrupted
	// transfer has to be dropped first, after which it is planned anew.
	Kind string `json:"kind,omitempty"`
	// Base is the newest state that owner and target both have; empty for a full sync.
	Base string `json:"base,omitempty"`
	// Bytes is about how many would be sent.
	Bytes    uint64          `json:"bytes"`
	Volumes  []PlannedVolume `json:"volumes"`
	Warnings []string        `json:"warnings,omitempty"`
	// Cleans are the snapshots that go once the point has arrived; those of the source
	// may stay until the next sync.
	Cleans []PlannedClean `json:"cleans,omitempty"`
	// Refusals are why it would refuse to sync; then nothing else is planned.
	Refusals []PlannedRefusal `json:"refusals,omitempty"`
	// Remembered is why the target's side is not its own word, but what the owner
	// remembers of its last answers; empty where it answered.
	Remembered string `json:"remembered,omitempty"`
}

// PlannedVolume is the part of one volume.
type PlannedVolume struct {
	Volume guest.Volume `json:"volume"`
	Kind   string       `json:"kind,omitempty"`
	Base   string       `json:"base,omitempty"`
	Bytes  uint64       `json:"bytes"`
	// Steps are what would be done, in words, and Reason why.
	Steps  []string `json:"steps,omitempty"`
	Reason string   `json:"reason,omitempty"`
}

// PlannedClean is what would go of one volume on one node.
type PlannedClean struct {
	Node      guest.NodeName `json:"node"`
	Volume    guest.Volume   `json:"volume"`
	Snapshots []string       `json:"snapshots"`
}

// PlannedRefusal is why a sync would refuse.
type PlannedRefusal struct {
	Volume guest.Volume `json:"volume"`
	Reason string       `json:"reason"`
	Hint   string       `json:"hint,omitempty"`
}

// Explain is Backend's.
func (c *Client) Explain(ctx context.Context, id guest.JobID) (Explanation, error) {
	return ask[Explanation](ctx, c, call{method: http.MethodGet, path: "/v1/jobs/" + id.String() + "/explain"})
}
