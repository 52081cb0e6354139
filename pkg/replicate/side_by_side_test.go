package replicate_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate"
)

// trap sets what is called before and after each thing that the node's daemon does.
func (n *node) setTrap(f func(what string) error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.trap = f
}

// gate stops the first one who comes until it is opened.
type gate struct {
	once          sync.Once
	reached, open chan struct{}
}

func newGate() *gate { return &gate{reached: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) pass() {
	g.once.Do(func() {
		close(g.reached)
		<-g.open
	})
}

// A first full sync that takes hours to one target holds up neither the guest's
// syncs to another nor what they clean.
func TestSync_ASlowTransferHoldsUpNoOtherTarget(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	slow := newGate()
	w.node("3").setTrap(func(what string) error {
		if what == "got" {
			slow.pass()
		}
		return nil
	})
	ended := make(chan error)
	go func() {
		_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: second})
		ended <- err
	}()
	<-slow.reached
	for i := range 5 {
		w.node("1").write(diskDS, int64(i), 2)
		w.run(job)
		w.same("2")
	}
	if got := w.node("2").points(diskDS); got > 2 {
		t.Errorf("n2 has %d points, want at most 2", got)
	}
	close(slow.open)
	must(t, <-ended)
	equal(t, w.run(second).Kind, replicate.KindIncremental)
	w.same("3")
}

// Of two runs of a guest one takes its snapshot; the other waits for it, and
// where that is too long it has not failed: it has not begun.
func TestSync_OneSnapshotOfAGuestAtATime(t *testing.T) {
	w := newWorld(t)
	second := twoTargets(w)
	taking := newGate()
	w.node("1").setTrap(func(what string) error {
		if strings.HasPrefix(what, "n1 Change ") {
			taking.pass()
		}
		return nil
	})
	ended := make(chan error)
	go func() {
		_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: job})
		ended <- err
	}()
	<-taking.reached
	w.pass(time.Minute)
	_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: second})
	if got := replicate.ClassOf(err); got != replicate.ClassBusy || !strings.Contains(err.Error(), "guest 100 is locked") {
		t.Errorf("while another run has the guest: %v of class %s, want class %s", err, got, replicate.ClassBusy)
	}
	equal(t, w.node("1").points(diskDS), 0)
	close(taking.open)
	must(t, <-ended)
	w.run(second)
	w.same("2")
	w.same("3")
	equal(t, w.node("1").points(diskDS), 1)
}

// Two syncs of a guest that begin at the same moment are told of its volumes by one list: what one of them takes and destroys
// is not written into what the other has read.
func TestSync_TwoThatBeginTogetherShareNothing(t *testing.T) {
	w := newWorld(t)
	secondJob(w)
	for i := range 8 {
		w.pass(time.Minute)
		w.node("1").write(diskDS, int64(i), 2)
		w.node("1").write(rootDS, int64(i), 1)
		var wg sync.WaitGroup
		for _, j := range []guest.JobID{job, second} {
			wg.Go(func() {
				if _, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: j}); err != nil {
					t.Errorf("job %s: %v", j, err)
				}
			})
		}
		wg.Wait()
	}
	for _, j := range []guest.JobID{job, second} {
		w.run(j)
	}
	w.same("2")
	w.same("3")
}
