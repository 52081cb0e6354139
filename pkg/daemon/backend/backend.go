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
	"github.com/tandemd/tandem/pkg/api/socket"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/failure"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/move/drill"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/release"
	"github.com/tandemd/tandem/pkg/replicate/verify"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Backend is the daemon as clients see it; all fields are required.
type Backend struct {
	Self  guest.NodeID
	Name  guest.NodeName
	Book  *member.Book
	Peers Peers
	// Own are the storages of this node's configuration.
	Own      overview.Storages
	History  *history.Store
	Datasets Datasets
	Door     Door
	// Running is what runs while this node is in a cluster; nil: it is in none.
	Running func() *Cluster
}

// Peers carries one question to another node; *peer.Peer.
type Peers interface {
	Call(ctx context.Context, to guest.NodeID, path string, req, resp any) error
}

// Datasets lists what is in a storage; pkg/zfs.
type Datasets interface {
	Children(ctx context.Context, root string) ([]zfs.Dataset, error)
}

// Door is how a node gets into a cluster, and lets others in.
type Door interface {
	// Init founds a cluster of this node alone and starts it.
	Init(ctx context.Context, r api.InitRequest) error
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
	Releaser *release.Releaser
	Verifier *verify.Verifier
	// Unread ends what is read of a guest's volumes on this node.
	Unread func(id guest.ID)
	// Runs says whether a unit runs on this node.
	Runs  func(ctx context.Context, unit string) (bool, error)
	Aside *aside.Keeper
	// Mounts is the folder below which diverged data is mounted for operators.
	Mounts string
	Copies Copies
	Keeper Keeper
	// Units is what this node says of the units of guests that it owns or runs, Heard
	// what the others that are alive gossip of theirs.
	Units   func() map[guest.ID]node.UnitWord
	Heard   func() map[guest.NodeID]map[guest.ID]node.UnitWord
	Members Members
	// Mover moves guests away from this node, Recoverer tells what it has of others'.
	Mover     *migrate.Mover
	Recoverer Recoverer
	// Drills try replicas on this node.
	Drills *drill.Drills
	// Propose carries a command to the ledger and has the book learn of it.
	Propose func(ctx context.Context, by string, op ledger.Op) error
	// History is the ledger's last changes, oldest first.
	History func() []ledger.Change
}

// Members is who may decide, and which generation of the ledger this node follows.
type Members interface {
	// Expected forks the ledger so that this node is quorate with so many expected
	// votes, or refuses; by is who asked. The warnings are whole sentences.
	Expected(ctx context.Context, votes int, by string) (warnings []string, err error)
	// Yield gives this node's generation up for another; empty: the only other one.
	Yield(ctx context.Context, generation string) error
	// HandOver has the leader let another voter lead.
	HandOver(ctx context.Context, leader guest.NodeID) error
	// Voters tells of each node in raft's configuration whether it votes.
	Voters() (map[guest.NodeID]bool, error)
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
func (b *Backend) InitCluster(ctx context.Context, r api.InitRequest) (api.Cluster, error) {
	if err := b.Door.Init(ctx, r); err != nil {
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
	return b.editFor(ctx, b.caller(ctx), op)
}

// editFor is edit for somebody who asked another node.
func (b *Backend) editFor(ctx context.Context, by string, op ledger.Op) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	err = c.Propose(ctx, by, op)
	if errors.Is(err, consensus.ErrNotQuorate) {
		err = failure.NotQuorate(c.Overview.Votes(), err)
	}
	if err != nil {
		return b.failure(err)
	}
	return nil
}

// alive are the nodes that gossip holds for alive.
func (b *Backend) alive() map[guest.NodeID]bool {
	if c := b.Running(); c != nil {
		return c.Overview.Alive()
	}
	return nil
}

func (b *Backend) asker() poll.Asker {
	return poll.Asker{Self: b.Self, Alive: b.alive(), Call: b.Peers.Call}
}

// caller is who asks, as the ledger's history names people.
func (b *Backend) caller(ctx context.Context) string {
	return socket.Caller(ctx) + "@" + string(b.Name)
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
	e := failure.Of(err)
	named := b.Book.Current().Named
	return &api.Error{Code: e.Code, Message: named(e.Message), Hint: named(e.Hint)}
}
