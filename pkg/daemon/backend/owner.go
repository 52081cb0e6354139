package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
)

// question is a call to another node's backend.
type question struct {
	path string
	body any
}

// owner is the node that has a guest.
type owner struct {
	node guest.NodeID
	// whose is what it has to do with the question, and hint what to do where it does not answer.
	whose, hint string
	// changes: what was asked may have been done although no answer came.
	changes bool
}

// askOwner answers here where this node is the owner, else it asks the owner.
func askOwner[A any](ctx context.Context, b *Backend, o owner, q question, here func() (A, error)) (out A, err error) {
	if o.node == b.Self {
		if out, err = here(); err != nil {
			err = b.failure(err)
		}
		return out, err
	}
	err = b.Peers.Call(ctx, o.node, q.path, q.body, &out)
	_, answered := errors.AsType[*peer.RemoteError](err)
	switch {
	case err == nil:
		return out, nil
	case answered, o.changes && errors.Is(err, peer.ErrUnknownOutcome):
		return out, b.failure(err)
	default:
		s := b.Book.Current()
		return out, &api.Error{
			Code: api.CodeUnavailable, Hint: o.hint,
			Message: fmt.Sprintf("node %s, %s, did not answer: %s", s.NameOf(o.node), o.whose, s.Named(err.Error())),
		}
	}
}

// ofJob asks the node that runs the job; that changes nothing which could not be asked
// for again.
func ofJob[A any](ctx context.Context, b *Backend, id guest.JobID, q question, here func() (A, error)) (out A, err error) {
	s, _, err := b.job(id)
	if err != nil {
		return out, err
	}
	o := owner{
		node: s.Guests[id.Guest].Owner, whose: fmt.Sprintf("which runs job %s", id),
		hint: "see with `tandem cluster status` whether it is alive; what it does it goes on doing",
	}
	return askOwner(ctx, b, o, q, here)
}

// ofGuest has the node answer that owns the guest. What it was asked to change may be done although no answer came.
func ofGuest[A any](ctx context.Context, b *Backend, g guest.Guest, q question, here func() (A, error)) (A, error) {
	o := owner{
		node: g.Owner, whose: fmt.Sprintf("whose guest %s is", g.ID), changes: true,
		hint: "see with `tandem cluster status` whether it is alive; if it is lost, `tandem guest recover` brings the guest to another node",
	}
	return askOwner(ctx, b, o, q, here)
}

// named is a node that a client named.
type named struct {
	name guest.NodeName
	// whose is what it has to do with the question.
	whose string
}

// atNode has the node answer that a client named, which may be this one. What it was asked to change may be done although no
// answer came.
func atNode[A any](ctx context.Context, b *Backend, n named, q question, here func() (A, error)) (out A, err error) {
	if _, err := b.cluster(); err != nil {
		return out, err
	}
	m, err := b.member(n.name)
	if err != nil {
		return out, err
	}
	o := owner{node: m.ID, whose: n.whose, hint: "see with `tandem cluster status` whether it is alive", changes: true}
	return askOwner(ctx, b, o, q, here)
}
