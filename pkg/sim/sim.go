// Package sim runs whole clusters in one process: real raft, pkg/consensus,
// pkg/member and pkg/ledger over a simulated network and simulated disks, under
// the clock of testing/synctest, while a plan of faults drawn from a seed is
// carried out and clients work. A judge that sees all nodes holds every step
// against what must never happen.
//
// What it does not have: gossip (who is alive follows the network after a delay),
// TLS and connections (pkg/peer is not part of it), guests' units and volumes
// (that a guest runs is a note on its node). The seed fixes the faults and what
// clients want, not how goroutines take turns: a seed that failed fails again
// often, not always.
//
// Its tests are its callers: see docs/operate/sim.md.
package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Options say what to run.
type Options struct {
	// Seed steers faults and clients.
	Seed    uint64
	Profile Profile
	// Length is for how long things go wrong, in simulated time. Founding the
	// cluster before and settling afterwards come on top.
	Length time.Duration
	// LocalReads lets clients take reads from the node's own copy as if they were
	// confirmed: a mistake that the histories must show.
	LocalReads bool
	Logger     *zap.Logger
}

// Result is what a run came to.
type Result struct {
	Options Options
	// Nodes is how many there were at the start.
	Nodes int
	// NodeTime is the simulated time of all nodes together.
	NodeTime time.Duration
	// Faults is how many of each kind were injected.
	Faults map[Kind]int
	// Commands and Reads are what clients were told.
	Commands, Reads map[Verdict]int
	// Messages were sent, of which Lost did not arrive.
	Messages, Lost uint64
	// Generations is how many there were; Alarms how many of their meetings needed a
	// person, Rescues how often nothing was quorate in the end but for a person.
	Generations, Alarms, Rescues int
	// Settled is how long the cluster took to become one again.
	Settled time.Duration
	// Problems are violations; the first ones tell most.
	Problems []string
	// History is that of the clients, for Linearizable; empty where quorum was forced.
	History []Entry
}

// Run runs one cluster. It must be called in a synctest bubble, and returns when
// nothing of the cluster runs any more.
func Run(o Options) Result {
	c := newCluster(o)
	defer c.shut()
	if err := c.found(); err != nil {
		c.judge.blame("the cluster was not founded: %v", err)
		return c.result()
	}
	life, end := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for i := range clients {
		work.Go(func() { c.client(life, i) })
	}
	work.Go(func() { c.gossip(life) })
	work.Go(c.picturing)
	c.suffer(Plan(o.Seed, o.Profile, o.Length))
	c.heal()
	end() // Clients stop; gossip is taken up by settle.
	work.Wait()
	c.settle()
	return c.result()
}

// clients is how many clients work at a time.
const clients = 3

// suffer carries out the plan, unless something that must never happen does.
func (c *cluster) suffer(plan []Fault) {
	for _, f := range plan {
		select {
		case <-time.After(f.At - c.now() + c.founded):
		case <-c.judge.broken:
			return
		}
		c.log.Info("fault", zap.Stringer("fault", f))
		c.inject(f)
	}
}

func (c *cluster) result() Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Result{
		Options: c.o, Nodes: c.size, Faults: c.faults, Commands: c.commands, Reads: c.reads,
		NodeTime: c.now() * time.Duration(c.size), Generations: len(c.judge.worlds), Alarms: c.alarms, Rescues: c.rescues, Settled: c.settled,
		Problems: c.judge.found(),
	}
	r.Messages, r.Lost = c.net.Sent()
	if len(r.Problems) == 0 && !c.judge.wasForced() {
		r.History = c.history.settled(c.tags)
	}
	return r
}

// stream gives each use of chance its own, so that one does not shift another.
func stream(seed uint64, of string) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, b := range []byte(of) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}

func pick[T any](rng *rand.Rand, all []T) (one T, ok bool) {
	if len(all) == 0 {
		return one, false
	}
	return all[rng.IntN(len(all))], true
}

// String is the result as one line.
func (r Result) String() string {
	return fmt.Sprintf("seed %d %s: %d nodes, %s of node time, faults %v, commands %v, reads %v, %d generations, %d alarms, %d rescues, settled in %s, problems %q",
		r.Options.Seed, r.Options.Profile, r.Nodes, r.NodeTime.Round(time.Second), r.Faults, r.Commands, r.Reads, r.Generations, r.Alarms, r.Rescues,
		r.Settled, slices.Clone(r.Problems))
}
