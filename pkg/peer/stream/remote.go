package stream

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/guest"
)

// ErrStalled says that the stream was cut because nothing came for too long.
var ErrStalled = errors.New("the stream stalled")

// Codes that are given here; handlers of calls and streams add their own.
const (
	CodeFailed     = "failed"      // the handler's error has no code
	CodeBadRequest = "bad-request" // what was asked could not be read
	CodeVersion    = "version"     // a protocol version that is not spoken
)

// RemoteError is an error that another node told us of.
type RemoteError struct {
	Node    guest.NodeID // empty on the join exchange
	Code    string       // for programs; never empty
	Message string       // for people
	Advice  string       // what the operator can do, or empty
}

// Error names the node and gives its message.
func (e *RemoteError) Error() string {
	if e.Node == "" {
		return "the other node says: " + e.Message
	}
	return fmt.Sprintf("node %s says: %s", e.Node.Short(), e.Message)
}

// ErrorCode is the code by which callers tell errors apart.
func (e *RemoteError) ErrorCode() string { return e.Code }

// Hint is what the operator can do, or empty.
func (e *RemoteError) Hint() string { return e.Advice }

// WireError is how an error travels.
type WireError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// maxMessage bounds an error's text in bytes, so that it always fits a frame.
const maxMessage = 16 << 10

func cutText(s string) string { return s[:min(len(s), maxMessage)] }

// ToWire takes code and hint from the first error in the chain that has them. An
// error that came from a third node passes with its own message.
func ToWire(err error) WireError {
	w := WireError{Code: CodeFailed, Message: cutText(err.Error())}
	if c, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err); ok && c.ErrorCode() != "" {
		w.Code = cutText(c.ErrorCode())
	}
	w.Hint = cutText(advice.Of(err))
	return w
}

// Remote is the error as the other end sees it: node had it.
func (w WireError) Remote(node guest.NodeID) *RemoteError {
	if w.Code == "" {
		w.Code = CodeFailed
	}
	if w.Message == "" {
		w.Message = "an error without a text"
	}
	return &RemoteError{Node: node, Code: w.Code, Message: w.Message, Advice: w.Hint}
}

// readRemote decodes an error as it travels.
func readRemote(node guest.NodeID, payload []byte) error {
	var w WireError
	if err := json.Unmarshal(payload, &w); err != nil {
		return fmt.Errorf("an error of node %s that cannot be read: %w", node.Short(), err)
	}
	return w.Remote(node)
}

// codedError is an error with a code.
type codedError struct {
	code string
	err  error
}

func (e *codedError) Error() string     { return e.err.Error() }
func (e *codedError) Unwrap() error     { return e.err }
func (e *codedError) ErrorCode() string { return e.code }

// Coded makes an error with a code that travels with it.
func Coded(code, format string, args ...any) error {
	return &codedError{code, fmt.Errorf(format, args...)}
}
