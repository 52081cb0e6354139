// Package daemon is the assembly of tandemd: it builds every part, joins them
// through the small interfaces that they declare, and runs them until told to
// stop. It holds no logic of replication or agreement itself.
//
// New builds without side effects beyond the state folder; Run works. A node is
// in no cluster at first; cluster init, cluster join, or a cluster.json of an
// earlier life starts the rest (see cluster.go).
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/api/socket"
	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/backend"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/move/drill"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/quiesce"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/release"
	"github.com/tandemd/tandem/pkg/replicate/verify/reading"
	"github.com/tandemd/tandem/pkg/statefile"
	"github.com/tandemd/tandem/pkg/unit"
	"github.com/tandemd/tandem/pkg/zfs"
)

// ZFS is what the daemon needs of ZFS: *zfs.ZFS, or the in-memory one of tests.
type ZFS interface {
	replicate.ZFS
	release.ZFS
	reading.ZFS
	drill.ZFS
	Storage(ctx context.Context, dataset string) (zfs.Storage, error)
	PoolTrouble(pool string) (zfs.PoolTrouble, error)
}

// Options say what to build.
type Options struct {
	Config config.Config
	// Version is shown to peers and in the log.
	Version string
	Logger  *zap.Logger
	// ZFS is nil for the machine's own.
	ZFS ZFS
	// Units is nil for the machine's own, over D-Bus.
	Units Units
	// BootID names this run of the machine; empty: as the kernel says.
	BootID string
	// Watchdog is the command that thaws a guest if the daemon dies, with the path of a
	// note appended (tandemd watch-frozen); empty: none.
	Watchdog []string
	// Timing of the agreement; zero fields take the defaults.
	Timing consensus.Timing
	// Now is the clock of schedules, tokens and records; nil for the machine's. It may
	// be wrong by years, and jump.
	Now func() time.Time
	// Settle is how long a guest must stay up in a drill; default 30 s.
	Settle time.Duration
}

// Daemon is one tandemd.
type Daemon struct {
	conf    config.Config
	log     *zap.Logger
	version string
	state   folder
	id      identity.Identity
	tokens  *identity.Tokens
	book    *member.Book
	peer    *peer.Peer
	zfs     ZFS
	units   Units
	bootID  string
	// quiescer freezes guests for the moment of a point; standing are those that it
	// cannot thaw.
	quiescer *quiesce.Quiescer
	standing *standstill
	timing   consensus.Timing
	settle   time.Duration
	history  *history.Store
	boot     uint64
	reserve  *statefile.Reserve
	// rate is what all streams of this node share; limits are those in force. Both
	// change with Reload.
	rate   *rate.Limiter
	limits atomic.Pointer[config.Limits]
	// bootSaved: the count of starts is on disk, or never will be. It belongs to New, and
	// then to cluster.save.
	bootSaved bool
	now       func() time.Time
	// troubles are the state files that the daemon does without.
	troubles *troubles
	// storages are those of the configuration, as they are now.
	storages overview.Storages
	pools    *pools

	// backend answers the clients.
	backend *backend.Backend

	// cluster is set once this node is in one.
	cluster atomic.Pointer[cluster]
	// joining keeps init and join apart from each other.
	joining sync.Mutex
	// life is Run's context, for what a cluster starts.
	life context.Context //nolint:containedctx // see above
	wg   sync.WaitGroup
}

// reserveSize is what is kept free for the daemon's own state on a disk that
// something else fills.
const reserveSize = 16 << 20

// stopTimeout is how long Run waits for its parts; systemd waits 10 s.
const stopTimeout = 8 * time.Second

// New opens the state folder and builds the parts.
func New(o Options) (*Daemon, error) {
	conf, log := o.Config, o.Logger
	state, err := openFolder(conf.StateDir)
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		conf: conf, log: log, version: o.Version, state: state, zfs: o.ZFS, timing: o.Timing, now: o.Now, troubles: newTroubles(log),
		settle: o.Settle,
	}
	if d.now == nil {
		d.now = time.Now
	}
	d.units, d.bootID = o.Units, o.BootID
	if d.units == nil {
		d.units = unit.New(unit.Options{})
	}
	if d.quiescer, err = d.newQuiescer(o.Watchdog); err != nil {
		return nil, err
	}
	d.limits.Store(&conf.Limits)
	d.rate = node.NewLimiter(conf.Limits.RateLimit)
	if d.id, err = state.identity(); err != nil {
		return nil, err
	}
	known, err := state.cluster()
	if err != nil {
		return nil, fmt.Errorf("the cluster as it was last known: %w", err)
	}
	d.book = member.NewBook(known)
	if err := d.openCaches(); err != nil {
		return nil, err
	}
	if d.zfs == nil {
		if d.zfs, err = zfs.New(zfs.Options{}); err != nil {
			return nil, err
		}
	}
	if d.reserve, err = statefile.OpenReserve(state.path("reserve"), reserveSize); err != nil {
		log.Warn("no space is kept in reserve in the state folder", zap.Error(err))
	}
	d.storages = overview.Storages{Datasets: conf.Storages, ZFS: d.zfs}
	d.pools = d.newPools()
	d.peer, err = peer.New(peer.Options{
		Node: d.id.Node, Certificate: d.id.Certificate, Trust: d.book, Resolver: resolver{d}, Known: d.knows, Logger: log.Named("peer"),
	})
	if err != nil {
		return nil, errors.Join(err, d.history.Close())
	}
	d.backend = d.newBackend()
	return d, nil
}

// openCaches opens what the daemon can do without: what is wrong with it does not
// keep the daemon from starting.
func (d *Daemon) openCaches() (err error) {
	d.boot, d.bootSaved, err = d.state.nextBoot(d.now())
	d.troubles.note(d.state.path(bootFile), err)
	d.tokens, err = identity.OpenTokens(d.state.path(tokensFile))
	d.troubles.note(d.state.path(tokensFile), err)
	path := d.state.path(historyFile)
	var aside string
	d.history, aside, err = history.Open(path, history.Options{
		Keep: d.conf.HistoryRuns, Report: func(err error) { d.troubles.note(path, err) },
	})
	if d.history == nil {
		return fmt.Errorf("the history of runs: %w", err)
	}
	if aside != "" {
		d.log.Warn("the history of runs was broken and begins anew", zap.String("set_aside", aside))
	}
	return nil
}

// Run works until ctx ends; ready is called once clients and peers are served.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.life = ctx
	clients, peers, err := d.listen(ctx)
	if err != nil {
		return errors.Join(err, d.history.Close())
	}
	fail := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("%s: %w", what, err))
		}
	}
	d.wg.Go(func() { fail("serve peers", d.peer.Serve(ctx, peers, d.handlers())) })
	d.checkStorages(ctx)
	d.wg.Go(func() { d.pools.run(ctx) })
	d.wg.Go(func() { d.quiescer.Run(ctx) })
	if d.book.Current().Founded() {
		if err := d.startCluster(d.newCluster()); err != nil {
			cancel(err)
		}
	}
	srv := &http.Server{Handler: api.NewHandler(d.backend, d.log.Named("api")), ReadHeaderTimeout: 10 * time.Second, ConnContext: socket.ConnContext}
	d.wg.Go(func() { fail("serve clients", ignoreClosed(srv.Serve(clients))) })
	if ctx.Err() == nil {
		d.log.Info("tandemd serves", zap.String("node", string(d.conf.NodeName)), zap.String("version", d.version),
			zap.String("peer", d.conf.Peer), zap.String("socket", d.conf.Socket))
		ready()
	}
	<-ctx.Done()
	err = context.Cause(ctx)
	d.stop(srv)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (d *Daemon) listen(ctx context.Context) (clients, peers net.Listener, err error) {
	var lc net.ListenConfig
	if peers, err = lc.Listen(ctx, "tcp", d.conf.Peer); err != nil {
		return nil, nil, fmt.Errorf("listen for peers on %s (peer in the configuration): %w", d.conf.Peer, err)
	}
	if clients, err = socket.Listen(ctx, d.conf.Socket); err != nil {
		return nil, nil, errors.Join(err, peers.Close())
	}
	return clients, peers, nil
}

// stop ends the parts, last one first, but no later than systemd would end us.
func (d *Daemon) stop(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.life), stopTimeout)
	defer cancel()
	if err := srv.Close(); err != nil {
		d.log.Warn("stop serving clients", zap.Error(err))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c := d.cluster.Load(); c != nil {
			c.stop()
		}
		d.wg.Wait()
		d.units.Close()
		if err := errors.Join(d.peer.Close(), d.history.Close()); err != nil {
			d.log.Warn("stop", zap.Error(err))
		}
	}()
	select {
	case <-done:
		d.log.Info("tandemd stopped")
	case <-ctx.Done():
		d.log.Warn("tandemd stops without waiting any longer for what still runs")
	}
}

// Healthy says whether the event loop goes round, for systemd's watchdog.
func (d *Daemon) Healthy() bool {
	const patience = 15 * time.Second // the loop goes round at least every 5 s
	c := d.cluster.Load()
	return c == nil || c.node.Healthy(patience)
}

// checkStorages tells at once what the configuration has wrong about storages;
// it is no reason not to serve the others.
func (d *Daemon) checkStorages(ctx context.Context) {
	for _, s := range d.storages.Look(ctx) {
		if s.Error != "" {
			d.log.Error("a storage of the configuration is not usable", zap.String("storage", s.Name),
				zap.String("dataset", s.Dataset), zap.String("error", s.Error))
		}
	}
}

// self describes this node as its configuration does.
func (d *Daemon) self() ledger.Member {
	m := ledger.Member{
		ID: d.id.Node, Name: d.conf.NodeName, Fingerprint: d.id.Fingerprint,
		Peer: d.conf.PeerAdvertise, Gossip: d.conf.GossipAdvertise, Storages: d.storages.Names(),
		Format: ledger.Format,
	}
	if m.Peer == "" {
		m.Peer = d.conf.Peer
	}
	if m.Gossip == "" {
		m.Gossip = d.conf.Gossip
	}
	return m
}

// resolver lets pkg/peer find members by what the book says of their keys, and of
// where they are unless they say themselves that they are somewhere else.
type resolver struct{ d *Daemon }

// ResolvePeer is called for each new connection.
func (r resolver) ResolvePeer(id guest.NodeID) (peer.Target, error) {
	addr, fp, err := r.d.book.Locate(id)
	if err != nil {
		return peer.Target{}, err
	}
	// A member that came back with another address cannot tell the ledger before the
	// leader has found it. Whoever answers there still has to have its key.
	if c := r.d.cluster.Load(); c != nil {
		if said, ok := c.heard(id); ok {
			addr = said
		}
	}
	return peer.Target{Address: addr, Fingerprint: fp}, nil
}

// knows says whether a member is known to live at an address.
func (d *Daemon) knows(host netip.Addr) bool {
	for _, m := range d.book.Current().Members {
		if at, err := netip.ParseAddrPort(m.Peer); err == nil && at.Addr().Unmap() == host {
			return true
		}
	}
	return false
}

// raftLayer makes the connections of one generation's raft.
func (d *Daemon) raftLayer(generation string) (raft.StreamLayer, error) {
	return d.peer.RaftLayer(generation)
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
