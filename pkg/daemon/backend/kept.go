package backend

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/release"
)

// Copies is what is done with copies of guests and needs more than this node's disks.
type Copies interface {
	// Remove destroys a node's kept copy of a guest, as far as the guest's owner has it all.
	Remove(ctx context.Context, id guest.ID, node guest.NodeID) (destroyed, left []string, err error)
	// Own makes the volumes of a guest of this node ready to be used.
	Own(ctx context.Context, id guest.ID) (warnings []string, err error)
}

// DiscardKept destroys a node's kept copy of a guest. The guest's owner says what it has itself, so it must answer; where the
// cluster does not know the guest any more, nothing goes that Tandem did not bring.
func (b *Backend) DiscardKept(ctx context.Context, r api.KeptRequest) (api.KeptRemoval, error) {
	out := api.KeptRemoval{Version: api.Version, Node: r.Node, Guest: r.Guest}
	c, err := b.cluster()
	if err != nil {
		return out, err
	}
	m, err := b.member(r.Node)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	s := b.Book.Current()
	g, known := s.Guests[r.Guest]
	switch {
	case known && g.Owner == m.ID:
		return out, &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("guest %s is on %s: what is there is the guest itself", g.ID, m.Name),
			Hint: "`tandem guest remove` takes a guest out of Tandem's care",
		}
	case known:
		out.Destroyed, out.Left, err = c.Copies.Remove(ctx, g.ID, m.ID)
		if err != nil {
			return out, b.ownersWord(s, g, err)
		}
	default:
		if err := b.discardOrphan(ctx, m, &out); err != nil {
			return out, err
		}
	}
	out.Destroyed, out.Left = some(out.Destroyed), some(out.Left)
	if len(out.Destroyed)+len(out.Left) == 0 {
		return out, &api.Error{
			Code: api.CodeNotFound, Message: fmt.Sprintf("node %s has no kept copy of guest %s", m.Name, r.Guest), Hint: "`tandem diverged list` shows all",
		}
	}
	return out, nil
}

// discardOrphan does it where no guest has the volumes any more.
func (b *Backend) discardOrphan(ctx context.Context, m ledger.Member, out *api.KeptRemoval) error {
	list, err := b.Diverged(ctx, api.DivergedRequest{Node: m.Name, Guest: out.Guest})
	if err != nil {
		return err
	}
	if len(list.Silent) > 0 {
		return &api.Error{Code: api.CodeUnavailable, Message: list.Warnings[0]}
	}
	q := release.Request{Guest: out.Guest, Index: b.Book.Current().Index, Delete: true}
	for _, k := range list.Kept {
		for _, v := range k.Volumes {
			q.Volumes = append(q.Volumes, v.Volume)
		}
	}
	if len(q.Volumes) == 0 {
		return nil
	}
	results, err := errand[release.Request, []release.Result]{pathRelease, q, b.releaseHere}.at(ctx, b, m.Name)
	if err != nil {
		return err
	}
	for _, res := range results {
		if res.Destroyed {
			out.Destroyed = append(out.Destroyed, res.Dataset)
		} else {
			out.Left = append(out.Left, fmt.Sprintf("%s: %s", res.Dataset, res.Left))
		}
	}
	return nil
}
