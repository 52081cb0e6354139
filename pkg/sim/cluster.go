package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/consensus/consensustest"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/member/rules"
	"github.com/tandemd/tandem/pkg/sim/simnet"
)

// cluster is one run's machines, network and observers.
type cluster struct {
	o      Options
	log    *zap.Logger
	timing consensus.Timing
	begun  time.Time
	net    *simnet.Network
	judge  *judge

	history history
	// ended are processes that died, as far as they are still in memory.
	ended sync.WaitGroup
	// repairs are faults that last; healing is closed to end them all.
	repairs sync.WaitGroup
	healing chan struct{}
	// founded is when the cluster stood.
	founded time.Duration
	size    int

	mu       sync.Mutex
	rng      *rand.Rand
	machines []*machine
	closed   bool
	faults   map[Kind]int
	commands map[Verdict]int
	reads    map[Verdict]int
	outcomes []outcome
	serial   int
	alarms   int
	rescues  int
	settled  time.Duration
	tags     map[string]bool // of the commands in the ledger, at the end
	restored time.Duration   // when a disk was put back last
	removing int             // members that an operator is removing
	putBack  int             // disks that were, of nodes that others remember differently
}

func newCluster(o Options) *cluster {
	rng := stream(o.Seed, "cluster")
	c := &cluster{
		o: o, log: o.Logger, begun: time.Now(), net: simnet.New(o.Seed), rng: rng, size: o.Profile.size(rng), healing: make(chan struct{}),
		timing: consensus.Timing{Commit: time.Second, Snapshot: 30, Trailing: o.Profile.trailing(rng), Look: 5 * time.Second},
		faults: map[Kind]int{}, commands: map[Verdict]int{}, reads: map[Verdict]int{}, tags: map[string]bool{},
	}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	c.judge = newJudge(c.now)
	for range c.size {
		c.addMachine()
	}
	return c
}

// now is the simulated time since the run began; it is the machines' boot-time clock too.
func (c *cluster) now() time.Duration { return time.Since(c.begun) }

func (c *cluster) addMachine() *machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.machines) + 1
	m := &machine{
		c: c, n: n, id: nodeID(n), disk: consensustest.NewDisk(), rng: stream(c.o.Seed, fmt.Sprint("machine", n)),
		files: map[string]any{}, guests: map[guest.ID]guest.Term{},
	}
	c.machines = append(c.machines, m)
	return m
}

// chance is a stream of its own for one decision.
func (c *cluster) chance() *rand.Rand {
	c.mu.Lock()
	defer c.mu.Unlock()
	return rand.New(rand.NewPCG(c.rng.Uint64(), 0))
}

// shut ends all that runs.
func (c *cluster) shut() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	if c.suffering() {
		close(c.healing)
	}
	c.repairs.Wait()
	for _, m := range c.present() {
		m.powerCut()
	}
	c.ended.Wait()
}

func (c *cluster) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// suffering says whether faults still go on.
func (c *cluster) suffering() bool {
	select {
	case <-c.healing:
		return false
	default:
		return true
	}
}

// present are the machines that belong to the cluster.
func (c *cluster) present() []*machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*machine
	for _, m := range c.machines {
		m.mu.Lock()
		if !m.left {
			out = append(out, m)
		}
		m.mu.Unlock()
	}
	return out
}

// running are the daemons that run.
func (c *cluster) running() []*process {
	var out []*process
	for _, m := range c.present() {
		if p := m.running(); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// ready are the daemons whose raft runs.
func (c *cluster) ready() []*process {
	var out []*process
	for _, p := range c.running() {
		if p.consensus() != nil && p.admitted.Load() {
			out = append(out, p)
		}
	}
	return out
}

func (c *cluster) machineOf(id guest.NodeID) *machine {
	for _, m := range c.present() {
		if m.id == id {
			return m
		}
	}
	return nil
}

func (c *cluster) processOf(id guest.NodeID) *process {
	for _, p := range c.ready() {
		if p.id == id {
			return p
		}
	}
	return nil
}

// leader is a daemon that leads, by its own word.
func (c *cluster) leader() *process {
	for _, p := range c.ready() {
		if p.cons.IsLeader() {
			return p
		}
	}
	return nil
}

const generationLen = 16

// found makes the cluster: the first machine founds it, the others join.
func (c *cluster) found() error {
	machines := c.present()
	first := machines[0]
	op := ledger.Found{
		Cluster: strings.Repeat("c", 32), Generation: fmt.Sprintf("%0*x", generationLen, c.o.Seed), Member: first.member(),
		Gossip: ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)},
	}
	if err := first.foundCluster(op); err != nil {
		return err
	}
	stop := c.gossiping()
	defer stop()
	first.turnOn()
	for _, m := range machines[1:] {
		m.turnOn()
		if err := c.join(m); err != nil {
			return err
		}
	}
	for range 120 {
		if c.allVote() {
			c.founded = c.now()
			return nil
		}
		time.Sleep(time.Second)
	}
	return fmt.Errorf("not all that should vote do after %s", c.now())
}

// gossiping lets gossip work until the function that it returns is called.
func (c *cluster) gossiping() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.gossip(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

func (c *cluster) allVote() bool {
	lead := c.leader()
	if lead == nil {
		return false
	}
	servers, err := lead.cons.Servers()
	if err != nil {
		return false
	}
	votes := 0
	for _, s := range servers {
		if s.Voter {
			votes++
		}
	}
	return votes == rules.Voters(c.size)
}

// foundCluster makes a cluster of one on the machine's disk, as tandem cluster init does.
func (m *machine) foundCluster(op ledger.Found) error {
	host := m.c.net.Join(m.id, simnet.Server{Knows: func(guest.NodeID) bool { return false }})
	defer host.Leave()
	cons, err := consensus.Open(consensus.Options{
		Node: m.id, Generation: op.Generation, Boottime: m.c.now, Logger: m.c.log, Timing: m.c.timing,
		Rooms: m.disk.Rooms(func(g string) (raft.Transport, error) { return host.Transport(g) }),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = cons.Found(ctx)
	if err == nil {
		_, err = cons.Propose(ctx, ledger.Command{By: "operator", At: time.Now().Unix(), Op: op})
	}
	if err == nil {
		err = m.Write(fileLedger, cons.View())
	}
	return errors.Join(err, cons.Close())
}

// join takes a machine that is on and in no cluster into this one.
func (c *cluster) join(m *machine) error {
	var last error
	for range 20 {
		p := m.running()
		issuer, ok := pick(c.chance(), c.ready())
		if p == nil || !ok {
			last = errStarting
		} else if last = p.joins(issuer.id); last == nil {
			return nil
		}
		time.Sleep(3 * time.Second)
	}
	return fmt.Errorf("%s did not get into the cluster: %w", short(m.id), last)
}

// joins asks a member to take this node in, and goes on as its member.
func (p *process) joins(issuer guest.NodeID) error {
	ctx, cancel := context.WithTimeout(p.life, 2*proposeTimeout)
	defer cancel()
	self := p.m.member()
	v, err := p.host.CallStranger(ctx, issuer, askJoin{member.JoinRequest{Token: "token", Member: self, Force: true}})
	if err != nil {
		return err
	}
	reply, _ := v.(member.JoinReply)
	if err := reply.Check(self); err != nil {
		return err
	}
	if err := p.m.Write(fileLedger, reply.Ledger); err != nil {
		return err
	}
	p.joined <- reply.Ledger
	return nil
}
