package backend

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Storages are those of all members, or of one, as they tell them.
func (b *Backend) Storages(ctx context.Context, node guest.NodeName) ([]api.NodeStorages, error) {
	if _, err := b.cluster(); err != nil {
		return nil, err
	}
	members := b.Book.Current().MemberList()
	if node != "" {
		m, err := b.member(node)
		if err != nil {
			return nil, err
		}
		members = []ledger.Member{m}
	}
	answers := poll.All(ctx, b.asker(), members, poll.Question[struct{}, []api.Storage]{
		Path: pathStorages, Patience: overview.ReportTimeout,
		Here: func(ctx context.Context, _ struct{}) ([]api.Storage, error) { return b.Own.Look(ctx), nil },
	})
	out := []api.NodeStorages{}
	for _, m := range members {
		a := answers[m.ID]
		n := api.NodeStorages{Node: m.Name, Silent: a.Err != nil, Storages: some(a.Said)}
		if n.Silent {
			n.Storages = []api.Storage{}
			for _, name := range m.Storages {
				n.Storages = append(n.Storages, api.Storage{Name: name})
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// checkStorages asks a target whether its storages can take the volumes. One that
// does not answer is no reason to refuse; the warnings say so. What names the
// thing that needs it.
func (b *Backend) checkStorages(ctx context.Context, what string, target ledger.Member, volumes []guest.Volume) (warnings []string, err error) {
	var storages []api.Storage
	if target.ID == b.Self {
		storages = b.Own.Look(ctx)
	} else {
		ctx, cancel := context.WithTimeout(ctx, overview.ReportTimeout)
		defer cancel()
		if err := b.Peers.Call(ctx, target.ID, pathStorages, struct{}{}, &storages); err != nil {
			return []string{fmt.Sprintf("node %s did not answer, so its storages were not checked: %v", target.Name, err)}, nil
		}
	}
	broken := map[string]string{}
	for _, s := range storages {
		broken[s.Name] = s.Error
	}
	for _, v := range volumes {
		if why := broken[v.Storage]; why != "" {
			return nil, &api.Error{
				Code:    api.CodeRefused,
				Message: fmt.Sprintf("%s: storage %s of node %s, which volume %s needs, cannot be used: %s", what, v.Storage, target.Name, v, why),
				Hint:    fmt.Sprintf("make the dataset on %s, or correct [storages] in its configuration", target.Name),
			}
		}
	}
	return nil, nil
}
