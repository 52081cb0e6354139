package replicate_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// "Slow is not dead": a transfer that stands still for minutes is told, and then goes on as if nothing had been.
func TestSync_SlowIsToldAndNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var slept atomic.Bool
		w.node("2").setTrap(func(what string) error {
			if what == "got" && slept.CompareAndSwap(false, true) {
				time.Sleep(5 * time.Minute)
			}
			return nil
		})
		var log, slow []string
		w.pass(time.Minute)
		_, err := w.node("1").source.Run(t.Context(), replicate.Task{
			Job: job, Log: func(line string) { log = append(log, line) },
			Progress: func(p replicate.Progress) {
				if p.Slow != "" && !slices.Contains(slow, p.Slow) {
					slow = append(slow, p.Slow)
				}
			},
		})
		must(t, err)
		w.same("2")
		if len(slow) != 1 || !strings.Contains(slow[0], "n2 is alive, but has taken nothing for 30s") {
			t.Errorf("progress told %q", slow)
		}
		told := slices.DeleteFunc(slices.Clone(log), func(l string) bool {
			return !strings.Contains(l, "the transfer waits") && !strings.Contains(l, "goes on")
		})
		if len(told) != 2 {
			t.Errorf("the log says %q, want once that it waits and once that it goes on", told)
		}
	})
}

// A suspended or absent pool is no failure of the jobs that need it: they wait, and nothing is made anew when it is back.
func TestSync_WaitsForAPool(t *testing.T) {
	for name, trouble := range map[string]struct {
		state zfstest.PoolState
		says  string
	}{
		"suspended":    {zfstest.PoolState{Suspended: true}, "pool tank is suspended"},
		"not imported": {zfstest.PoolState{Exported: true}, "pool tank is not imported"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n1, n2 := w.node("1"), w.node("2")
			w.run(job)
			for _, n := range []*node{n1, n2} {
				n1.write(diskDS, 0, 4)
				before := n1.points(diskDS)
				n.pool.SetPool("tank", trouble.state)
				w.fails(replicate.ClassBusy, trouble.says)
				w.fails(replicate.ClassBusy, trouble.says)
				n.pool.SetPool("tank", zfstest.PoolState{})
				equal(t, n1.points(diskDS), before)
				equal(t, w.run(job).Kind, replicate.KindIncremental)
				w.same("2")
			}
		})
	}
}

// The target's pool is suspended under a transfer: the source is told why, nothing is lost, and it goes on from there.
func TestSync_ThePoolIsSuspendedUnderATransfer(t *testing.T) {
	w := newWorld(t)
	n2 := w.node("2")
	var once sync.Once
	n2.setTrap(func(what string) error {
		if strings.HasPrefix(what, "got") {
			once.Do(func() { n2.pool.SetPool("tank", zfstest.PoolState{Suspended: true}) })
		}
		return nil
	})
	w.fails(replicate.ClassBusy, "pool tank is suspended")
	n2.pool.SetPool("tank", zfstest.PoolState{})
	w.run(job)
	w.same("2")
	if d := n2.dataset(diskDS); d.Props[zfs.PropRole] != zfs.RoleReplica {
		t.Errorf("role %q", d.Props[zfs.PropRole])
	}
}
