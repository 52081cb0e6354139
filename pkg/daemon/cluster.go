package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/move/drill"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/move/retire"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/leftover"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/release"
)

// cluster is all that runs once this node is in a cluster.
type cluster struct {
	d      *Daemon
	log    *zap.Logger
	rooms  *consensus.DiskRooms
	cons   *consensus.Consensus
	gossip *gossip.Gossip
	node   *node.Node
	source *replicate.Source
	target *replicate.Target
	// finder looks for what former jobs have left.
	finder *leftover.Finder
	// pins tell which guests are being read, or were moved lately.
	pins *local.Pins
	// releaser takes Tandem off volumes that are a guest's no more.
	releaser *release.Releaser
	// verification compares replicas with their sources.
	verification verification
	// drills try replicas on this node.
	drills   *drill.Drills
	diverged *aside.Keeper
	quorate  *quorateTime
	// keeper starts and fences what runs on this node; promoter and retirer make its
	// volumes the owner's, and take them out of use; mover moves guests away.
	keeper   *keeper.Keeper
	promoter *promote.Promoter
	retirer  *retire.Retirer
	mover    *migrate.Mover
	steward  *member.Steward
	// convener meets other generations, gate holds raft back at the start, memory is
	// what was heard of other nodes.
	convener *member.Convener
	gate     *member.Gate
	memory   *member.Memory
	// wake has the steward look at once.
	wake chan struct{}
	// admitted is set once the gate is passed, boots counts the starts of the daemon.
	admitted atomic.Bool
	boots    atomic.Uint64
	// overview tells clients and other nodes how all this fares.
	overview *overview.Overview

	cancel context.CancelFunc
	wg     sync.WaitGroup

	// files is held while cluster.json is written.
	files    sync.Mutex
	saved    *ledger.State // what is in it
	entering *ledger.State // the generation that goTo goes to

	// The rest belongs to follow alone.
	acted      *ledger.State // what learnt acted on last
	announced  map[string][]byte
	membership map[guest.NodeID]ledger.Member
	guests     map[guest.ID]guest.Guest
}

func (d *Daemon) newCluster() *cluster {
	c := &cluster{
		d: d, log: d.log, announced: map[string][]byte{}, wake: make(chan struct{}, 1),
		rooms:  consensus.NewRooms(d.state.path("raft"), d.raftLayer, d.log.Named("consensus")),
		memory: member.NewMemory(facts{d.state, d.troubles}, d.log.Named("member")),
	}
	c.boots.Store(d.boot)
	c.convener = c.newConvener()
	return c
}

// startCluster starts the parts that need a cluster; the book says which.
func (d *Daemon) startCluster(c *cluster) error {
	known := d.book.Current()
	c.saved = known
	if err := c.build(known); err != nil {
		return errors.Join(err, c.close())
	}
	d.cluster.Store(c)
	c.run()
	return nil
}

func (c *cluster) build(known *ledger.State) error {
	d := c.d
	var err error
	if c.gate, err = c.newGate(known); err != nil && !c.admitted.Load() {
		d.log.Error("the ledger's folder cannot be read", zap.Error(err), zap.String("hint", advice.Of(err)))
	}
	if c.cons == nil { // not just founded
		if err := c.openConsensus(known.Generation); err != nil {
			return err
		}
	}
	c.gossip, err = gossip.Start(gossip.Options{
		Node: d.id.Node, Cluster: known.Cluster, Bind: d.conf.Gossip, Advertise: d.conf.GossipAdvertise,
		Keys: gossipKeys(known), Boot: d.boot, Meta: c.meta(known), Peers: c.gossipPeers, Fetch: c.fetchGossip,
		Logger: d.log.Named("gossip"),
	})
	if err != nil {
		return fmt.Errorf("start gossip on %s: %w", d.conf.Gossip, err)
	}
	c.quorate = newQuorateTime(facts{d.state, d.troubles}, func() time.Duration { return c.cons.Progress().QuorateFor })
	opts := replicate.Options{
		Quorate: c.quorate.get, KeepBase: time.Duration(d.conf.KeepBase),
		Node: d.id.Node, Name: d.conf.NodeName, Storages: d.conf.Storages, ZFS: d.zfs,
		Ledger: view{c}, Store: facts{d.state, d.troubles}, LockDir: d.state.path("locks"), Now: d.now,
		Locks: local.NewLocks(d.state.path("locks")), Together: local.NewTogether(d.zfs), Pins: local.NewPins(),
		Identities: local.NewIdentities(facts{d.state, d.troubles}), Quiescer: d.quiescer,
	}
	if c.source, err = replicate.NewSource(opts, link{d.peer, d.rate}); err != nil {
		return err
	}
	if c.target, err = replicate.NewTarget(opts); err != nil {
		return err
	}
	c.pins = opts.Pins
	if c.finder, err = leftover.New(opts, c.source, c.target); err != nil {
		return err
	}
	if c.releaser, err = release.New(opts, d.zfs); err != nil {
		return err
	}
	if err = c.newProofs(opts); err != nil {
		return err
	}
	if c.diverged, err = aside.New(opts); err != nil {
		return err
	}
	if c.keeper, err = c.newKeeper(opts); err != nil {
		return err
	}
	if c.mover, err = c.newMover(opts); err != nil {
		return err
	}
	c.node = node.New(node.Options{
		Self: d.id.Node, Name: d.conf.NodeName, Retries: d.conf.Retries(), Local: time.Local,
		Limits: limitsOf(*d.limits.Load()),
		Syncer: c.source, History: d.history, Drop: c.dropJob, Logger: d.log, Now: d.now,
	})
	c.steward = &member.Steward{
		Self: d.id.Node, Council: council{c.cons}, Sight: c.sightings, Logger: d.log.Named("member"), Wake: c.wake,
		Propose: func(ctx context.Context, op ledger.Op) error {
			return c.propose(ctx, "leader "+string(d.conf.NodeName), op)
		},
	}
	c.overview = &overview.Overview{
		Self: d.id.Node, Name: d.conf.NodeName, Storages: d.storages, Book: d.book,
		Cons: c.cons, Gossip: c.gossip, Node: c.node, Target: c.target, Ask: c.askReport,
		Standing: c.standing, Plan: c.source.Preview, Spread: func() time.Duration { return time.Duration(d.limits.Load().StartSpread) },
		Now: d.now, Troubles: func() []string {
			return slices.Concat(d.pools.list(), d.troubles.list(), d.standing.list(), c.keeper.Troubles())
		}, Verified: c.verified, Drilled: c.drilled,
		Aside: c.diverged, Moving: c.moving,
	}
	return nil
}

// openConsensus makes this node's part in the agreement, whose raft is not started
// yet.
func (c *cluster) openConsensus(generation string) (err error) {
	c.cons, err = consensus.Open(consensus.Options{
		Node: c.d.id.Node, Generation: generation, Rooms: c.rooms, Forward: c.forward, Hold: true, Entered: c.entered,
		Clear:   c.convener.Cleared,
		Reserve: c.d.reserve, Logger: c.d.log.Named("consensus"), Timing: c.d.timing,
	})
	return err
}

// run starts the loops.
func (c *cluster) run() {
	ctx, cancel := context.WithCancel(c.d.life)
	c.cancel = cancel
	c.wg.Go(func() { c.node.Run(ctx) })
	c.wg.Go(func() { c.follow(ctx) })
	c.wg.Go(func() { c.catchUp(ctx) })
	c.wg.Go(func() { c.declare(ctx) })
	c.wg.Go(func() { c.verifying(ctx) })
	c.wg.Go(func() { c.carrying(ctx) })
	c.wg.Go(func() { c.drilling(ctx) })
	c.wg.Go(func() { c.steward.Run(ctx) })
	c.wg.Go(func() {
		c.tidy(ctx)
		c.lookForLeftovers(ctx)
	})
	c.wg.Go(func() { c.quorate.run(ctx) })
	c.wg.Go(func() { c.keeper.Run(ctx) })
	c.wg.Go(func() { c.mover.Run(ctx) })
	c.wg.Go(func() {
		if !c.admitted.Load() {
			c.admit(ctx)
		}
		c.convener.Run(ctx)
	})
	c.wg.Go(func() {
		if err := c.gossip.Run(ctx); err != nil {
			c.log.Error("gossip ended", zap.Error(err))
		}
	})
}

func (c *cluster) stop() {
	if c.cancel != nil {
		c.cancel()
	}
	c.wg.Wait()
	if err := c.close(); err != nil {
		c.log.Warn("stop the ledger", zap.Error(err))
	}
}

func (c *cluster) close() error {
	if c.cons == nil {
		return nil
	}
	return c.cons.Close()
}

// follow carries news of the ledger and of gossip to those who need them.
func (c *cluster) follow(ctx context.Context) {
	again := time.NewTicker(saveEvery)
	defer again.Stop()
	for {
		begun := time.Now()
		// Others teach the book too, so that news is what follow has not acted on.
		c.d.book.Learn(c.cons.View())
		if s := c.d.book.Current(); s != c.acted {
			c.acted = s
			c.learnt(ctx, s)
		}
		if err := c.gossip.SetMeta(c.meta(c.acted)); err != nil {
			c.log.Warn("gossip what this node is", zap.Error(err))
		}
		c.node.Peers(ctx, c.peers())
		c.overview.Observe(time.Now())
		c.d.troubles.note("ledger", c.trouble())
		rest(ctx, time.Since(begun))
		select {
		case <-ctx.Done():
			c.save()
			return
		case <-again.C:
			c.save()
		case <-c.cons.Changed():
		case <-c.d.book.Changed():
		case <-c.gossip.Changed():
		case <-c.keeper.Changed():
			c.announce(c.acted)
		}
	}
}

// saveEvery is how often the ledger is kept for changes on which trust does not
// depend (after a restart the log brings them again), and tried to be kept again.
const saveEvery = 5 * time.Second

// learnt acts on a newer ledger.
func (c *cluster) learnt(ctx context.Context, s *ledger.State) {
	if !c.trustIsKept(s) {
		c.save()
	}
	if !maps.EqualFunc(c.membership, s.Members, sameMember) {
		c.membership = s.Members
		select {
		case c.wake <- struct{}{}:
		default: // the steward looks already
		}
		c.d.peer.Recheck()
		c.gossip.Rejoin()
	}
	if err := c.gossip.SetKeys(gossipKeys(s)); err != nil {
		c.log.Error("change the gossip key", zap.Error(err))
	}
	c.forgetMoves(s)
	c.target.EndStale()
	c.verificationsLearn(s)
	c.drillsLearn(s)
	c.keeper.Learn()
	c.announce(s)
	c.node.Ledger(ctx, s)
}

func sameMember(a, b ledger.Member) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Fingerprint == b.Fingerprint && a.Peer == b.Peer && a.Gossip == b.Gossip
}

// trustIsKept says whether cluster.json has what this node must know to hear the
// others, and be heard, after a restart.
func (c *cluster) trustIsKept(s *ledger.State) bool {
	c.files.Lock()
	defer c.files.Unlock()
	return s.Generation == c.saved.Generation && maps.EqualFunc(s.Members, c.saved.Members, sameMember) &&
		slices.EqualFunc(s.Gossip, c.saved.Gossip, func(a, b ledger.GossipKey) bool { return a.Number == b.Number && bytes.Equal(a.Key, b.Key) })
}

// save keeps the ledger for the next start: see member.Book.
func (c *cluster) save() {
	c.files.Lock()
	defer c.files.Unlock()
	if d := c.d; !d.bootSaved {
		err := d.state.setBoot(c.boots.Load())
		d.troubles.note(d.state.path(bootFile), err)
		d.bootSaved = err == nil
	}
	s := c.d.book.Current()
	if s.Generation == c.saved.Generation && s.Index <= c.saved.Index {
		return
	}
	err := c.d.state.saveCluster(s)
	c.d.troubles.note(c.d.state.path(clusterFile), err)
	if err == nil {
		c.saved = s
	}
}

// announce gossips which guests this node owns, and what runs here.
func (c *cluster) announce(s *ledger.State) {
	now := c.aloud(s)
	for key, value := range now {
		if old, ok := c.announced[key]; ok && bytes.Equal(old, value) {
			continue
		}
		if err := c.gossip.Publish(key, value); err != nil {
			c.log.Warn("gossip a guest", zap.String("key", key), zap.Error(err))
		}
	}
	for key := range c.announced {
		if _, ok := now[key]; ok {
			continue
		}
		if err := c.gossip.Delete(key); err != nil {
			c.log.Warn("gossip a guest", zap.String("key", key), zap.Error(err))
		}
	}
	c.announced = now
}
