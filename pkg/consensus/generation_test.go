package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/ledger"
)

const forked = "fedcba9876543210"

func (r *rig) fork(n int) {
	r.t.Helper()
	if err := r.node(n).Fork(r.t.Context(), fork(n, forked), r.node(n).View()); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("the forked node leads", 30*time.Second, r.node(n).IsLeader)
}

func TestFork_GoesOnAloneWithAllThatTheLogHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		r.must(r.node(1), addGuest(100))
		r.isolate(1, true)
		// Sent to a majority that is not there any more: the unconfirmed end of the log.
		err := r.propose(r.node(1), addGuest(101), 500*time.Millisecond)
		if !errors.Is(err, consensus.ErrUnknownOutcome) {
			t.Fatalf("got %v, want ErrUnknownOutcome", err)
		}
		r.eventually("the cut-off leader steps down", time.Minute, func() bool { return !r.node(1).Quorate() })
		before := r.node(1).Progress()
		image := r.disks[nodeID(1)].Image()

		r.fork(1)
		c := r.node(1)
		r.confirm(c)
		s := c.View()
		if s.Guests[100].ID != 100 || s.Guests[101].ID != 101 {
			t.Errorf("the forked ledger has guests %v, want 100 and the unconfirmed 101", s.GuestList())
		}
		want := []ledger.Fork{fork(1, forked)}
		want[0].Index, want[0].Term = before.LastIndex, before.Term
		if d := cmp.Diff(want, s.Lineage); d != "" || !s.Forced || s.Generation != forked || c.Generation() != forked {
			t.Errorf("forced %v, generation %s, lineage (-want +got):\n%s", s.Forced, s.Generation, d)
		}
		if p := c.Progress(); p.LastCommand > want[0].Index {
			t.Errorf("the fork itself counts as a command: %+v", p)
		}
		r.must(c, addGuest(102))
		if p := c.Progress(); p.LastCommand <= want[0].Index {
			t.Errorf("a command after the fork does not show: %+v", p)
		}
		servers, err := c.Servers()
		if d := cmp.Diff([]consensus.Server{{Node: nodeID(1), Voter: true}}, servers); err != nil || d != "" {
			t.Errorf("servers: %v, (-want +got):\n%s", err, d)
		}

		// The old generation is what it was, and opens.
		term, index := r.disks[nodeID(1)].Last(firstGeneration)
		if index != before.LastIndex || term != before.Term {
			t.Errorf("the old generation ends with (%d, %d), before the fork with (%d, %d)", term, index, before.Term, before.LastIndex)
		}
		r.disks[nodeID(1)].Restore(image)
		if m, err := consensus.Look(r.disks[nodeID(1)].Rooms(nil), firstGeneration); err != nil || m.LastIndex != before.LastIndex {
			t.Errorf("the old generation: %+v, %v", m, err)
		}
	})
}

func TestFork_ACrashAtAnyStepLeavesTheOldGeneration(t *testing.T) {
	for step := 1; ; step++ {
		done := false
		for _, keep := range []func(int) int{nil, func(n int) int { return n }} {
			synctest.Test(t, func(t *testing.T) {
				r := founded(t, 1)
				defer r.close()
				r.must(r.node(1), addGuest(100))
				entered := firstGeneration
				d := r.disks[nodeID(1)]
				d.CrashAt(step, keep)
				err := r.node(1).Fork(t.Context(), fork(1, forked), r.node(1).View())
				if err == nil {
					done = true
					return
				}
				r.crash(1, nil)
				r.isolate(1, false)
				c := r.open(1, entered)
				r.confirm(c)
				if s := c.View(); s.Guests[100].ID != 100 || s.Generation != firstGeneration {
					t.Errorf("step %d: after the crash: generation %s, guests %v", step, s.Generation, s.GuestList())
				}
				// And the fork can be tried again.
				r.fork(1)
				r.must(r.node(1), addGuest(101))
			})
		}
		if done {
			if step < 4 {
				t.Errorf("forking took %d writes: the test looks at nothing", step-1)
			}
			return
		}
	}
}

func TestFork_WhereTheDiskIsFullTheOldGenerationRunsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 1)
		defer r.close()
		for n := range 3 {
			r.disks[nodeID(1)].FailAfter(n, errors.New("no space left on device"))
			if err := r.node(1).Fork(t.Context(), fork(1, forked), r.node(1).View()); err == nil {
				t.Fatal("a fork on a full disk worked")
			}
			r.disks[nodeID(1)].Fail(nil)
			r.must(r.node(1), addGuest(100+n))
			if got := r.node(1).Generation(); got != firstGeneration {
				t.Fatalf("in generation %s", got)
			}
		}
	})
}

func TestFork_OfAnEmptyNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		c := r.open(1, firstGeneration)
		if err := c.Fork(t.Context(), fork(1, forked), c.View()); err == nil {
			t.Error("a node without a ledger forked one")
		}
		if got := c.Generation(); got != firstGeneration {
			t.Errorf("in generation %s", got)
		}
	})
}

// TestSwitch_OneTruthAfterAPartition is a forced node that comes back: it yields,
// and later goes to the fork of another, which is empty for it.
func TestSwitch_OneTruthAfterAPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		r.confirm(r.node(3))
		r.isolate(3, true)
		r.must(r.node(1), addGuest(100))
		r.fork(3)
		r.must(r.node(3), addGuest(200))

		r.isolate(3, false)
		if err := r.node(3).Switch(t.Context(), firstGeneration); err != nil {
			t.Fatal(err)
		}
		r.confirm(r.node(3))
		if d := cmp.Diff(r.node(1).View(), r.node(3).View()); d != "" {
			t.Errorf("after the switch the ledgers differ:\n%s", d)
		}
		if !slices.Contains(r.disks[nodeID(3)].Folders(), forked) {
			t.Error("the generation that yielded was not kept")
		}

		// The first node forks, the second follows it into a generation that it never saw.
		r.isolate(3, true)
		r.isolate(1, true)
		const other = "aaaaaaaaaaaaaaaa"
		if err := r.node(1).Fork(t.Context(), fork(1, other), r.node(1).View()); err != nil {
			t.Fatal(err)
		}
		r.isolate(1, false)
		if err := r.node(2).Switch(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		r.eventually("the forked node leads", 30*time.Second, r.node(1).IsLeader)
		if err := r.node(1).AddNonvoter(nodeID(2)); err != nil {
			t.Fatal(err)
		}
		r.must(r.node(2), addGuest(300))
		if s := r.node(2).View(); s.Generation != other || s.Guests[300].ID != 300 {
			t.Errorf("the follower is in %s with %v", s.Generation, s.GuestList())
		}
	})
}

// TestSwitch_ACommandUnderWayIsUnknownAndNeverMovesAlong: what was sent in one
// generation is not carried into the next one.
func TestSwitch_ACommandUnderWayIsUnknownAndNeverMovesAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 2)
		defer r.close()
		r.isolate(2, true) // the leader alone writes it, but cannot confirm it
		outcome := make(chan error, 1)
		go func() { outcome <- r.propose(r.node(1), addGuest(100), time.Minute) }()
		time.Sleep(500 * time.Millisecond)
		if err := r.node(1).Switch(t.Context(), "aaaaaaaaaaaaaaaa"); err != nil {
			t.Fatal(err)
		}
		if err := r.node(1).Found(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-outcome; !errors.Is(err, consensus.ErrUnknownOutcome) {
			t.Errorf("got %v, want ErrUnknownOutcome", err)
		}
		if p := r.node(1).Progress(); p.LastCommand != 0 {
			t.Errorf("the command was carried into the other generation: %+v", p)
		}

		// One that was not sent yet may go on in the new generation.
		if err := r.node(1).Switch(t.Context(), firstGeneration); err != nil {
			t.Fatal(err)
		}
		r.eventually("the old generation is not quorate", time.Minute, func() bool { return r.node(1).Leader() == "" })
		go func() { outcome <- r.propose(r.node(1), found().Op, time.Minute) }()
		time.Sleep(500 * time.Millisecond)
		if err := r.node(1).Switch(t.Context(), "aaaaaaaaaaaaaaaa"); err != nil {
			t.Fatal(err)
		}
		if err := <-outcome; err != nil {
			t.Errorf("a command that was never sent before the switch: %v", err)
		}
	})
}

func TestSwitch_CallsMeanwhileGetClearErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var inside []error
		r.options = func(_ int, o *consensus.Options) {
			o.Entered = func(string) error { // no raft runs now
				c := r.node(1)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := c.Propose(ctx, ledger.Command{By: "test", Op: addGuest(100)})
				inside = append(inside, err, c.AddNonvoter(nodeID(2)), c.WaitApplied(ctx, 1<<60))
				if c.Quorate() || c.IsLeader() || c.Leader() != "" || c.Err() != nil || !c.View().Founded() {
					inside = append(inside, fmt.Errorf("quorate %v, leader %q, err %w", c.Quorate(), c.Leader(), c.Err()))
				}
				return nil
			}
		}
		r.found(1)
		defer r.close()
		r.fork(1)
		if len(inside) != 3 || !errors.Is(inside[0], consensus.ErrNotQuorate) || errors.Is(inside[0], consensus.ErrUnknownOutcome) ||
			!errors.Is(inside[1], consensus.ErrNotLeader) || inside[2] == nil {
			t.Errorf("got %q", inside)
		}
	})
}

func TestEntered_AFailureKeepsTheOldGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.options = func(_ int, o *consensus.Options) {
			o.Entered = func(generation string) error {
				if generation != firstGeneration {
					return errors.New("no space left on device")
				}
				return nil
			}
		}
		r.found(1)
		defer r.close()
		if err := r.node(1).Fork(t.Context(), fork(1, forked), r.node(1).View()); err == nil {
			t.Error("the fork was not kept on disk, and went on")
		}
		r.must(r.node(1), addGuest(100))
	})
}

// TestSetAside_ARestoredNodeDoesNotVoteBeforeItHasCaughtUp: two of three voters
// confirmed a guest, one of them was restored from an image of before. It must not
// help the third, which never heard of the guest, to lead.
func TestSetAside_ARestoredNodeDoesNotVoteBeforeItHasCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		r.confirm(r.node(2))
		old := r.disks[nodeID(2)].Image()
		r.isolate(3, true)
		r.must(r.node(1), addGuest(100))
		r.crash(1, nil)
		r.crash(2, nil)
		r.disks[nodeID(2)].Restore(old)
		r.isolate(2, false)
		r.isolate(3, false)
		c := r.open(2, firstGeneration)
		if err := c.SetAside(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(r.disks[nodeID(2)].Folders(), firstGeneration+".aside-1") {
			t.Error("what was set aside is not there any more")
		}
		time.Sleep(2 * time.Minute)
		if r.node(3).Quorate() {
			t.Fatal("a majority without the confirmed guest elected a leader")
		}

		// The mark survives a restart.
		r.crash(2, nil)
		r.isolate(2, false)
		c = r.open(2, firstGeneration)
		time.Sleep(time.Minute)
		if !c.Progress().SetAside || r.node(3).Quorate() {
			t.Fatal("after a restart it votes again")
		}

		if err := c.SetAside(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.disks[nodeID(2)].Folders(); len(got) != 2 {
			t.Errorf("folders %v: an empty one was set aside too", got)
		}

		// With the node that knows the guest the cluster goes on; the one without a
		// log is made a follower, catches up, and votes again.
		r.isolate(1, false)
		r.open(1, firstGeneration)
		r.eventually("the first node leads", 2*time.Minute, r.node(1).IsLeader)
		if err := r.node(1).Demote(nodeID(2)); err != nil {
			t.Fatal(err)
		}
		r.eventually("it has caught up", time.Minute, func() bool { return !c.Progress().SetAside })
		if err := r.node(1).Promote(nodeID(2)); err != nil {
			t.Fatal(err)
		}
		r.isolate(3, true)
		r.must(c, addGuest(101))
		if got := c.View().Guests; len(got) != 2 {
			t.Errorf("guests %v, want 100 and 101", got)
		}
	})
}

// TestOpen_ALogThatASnapshotReplacedIsRemoved: a crash after the leader's snapshot
// was stored, before the old log was removed, which ends before it or contradicts it;
// raft's log takes no holes.
func TestOpen_ALogThatASnapshotReplacedIsRemoved(t *testing.T) {
	for name, old := range map[string]func(snapshot uint64) []*raft.Log{
		"shorter": func(snapshot uint64) []*raft.Log { return []*raft.Log{{Index: snapshot - 1, Term: 1}} },
		"longer": func(snapshot uint64) []*raft.Log {
			return []*raft.Log{{Index: snapshot, Term: 1}, {Index: snapshot + 1, Term: 1}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { afterReplacing(t, old) })
		})
	}
}

func afterReplacing(t *testing.T, old func(snapshot uint64) []*raft.Log) {
	t.Helper()
	r := founded(t, 1)
	defer r.close()
	r.must(r.node(1), addGuest(100))
	r.fork(1) // its stores begin with a snapshot
	snapshot := r.node(1).View().Lineage[0].Index
	r.must(r.node(1), addGuest(101))
	r.crash(1, nil)
	r.isolate(1, false)

	stores, err := r.disks[nodeID(1)].Rooms(nil).Open(forked)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := stores.Log.FirstIndex()
	last, _ := stores.Log.LastIndex()
	if err := errors.Join(stores.Log.DeleteRange(first, last), stores.Log.StoreLogs(old(snapshot)), stores.Close()); err != nil {
		t.Fatal(err)
	}
	c := r.open(1, forked)
	r.must(c, addGuest(102))
	if got := c.View().Guests; len(got) != 2 || got[100].ID != 100 || got[102].ID != 102 {
		t.Errorf("guests %v, want those of the snapshot and the new one", got)
	}
}

// TestOpen_AHoleInMemoryIsRefused: entries between the snapshot and the log are missing.
func TestOpen_AHoleInMemoryIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 1)
		defer r.close()
		r.must(r.node(1), addGuest(100))
		r.crash(1, nil)
		stores, err := r.disks[nodeID(1)].Rooms(nil).Open(firstGeneration)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stores.Log.DeleteRange(1, 2), stores.Close()); err != nil {
			t.Fatal(err)
		}
		var room *consensus.RoomError
		if _, err := r.tryOpen(1, firstGeneration); !errors.As(err, &room) || room.Hint() == "" {
			t.Errorf("got %v, want a RoomError", err)
		}
	})
}

func TestLook_TellsWhereTheStoresEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 1)
		r.must(r.node(1), addGuest(100))
		p := r.node(1).Progress()
		r.close()
		rooms := r.disks[nodeID(1)].Rooms(nil)
		got, err := consensus.Look(rooms, firstGeneration)
		if want := (consensus.Mark{Term: p.Term, LastIndex: p.LastIndex}); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if got, err := consensus.Look(rooms, "empty"); err != nil || got != (consensus.Mark{}) {
			t.Errorf("of a new generation: %+v, %v", got, err)
		}
	})
}

func TestClear_ALeaderAsksBeforeItsFirstCommandOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var asked []int
		allowed := make(chan struct{})
		r.options = func(n int, o *consensus.Options) {
			o.Clear = func(ctx context.Context) error {
				asked = append(asked, n)
				select {
				case <-allowed:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		c := r.open(1, firstGeneration)
		defer r.close()
		if err := c.Found(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Until it was answered nothing is taken, neither a command nor a confirmed read.
		if err := r.propose(c, found().Op, 10*time.Second); !errors.Is(err, consensus.ErrNotQuorate) {
			t.Errorf("got %v, want ErrNotQuorate", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := c.Confirm(ctx); !errors.Is(err, consensus.ErrNotQuorate) {
			t.Errorf("got %v, want ErrNotQuorate", err)
		}
		if p := c.Progress(); p.LastCommand != 0 {
			t.Errorf("a command reached the log: %+v", p)
		}
		close(allowed)
		r.must(c, found().Op)
		r.must(c, addGuest(100))
		if d := cmp.Diff([]int{1}, asked); d != "" {
			t.Errorf("asked (-want +got):\n%s", d)
		}
		// A new leadership asks again.
		r.crash(1, nil)
		r.isolate(1, false)
		r.must(r.open(1, firstGeneration), addGuest(101))
		if len(asked) != 2 {
			t.Errorf("asked %v, want once more after the restart", asked)
		}
	})
}

func TestClear_WhereAnotherGenerationWinsNothingIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		wins := errors.New("generation x wins")
		var times int
		r.options = func(_ int, o *consensus.Options) {
			o.Clear = func(context.Context) error {
				if times++; times > 3 {
					return nil
				}
				return wins
			}
		}
		c := r.open(1, firstGeneration)
		defer r.close()
		if err := c.Found(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.propose(c, found().Op, 1500*time.Millisecond); !errors.Is(err, consensus.ErrNotQuorate) || !errors.Is(err, wins) {
			t.Errorf("got %v, want ErrNotQuorate with the reason", err)
		}
		r.must(c, found().Op)
		if times != 4 {
			t.Errorf("asked %d times, want 4: again after each no", times)
		}
	})
}

func TestRefuse_TakesNoCommandAndWaitsForThoseUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.found(1)
		defer r.close()
		yields := errors.New("this node yields")
		r.node(1).Refuse(yields)
		if err := r.propose(r.node(1), addGuest(100), time.Second); !errors.Is(err, consensus.ErrNotQuorate) || !errors.Is(err, yields) {
			t.Errorf("got %v, want ErrNotQuorate with the reason", err)
		}
		r.node(1).Refuse(nil)
		r.must(r.node(1), addGuest(100))
		// A command whose caller went away is under way until it is decided.
		resume := r.disks[nodeID(1)].Hang()
		if err := r.propose(r.node(1), addGuest(101), time.Second); !errors.Is(err, consensus.ErrUnknownOutcome) {
			t.Errorf("got %v, want ErrUnknownOutcome", err)
		}
		var refused atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.node(1).Refuse(yields)
			refused.Store(true)
		}()
		time.Sleep(time.Second)
		if refused.Load() {
			t.Error("a command that hangs in the disk is told to be over")
		}
		resume()
		<-done
	})
}
