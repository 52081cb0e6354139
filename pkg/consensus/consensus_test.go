package consensus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/ledger"
)

func TestPropose_FromAFollowerIsVisibleThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		follower := r.node(3)
		r.must(follower, addGuest(100))
		if _, ok := follower.View().Guests[100]; !ok {
			t.Error("the asking node does not see its own change")
		}
		if !follower.Quorate() {
			t.Error("a follower of a healthy leader is not quorate")
		}
		_, err := follower.Propose(t.Context(), ledger.Command{By: "test", Op: addGuest(100)})
		var refused *consensus.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "exists already") {
			t.Errorf("got %v, want a refusal", err)
		}
	})
}

func TestPropose_AMinorityChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		r.isolate(1, true)
		r.must(r.node(2), addGuest(101))

		alone := r.node(1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := alone.Propose(ctx, ledger.Command{By: "test", Op: addGuest(102)}); !errors.Is(err, consensus.ErrNotQuorate) {
			t.Errorf("got %v, want ErrNotQuorate", err)
		}
		if err := alone.Confirm(ctx); err == nil {
			t.Error("a node without a majority confirmed a read")
		}
		if alone.Quorate() || alone.Progress().QuorateFor != 0 {
			t.Error("a node without a majority says that it is quorate")
		}

		r.isolate(1, false)
		r.confirm(alone)
		if d := cmp.Diff(r.node(2).View(), alone.View()); d != "" {
			t.Errorf("after the partition the ledgers differ:\n%s", d)
		}
		if _, ok := alone.View().Guests[102]; ok {
			t.Error("a command that was refused as not quorate was carried out")
		}
	})
}

func TestPropose_TwiceWithOneIDHappensOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		cmd := ledger.Command{ID: consensus.NewCommandID(), By: "test", Op: addGuest(100)}
		first, err := r.node(1).Propose(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.node(2).Propose(t.Context(), cmd)
		if err != nil || second != first {
			t.Errorf("sent again: %d, %v, want the first outcome %d", second, err, first)
		}
	})
}

func TestApplyHere_RefusesWhatNobodyCouldApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 1)
		defer r.close()
		c := r.node(1)
		future := []byte(firstGeneration + "\n" + `{"kind":"from_the_future","op":{}}`)
		if _, err := c.ApplyHere(t.Context(), future); !errors.Is(err, ledger.ErrUnknownCommand) {
			t.Errorf("got %v, want ErrUnknownCommand", err)
		}
		r.must(c, addGuest(100))
		if err := c.Err(); err != nil {
			t.Errorf("the node stopped following: %v", err)
		}
	})
}

func TestApplyHere_TakesCommandsOfItsGenerationOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 1)
		defer r.close()
		data, err := ledger.Command{By: "test", Op: addGuest(100)}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for _, bound := range []string{string(data), "fedcba9876543210\n" + string(data)} {
			if _, err := r.node(1).ApplyHere(t.Context(), []byte(bound)); !errors.Is(err, consensus.ErrNotLeader) {
				t.Errorf("%.30q: got %v, want ErrNotLeader", bound, err)
			}
		}
		if _, ok := r.node(1).View().Guests[100]; ok {
			t.Error("a command of another generation was carried out")
		}
	})
}

func TestProgress_TellsTheLastCommandAndSinceWhenQuorate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		leader := r.node(1)
		r.must(leader, addGuest(100))
		at := leader.View().Changed
		for range 5 {
			r.confirm(leader)
		}
		synctest.Wait()
		p := leader.Progress()
		want := consensus.Progress{
			Generation: firstGeneration, Term: p.Term, LastIndex: p.LastIndex, LastCommand: at, LastCommandTerm: p.Term,
			Applied: p.LastIndex, Leader: nodeID(1), QuorateFor: p.QuorateFor,
		}
		if p.LastIndex < at+5 {
			t.Errorf("the log ends at %d after 5 reads from %d on", p.LastIndex, at)
		}
		if d := cmp.Diff(want, p); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}

		r.isolate(1, true)
		time.Sleep(10 * time.Second)
		r.eventually("the others have elected", time.Minute, r.node(2).Quorate)
		time.Sleep(20 * time.Second)
		if got := r.node(2).Progress().QuorateFor; got < 5*time.Second || got > 30*time.Second {
			t.Errorf("quorate for %s: the break at the election is not seen", got)
		}
	})
}

func TestTransferLeadership_MovesItToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		if err := r.node(1).TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.eventually("another node leads", 5*time.Second, func() bool {
			return r.node(2).IsLeader() || r.node(3).IsLeader()
		})
		if err := r.node(1).TransferLeadership(t.Context()); !errors.Is(err, consensus.ErrNotLeader) {
			t.Errorf("from a follower: %v, want ErrNotLeader", err)
		}
		r.must(r.node(1), addGuest(100))
	})
}

// TestElection_ACutOffNodeDoesNotDeposeAHealthyLeader shows that pre-votes work
// through our transport: a node that comes back asks before it raises its term.
func TestElection_ACutOffNodeDoesNotDeposeAHealthyLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		r.confirm(r.node(3))
		before := r.node(1).Progress()
		r.isolate(3, true)
		time.Sleep(2 * time.Minute)
		if got := r.node(3).Progress().Term; got != before.Term {
			t.Errorf("the cut-off node raised its term from %d to %d", before.Term, got)
		}
		r.isolate(3, false)
		time.Sleep(time.Minute)
		after := r.node(1).Progress()
		if !r.node(1).IsLeader() || after.Term != before.Term || after.QuorateFor < 3*time.Minute {
			t.Errorf("the leader was disturbed: before %+v, after %+v", before, after)
		}
		r.confirm(r.node(3))
	})
}
