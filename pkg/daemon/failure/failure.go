// Package failure turns the errors of all parts of the daemon, and those that
// other nodes told, into what clients understand: a code, a sentence, a hint.
package failure

import (
	"errors"

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
