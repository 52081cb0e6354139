// Package backend answers the clients on the socket: it checks what they ask for,
// asks the nodes concerned, and carries changes to the ledger. It also answers the
// calls by which the backends of the nodes help each other.
//
// It runs nothing of its own and decides nothing that the ledger decides;
// pkg/daemon fills it. Each group of verbs has a file.
package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
)

// Backend is the daemon as clients see it; all fields are required.
type Backend struct {
	Self     guest.NodeID
	Name     guest.NodeName
	Book     *member.Book
	Peers    Peers
	Storages overview.Storages
	History  *history.Store
	Door     Door
	// Running is what runs while this node is in a cluster; nil: it is in none.
	Running func() *Cluster
}

// Peers carries one question to another node; *peer.Peer.
type Peers interface {
	Call(ctx context.Context, to guest.NodeID, path string, req, resp any) error
}

// Door is how a node gets into a cluster, and lets others in.
type Door interface {
	// Init founds a cluster of this node alone and starts it.
	Init(ctx context.Context) error
	// Join enters the cluster of another node and starts it.
	Join(ctx context.Context, r api.JoinRequest) error
	// Token makes a token that lets one node join here.
	Token(ttl time.Duration) (api.Token, error)
}

// Cluster is what runs while this node is in one; all fields are required.
type Cluster struct {
	Overview *overview.Overview
	Node     *node.Node
	Source   *replicate.Source
	// Propose carries a command to the ledger and has the book learn of it.
	Propose func(ctx context.Context, by string, op ledger.Op) error
}

var _ api.Backend = (*Backend)(nil)

// cluster is what runs, or an error that says how to get there.
func (b *Backend) cluster() (*Cluster, error) {
	if c := b.Running(); c != nil {
		return c, nil
	}
	if s := b.Book.Current(); s.Founded() {
		return nil, &api.Error{
			Code:    api.CodeUnavailable,
			Message: fmt.Sprintf("node %s is in cluster %s, but its part in it has not started", b.Name, s.Cluster),
			Hint:    "see why with `journalctl -u tandemd`, then `systemctl restart tandemd`",
		}
	}
	return nil, &api.Error{
		Code: api.CodeRefused, Message: fmt.Sprintf("node %s is in no cluster", b.Name),
		Hint: "found one with `tandem cluster init`, or join one with `tandem cluster join ADDRESS TOKEN`",
	}
}

// Status is the whole cluster.
func (b *Backend) Status(ctx context.Context, f api.Filter) (api.Status, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Status{}, err
	}
	if f.Node != "" {
		if _, err := b.member(f.Node); err != nil {
			return api.Status{}, err
		}
	}
	if _, ok := b.Book.Current().Guests[f.Guest]; f.Guest != 0 && !ok {
		return api.Status{}, notFound("guest %s does not exist", f.Guest)
	}
	return c.Overview.Status(ctx, f), nil
}

// Cluster is the members and the quorum.
func (b *Backend) Cluster(ctx context.Context) (api.Cluster, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Cluster{}, err
	}
	return c.Overview.Cluster(ctx), nil
}

// InitCluster founds a cluster of this node alone.
func (b *Backend) InitCluster(ctx context.Context) (api.Cluster, error) {
	if err := b.Door.Init(ctx); err != nil {
		return api.Cluster{}, b.failure(err)
	}
	return b.Cluster(ctx)
}

// Join takes this node into the cluster of another.
func (b *Backend) Join(ctx context.Context, r api.JoinRequest) (api.Cluster, error) {
	if err := b.Door.Join(ctx, r); err != nil {
		return api.Cluster{}, b.failure(err)
	}
	return b.Cluster(ctx)
}

// Token lets one node join.
func (b *Backend) Token(_ context.Context, r api.TokenRequest) (api.Token, error) {
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
	t, err := b.Door.Token(ttl)
	if err != nil {
		return api.Token{}, b.failure(err)
	}
	return t, nil
}

// edit carries one command of an operator to the ledger.
func (b *Backend) edit(ctx context.Context, op ledger.Op) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	err = c.Propose(ctx, "operator@"+string(b.Name), op)
	if errors.Is(err, consensus.ErrNotQuorate) {
		d := c.Overview.Votes()
		return &api.Error{
			Code:    api.CodeNotQuorate,
			Message: fmt.Sprintf("not quorate: %d of %d votes, %d needed; nothing was changed", d.Votes, d.Voters, d.Quorum),
			Hint:    "see with `tandem cluster status` which members are away, and bring them back",
		}
	}
	if err != nil {
		return b.failure(err)
	}
	return nil
}

// member finds a node by name, or names those that there are.
func (b *Backend) member(name guest.NodeName) (ledger.Member, error) {
	s := b.Book.Current()
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
func (b *Backend) failure(err error) error {
	e := classify(err)
	named := b.Book.Current().Named
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
	case errors.Is(err, consensus.ErrUnknownOutcome), errors.Is(err, peer.ErrUnknownOutcome):
		out.Code, out.Hint = api.CodeUnknown, "look at `tandem list` whether it was done before you try again"
	case errors.As(err, &remote):
		out.Code = remoteCode(remote.Code)
	case errors.Is(err, peer.ErrUnreachable), errors.Is(err, peer.ErrRefused):
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

// remoteCode is the code of an error that another node's backend told; what
// other parts tell is a refusal.
func remoteCode(code string) api.Code {
	switch c := api.Code(code); c {
	case api.CodeInvalid, api.CodeNotFound, api.CodeRefused, api.CodeNotQuorate, api.CodeUnknown, api.CodeUnavailable, api.CodeInternal:
		return c
	default:
		return api.CodeRefused
	}
}
