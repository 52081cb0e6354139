package overview

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Cluster is the cluster itself, with what all members tell of their storages.
func (o *Overview) Cluster(ctx context.Context) api.Cluster { return o.describe(o.reports(ctx)) }

// Votes is the cluster as this node alone knows it.
func (o *Overview) Votes() api.Cluster { return o.describe(nil) }

func (o *Overview) describe(all map[guest.NodeID]*Report) api.Cluster {
	s := o.Book.Current()
	out := api.Cluster{
		Version: api.Version, ID: s.Cluster, Generation: s.Generation, Index: s.Index, Quorate: o.Cons.Quorate(),
	}
	if l := o.Cons.Leader(); l != "" {
		out.Leader = guest.NodeName(s.NameOf(l))
	}
	votes := map[guest.NodeID]bool{}
	servers, err := o.Cons.Servers()
	if err == nil {
		for _, v := range servers {
			votes[v.Node] = v.Voter
		}
	}
	seen := map[guest.NodeID]gossip.Member{}
	for _, m := range o.Gossip.Members() {
		seen[m.Node] = m
	}
	for _, m := range s.MemberList() {
		am := api.Member{
			Name: m.Name, ID: m.ID, Peer: m.Peer, Gossip: m.Gossip, Voter: votes[m.ID], State: "unknown", Storages: []api.Storage{},
		}
		if g, ok := seen[m.ID]; ok {
			am.State, am.Since = string(g.State), g.Since
		}
		if m.ID == o.Self {
			am.State = "self"
		}
		am.Storages = storagesOf(m, all[m.ID])
		if am.Voter {
			out.Voters++
			if am.State == "self" || am.State == string(gossip.Alive) {
				out.Votes++
			}
		}
		out.Members = append(out.Members, am)
	}
	out.Quorum = out.Voters/2 + 1
	return out
}

func storagesOf(m ledger.Member, r *Report) []api.Storage {
	if r != nil && r.Storages != nil {
		return r.Storages
	}
	out := []api.Storage{}
	for _, name := range m.Storages {
		out = append(out, api.Storage{Name: name})
	}
	return out
}
