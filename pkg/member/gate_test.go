package member_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// gates are nodes that wait to start; those in up answer.
type gates struct {
	mu     sync.Mutex
	state  *ledger.State
	up     map[int]bool
	memory map[int]*member.Memory
}

func newGates(s *ledger.State) *gates {
	g := &gates{state: s, up: map[int]bool{}, memory: map[int]*member.Memory{}}
	for n := range len(s.Members) {
		g.memory[n+1] = member.NewMemory(&shelf{}, zap.NewNop())
	}
	return g
}

func (g *gates) start(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.up[n] = true
}

func (g *gates) gate(self int, own rules.Own) *member.Gate {
	return member.NewGate(member.GateOptions{
		Self: nodeID(self), Own: own, State: g.state, Logger: zap.NewNop(),
		Ask: func(_ context.Context, node guest.NodeID) (member.Answer, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			for n, m := range g.memory {
				if nodeID(n) == node && g.up[n] {
					return member.GateAnswer(g.state, m, member.Caller{Node: nodeID(self)})
				}
			}
			return member.Answer{}, errCut
		},
	})
}

func TestGate_StartsWhenAMajorityKnowsNothingBetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGates(state(50, 1, 2, 3))
		gate := g.gate(1, rules.Own{Boots: 2, Generation: "g", Term: 3, LastIndex: 50})
		verdict := make(chan rules.GateVerdict, 1)
		go func() {
			v, err := gate.Wait(t.Context())
			if err != nil {
				t.Error(err)
			}
			verdict <- v
		}()
		time.Sleep(time.Hour)
		if got := gate.Waiting(); !strings.Contains(got, "waiting to hear from 1 more of the other members (") {
			t.Errorf("status shows %q", got)
		}
		g.start(3) // which waits at its own gate
		if v := <-verdict; v.Kind != rules.GateStart {
			t.Errorf("got %+v", v)
		}
		if gate.Waiting() != "" {
			t.Error("it still says that it waits")
		}
	})
}

func TestGate_AnOldDiskIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGates(state(50, 1, 2, 3))
		g.start(2)
		g.memory[2].Heard(member.Claim{Node: nodeID(1), Generation: "g", Term: 3, Index: 80, Boots: 9})
		v, err := g.gate(1, rules.Own{Boots: 5, Generation: "g", Term: 3, LastIndex: 60}).Wait(t.Context())
		if err != nil || v.Kind != rules.GateSetAside || v.Boots != 10 {
			t.Errorf("got %+v, %v", v, err)
		}
	})
}

func TestGate_OneNodeAloneStartsAtOnce(t *testing.T) {
	g := newGates(state(50, 1))
	if v, err := g.gate(1, rules.Own{Boots: 1, Generation: "g"}).Wait(t.Context()); err != nil || v.Kind != rules.GateStart {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestGate_APersonEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newGates(state(50, 1, 2)).gate(1, rules.Own{Boots: 2, Generation: "g"})
		go func() {
			time.Sleep(time.Hour)
			gate.Override()
			gate.Override()
		}()
		if v, err := gate.Wait(t.Context()); err != nil || v.Kind != rules.GateStart {
			t.Errorf("got %+v, %v", v, err)
		}
	})
}

func TestGate_OnForcedQuorumItWaitsForAWhileOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		v, err := newGates(forked(state(50, 1, 2, 3), "x", 1)).gate(1, rules.Own{Boots: 2, Generation: "x"}).Wait(t.Context())
		if err != nil || v.Kind != rules.GateStart || time.Since(begun) != 15*time.Second {
			t.Errorf("after %v: %+v, %v", time.Since(begun), v, err)
		}
	})
}

func TestGate_EndsWithTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := newGates(state(50, 1, 2)).gate(1, rules.Own{Boots: 2, Generation: "g"}).Wait(ctx); err == nil {
			t.Error("it started although nobody answered")
		}
	})
}
