package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
)

// view is the ledger as pkg/replicate sees it: the newest that is known here.
type view struct{ c *cluster }

// View never blocks.
func (v view) View() *ledger.State { return v.c.d.book.Current() }

// WaitApplied returns once this node knows the ledger up to index.
func (v view) WaitApplied(ctx context.Context, index uint64) error {
	if v.c.d.book.Current().Index >= index {
		return nil
	}
	if err := v.c.cons.WaitApplied(ctx, index); err != nil {
		return err
	}
	v.c.d.book.Learn(v.c.cons.View())
	return nil
}

// council is raft's configuration for pkg/member's steward.
type council struct{ *consensus.Consensus }

// Suffrage tells of each server whether it votes.
func (c council) Suffrage() (map[guest.NodeID]bool, error) {
	servers, err := c.Servers()
	if err != nil {
		return nil, err
	}
	out := map[guest.NodeID]bool{}
	for _, s := range servers {
		out[s.Node] = s.Voter
	}
	return out, nil
}

// Change carries out one change.
func (c council) Change(ch member.Change) error {
	switch ch.Kind {
	case member.NoChange:
		return nil
	case member.AddFollower:
		return c.AddNonvoter(ch.Node)
	case member.Promote:
		return c.Promote(ch.Node)
	case member.Demote:
		return c.Demote(ch.Node)
	case member.Drop:
		return c.Remove(ch.Node)
	case member.HandOver:
		ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
		defer cancel()
		return c.TransferLeadership(ctx)
	default:
		return fmt.Errorf("change %q of the voters is not known", ch.Kind)
	}
}

// forward hands a command to the leader.
func (c *cluster) forward(ctx context.Context, leader guest.NodeID, data []byte) (ledger.Outcome, error) {
	var out ledger.Outcome
	err := c.d.peer.Call(ctx, leader, pathApply, applyRequest{Command: data}, &out)
	var remote *peer.RemoteError
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &remote) && remote.Code == codeNotLeader,
		errors.Is(err, peer.ErrUnreachable), errors.Is(err, peer.ErrRefused):
		return out, fmt.Errorf("%w: %w", consensus.ErrNotLeader, err)
	default:
		return out, err
	}
}

func gossipKeys(s *ledger.State) gossip.Keys {
	keys := gossip.Keys{Primary: s.Gossip[0].Key}
	for _, k := range s.Gossip[1:] {
		keys.Others = append(keys.Others, k.Key)
	}
	return keys
}

func (c *cluster) meta(s *ledger.State) gossip.Meta {
	return gossip.Meta{
		Name: c.d.conf.NodeName, Peer: c.d.self().Peer, Generation: s.Generation, Applied: c.cons.Applied(), Version: c.d.version,
		Boot: c.d.boot,
	}
}

// fetchGossip asks another node for what its gossip knows and ours does not.
func (c *cluster) fetchGossip(ctx context.Context, id guest.NodeID, request []byte) ([]byte, error) {
	var reply gossipMessage
	err := c.d.peer.Call(ctx, id, pathGossip, gossipMessage{request}, &reply)
	return reply.Data, err
}

// gossipPeers is where to look for the other members.
func (c *cluster) gossipPeers() []gossip.Peer {
	var out []gossip.Peer
	for _, m := range c.d.book.Current().MemberList() {
		if m.ID != c.d.id.Node {
			out = append(out, gossip.Peer{Node: m.ID, Address: m.Gossip})
		}
	}
	return out
}

// heard is where a member that is alive says that it takes peer connections.
func (c *cluster) heard(id guest.NodeID) (address string, ok bool) {
	m, ok := c.gossip.Member(id)
	if !ok || m.State != gossip.Alive {
		return "", false
	}
	if _, err := netip.ParseAddrPort(m.Meta.Peer); err != nil {
		return "", false
	}
	return m.Meta.Peer, true
}

// peers is who is alive, for the loop.
func (c *cluster) peers() map[guest.NodeID]node.Peer {
	out := map[guest.NodeID]node.Peer{}
	for _, m := range c.gossip.Members() {
		out[m.Node] = node.Peer{Alive: m.State == gossip.Alive, Since: m.Since, Boot: m.Meta.Boot}
	}
	return out
}

// sightings is who is alive and how far, for the steward.
func (c *cluster) sightings() map[guest.NodeID]member.Sighting {
	out, heard := map[guest.NodeID]member.Sighting{}, c.convener.Heard()
	for _, m := range c.gossip.Members() {
		out[m.Node] = member.Sighting{
			Alive: m.State == gossip.Alive, Since: m.Since, Generation: m.Meta.Generation, Applied: m.Meta.Applied,
			SetAside: heard[m.Node].SetAside,
		}
	}
	return out
}
