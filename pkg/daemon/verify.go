package daemon

import (
	"context"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/backend"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/verify"
	"github.com/tandemd/tandem/pkg/replicate/verify/reading"
)

// verification is what compares replicas on this node: as a guest's owner, and as
// a target.
type verification struct {
	reader   *reading.Reader
	verifier *verify.Verifier
	server   *verify.Server
}

func (c *cluster) newVerification(o replicate.Options) (verification, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return verification{}, err
	}
	r := reading.New(o, c.d.zfs, c.d.state.path(readingFolder))
	v := verify.New(o, link{c.d.peer, c.d.rate}, r, c.log.Named("verify"))
	return verification{reader: r, verifier: v, server: verify.NewServer(o, c.target, v)}, nil
}

// carryEvery is how often this node looks for what was found of the replicas of guests that it owns since a while. That asks
// nobody where nothing changed.
const carryEvery = 15 * time.Second

// carrying brings what verifications found from owner to owner, until ctx ends.
func (c *cluster) carrying(ctx context.Context) {
	for more := true; more; more = pause(ctx, carryEvery) {
		c.verification.verifier.Carry(ctx)
	}
}

// sweepEvery is between two looks for what ended verifications have left.
const sweepEvery = 10 * time.Minute

// verifying keeps what compares tidy until ctx ends, and then ends it.
func (c *cluster) verifying(ctx context.Context) {
	for more := true; more; more = pause(ctx, sweepEvery) {
		err := c.verification.reader.Sweep(ctx)
		if ctx.Err() != nil {
			break
		}
		c.d.troubles.note("verification", err)
	}
	var wg sync.WaitGroup
	wg.Go(c.verification.verifier.Close)
	wg.Go(c.verification.server.Close)
	wg.Wait()
}

// verified is what status tells of a job's verifications.
func (c *cluster) verified(j guest.Job) *api.Verified {
	return backend.Verified(c.verification.verifier.Record(j))
}

// verificationsLearn tells the verifications what the ledger says.
func (c *cluster) verificationsLearn(s *ledger.State) {
	c.verification.verifier.Learn(s)
	c.verification.server.Learn(s)
	if err := c.verification.verifier.Forget(s); err != nil {
		c.log.Warn("what verifications of a former job found is not forgotten", zap.Error(err))
	}
}

// unread ends what is read, or tried, of a guest's volumes on this node.
func (c *cluster) unread(id guest.ID) {
	c.verification.verifier.EndGuest(id)
	c.verification.server.EndGuest(context.Background(), id, verify.ErrRemoved)
	c.drills.EndGuest(context.Background(), id)
}

// unreadWait is how long what reads a replica has to end before the replica is set
// aside: a disk that gives nothing does not hold that up, which works beside clones.
const unreadWait = 10 * time.Second

// setAside ends what reads or tries a replica, and sets it aside.
func (c *cluster) setAside(ctx context.Context, from guest.NodeID, r replicate.AsideRequest) (replicate.AsideReply, error) {
	unread := func() {
		ctx, cancel := context.WithTimeout(ctx, unreadWait)
		defer cancel()
		if r.Verb == plan.SetAside {
			c.verification.server.EndGuest(ctx, r.Job.Guest, verify.Aside(r.Volume, r.Why))
		}
		c.drills.EndGuest(ctx, r.Job.Guest)
	}
	unread()
	reply, err := c.target.Aside(ctx, from, r)
	if reply.Dataset != "" {
		unread() // What began in between, with the replica as it was.
	}
	return reply, err
}

// verifyCalls are the calls of the target's side of a verification.
func verifyCalls(d *Daemon, mux *http.ServeMux) {
	peer.Handle(mux, verify.PathBegin, withCluster(d, func(ctx context.Context, c *cluster, r verify.BeginRequest) (verify.BeginReply, error) {
		return c.verification.server.Begin(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, verify.PathRead, withCluster(d, func(ctx context.Context, c *cluster, r verify.ReadRequest) (verify.ReadReply, error) {
		return c.verification.server.Read(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, verify.PathRecord, withCluster(d, func(ctx context.Context, c *cluster, r verify.RecordRequest) (verify.RecordReply, error) {
		return c.verification.server.Record(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, verify.PathAttend, withCluster(d, func(ctx context.Context, c *cluster, r verify.AttendRequest) (verify.Attended, error) {
		return c.verification.server.Attend(ctx, peer.Caller(ctx), r)
	}))
	peer.Handle(mux, verify.PathEnd, withCluster(d, func(ctx context.Context, c *cluster, r verify.EndRequest) (verify.Ended, error) {
		return c.verification.server.End(ctx, peer.Caller(ctx), r)
	}))
}
