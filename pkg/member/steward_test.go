package member_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
)

// chamber is a leader's raft and ledger: it carries out what the steward says.
type chamber struct {
	mu      sync.Mutex
	machine *ledger.Machine
	votes   map[guest.NodeID]bool
	sight   map[guest.NodeID]member.Sighting
	index   uint64
	follows bool
	fails   bool
	log     []string
}

func fingerprint(n int) string { return strings.Repeat(fmt.Sprintf("%08x", n), 8) }

func listed(n int) ledger.Member {
	return ledger.Member{
		ID: nodeID(n), Name: guest.NodeName(fmt.Sprint("n", n)), Fingerprint: fingerprint(n), Format: ledger.Format,
		Peer: "127.0.0.1:7947", Gossip: "127.0.0.1:7946",
	}
}

// newChamber is led by n1, with that many members, all alive; voters of them vote.
func newChamber(t *testing.T, members, voters int) *chamber {
	t.Helper()
	c := &chamber{machine: ledger.NewMachine(), votes: map[guest.NodeID]bool{}, sight: map[guest.NodeID]member.Sighting{}}
	c.must(t, ledger.Found{Cluster: "c", Generation: "g", Member: listed(1), Gossip: ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)}})
	for n := 1; n <= members; n++ {
		if n > 1 {
			c.must(t, ledger.AddMember{Member: listed(n)})
		}
		c.votes[nodeID(n)] = n <= voters
		c.seen(n, 0)
	}
	for n := range members {
		c.seen(n+1, c.index)
	}
	return c
}

// seen has gossip show a member alive, with so much of the ledger applied.
func (c *chamber) seen(n int, applied uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sight[nodeID(n)] = member.Sighting{Alive: true, Since: time.Now(), Generation: c.machine.View().Generation, Applied: applied}
}

func (c *chamber) dies(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sight[nodeID(n)] = member.Sighting{Since: time.Now()}
}

func (c *chamber) must(t *testing.T, op ledger.Op) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.apply(op); err != nil {
		t.Fatal(err)
	}
}

// Propose is the steward's; what it did is told by did.
func (c *chamber) Propose(_ context.Context, op ledger.Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails {
		c.log = append(c.log, "failed")
		return errors.New("not quorate")
	}
	err := c.apply(op)
	if err == nil {
		c.log = append(c.log, strings.TrimPrefix(fmt.Sprintf("%T", op), "ledger."))
	}
	return err
}

func (c *chamber) apply(op ledger.Op) error {
	data, err := ledger.Command{ID: fmt.Sprint(c.index), Op: op}.Encode()
	if err != nil {
		return err
	}
	c.index++
	out, err := c.machine.Apply(c.index, data)
	if err == nil && out.Refused != "" {
		err = errors.New(out.Refused)
	}
	return err
}

func (c *chamber) IsLeader() bool { return !c.follows }

func (c *chamber) View() *ledger.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.View()
}

func (c *chamber) Leaving() map[guest.NodeID]bool { return nil }

func (c *chamber) Suffrage() (map[guest.NodeID]bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.votes), nil
}

func (c *chamber) Change(ch member.Change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, string(ch.Kind)+" n"+strings.TrimLeft(string(ch.Node), "0"))
	switch ch.Kind {
	case member.AddFollower, member.Demote:
		c.votes[ch.Node] = false
	case member.Promote:
		c.votes[ch.Node] = true
	case member.Drop:
		delete(c.votes, ch.Node)
	case member.HandOver:
		c.follows = true
	case member.NoChange:
	}
	return nil
}

func (c *chamber) steward(t *testing.T) {
	t.Helper()
	s := &member.Steward{
		Self: nodeID(1), Council: c, Propose: c.Propose, Logger: zap.NewNop(),
		Sight: func() map[guest.NodeID]member.Sighting {
			c.mu.Lock()
			defer c.mu.Unlock()
			return maps.Clone(c.sight)
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

// did is what the steward did within d.
func (c *chamber) did(d time.Duration) []string {
	time.Sleep(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	log := c.log
	c.log = nil
	return log
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Error(what, d)
	}
}

func TestSteward_APromotionWaitsUntilAllLiveOnesKnowTheJoiner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChamber(t, 2, 2)
		c.steward(t)
		c.did(time.Minute)
		c.must(t, ledger.AddMember{Member: listed(3)})
		c.seen(3, c.index)
		want(t, "n2 has not applied the join:", c.did(time.Minute), "follow n3")
		c.seen(2, c.index)
		want(t, "n2 has:", c.did(2*time.Second), "promote n3")
	})
}

func TestSteward_ANodeOfAnotherGenerationHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChamber(t, 2, 2)
		c.mu.Lock()
		c.sight[nodeID(2)] = member.Sighting{Alive: true, Since: time.Now(), Generation: "x", Applied: 1}
		c.mu.Unlock()
		c.steward(t)
		c.did(time.Minute)
		c.must(t, ledger.AddMember{Member: listed(3)})
		c.seen(3, c.index)
		want(t, "n2 is in another generation:", c.did(time.Minute), "follow n3", "promote n3")
	})
}

func TestSteward_AVoterThatGossipNeverSawIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChamber(t, 4, 3)
		c.mu.Lock()
		delete(c.sight, nodeID(2)) // dead since before this leader's daemon started
		c.mu.Unlock()
		c.steward(t)
		want(t, "in 9 minutes:", c.did(9*time.Minute))
		want(t, "in 11 minutes:", c.did(2*time.Minute), "promote n4", "demote n2")
	})
}

func TestSteward_ChangesTheGossipKeyAfterARemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChamber(t, 3, 3)
		c.steward(t)
		c.must(t, ledger.RemoveMember{ID: nodeID(3)})
		want(t, "at once:", c.did(4*time.Second), "drop n3", "InstallKey")
		want(t, "n2 is behind:", c.did(50*time.Second))
		c.seen(2, c.index)
		want(t, "n2 has it:", c.did(2*time.Second), "UseKey")
		c.seen(2, c.index)
		want(t, "not dropped yet:", c.did(28*time.Second))
		want(t, "half a minute later:", c.did(5*time.Second), "DropKey")
		want(t, "then:", c.did(time.Hour))
		if keys := c.View().Gossip; len(keys) != 1 || keys[0].Number != 2 {
			t.Errorf("the keys are %v", keys)
		}
	})
}

func TestSteward_UsesTheNewKeyAfterAMinuteWithoutAllOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChamber(t, 3, 3)
		c.steward(t)
		c.must(t, ledger.RemoveMember{ID: nodeID(3)})
		want(t, "n2 is alive and behind:", c.did(70*time.Second), "drop n3", "InstallKey", "UseKey")
		c.dies(2)
		want(t, "n2 is dead:", c.did(time.Minute), "DropKey")
	})
}

func TestSteward_EndsForcedQuorumWhenAllVotesAreBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChamber(t, 3, 1)
		if err := c.machine.Fork(ledger.Fork{Generation: "x", Parent: "g", Index: c.index, Node: nodeID(1)}, c.machine.View()); err != nil {
			t.Fatal(err)
		}
		c.dies(2)
		c.dies(3)
		c.steward(t)
		want(t, "alone:", c.did(time.Hour))
		c.seen(2, c.index)
		want(t, "n2 is back:", c.did(time.Minute), "promote n2")
		c.seen(3, c.index)
		want(t, "n3 is back:", c.did(time.Minute), "promote n3", "EndForced")
		if c.View().Forced {
			t.Error("still forced")
		}
	})
}

func TestSteward_RestsAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChamber(t, 2, 2)
		c.must(t, ledger.RemoveMember{ID: nodeID(2)})
		c.mu.Lock()
		c.fails = true
		c.mu.Unlock()
		c.steward(t)
		want(t, "in 12 s:", c.did(12500*time.Millisecond), "drop n2", "failed", "failed", "failed")
	})
}
