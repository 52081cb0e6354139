package backend

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/aside"
)

// divergedReply is what one node has set aside; Trouble is why it may not be all.
type divergedReply struct {
	Copies  []api.DivergedCopy `json:"copies"`
	Kept    []api.KeptCopy     `json:"kept,omitempty"`
	Trouble string             `json:"trouble,omitempty"`
}

func (b *Backend) divergedHere(ctx context.Context, _ struct{}) (divergedReply, error) {
	c, err := b.cluster()
	if err != nil {
		return divergedReply{}, err
	}
	copies, err := c.Aside.All(ctx, b.Book.Current().Cluster)
	var out divergedReply
	for _, x := range copies {
		out.Copies = append(out.Copies, b.copyOf(x))
	}
	kept, unread := c.Overview.Kept(ctx)
	out.Kept = kept
	if err = cmp.Or(err, unread); err != nil {
		out.Trouble = err.Error()
	}
	return out, nil
}

func (b *Backend) copyOf(c aside.Copy) api.DivergedCopy {
	out := api.DivergedCopy{
		Node: b.Name, Dataset: c.Data.Name, Guest: c.Guest, Volume: c.Volume, SetAside: c.At, Why: c.Why,
		Used: c.Data.Used, Base: c.Data.Origin, Term: c.Term, OwnerTerm: c.ByTerm,
	}
	if c.Owner != "" {
		out.Owner = guest.NodeName(b.Book.Current().NameOf(c.Owner))
	}
	return out
}

// Diverged are the copies that were set aside, by node.
func (b *Backend) Diverged(ctx context.Context, r api.DivergedRequest) (api.DivergedList, error) {
	if _, err := b.cluster(); err != nil {
		return api.DivergedList{}, err
	}
	members := b.Book.Current().MemberList()
	if r.Node != "" {
		m, err := b.member(r.Node)
		if err != nil {
			return api.DivergedList{}, err
		}
		members = []ledger.Member{m}
	}
	answers := poll.All(ctx, b.asker(), members, poll.Question[struct{}, divergedReply]{
		Path: pathDiverged, Here: b.divergedHere, Patience: overview.ReportTimeout,
	})
	out := api.DivergedList{Version: api.Version, Copies: []api.DivergedCopy{}, Kept: []api.KeptCopy{}, Silent: []guest.NodeName{}, Warnings: []string{}}
	for _, m := range members {
		a := answers[m.ID]
		switch {
		case a.Err != nil:
			out.Silent = append(out.Silent, m.Name)
			out.Warnings = append(out.Warnings, fmt.Sprintf("node %s did not tell what it has set aside: %v", m.Name, b.failure(a.Err)))
		case a.Said.Trouble != "":
			out.Warnings = append(out.Warnings, fmt.Sprintf("node %s: not all that was set aside can be read: %s", m.Name, a.Said.Trouble))
		}
		out.Copies = append(out.Copies, slices.DeleteFunc(a.Said.Copies, func(c api.DivergedCopy) bool {
			return r.Guest != 0 && c.Guest != r.Guest
		})...)
		out.Kept = append(out.Kept, slices.DeleteFunc(a.Said.Kept, func(k api.KeptCopy) bool {
			return r.Guest != 0 && k.Guest != r.Guest
		})...)
	}
	return out, nil
}

// copyRequest asks the node itself about one of its copies.
type copyRequest struct {
	Dataset string `json:"dataset"`
}

// errand is a question about a copy, for the node that is to have it.
type errand[Q, A any] struct {
	path string
	ask  Q
	here func(ctx context.Context, ask Q) (A, error)
}

// at has the node answer that a client named.
func (e errand[Q, A]) at(ctx context.Context, b *Backend, name guest.NodeName) (A, error) {
	return atNode(ctx, b, named{name, "which is to have the copy"}, question{e.path, e.ask}, func() (A, error) { return e.here(ctx, e.ask) })
}

func (b *Backend) discardHere(ctx context.Context, r copyRequest) (api.DivergedCopy, error) {
	c, err := b.cluster()
	if err != nil {
		return api.DivergedCopy{}, err
	}
	gone, err := c.Aside.Discard(ctx, b.Book.Current().Cluster, r.Dataset)
	return b.copyOf(gone), err
}

// DiscardDiverged destroys one copy for good.
func (b *Backend) DiscardDiverged(ctx context.Context, r api.CopyRequest) (api.DivergedCopy, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return errand[copyRequest, api.DivergedCopy]{pathDiscard, copyRequest{r.Dataset}, b.discardHere}.at(ctx, b, r.Node)
}
