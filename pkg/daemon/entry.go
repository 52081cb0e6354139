package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/backend"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/peer"
)

func (d *Daemon) newBackend() *backend.Backend {
	return &backend.Backend{
		Self: d.id.Node, Name: d.conf.NodeName, Book: d.book, Peers: d.peer, Own: d.storages, History: d.history,
		Datasets: d.zfs, Door: door{d},
		Running: func() *backend.Cluster {
			c := d.cluster.Load()
			if c == nil {
				return nil
			}
			return &backend.Cluster{
				Overview: c.overview, Node: c.node, Source: c.source, Releaser: c.releaser, Aside: c.diverged, Members: c,
				Propose: c.edit, History: c.cons.History, Verifier: c.verification.verifier, Unread: c.unread, Runs: c.runs,
				Keeper: c.keeper, Units: c.unitWords, Heard: c.heardUnits, Mover: c.mover, Recoverer: recoverer{c},
				Copies: copies{c}, Mounts: c.d.state.path(divergedFolder),
				Drills: c.drills,
			}
		},
	}
}

// door is how this node gets into a cluster, and lets others in.
type door struct{ d *Daemon }

// Init founds a cluster of this node alone.
func (e door) Init(ctx context.Context, r api.InitRequest) error {
	d := e.d
	d.joining.Lock()
	defer d.joining.Unlock()
	if err := d.outside(); err != nil {
		return err
	}
	found := ledger.Found{
		Cluster: randomHex(16), Generation: randomHex(guest.GenerationLen / 2), Member: d.self(),
		Gossip:   ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)},
		Settings: ledger.Settings{Name: r.Name},
	}
	_, _ = rand.Read(found.Gossip.Key) // never fails
	c, err := d.found(ctx, found)
	if err != nil {
		return err
	}
	d.log.Info("cluster founded", zap.String("cluster", found.Cluster), zap.String("generation", found.Generation))
	return d.enter(c, c.cons.View())
}

// found writes the first entries of a new ledger, in a folder that only counts
// once cluster.json names it.
func (d *Daemon) found(ctx context.Context, op ledger.Found) (*cluster, error) {
	c := d.newCluster()
	if err := c.openConsensus(op.Generation); err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.admitted.Store(true) // there is nobody to ask
	err := c.cons.Start()
	if err == nil {
		err = c.cons.Found(ctx)
	}
	if err == nil {
		err = c.propose(ctx, string(d.conf.NodeName), op)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// outside refuses where this node is in a cluster already.
func (d *Daemon) outside() error {
	if s := d.book.Current(); s.Founded() {
		return &api.Error{
			Code:    api.CodeRefused,
			Message: fmt.Sprintf("node %s is in cluster %s already", d.conf.NodeName, s.Cluster),
			Hint:    "see it with `tandem cluster status`",
		}
	}
	return nil
}

// removed says that this node was taken off the member list of its cluster, and
// knows it: then it may join again.
func (d *Daemon) removed() bool {
	c := d.cluster.Load()
	return c != nil && c.convener.Status().Removed != nil
}

// leave ends this node's part in the cluster that removed it. The ledger's folder
// stays: what is in it is no more than old.
func (d *Daemon) leave() {
	if c := d.cluster.Swap(nil); c != nil {
		c.stop()
	}
}

// enter makes a cluster this node's own: on disk first, then running.
func (d *Daemon) enter(c *cluster, s *ledger.State) error {
	if err := d.state.saveCluster(s); err != nil {
		return errors.Join(err, c.close())
	}
	d.book.Forget() // nothing, or the cluster that removed this node
	d.book.Learn(s)
	return d.startCluster(c)
}

// Token makes a token that only this node redeems.
func (e door) Token(ttl time.Duration) (api.Token, error) {
	self := e.d.self()
	issuer := identity.Issuer{Addresses: []string{self.Peer}, Fingerprint: self.Fingerprint}
	t, err := e.d.tokens.Mint(e.d.now(), ttl, issuer)
	if err != nil {
		return api.Token{}, err
	}
	e.d.log.Info("join token made", zap.String("token", t.ID), zap.Time("expires", t.Expires))
	return api.Token{Text: t.String(), Address: self.Peer, Expires: t.Expires}, nil
}

// Join takes this node into the cluster of another.
func (e door) Join(ctx context.Context, r api.JoinRequest) error {
	d := e.d
	d.joining.Lock()
	defer d.joining.Unlock()
	if err := d.outside(); err != nil && !d.removed() {
		return err
	}
	t, err := identity.ParseToken(r.Token)
	if err != nil {
		return &api.Error{Code: api.CodeInvalid, Message: err.Error(), Hint: "copy the whole token that `tandem cluster token` printed"}
	}
	self := d.self()
	req, reply := member.JoinRequest{Token: r.Token, Member: self, Force: r.Force}, member.JoinReply{}
	err = d.peer.JoinCall(ctx, peer.Target{Address: r.Address, Fingerprint: t.Fingerprint}, member.PathJoin, req, &reply)
	if err != nil {
		return joinFailure(r.Address, err)
	}
	if err := reply.Check(self); err != nil {
		return err
	}
	if err := reply.Ledger.Validate(); err != nil {
		return fmt.Errorf("the answer to the join is damaged: %w", err)
	}
	d.leave()
	d.log.Info("joined", zap.String("cluster", reply.Ledger.Cluster), zap.String("by", r.Address))
	return d.enter(d.newCluster(), reply.Ledger)
}

func joinFailure(addr string, err error) error {
	var remote *peer.RemoteError
	switch {
	case errors.As(err, &remote):
		return &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("%s did not take this node in: %s", addr, remote.Message), Hint: remote.Hint()}
	case errors.Is(err, peer.ErrRefused):
		return &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("%s does not have the key that the token names: %v", addr, err),
			Hint: "use the address that `tandem cluster token` printed: a token works only at the node that made it",
		}
	case errors.Is(err, peer.ErrUnknownOutcome):
		return &api.Error{
			Code: api.CodeUnknown, Message: fmt.Sprintf("%s was asked and did not answer: %v", addr, err),
			Hint: "the token may be used up: make a new one and join again; the node keeps its ID",
		}
	default:
		return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("cannot reach %s: %v", addr, err)}
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
