package zfs

import "github.com/tandemd/tandem/pkg/zfs/zerr"

// Error is a failed operation. See [zerr.Error].
type Error = zerr.Error

// Class is the kind of a failure.
type Class = zerr.Class

// The classes; what each means stands in [zerr].
const (
	ClassDiverged   = zerr.Diverged
	ClassPartial    = zerr.Partial
	ClassToken      = zerr.Token
	ClassGone       = zerr.Gone
	ClassExists     = zerr.Exists
	ClassStream     = zerr.Stream
	ClassSpace      = zerr.Space
	ClassBusy       = zerr.Busy
	ClassHeld       = zerr.Held
	ClassClones     = zerr.Clones
	ClassFeature    = zerr.Feature
	ClassKey        = zerr.Key
	ClassPool       = zerr.Pool
	ClassPoolAbsent = zerr.PoolAbsent
	// ClassPoolReadOnly: see zerr.
	ClassPoolReadOnly = zerr.PoolReadOnly
	ClassBadArg       = zerr.BadArg
	ClassPeer         = zerr.Peer
	ClassHung         = zerr.Hung
	ClassCanceled     = zerr.Canceled
	ClassRefused      = zerr.Refused
	ClassUnknown      = zerr.Unknown
)

// ClassOf returns the class of err: empty for nil, ClassUnknown for an error that is none of this package.
func ClassOf(err error) Class { return zerr.Of(err) }

// refuse makes the error of a check that failed before anything was run.
func refuse(op, dataset string, err error) *Error { return zerr.Refuse(op, dataset, err) }
