//go:build lab

package e2e_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/pkg/api"
)

// parting is how a guest's owner is lost to the others, and how it comes back.
type parting struct {
	part, join func(o node) error
	// blind: meanwhile nothing can be asked of the owner's machine. Else the guest runs on there.
	blind bool
	// stands: it is away for as long as -pause says, and its clock stands still.
	stands bool
	// before brings the replicas on the node that will be the new owner, and on the third, into a state.
	before func(t *testing.T, w worker, old, heir, third string)
	// two: two operators recover the guest at the same time, each on a node of its own.
	two bool
}

var (
	// byPower: the power of the owner's machine goes while a sync has brought one volume, and the other one not.
	byPower = parting{
		part: func(o node) error { return o.Kill(world.ctx) },
		join: func(o node) error { return o.Start(world.ctx) }, blind: true, before: tear,
	}
	// byCable: the owner and its guest run on, and nobody hears them. Two operators bring the guest back.
	byCable = parting{
		part: func(o node) error { return o.Cut(world.ctx) },
		join: func(o node) error { return o.Mend(world.ctx) }, two: true,
	}
	// byPause: the owner stands still in the middle of a sync, and goes on as if nothing had been. The third node has more than the new
	// owner.
	byPause = parting{
		part: func(o node) error { return o.Pause(world.ctx) },
		join: func(o node) error { return o.Resume(world.ctx) }, blind: true, stands: true, before: getAhead,
	}
	// byDaemon: the owner's tandemd does not run, its guest does.
	byDaemon = parting{
		part: doing("systemctl stop tandemd"),
		join: doing("systemctl start tandemd"),
	}
)

func doing(command string) func(o node) error {
	return func(o node) error {
		_, err := o.Output(world.ctx, command)
		return err
	}
}

// getAhead gives the third node a point that the new owner will not have.
func getAhead(t *testing.T, w worker, old, heir, third string) {
	t.Helper()
	w.writes(t, old, w.writes(t, old, 0)+3)
	w.sync(t, old, third)
	tear(t, w, old, heir, third)
}

// tear leaves a sync to the new owner in its middle.
func tear(t *testing.T, w worker, old, heir, _ string) {
	t.Helper()
	job := w.job(t, old, heir)
	n(old).sh(t, "tandem update %s --rate 1", job)
	t.Cleanup(func() { n(heir).run(t, "tandem update %s --delete rate", job) })
	n(old).put(t, n(old).device(t, w.diskDataset()), diskSize/2, random(41, diskSize/2))
	n(old).sh(t, "tandem schedule-now %s", job)
	eventually(t, "one volume has arrived, the other one not", 2*time.Minute, 200*time.Millisecond, func() (bool, string) {
		points := n(heir).sh(t, "for d in %s; do zfs list -Hp -d1 -t snapshot -o name -s createtxg $d | tail -n 1 | cut -d@ -f2; done", strings.Join(w.datasets(), " "))
		tree, disk, _ := strings.Cut(points, "\n")
		return tree != disk, points
	})
}

// estranged loses the owner and recovers the guest on another node. What the owner did alone reaches nobody, is kept when it comes
// back, and costs no full sync.
func estranged(how parting) func(t *testing.T, w worker) {
	return func(t *testing.T, w worker) {
		t.Helper()
		estrange(t, w, how)
	}
}

func estrange(t *testing.T, w worker, how parting) {
	t.Helper()
	old := w.owner(t, "n1")
	heir, third := others(old)
	w.sync(t, old, heir, third)
	alone := w.writes(t, old, w.writes(t, old, 0)+3)
	n(third).refuses(t, fmt.Sprintf("tandem guest recover %s --on %s --yes --owner-is-off", w.id, heir), old, "alive")
	if how.before != nil {
		how.before(t, w, old, heir, third)
	}
	must(t, how.part(n(old)))
	begun, away := time.Now(), true
	defer func() {
		if away {
			must(t, how.join(n(old)))
		}
	}()
	if how.two {
		heir, third = w.recoverTwice(t, old, heir, third)
	} else {
		w.missed(t, heir, third)
		said := n(third).sh(t, "tandem guest recover %s --on %s --yes --owner-is-off", w.id, heir)
		t.Logf("tandem guest recover:\n%s", said)
	}
	w.runsOnlyOn(t, heir, old)
	from := lastOf(w.look(t, heir), heir)
	w.writes(t, heir, from+5)
	w.sync(t, heir, third)
	if !how.blind {
		if state := n(old).run(t, "systemctl is-active %s", w.unit()).Stdout; state != "active\n" {
			t.Errorf("the guest on %s is %q: with fence = operator it runs on", old, state)
		}
		alone = w.writes(t, old, from+5)
		// It will send as soon as it hears them.
		n(old).run(t, "for job in 0 1; do tandem schedule-now %s-$job; done", w.id)
	}
	if how.stands {
		pause(world.ctx, time.Until(begun.Add(*pauseFor)))
	}
	since := n(heir).clock(t)
	must(t, how.join(n(old)))
	away = false
	w.comesBack(t, comeback{old: old, heir: heir, alone: alone, from: from, since: since})
	if how.stands {
		n(old).sh(t, "date -s @%d", time.Now().Unix())
	}
	if by := w.look(t, heir); lastOf(by, heir) != from {
		t.Errorf("of %d records on %s the last one that it has not written is %d; it went on after %d", len(by), heir, lastOf(by, heir), from)
	}
	wholeAgain(t)
}

// lastOf is the number of the last record that this node has not written.
func lastOf(by []string, name string) int {
	for i, who := range slices.Backward(by) {
		if who != name {
			return i + 1
		}
	}
	return 0
}

// missed waits until an operator on each of these nodes would be asked whether the owner is off; nothing is done without that.
func (w worker) missed(t *testing.T, heir string, more ...string) {
	t.Helper()
	for _, name := range append(more, heir) {
		eventually(t, name+" misses the owner", 2*time.Minute, time.Second, func() (bool, string) {
			r := n(name).run(t, "tandem guest recover %s --on %s", w.id, heir)
			return r.Code != 0 && strings.Contains(r.Stdout, "Type the node's name"), r.Stdout + r.Stderr
		})
	}
	n(heir).refuses(t, fmt.Sprintf("tandem guest recover %s --on %s --yes", w.id, heir), "--owner-is-off")
}

// recoverTwice lets two operators at two nodes do it at the same time: one wins, the other is told who.
func (w worker) recoverTwice(t *testing.T, old, a, b string) (heir, third string) {
	t.Helper()
	w.missed(t, a, b)
	w.missed(t, b)
	type outcome struct {
		lab.Result
		err error
	}
	var wg sync.WaitGroup
	both := [2]outcome{}
	for i, name := range []string{a, b} {
		wg.Go(func() {
			r, err := n(name).Run(world.ctx, fmt.Sprintf("tandem guest recover %s --on %s --yes --owner-is-off", w.id, name))
			both[i] = outcome{r, err}
		})
	}
	wg.Wait()
	for i, o := range both {
		must(t, o.err)
		t.Logf("operator %d: exit code %d: %s%s", i, o.Code, o.Stdout, o.Stderr)
	}
	heir, third = a, b
	lost := both[1]
	if both[0].Code != 0 {
		heir, third, lost = b, a, both[0]
	}
	if both[0].Code == 0 && both[1].Code == 0 || both[0].Code != 0 && both[1].Code != 0 {
		t.Fatalf("exit codes %d and %d: one of two is to win", both[0].Code, both[1].Code)
	}
	if !strings.Contains(lost.Stderr, heir) || !strings.Contains(lost.Stderr, w.id) {
		t.Errorf("the one who lost is not told that %s has guest %s, which was on %s: %s", heir, w.id, old, lost.Stderr)
	}
	return heir, third
}

// comeback is the return of an owner that was given up.
type comeback struct {
	old, heir   string
	alone, from int       // so many records it has; after this one the new owner went on
	since       time.Time // when it came back, by the new owner's clock
}

// comesBack wants the former owner to stop the guest, to keep what it did alone, and to become a replica by increments.
func (w worker) comesBack(t *testing.T, c comeback) {
	t.Helper()
	eventually(t, "the guest is stopped on "+c.old, time.Minute, time.Second, func() (bool, string) {
		// Its connection may have died meanwhile.
		r, err := n(c.old).Run(world.ctx, "systemctl is-active "+w.unit())
		return err == nil && r.Stdout != "active\n" && r.Stdout != "deactivating\n", fmt.Sprintf("%s %v", r.Stdout, err)
	})
	var list api.DivergedList
	kept := map[string]api.DivergedCopy{}
	eventually(t, "what it had alone is set aside", 3*time.Minute, 2*time.Second, func() (bool, string) {
		n(c.heir).ask(t, &list, "diverged list --guest %s", w.id)
		for _, x := range list.Copies {
			if string(x.Node) == c.old {
				kept[x.Volume.Name] = x
			}
		}
		return len(kept) == len(w.datasets()), fmt.Sprintf("%+v", list)
	})
	w.runsOnlyOn(t, c.heir)
	w.sync(t, c.heir, c.old)
	w.nothingFull(t, c)
	eventually(t, "status says what happened", time.Minute, time.Second, func() (bool, string) {
		said := n(c.heir).run(t, "tandem status").Stdout
		return strings.Contains(said, "node "+c.old+": ") && strings.Contains(said, "tandem diverged list"), said
	})
	for name, x := range kept {
		newest := n(c.old).sh(t, "zfs list -Hp -d1 -t snapshot -o name -s createtxg %s | tail -n 1 | cut -d@ -f2", x.Dataset)
		by := w.readSnapshot(t, c.old, x.Dataset, newest)
		t.Logf("%s on %s: %d records, %s: %s", name, c.old, len(by), x.Dataset, x.Why)
		// The last one may have been on its way.
		if len(by) < c.alone-1 || len(by) <= c.from || by[len(by)-1] != c.old {
			t.Errorf("of %s's %d records %d can be read from %s, %d are more than the new owner took over", c.old, c.alone, len(by), x.Dataset, len(by)-c.from)
		}
	}
	for _, x := range list.Copies {
		n(c.heir).sh(t, "tandem diverged discard %s %s --yes", x.Node, x.Dataset)
	}
	replica := w.readSnapshot(t, c.old, w.datasets()[0], newestPoint)
	if by := w.look(t, c.heir); len(replica) <= c.from || !slices.Equal(replica, by[:min(len(by), len(replica))]) {
		t.Errorf("the replica on %s has %d records, and not those of the owner", c.old, len(replica))
	}
}

// nothingFull adds up what the former owner was sent since it is back.
func (w worker) nothingFull(t *testing.T, c comeback) {
	t.Helper()
	var bytes int64
	job := w.job(t, c.heir, c.old)
	for _, r := range n(c.heir).runs(t, job) {
		if r.Start.Before(c.since) {
			continue
		}
		bytes += r.Bytes
		if r.Kind == "full" {
			t.Errorf("job %s run %d to the former owner was full: %d bytes", job, r.ID, r.Bytes)
		}
	}
	t.Logf("%s is a replica again by %s bytes", c.old, strconv.FormatInt(bytes, 10))
	if bytes > few {
		t.Errorf("%s is a replica again by %d bytes, want increments of at most %d", c.old, bytes, few)
	}
}
