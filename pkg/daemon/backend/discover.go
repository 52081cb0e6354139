package backend

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/discovery"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

func (b *Backend) lookHere(ctx context.Context, r discovery.Request) (discovery.Reply, error) {
	return discovery.Place{Name: b.Name, Storages: b.Own.Datasets, ZFS: b.Datasets}.Look(ctx, r)
}

// Discover finds datasets that look like volumes of guests that are not known.
func (b *Backend) Discover(ctx context.Context, r api.DiscoverRequest) (api.Discovery, error) {
	if _, err := b.cluster(); err != nil {
		return api.Discovery{}, err
	}
	ask := discovery.Request{Pattern: r.Pattern}
	if _, err := ask.Patterns(); err != nil {
		return api.Discovery{}, invalid("%v", err)
	}
	s := b.Book.Current()
	members := s.MemberList()
	if r.Node != "" {
		m, err := b.member(r.Node)
		if err != nil {
			return api.Discovery{}, err
		}
		members = []ledger.Member{m}
	}
	answers := poll.All(ctx, b.asker(), members, poll.Question[discovery.Request, discovery.Reply]{
		Path: pathLook, Ask: ask, Here: b.lookHere, Patience: overview.ReportTimeout,
	})
	out := api.Discovery{Version: api.Version, Silent: []guest.NodeName{}}
	var unseen []string
	f := discovery.Finder{Ledger: s}
	for _, m := range members {
		a := answers[m.ID]
		if a.Err != nil {
			out.Silent = append(out.Silent, m.Name)
			unseen = append(unseen, fmt.Sprintf("node %s was not looked at: %v", m.Name, b.failure(a.Err)))
			continue
		}
		f.Node(m, a.Said)
	}
	guests, warnings := f.Result()
	out.Guests, out.Warnings = some(guests), some(append(unseen, warnings...))
	return out, nil
}
