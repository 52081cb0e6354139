// Package replicate is the sync: it executes one plan of pkg/plan between the
// owner of a guest (Source) and one target (Target), and says what a target has.
//
// It is not the scheduler and does not decide when to run; it knows nothing of
// TLS or of how the ledger is agreed. pkg/daemon gives it ZFS, a link to the
// other nodes and a view of the ledger; pkg/node starts its runs.
//
// What it must keep, whatever breaks at any point: the last good point of a
// target stays usable, the next run goes on from what is on the disks, and
// nothing is destroyed that does not carry Tandem's marks for that very guest.
// The files that it writes are caches of what the disks say, but for one fact:
// until when a target is current although nothing was sent.
package replicate

import (
	"context"
	"io"

	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/replica"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// Link reaches other nodes.
type Link interface {
	Call(ctx context.Context, node guest.NodeID, path string, req, resp any) error
	// Open starts a data stream; limit may be nil.
	Open(ctx context.Context, node guest.NodeID, header any, limit *rate.Limiter) (Sink, error)
}

// Sink is an open data stream. Either Finish or Abort ends it.
type Sink interface {
	io.Writer
	// Finish ends the stream properly and waits for the receiver's result.
	Finish(result any) error
	// Abort cuts the stream and tells the receiver why.
	Abort(err error)
}

// What the daemon needs of the packages below, under one name.
type (
	// Options are what both sides need of their node.
	Options = local.Options
	// ZFS is what a sync needs of pkg/zfs.
	ZFS = local.ZFS
	// Ledger is the node's copy of the agreed state.
	Ledger = local.Ledger
	// Store keeps small checksummed files.
	Store = local.Store

	// Target takes what owners send to this node.
	Target = replica.Target
	// ReplicaStatus is what this node has of one guest.
	ReplicaStatus = replica.Status
	// ReplicaVolume is one volume of it.
	ReplicaVolume = replica.VolumeStatus
	// PointStatus is its newest complete point.
	PointStatus = replica.PointStatus

	// Error is how a sync or a request fails.
	Error = fault.Error
	// Class says what can follow.
	Class = fault.Class

	// Request is what every request carries.
	Request = wire.Request
	// InventoryRequest asks for all that the target has of the guest's volumes.
	InventoryRequest = wire.InventoryRequest
	// Inventory is the answer.
	Inventory = wire.Inventory
	// AbortRequest asks to drop an interrupted receive.
	AbortRequest = wire.AbortRequest
	// AbortReply says that it is gone.
	AbortReply = wire.AbortReply
	// ReceiveHeader opens a stream.
	ReceiveHeader = wire.ReceiveHeader
	// ReceiveReply says what has arrived.
	ReceiveReply = wire.ReceiveReply
	// CommitRequest ends a sync.
	CommitRequest = wire.CommitRequest
	// CommitReply says what the target has now.
	CommitReply = wire.CommitReply
	// RemoveRequest ends a job that an operator deleted.
	RemoveRequest = wire.RemoveRequest
	// RemoveReply says what went and what is left.
	RemoveReply = wire.RemoveReply
	// AsideRequest asks to set a diverged replica aside.
	AsideRequest = wire.AsideRequest
	// AsideReply says where it is.
	AsideReply = wire.AsideReply
)

// The classes of errors, and the paths of the calls that a target answers.
const (
	ClassRetry  = fault.ClassRetry
	ClassPerson = fault.ClassPerson
	ClassNever  = fault.ClassNever
	ClassBusy   = fault.ClassBusy

	WireVersion   = wire.Version
	PathInventory = wire.PathInventory
	PathAbort     = wire.PathAbort
	PathCommit    = wire.PathCommit
	PathRemove    = wire.PathRemove
	PathAside     = wire.PathAside
)

// NewTarget makes the target side of a node.
func NewTarget(o Options) (*Target, error) { return replica.New(o) }

// ClassOf is the class of any error. What nobody classified may pass by itself.
func ClassOf(err error) Class { return fault.ClassOf(err) }

// HintOf is what an operator can do about any error, or empty.
func HintOf(err error) string { return fault.HintOf(err) }
