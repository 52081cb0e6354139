package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
)

// backend answers the clients on the socket.
type backend struct{ d *Daemon }

var _ api.Backend = (*backend)(nil)

// cluster is what runs, or an error that says how to get there.
func (b *backend) cluster() (*cluster, error) {
	if c := b.d.cluster.Load(); c != nil {
		return c, nil
	}
	if s := b.d.book.Current(); s.Founded() {
		return nil, &api.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("node %s is in cluster %s, but its part in it has not started", b.d.conf.NodeName, s.Cluster),
			Hint:    "see why with `journalctl -u tandemd`, then `systemctl restart tandemd`",
		}
	}
	return nil, &api.Error{
		Code: api.CodeRefused, Message: fmt.Sprintf("node %s is in no cluster", b.d.conf.NodeName),
		Hint: "found one with `tandem cluster init`, or join one with `tandem cluster join ADDRESS TOKEN`",
	}
}

// Status is the whole cluster.
func (b *backend) Status(ctx context.Context, f api.Filter) (api.Status, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Status{}, err
	}
	if f.Node != "" {
		if _, err := b.member(f.Node); err != nil {
			return api.Status{}, err
		}
	}
	if _, ok := b.d.book.Current().Guests[f.Guest]; f.Guest != 0 && !ok {
		return api.Status{}, notFound("guest %s does not exist", f.Guest)
	}
	return c.overview.Status(ctx, f), nil
}

// Cluster is the members and the quorum.
func (b *backend) Cluster(ctx context.Context) (api.Cluster, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Cluster{}, err
	}
	return c.overview.Cluster(ctx), nil
}

// InitCluster founds a cluster of this node alone.
func (b *backend) InitCluster(ctx context.Context) (api.Cluster, error) {
	d := b.d
	d.joining.Lock()
	defer d.joining.Unlock()
	if err := b.outside(); err != nil {
		return api.Cluster{}, err
	}
	found := ledger.Found{
		Cluster: randomHex(16), Generation: randomHex(8), Member: d.self(),
		Gossip: ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)},
	}
	_, _ = rand.Read(found.Gossip.Key) // never fails
	c, err := d.found(ctx, found)
	if err != nil {
		return api.Cluster{}, b.failure(err)
	}
	d.log.Info("cluster founded", zap.String("cluster", found.Cluster), zap.String("generation", found.Generation))
	return b.enter(ctx, c, c.cons.View())
}

// found writes the first entries of a new ledger, in a folder that only counts
// once cluster.json names it.
func (d *Daemon) found(ctx context.Context, op ledger.Found) (*cluster, error) {
	c := d.newCluster()
	if err := c.openConsensus(op.Generation); err != nil {
		return nil, errors.Join(err, c.close())
	}
	err := c.cons.Found(ctx)
	if err == nil {
		err = c.propose(ctx, string(d.conf.NodeName), op)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// outside refuses where this node is in a cluster already.
func (b *backend) outside() error {
	if s := b.d.book.Current(); s.Founded() {
		return &api.Error{
			Code:    api.CodeRefused,
			Message: fmt.Sprintf("node %s is in cluster %s already", b.d.conf.NodeName, s.Cluster),
			Hint:    "see it with `tandem cluster status`",
		}
	}
	return nil
}

// enter makes a cluster this node's own: on disk first, then running.
func (b *backend) enter(ctx context.Context, c *cluster, s *ledger.State) (api.Cluster, error) {
	if err := b.d.state.saveCluster(s); err != nil {
		return api.Cluster{}, b.failure(errors.Join(err, c.close()))
	}
	b.d.book.Learn(s)
	if err := b.d.startCluster(c); err != nil {
		return api.Cluster{}, b.failure(err)
	}
	return b.Cluster(ctx)
}

// Token lets one node join.
func (b *backend) Token(_ context.Context, r api.TokenRequest) (api.Token, error) {
	if _, err := b.cluster(); err != nil {
		return api.Token{}, err
	}
	ttl := time.Hour
	if r.TTL != 0 {
		ttl = time.Duration(r.TTL) * time.Second
	}
	if ttl < time.Minute || ttl > 7*24*time.Hour {
		return api.Token{}, invalid("a token can be used for a minute to a week, not %s", ttl)
	}
	self := b.d.self()
	issuer := identity.Issuer{Addresses: []string{self.Peer}, Fingerprint: self.Fingerprint}
	t, err := b.d.tokens.Mint(time.Now(), ttl, issuer)
	if err != nil {
		return api.Token{}, b.failure(err)
	}
	b.d.log.Info("join token made", zap.String("token", t.ID), zap.Time("expires", t.Expires))
	return api.Token{Text: t.String(), Address: self.Peer, Expires: t.Expires}, nil
}

// Join takes this node into the cluster of another.
func (b *backend) Join(ctx context.Context, r api.JoinRequest) (api.Cluster, error) {
	d := b.d
	d.joining.Lock()
	defer d.joining.Unlock()
	if err := b.outside(); err != nil {
		return api.Cluster{}, err
	}
	t, err := identity.ParseToken(r.Token)
	if err != nil {
		return api.Cluster{}, &api.Error{Code: api.CodeInvalid, Message: err.Error(), Hint: "copy the whole token that `tandem cluster token` printed"}
	}
	self := d.self()
	req, reply := member.JoinRequest{Token: r.Token, Member: self}, member.JoinReply{}
	err = d.peer.JoinCall(ctx, peer.Target{Address: r.Address, Fingerprint: t.Fingerprint}, member.PathJoin, req, &reply)
	if err != nil {
		return api.Cluster{}, joinFailure(r.Address, err)
	}
	if err := reply.Check(self); err != nil {
		return api.Cluster{}, b.failure(err)
	}
	d.log.Info("joined", zap.String("cluster", reply.Ledger.Cluster), zap.String("by", r.Address))
	return b.enter(ctx, d.newCluster(), reply.Ledger)
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

// member finds a node by name, or names those that there are.
func (b *backend) member(name guest.NodeName) (ledger.Member, error) {
	s := b.d.book.Current()
	if m, ok := s.MemberByName(name); ok {
		return m, nil
	}
	var names []string
	for _, m := range s.MemberList() {
		names = append(names, string(m.Name))
	}
	return ledger.Member{}, &api.Error{
		Code: api.CodeNotFound, Message: fmt.Sprintf("node %s is not a member of the cluster", name),
		Hint: "the members are " + strings.Join(names, ", "),
	}
}

func invalid(format string, args ...any) error {
	return &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf(format, args...)}
}

// failure turns any error into one that clients understand, with names for IDs.
func (b *backend) failure(err error) error {
	e := classify(err)
	named := b.d.book.Current().Named
	return &api.Error{Code: e.Code, Message: named(e.Message), Hint: named(e.Hint)}
}

func classify(err error) *api.Error {
	var known *api.Error
	var refused *consensus.RefusedError
	var remote *peer.RemoteError
	out := &api.Error{Code: api.CodeInternal, Message: err.Error()}
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &refused):
		out.Code = api.CodeRefused
	case errors.Is(err, consensus.ErrUnknownOutcome):
		out.Code, out.Hint = api.CodeUnknown, "look at `tandem list` whether it was done before you try again"
	case errors.As(err, &remote):
		out.Code = api.CodeRefused
	case errors.Is(err, peer.ErrUnreachable):
		out.Code = api.CodeUnavailable
	}
	// An error with a class of its own is something that the operator can act on.
	if _, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err); ok && out.Code == api.CodeInternal {
		out.Code = api.CodeRefused
	}
	if out.Hint == "" {
		out.Hint = replicate.HintOf(err)
	}
	return out
}
