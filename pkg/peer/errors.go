package peer

import (
	"errors"

	"github.com/tandemd/tandem/pkg/peer/stream"
)

// What can go wrong on the way. Every error of a call or a stream that is not the
// other node's own (*RemoteError) matches one of these, or io.ErrUnexpectedEOF for
// a stream that was cut, or the caller's context.
var (
	// ErrUnreachable: no connection came about, nothing was sent. Try again later.
	ErrUnreachable = errors.New("not reachable")
	// ErrRefused: one of the two does not take the other's key for a member's.
	ErrRefused = errors.New("keys do not match the member list")
	// ErrUnknownOutcome: the request was sent and no answer came.
	ErrUnknownOutcome = errors.New("sent, but not answered")
	// ErrStalled: a stream was cut because nothing came for too long.
	ErrStalled = stream.ErrStalled

	errUnlisted = errors.New("the key is not a member's")
)

// Codes that errors get here. Handlers add their own.
const (
	CodeFailed      = stream.CodeFailed     // the handler's error has no code
	CodeBadRequest  = stream.CodeBadRequest // the request could not be read
	CodeVersion     = stream.CodeVersion    // protocol version that it does not speak
	CodeUnknownCall = "unknown-call"        // no such path: another version
	CodeBusy        = "busy"                // too many at a time
	CodeTimeout     = "timeout"             // the caller's deadline passed while it worked
	CodeGeneration  = "generation"          // raft connection of another generation
)

// RemoteError is an error that another node told us of.
type RemoteError = stream.RemoteError

// SendStream is the sender's end of a data stream.
type SendStream = stream.Sender

// ReceiveStream is the receiver's end of a data stream.
type ReceiveStream = stream.Receiver
