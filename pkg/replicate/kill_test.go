package replicate_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate"
)

var errKilled = errors.New("killed")

// killAt makes the daemons of the given nodes die at the nth thing they do: from
// then on nothing that they try has an effect. It returns whether it came to that.
func (w *world) killAt(nth int, nodes ...string) (died func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 0
	for _, n := range nodes {
		w.node(n).trap = func(what string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if count++; count >= nth {
				return fmt.Errorf("%w at %s", errKilled, what)
			}
			return nil
		}
	}
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return count >= nth
	}
}

// TestSync_KilledAnywhereConverges kills the source's, the target's or both
// daemons before and after each effect of a first sync and of an increment. The
// next runs must converge without help, without a second full stream, and leave
// nothing behind.
func TestSync_KilledAnywhereConverges(t *testing.T) {
	for _, sides := range [][]string{{"1"}, {"2"}, {"1", "2"}} {
		for _, syncs := range []int{0, 1} {
			nth := 1
			for killedOnce(t, nth, syncs, sides) {
				if nth++; nth > 1000 {
					t.Fatal("a sync does not end")
				}
			}
			if nth < 20 {
				t.Errorf("killing %v came to only %d points", sides, nth)
			}
		}
	}
}

// killedOnce kills the sync that comes after so many good ones. It says whether the sync was long enough for the kill.
func killedOnce(t *testing.T, nth int, syncs int, sides []string) bool {
	t.Helper()
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n1.snap(diskDS + "@early")
	if syncs > 0 {
		w.run(job)
		n1.write(diskDS, 200, 64)
		n1.snap(diskDS + "@late")
		n1.write(rootDS, 30, 4)
	}
	died := w.killAt(nth, sides...)
	_, err := n1.source.Run(t.Context(), replicate.Task{Job: job})
	if !died() {
		must(t, err)
		return false
	}
	n1.restart()
	n2.restart()
	had := map[string]bool{}
	for _, d := range []string{diskDS, rootDS} {
		x := n2.dataset(d)
		had[d] = x.Exists() && (len(x.Snapshots) > 0 || x.ResumeToken != "")
	}
	where := fmt.Sprintf("killed %v after %d syncs at %d", sides, syncs, nth)
	r := w.run(job)
	for _, v := range r.Volumes {
		name := map[guest.Volume]string{disk: diskDS, root: rootDS}[v.Volume]
		if had[name] && v.Kind == replicate.KindFull {
			t.Errorf("%s: %s was sent whole again", where, v.Volume)
		}
	}
	w.same("2")
	n1.write(diskDS, 300, 1)
	last := w.run(job)
	w.same("2")
	for _, n := range []*node{n1, n2} {
		for _, d := range []string{diskDS, rootDS} {
			if got := n.points(d); got != 1 {
				t.Errorf("%s: %s has %d points of %s, want 1", where, n.name, got, d)
			}
			if x := n.dataset(d); x.ResumeToken != "" {
				t.Errorf("%s: %s still has a partial receive of %s", where, n.name, d)
			}
		}
	}
	list, err := n2.target.Replicas(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].Point == nil || list[0].Point.Name != last.Point {
		t.Errorf("%s: replicas %+v, want the point %s", where, list, last.Point)
	}
	// A copy of an operator's snapshot is known as such: it goes when it goes at the source.
	if syncs > 0 {
		must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, []string{"early"}))
		w.run(job)
		equal(t, n2.operators(diskDS), []string{"late"})
	}
	return !t.Failed()
}
