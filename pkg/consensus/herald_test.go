package consensus_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/consensus"
)

// A command that is given on a follower is visible there once it is confirmed, and not
// only when raft would next tell the follower.
func TestPropose_OnAFollowerDoesNotWaitForTheNextEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.options = func(_ int, o *consensus.Options) { o.Timing.Commit = time.Minute }
		r.found(3)
		defer r.close()
		begun := time.Now()
		for i := range 10 {
			r.must(r.node(2+i%2), addGuest(100+i))
			if _, ok := r.node(2 + i%2).View().Guests[addGuest(100+i).Guest.ID]; !ok {
				t.Fatalf("guest %d is not visible where it was added", 100+i)
			}
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("ten commands took %s", took)
		}
	})
}
