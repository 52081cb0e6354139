package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
)

// explainSlack is what an owner may need beyond the patience that it has with the target.
const explainSlack = 10 * time.Second

// Explain tells of a job why it is in its state and what its next sync would do:
// in the owner's words or, where the owner does not answer, by what is known here.
func (b *Backend) Explain(ctx context.Context, id guest.JobID) (api.Explanation, error) {
	s, j, err := b.job(id)
	if err != nil {
		return api.Explanation{}, err
	}
	c, err := b.cluster()
	if err != nil {
		return api.Explanation{}, err
	}
	var out api.Explanation
	if owner := s.Guests[id.Guest].Owner; owner == b.Self {
		out, err = b.explain(ctx, id)
	} else {
		wait := c.Overview.Patience(owner)
		if wait > explainSlack/2 { // alive: it plans, which may take its time
			wait += explainSlack
		}
		call, cancel := context.WithTimeout(ctx, wait)
		err = b.Peers.Call(call, owner, pathExplain, jobRequest{Job: id, Index: s.Index}, &out)
		cancel()
		if _, answered := errors.AsType[*peer.RemoteError](err); err != nil && !answered {
			out, err = c.Overview.Blind(s, j, err), nil
		}
	}
	if err != nil {
		return api.Explanation{}, b.failure(err)
	}
	c.Overview.Complete(ctx, s, j, &out)
	out.Job = jobOf(s, j)
	return out, nil
}

// explain is the owner's word.
func (b *Backend) explain(ctx context.Context, id guest.JobID) (api.Explanation, error) {
	s, j, err := b.job(id)
	if err != nil {
		return api.Explanation{}, err
	}
	c, err := b.cluster()
	if err != nil {
		return api.Explanation{}, err
	}
	if owner := s.Guests[id.Guest].Owner; owner != b.Self {
		return api.Explanation{}, &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("job %s runs on node %s, not on %s", id, s.NameOf(owner), b.Name),
			Hint: "the guest has just changed its node: try again",
		}
	}
	out := c.Overview.Explain(ctx, s, j)
	out.Job = jobOf(s, j)
	return out, nil
}
