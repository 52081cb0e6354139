// Package failure turns the errors of all parts of the daemon, and those that
// other nodes told, into what clients understand: a code, a sentence, a hint.
package failure

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/member/rules"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
)

// Of is the error as clients are told it; IDs of nodes are still in it.
func Of(err error) *api.Error {
	var known *api.Error
	var refused *consensus.RefusedError
	var remote *peer.RemoteError
	var decided *rules.Refusal
	out := &api.Error{Code: api.CodeInternal, Message: err.Error()}
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &refused), errors.As(err, &decided):
		out.Code = api.CodeRefused
	case errors.Is(err, consensus.ErrUnknownOutcome), errors.Is(err, peer.ErrUnknownOutcome):
		out.Code, out.Hint = api.CodeUnknown, "look at `tandem list` whether it was done before you try again"
	case errors.As(err, &remote):
		out.Code = remoteCode(remote.Code)
	case errors.Is(err, peer.ErrUnreachable), errors.Is(err, peer.ErrRefused):
		out.Code = api.CodeUnavailable
	}
	// An error with a class of its own is something that the operator can act on.
	if _, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err); ok && out.Code == api.CodeInternal {
		out.Code = api.CodeRefused
	}
	if out.Hint == "" {
		out.Hint = replicate.HintOf(err)
	}
	return out
}

// remoteCode is the code of an error that another node's backend told; what
// other parts tell is a refusal.
func remoteCode(code string) api.Code {
	switch c := api.Code(code); c {
	case api.CodeInvalid, api.CodeNotFound, api.CodeRefused, api.CodeNotQuorate, api.CodeUnknown, api.CodeUnavailable, api.CodeInternal:
		return c
	default:
		return api.CodeRefused
	}
}

// NotQuorate is what clients are told of a command that no leader took: err is
// consensus.ErrNotQuorate, v has the votes as this node sees them. IDs of nodes are
// still in it.
func NotQuorate(v api.Cluster, err error) *api.Error {
	out := &api.Error{
		Code:    api.CodeNotQuorate,
		Message: fmt.Sprintf("not quorate: %s; nothing was changed", v.Tally()),
		Hint:    "see with `tandem cluster status` which members are away, and bring them back",
	}
	if why := reasonOf(err); why != "" { // There may be votes enough then.
		out.Message = fmt.Sprintf("not quorate: %s; nothing was changed (%s)", why, v.Tally())
		out.Hint = "try again; if it stays so, " + out.Hint
	}
	return out
}

// reasonOf is what the error says beside that no leader took the command: why a leader
// did not. Another node's is in its own words.
func reasonOf(err error) string {
	text := err.Error()
	if remote, ok := errors.AsType[*peer.RemoteError](err); ok {
		text = remote.Message
	}
	for _, known := range []error{consensus.ErrNotQuorate, consensus.ErrNotLeader} {
		if text == known.Error() {
			return ""
		}
		text = strings.TrimPrefix(text, known.Error()+": ")
	}
	return text
}
