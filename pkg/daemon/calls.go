package daemon

import (
	"context"
	"errors"
	"net/http"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/verify"
)

// The calls between daemons, besides those of pkg/replicate, pkg/member
// and the backends.
const (
	pathApply  = "/ledger/apply"
	pathLedger = "/ledger/view"
	pathReport = "/node/report"
	// pathHandOver has the leader hand over.
	pathHandOver = "/member/hand-over"
	pathGossip   = "/gossip/fetch"
)

const codeNotLeader = "not_leader"

type applyRequest struct {
	Command []byte `json:"command"`
}

// gossipMessage is a request of pkg/gossip's, or the reply.
type gossipMessage struct {
	Data []byte `json:"data"`
}

// callError travels to another daemon with its code and hint.
type callError struct {
	code, hint string
	err        error
}

func (e *callError) Error() string     { return e.err.Error() }
func (e *callError) Unwrap() error     { return e.err }
func (e *callError) ErrorCode() string { return e.code }
func (e *callError) ErrorHint() string { return e.hint }

var errNoCluster = errors.New("this node is in no cluster")

// handlers is what this daemon answers to others.
func (d *Daemon) handlers() peer.Handlers {
	calls, join := http.NewServeMux(), http.NewServeMux()
	peer.Handle(calls, pathApply, withCluster(d, func(ctx context.Context, c *cluster, r applyRequest) (ledger.Outcome, error) {
		out, err := c.cons.ApplyHere(ctx, r.Command)
		if errors.Is(err, consensus.ErrNotLeader) {
			err = &callError{code: codeNotLeader, err: err}
		}
		return out, err
	}))
	peer.Handle(calls, pathLedger, withCluster(d, func(_ context.Context, c *cluster, _ struct{}) (*ledger.State, error) {
		return c.d.book.Current(), nil
	}))
	peer.Handle(calls, pathHandOver, withCluster(d, func(ctx context.Context, c *cluster, _ struct{}) (struct{}, error) {
		if err := c.cons.TransferLeadership(ctx); err != nil && !errors.Is(err, consensus.ErrNotLeader) {
			return struct{}{}, err
		}
		return struct{}{}, nil
	}))
	peer.Handle(calls, pathReport, withCluster(d, func(ctx context.Context, c *cluster, _ struct{}) (overview.Report, error) {
		return c.overview.Report(ctx), nil
	}))
	for _, mux := range []*http.ServeMux{calls, join} {
		peer.Handle(mux, member.PathClaim, withCluster(d, func(ctx context.Context, c *cluster, _ struct{}) (member.Answer, error) {
			return c.answer(ctx)
		}))
	}
	peer.Handle(calls, pathGossip, withCluster(d, func(_ context.Context, c *cluster, r gossipMessage) (gossipMessage, error) {
		reply, err := c.gossip.Serve(r.Data)
		return gossipMessage{reply}, err
	}))
	d.backend.Handle(calls)
	replicaCalls(d, calls)
	verifyCalls(d, calls)
	moveCalls(d, calls)
	peer.Handle(join, member.PathJoin, withCluster(d, func(ctx context.Context, c *cluster, r member.JoinRequest) (member.JoinReply, error) {
		return c.issuer().Admit(ctx, peer.CallerFingerprint(ctx), r)
	}))
	return peer.Handlers{Calls: calls, Join: join, Data: d.receive}
}

// replicaCalls are the calls of the target's side of a sync.
func replicaCalls(d *Daemon, mux *http.ServeMux) {
	peer.Handle(mux, replicate.PathInventory, withCluster(d, func(ctx context.Context, c *cluster, r replicate.InventoryRequest) (replicate.Inventory, error) {
		return c.target.Inventory(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, replicate.PathAbort, withCluster(d, func(ctx context.Context, c *cluster, r replicate.AbortRequest) (replicate.AbortReply, error) {
		return c.target.Abort(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, replicate.PathCommit, withCluster(d, func(ctx context.Context, c *cluster, r replicate.CommitRequest) (replicate.CommitReply, error) {
		return c.target.Commit(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, replicate.PathAside, withCluster(d, func(ctx context.Context, c *cluster, r replicate.AsideRequest) (replicate.AsideReply, error) {
		return c.setAside(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, replicate.PathRemove, withCluster(d, func(ctx context.Context, c *cluster, r replicate.RemoveRequest) (replicate.RemoveReply, error) {
		c.verification.server.EndGuest(ctx, r.Job.Guest, verify.ErrRemoved)
		c.drills.EndGuest(ctx, r.Job.Guest)
		return c.target.Remove(ctx, peer.Caller(ctx), r)
	}))
}

// withCluster answers with a clear error while this node is in no cluster.
func withCluster[Req, Resp any](
	d *Daemon, f func(context.Context, *cluster, Req) (Resp, error),
) func(context.Context, Req) (Resp, error) {
	return func(ctx context.Context, r Req) (Resp, error) {
		c := d.cluster.Load()
		if c == nil {
			var none Resp
			return none, &callError{code: string(api.CodeUnavailable), err: errNoCluster}
		}
		return f(ctx, c, r)
	}
}

// receive takes one stream of a sync.
func (d *Daemon) receive(ctx context.Context, s *peer.ReceiveStream) (any, error) {
	c := d.cluster.Load()
	if c == nil {
		return nil, errNoCluster
	}
	var h replicate.ReceiveHeader
	if err := s.Header(&h); err != nil {
		return nil, err
	}
	return c.target.Receive(ctx, s.Sender(), h, s)
}

func (c *cluster) askReport(ctx context.Context, id guest.NodeID) (*overview.Report, error) {
	var r overview.Report
	err := c.d.peer.Call(ctx, id, pathReport, struct{}{}, &r)
	return &r, err
}

func (c *cluster) issuer() member.Issuer {
	return member.Issuer{
		Redeem: func(token, fingerprint string) error {
			return c.d.tokens.Redeem(c.d.now(), token, fingerprint)
		},
		Propose: func(ctx context.Context, op ledger.Op) error {
			return c.edit(ctx, string(c.d.conf.NodeName), op)
		},
		View: func() *ledger.State { return c.d.book.Current() },
		Refused: func(fingerprint string, err error) {
			c.log.Warn("a node was not let in", zap.String("fingerprint", fingerprint), zap.Error(err))
		},
	}
}
