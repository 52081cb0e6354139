package overview

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Cluster is the cluster itself, with what all members tell of their storages.
func (o *Overview) Cluster(ctx context.Context) api.Cluster { return o.describe(o.reports(ctx)) }

// Votes is the cluster as this node alone knows it.
func (o *Overview) Votes() api.Cluster { return o.describe(nil) }

// Alive are the nodes that gossip holds for alive, and this one.
func (o *Overview) Alive() map[guest.NodeID]bool {
	out := map[guest.NodeID]bool{o.Self: true}
	for _, m := range o.Gossip.Members() {
		if m.State == gossip.Alive {
			out[m.Node] = true
		}
	}
	return out
}

// standing is what the cluster is, beside who is in it.
func (o *Overview) standing(s *ledger.State) api.Standing {
	var out api.Standing
	if o.Standing != nil {
		out = o.Standing()
	}
	out.Name, out.Digest, out.Forced = s.Settings.Name, ledger.Digest(s.Settings), s.Forced
	for _, f := range s.Lineage {
		out.Lineage = append(out.Lineage, api.Fork{
			Generation: f.Generation, Parent: f.Parent, Index: f.Index,
			Node: guest.NodeName(s.NameOf(f.Node)), By: f.By, At: time.Unix(f.At, 0),
		})
	}
	return out
}

func (o *Overview) describe(all map[guest.NodeID]*Report) api.Cluster {
	s := o.Book.Current()
	out := api.Cluster{
		Version: api.Version, ID: s.Cluster, Generation: s.Generation, Index: s.Index, Quorate: o.Cons.Quorate(),
		Standing: o.standing(s),
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
			Witness: len(m.Storages) == 0, Joined: time.Unix(m.Joined, 0),
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
