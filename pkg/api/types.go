// Package api is the interface between tandemd and its clients: types, routes,
// handlers and the client, as HTTP with JSON over a Unix socket.
//
// It holds no logic of its own: handlers decode, call the Backend that
// pkg/daemon provides, and encode. pkg/cli is the client.
package api

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Version is the version of these types; it is raised when a field changes its
// meaning or goes. New fields may come within a version.
const Version = 1

// Backend does what clients ask for. Its errors are shown to people: *Error
// where there is a hint, or where the exit code matters.
type Backend interface {
	Status(ctx context.Context, f Filter) (Status, error)
	Cluster(ctx context.Context) (Cluster, error)
	InitCluster(ctx context.Context, r InitRequest) (Cluster, error)
	Token(ctx context.Context, r TokenRequest) (Token, error)
	Join(ctx context.Context, r JoinRequest) (Cluster, error)
	Guests(ctx context.Context) ([]Guest, error)
	AddGuest(ctx context.Context, r AddGuestRequest) (Guest, error)
	Jobs(ctx context.Context) ([]Job, error)
	Job(ctx context.Context, id guest.JobID) (Job, error)
	CreateJob(ctx context.Context, r CreateJobRequest) (Job, error)
	UpdateJob(ctx context.Context, r UpdateJobRequest) (Job, error)
	DeleteJob(ctx context.Context, r DeleteJobRequest) (DeletedJob, error)
	ScheduleNow(ctx context.Context, id guest.JobID) error
	// StartRun is ScheduleNow that tells which run to watch.
	StartRun(ctx context.Context, id guest.JobID) (StartedRun, error)
	// Watch tells what is new of a run. It waits a little for news.
	Watch(ctx context.Context, r WatchRequest) (Watch, error)
	// Explain tells why a job is in its state and what its next sync would do.
	Explain(ctx context.Context, id guest.JobID) (Explanation, error)
	// Runs are the n newest runs of a job, the newest first; n below 1 means all.
	Runs(ctx context.Context, id guest.JobID, n int) ([]Run, error)
	ClusterBackend
	GuestBackend
	VerifyBackend
	DrillBackend
	DivergedBackend
	MoveBackend
}

// Filter limits what Status tells; zero fields limit nothing.
type Filter struct {
	Guest guest.ID       `json:"guest,omitempty"`
	Node  guest.NodeName `json:"node,omitempty"`
}

// Status is what `tandem status` shows: the whole cluster as the asked node sees it.
type Status struct {
	Version int            `json:"version"`
	Node    guest.NodeName `json:"node"`
	Time    time.Time      `json:"time"`
	Cluster Cluster        `json:"cluster"`
	Jobs    []JobStatus    `json:"jobs"`
	// Migrations are those that go on.
	Migrations []Migration `json:"migrations,omitempty"`
	// Kept are replicas to which no job points.
	Kept []KeptCopy `json:"kept,omitempty"`
	// Silent are the members that did not answer; what they alone know is missing.
	Silent []guest.NodeName `json:"silent"`
	// Warnings are whole sentences for the operator: disagreements, broken
	// files, storages in trouble.
	Warnings []string `json:"warnings"`
}

// Cluster is what a node knows of the cluster.
type Cluster struct {
	Version    int    `json:"version"`
	ID         string `json:"id"`
	Generation string `json:"generation"`
	Standing
	// Quorate says whether this node is in contact with a leader that a majority of the voters follows.
	Quorate bool           `json:"quorate"`
	Leader  guest.NodeName `json:"leader,omitempty"`
	// Votes are the voters that this node sees alive, of Voters; Quorum are needed.
	Votes  int `json:"votes"`
	Voters int `json:"voters"`
	Quorum int `json:"quorum"`
	// Index is how far this node has applied the ledger.
	Index   uint64   `json:"index"`
	Members []Member `json:"members"`
}

// Tally is how many votes there are and are needed, as far as that is known.
func (c Cluster) Tally() string {
	if c.Voters == 0 { // As after a boot of a part of the cluster.
		return "its voters are not known here yet"
	}
	votes := "votes"
	if c.Voters == 1 {
		votes = "vote"
	}
	text := fmt.Sprintf("%d of %d %s, %d needed", c.Votes, c.Voters, votes, c.Quorum)
	if !c.Quorate && c.Votes >= c.Quorum { // As in the seconds after the leader's end.
		text += ", and none of them leads yet"
	}
	return text
}

// Member is a node of the cluster as the asked node sees it.
type Member struct {
	Name   guest.NodeName `json:"name"`
	ID     guest.NodeID   `json:"id"`
	Peer   string         `json:"peer"`
	Gossip string         `json:"gossip"`
	// State is alive, suspect, dead, left, unknown, or self.
	State string `json:"state"`
	// Since is when it entered that state, as far as this node saw.
	Since    time.Time `json:"since,omitzero"`
	Voter    bool      `json:"voter"`
	Witness  bool      `json:"witness,omitempty"`
	Joined   time.Time `json:"joined,omitzero"`
	Storages []Storage `json:"storages"`
}

// Storage is one storage of a node; the figures come from that node itself.
type Storage struct {
	Name    string `json:"name"`
	Dataset string `json:"dataset,omitempty"`
	Pool    string `json:"pool,omitempty"`
	Health  string `json:"health,omitempty"`
	// Available and Used are in bytes.
	Available uint64 `json:"available,omitempty"`
	Used      uint64 `json:"used,omitempty"`
	// PoolSize and PoolFree are the whole pool's, in bytes, redundancy included.
	PoolSize uint64 `json:"pool_size,omitempty"`
	PoolFree uint64 `json:"pool_free,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Guest is a guest as clients see it.
type Guest struct {
	ID      guest.ID       `json:"id"`
	Type    guest.Type     `json:"type"`
	Name    string         `json:"name"`
	Volumes []guest.Volume `json:"volumes"`
	Unit    string         `json:"unit,omitempty"`
	// Boot is whether and when its owner starts it; Quiesce how it is made consistent for
	// a point, empty: not at all.
	Boot    guest.Boot     `json:"boot,omitzero"`
	Quiesce guest.Quiesce  `json:"quiesce,omitempty"`
	Owner   guest.NodeName `json:"owner"`
	Term    string         `json:"term"`
	Digest  string         `json:"digest"`
	// Run is how its unit fares; nil: it has none.
	Run *GuestRun `json:"run,omitempty"`
	GuestDetail
}

// Job is a replication job's configuration as clients see it.
type Job struct {
	ID        guest.JobID        `json:"id"`
	Guest     guest.ID           `json:"guest"`
	Source    guest.NodeName     `json:"source"`
	Target    guest.NodeName     `json:"target"`
	Schedule  string             `json:"schedule"`
	Rate      float64            `json:"rate,omitempty"`
	Comment   string             `json:"comment,omitempty"`
	Enabled   bool               `json:"enabled"`
	Snapshots guest.SnapshotMode `json:"snapshots"`
	Removing  bool               `json:"removing,omitempty"`
	Digest    string             `json:"digest"`
	// Warnings are what the daemon could not check when the job was made.
	Warnings []string `json:"warnings,omitempty"`
}

// The states of a job.
const (
	StateOK       = "ok"
	StateRunning  = "running"
	StateError    = "error"
	StateDisabled = "disabled"
	StateRemoving = "removing"
	// StateUnknown means that the guest's owner did not answer.
	StateUnknown = "unknown"
)

// JobStatus is how a job fares.
type JobStatus struct {
	ID        guest.JobID    `json:"id"`
	Guest     guest.ID       `json:"guest"`
	GuestName string         `json:"guest_name"`
	Enabled   bool           `json:"enabled"`
	Source    guest.NodeName `json:"source"`
	Target    guest.NodeName `json:"target"`
	Schedule  string         `json:"schedule"`
	// Rate is in MB/s (10^6 bytes); 0: no limit.
	Rate      float64 `json:"rate,omitempty"`
	Comment   string  `json:"comment,omitempty"`
	State     string  `json:"state"`
	FailCount int     `json:"fail_count"`
	// LastSync is when the last successful run began, by the owner's clock; zero: never.
	LastSync time.Time `json:"last_sync,omitzero"`
	// LastTry is when the last run began, successful or not.
	LastTry time.Time `json:"last_try,omitzero"`
	// NextSync is when the next run is due; a time that has passed means pending.
	NextSync time.Time `json:"next_sync,omitzero"`
	// Duration is that of the last finished run, in seconds.
	Duration float64 `json:"duration"`
	// Bytes went over the wire in the last finished run.
	Bytes int64 `json:"bytes"`
	// Kind of the last finished run: full, incremental, resumed, nothing.
	Kind string `json:"kind,omitempty"`
	// Error is why the last run failed; empty after a success.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// Waiting tells what the job waits for, like `waiting for n2 (down since …)`.
	Waiting string `json:"waiting,omitempty"`
	// Lag is how old the target's newest complete point is, in seconds, as the
	// target itself tells; nil: the target did not tell, or has none.
	Lag *float64 `json:"lag,omitempty"`
	// Point is the newest complete point of the target.
	Point string `json:"point,omitempty"`
	// Consistency is that of the point: crash (as after a power cut), frozen or hook.
	Consistency guest.Consistency `json:"consistency,omitempty"`
	// Lagging is set when the lag is more than the schedule allows for.
	Lagging  bool      `json:"lagging,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	// Verified is what comparing the replica with its source has found; nil: it was
	// never compared, or the owner did not answer.
	Verified *Verified `json:"verified,omitempty"`
	// Drilled is what came of trying the replica; nil: it was never tried, or the
	// target did not answer.
	Drilled *Drilled `json:"drilled,omitempty"`
}

// Progress is how far a running sync is.
type Progress struct {
	Started time.Time `json:"started"`
	// Phase is what it does, in a word: plan, snapshot, send, commit, clean.
	Phase string `json:"phase"`
	// Sent and Total are bytes; Total is an estimate and may be 0.
	Sent  int64 `json:"sent"`
	Total int64 `json:"total"`
}

// Run is one finished or running sync of a job.
type Run struct {
	ID     uint64         `json:"id"`
	Job    guest.JobID    `json:"job"`
	Source guest.NodeName `json:"source"`
	Target guest.NodeName `json:"target"`
	Start  time.Time      `json:"start"`
	End    time.Time      `json:"end,omitzero"`
	// Duration is in seconds; 0 while it runs, and where nobody saw it end.
	Duration float64 `json:"duration"`
	// Outcome is running, ok, failed, skipped or interrupted.
	Outcome  string `json:"outcome"`
	Kind     string `json:"kind,omitempty"`
	Bytes    int64  `json:"bytes"`
	Base     string `json:"base,omitempty"`
	Snapshot string `json:"snapshot,omitempty"`
	// Consistency of the new snapshot: crash, frozen or hook.
	Consistency guest.Consistency `json:"consistency,omitempty"`
	Volumes     []guest.Volume    `json:"volumes,omitempty"`
	Error       string            `json:"error,omitempty"`
	Hint        string            `json:"hint,omitempty"`
	Log         []LogLine         `json:"log"`
}

// LogLine is one line of a run's log.
type LogLine struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"`
	Message string    `json:"message"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	// TTL is how long it can be used, in seconds; 0: an hour.
	TTL int64 `json:"ttl,omitempty"`
}

// Token lets one node join, once.
type Token struct {
	Text    string    `json:"text"`
	Address string    `json:"address"`
	Expires time.Time `json:"expires"`
}

// JoinRequest asks this node to join the cluster of the node at Address.
type JoinRequest struct {
	// Address of the issuer's peer port, host:port.
	Address string `json:"address"`
	Token   string `json:"token"`
	// Force joins a cluster that runs on forced quorum.
	Force bool `json:"force,omitempty"`
}

// AddGuestRequest takes a guest under Tandem's care.
type AddGuestRequest struct {
	ID      guest.ID       `json:"id"`
	Type    guest.Type     `json:"type"`
	Name    string         `json:"name"`
	Volumes []guest.Volume `json:"volumes"`
	Unit    string         `json:"unit,omitempty"`
	Boot    guest.Boot     `json:"boot,omitzero"`
	Quiesce guest.Quiesce  `json:"quiesce,omitempty"`
	// Node is the owner; empty: the asked node.
	Node guest.NodeName `json:"node,omitempty"`
	// Config is the content of its configuration file.
	Config string `json:"config,omitempty"`
	// Force adds it while the cluster runs on forced quorum.
	Force bool `json:"force,omitempty"`
}

// CreateJobRequest adds a job; empty fields take the defaults.
type CreateJobRequest struct {
	ID        guest.JobID        `json:"id"`
	Target    guest.NodeName     `json:"target"`
	Schedule  string             `json:"schedule,omitempty"`
	Rate      float64            `json:"rate,omitempty"`
	Comment   string             `json:"comment,omitempty"`
	Disabled  bool               `json:"disabled,omitempty"`
	Snapshots guest.SnapshotMode `json:"snapshots,omitempty"`
}

// UpdateJobRequest changes a job; nil fields stay.
type UpdateJobRequest struct {
	ID        guest.JobID         `json:"id"`
	Schedule  *string             `json:"schedule,omitempty"`
	Rate      *float64            `json:"rate,omitempty"`
	Comment   *string             `json:"comment,omitempty"`
	Enabled   *bool               `json:"enabled,omitempty"`
	Snapshots *guest.SnapshotMode `json:"snapshots,omitempty"`
	// Digest is that of the job which the author saw; empty: not checked.
	Digest string `json:"digest,omitempty"`
}

// DeleteJobRequest ends a job.
type DeleteJobRequest struct {
	ID guest.JobID `json:"id"`
	// Keep leaves the replica's data on the target.
	Keep bool `json:"keep,omitempty"`
	// Force drops the job at once: nothing is cleaned, on no node.
	Force bool `json:"force,omitempty"`
}

// DeletedJob is what became of a job that was deleted.
type DeletedJob struct {
	ID guest.JobID `json:"id"`
	// Dropped says that it is off the ledger; else it is being removed.
	Dropped bool `json:"dropped"`
	// Left is what a dropped job leaves behind, a sentence for each thing.
	Left []string `json:"left"`
}

// Code says what kind of error it is; clients turn it into an exit code.
type Code string

// The codes of errors.
const (
	// CodeInvalid is a request that can never work as it is.
	CodeInvalid Code = "invalid"
	// CodeNotFound names something that does not exist.
	CodeNotFound Code = "not_found"
	// CodeRefused means that the state of things forbids it; nothing was changed.
	CodeRefused Code = "refused"
	// CodeNotQuorate means that no majority can be reached; nothing was changed.
	CodeNotQuorate Code = "not_quorate"
	// CodeUnknown means that it was sent and not confirmed: look before trying again.
	CodeUnknown Code = "unknown_outcome"
	// CodeUnavailable means that another node or the daemon cannot be reached.
	CodeUnavailable Code = "unavailable"
	// CodeInternal is a fault of Tandem's.
	CodeInternal Code = "internal"
)

// Error is an error with what to do about it.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Absent says that there is no daemon at all; it is the client's word.
	Absent bool `json:"-"`
}

// Error is the message, without the hint.
func (e *Error) Error() string { return e.Message }

// ErrorCode is the code, for calls between daemons.
func (e *Error) ErrorCode() string { return string(e.Code) }

// ErrorHint is the hint, for calls between daemons.
func (e *Error) ErrorHint() string { return e.Hint }
