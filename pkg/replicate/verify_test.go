package replicate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/verify"
	"github.com/tandemd/tandem/pkg/replicate/verify/content"
	"github.com/tandemd/tandem/pkg/replicate/verify/reading"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/fault"
)

// reader is the part of a node's daemon that compares.
type reader struct {
	reading  *reading.Reader
	server   *verify.Server
	verifier *verify.Verifier
}

// read makes it anew, as a new process does.
func (n *node) read(o local.Options) {
	o, err := o.WithDefaults()
	must(n.w.t, err)
	n.reading = reading.New(o, n.pool, n.dir)
	n.verifier = verify.New(o, link{n}, n.reading, zap.NewNop())
	n.server = verify.NewServer(o, n.target, n.verifier)
}

func (n *node) serve(ctx context.Context, from guest.NodeID, path string, req any) (any, error) {
	switch path {
	case verify.PathBegin:
		return handle(ctx, from, req, n.server.Begin)
	case verify.PathRead:
		return handle(ctx, from, req, n.server.Read)
	case verify.PathAttend:
		return handle(ctx, from, req, n.server.Attend)
	case verify.PathEnd:
		return handle(ctx, from, req, n.server.End)
	case verify.PathRecord:
		return handle(ctx, from, req, n.server.Record)
	default:
		return nil, errors.New("no such path")
	}
}

// verify compares a job's replica with its source, to the end.
func (w *world) verify(j guest.JobID, mbs float64) verify.Result {
	w.t.Helper()
	v := w.node("1").verifier
	number, err := v.Start(j, mbs)
	must(w.t, err)
	for {
		s, err := v.Watch(w.t.Context(), j, number)
		must(w.t, err)
		if s.Result != nil {
			return *s.Result
		}
	}
}

// untouched wants a verification to leave nothing on either node: no dataset and
// no property more or less.
func (w *world) untouched(do func()) {
	w.t.Helper()
	w.traces() // which lists, as does the next
	before := [2]string{w.tree("1"), w.tree("2")}
	do()
	for i, n := range []string{"1", "2"} {
		equal(w.t, w.tree(n), before[i])
	}
}

func (w *world) tree(n string) string {
	w.t.Helper()
	var b strings.Builder
	list, err := w.node(n).pool.Children(w.t.Context(), "tank/g")
	must(w.t, err)
	for _, d := range list {
		d = w.node(n).dataset(d.Name)
		fmt.Fprintf(&b, "%s %d written=%d readonly=%v mounted=%v %v\n", d.Name, d.GUID, d.Written, d.ReadOnly, d.Mounted, d.Props)
		for _, s := range d.Snapshots {
			fmt.Fprintf(&b, "  @%s %d %v\n", s.Name, s.GUID, s.Props)
		}
	}
	return b.String()
}

func blocks(n int, fill byte) []byte { return bytes.Repeat([]byte{fill}, n*4096) }

// damaged is the newest point of a replica's volume.
func (n *node) newest(dataset string) string {
	n.w.t.Helper()
	snaps := n.dataset(dataset).Snapshots
	return dataset + "@" + snaps[len(snaps)-1].Name
}

func TestVerify_EqualReplicasAreEqual(t *testing.T) {
	w := newWorld(t)
	point := w.run(job).Point
	w.node("1").write(diskDS, 100, 8) // What was written since does not count.
	w.untouched(func() {
		r := w.verify(job, 0)
		if r.Outcome != verify.Equal || r.Point != point || len(r.Volumes) != 2 || r.Error != "" || r.Bytes == 0 || r.Target != id("2") {
			t.Errorf("%+v", r)
		}
	})
	for _, d := range []string{diskDS, rootDS} {
		if x := w.node("2").dataset(d); x.Written != 0 || x.Mounted || !x.ReadOnly {
			t.Errorf("the replica was touched: %+v", x)
		}
	}
	w.run(job)
	w.same("2")
	w.node("1").restart()
	rec := w.node("1").verifier.Record(w.View().Jobs[job])
	if rec.Last == nil || rec.Last.Outcome != verify.Equal || rec.Alarm() {
		t.Errorf("after a restart: %+v", rec)
	}
}

// F56: equal GUIDs and other bytes.
func TestVerify_SaysWhereReplicasDiffer(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n1, n2 := w.node("1"), w.node("2")
	must(t, n2.pool.Damage(n2.newest(diskDS), 8*4096, blocks(1, 7)))
	must(t, n2.pool.Damage(n2.newest(rootDS), 3*4096, blocks(2, 7)))
	r := w.verify(job, 0)
	equal(t, r.Outcome, verify.Differs)
	equal(t, r.Volumes[0].Differences, []content.Difference{{Length: 3 << 19, What: []string{content.Content}}})
	equal(t, r.Volumes[1].Differences, []content.Difference{
		{Path: "block-00000003", Length: 4096, What: []string{content.Content}},
		{Path: "block-00000004", Length: 4096, What: []string{content.Content}},
	})
	conf := w.View().Jobs[job]
	if !n1.verifier.Record(conf).Alarm() {
		t.Error("no alarm")
	}

	// A sync goes on with what it has, and a try that fails says nothing about it.
	n1.write(diskDS, 300, 1)
	w.run(job)
	n2.pool.Inject(zfstest.Fault{Op: "Contents", Times: 1, Err: fault.Fail("read contents", diskDS, "no such thing")})
	r = w.verify(job, 0)
	if r.Outcome != verify.Failed || !strings.Contains(r.Error, "no such thing") {
		t.Errorf("%+v", r)
	}
	n1.restart()
	rec := n1.verifier.Record(conf)
	if !rec.Alarm() || rec.Last.Outcome != verify.Failed {
		t.Errorf("after a failed one: %+v", rec)
	}

	must(t, n1.verifier.Acknowledge(conf, "root@n1"))
	if rec = n1.verifier.Record(conf); rec.Alarm() || rec.Known != "root@n1" || rec.Differs == nil {
		t.Errorf("acknowledged: %+v", rec)
	}
	// What is found anew is an alarm anew: in the fake the damage stays in its snapshot.
	must(t, n2.pool.Damage(n2.newest(diskDS), 0, blocks(1, 9)))
	equal(t, w.verify(job, 0).Outcome, verify.Differs)
	if !n1.verifier.Record(conf).Alarm() {
		t.Error("no alarm for what was found again")
	}

	// The way out: the replica is set aside, and sent whole again.
	for _, d := range []string{diskDS, rootDS} {
		must(t, n2.pool.Rename(t.Context(), d, d+"-aside"))
		must(t, n2.pool.Inherit(t.Context(), zfs.PropRole, d+"-aside"))
	}
	w.run(job)
	equal(t, w.verify(job, 0).Outcome, verify.Equal)
	if rec = n1.verifier.Record(conf); rec.Differs != nil || rec.Alarm() {
		t.Errorf("after a clean one: %+v", rec)
	}
	if err := n1.verifier.Acknowledge(conf, "root@n1"); err == nil {
		t.Error("an alarm was acknowledged that is none")
	}
	// The job is another one now.
	w.change(func(s *ledger.State) { s.Jobs = map[guest.JobID]guest.Job{} })
	must(t, n1.verifier.Forget(w.View()))
	if rec = n1.verifier.Record(conf); rec.Last != nil {
		t.Errorf("of a job that is no more: %+v", rec)
	}
}

// It is the newest complete point that both have, by GUID, and it stays as long
// as it is read although syncs go on.
func TestVerify_SyncsGoOnMeanwhileAndThePointStays(t *testing.T) {
	w := newWorld(t)
	point := w.run(job).Point
	n1, n2 := w.node("1"), w.node("2")
	hang, reached := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	n2.trapOn("Contents", func() {
		if once.CompareAndSwap(false, true) {
			close(reached)
			<-hang
		}
	})
	number, err := n1.verifier.Start(job, 0)
	must(t, err)
	<-reached
	for range 3 {
		n1.write(diskDS, 200, 3)
		w.run(job)
	}
	for _, n := range []*node{n1, n2} {
		if got := n.points(diskDS); got != 2 {
			t.Errorf("%s has %d points, want the newest and the one that is read", n.name, got)
		}
	}
	var busy *replicate.Error
	if _, err := n1.verifier.Start(job, 0); !errors.As(err, &busy) || busy.Class != replicate.ClassBusy || !strings.Contains(err.Error(), "pool tank on n1 is being read already") {
		t.Errorf("a second one at the same time: %v", err)
	}
	close(hang)
	var r *verify.Result
	for r == nil {
		s, err := n1.verifier.Watch(t.Context(), job, number)
		must(t, err)
		r = s.Result
	}
	if r.Outcome != verify.Equal || r.Point != point {
		t.Errorf("%+v, want that of %s", r, point)
	}
	w.run(job)
	for _, n := range []*node{n1, n2} {
		if got := n.points(diskDS); got != 1 {
			t.Errorf("%s has %d points afterwards, want 1", n.name, got)
		}
	}
}

// trapOn does something in the midst of an operation of this node.
func (n *node) trapOn(op string, do func()) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.trap = func(what string) error {
		if strings.Contains(what, " "+op+" ") && strings.HasSuffix(what, "after=true") {
			do()
		}
		return nil
	}
}

func TestVerify_EndsWithWhoBeganIt(t *testing.T) {
	for name, end := range map[string]func(w *world, number uint64){
		"ended by its watcher": func(w *world, number uint64) { w.node("1").verifier.Cancel(job, number) },
		"replicas removed":     func(w *world, _ uint64) { w.node("2").server.EndGuest(context.Background(), 100, verify.ErrRemoved) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.run(job)
				n1, n2 := w.node("1"), w.node("2")
				hang := make(chan struct{})
				n2.trapOn("Contents", func() { <-hang })
				w.untouched(func() {
					number, err := n1.verifier.Start(job, 1)
					must(t, err)
					synctest.Wait()
					var wg sync.WaitGroup
					wg.Go(func() { end(w, number) }) // The removal waits for what hangs.
					synctest.Wait()
					close(hang)
					wg.Wait()
					for {
						s, err := n1.verifier.Watch(t.Context(), job, number)
						must(t, err)
						if s.Result == nil {
							continue
						}
						if s.Result.Outcome != verify.Failed || s.Result.Error == "" {
							t.Errorf("%+v", s.Result)
						}
						break
					}
					n2.server.EndGuest(t.Context(), 100, verify.ErrRemoved)
				})
				equal(t, w.verify(job, 0).Outcome, verify.Equal)
			})
		})
	}
}

// What takes the replica's place ends what reads it at once, says why, and is not held up by it.
func TestVerify_EndsForWhatTakesTheReplicasPlace(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *world)
		want []string
	}{
		"set aside": {func(w *world) {
			w.node("2").scribble(diskDS, 50, 20)
			w.node("1").write(diskDS, 200, 10)
			w.run(job)
			equal(w.t, len(w.node("2").aside()), 1)
		}, []string{"n2", "ended on n2", "volume " + disk.String() + " is set aside, because"}},
		"another owner": {func(w *world) {
			w.owns("3", 2)
			w.node("2").server.Learn(w.View())
		}, []string{"ended on n2", "another owner"}},
		"another owner, seen by the one before": {func(w *world) {
			w.owns("3", 2)
			w.node("1").verifier.Learn(w.View())
		}, []string{"another owner"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(job)
			n1, n2 := w.node("1"), w.node("2")
			reached := make(chan struct{}, 8)
			n1.trapOn("Contents", func() { reached <- struct{}{} })
			number, err := n1.verifier.Start(job, 0.02) // n1 alone reads for half a minute before it asks n2 anything.
			must(t, err)
			<-reached
			began := time.Now()
			c.do(w)
			r := w.ended(number)
			for _, text := range c.want {
				if !strings.Contains(r.Error, text) {
					t.Errorf("%s: %q, want %q", r.Outcome, r.Error, text)
				}
			}
			// It would have taken longer, and the disks' rate is not what ended it.
			if took := time.Since(began); r.Outcome != verify.Failed || took > 20*time.Second {
				t.Errorf("%s after %s", r.Outcome, took)
			}
			n1.verifier.Close()
			n2.server.Close()
			for _, n := range []*node{n1, n2} {
				if left := w.tree(strings.TrimPrefix(string(n.name), "n")); strings.Contains(left, guest.ReadingPrefix) {
					t.Errorf("%s has\n%s", n.name, left)
				}
			}
		})
	}
}

// ended waits for the end of a verification.
func (w *world) ended(number uint64) verify.Result {
	w.t.Helper()
	for {
		s, err := w.node("1").verifier.Watch(w.t.Context(), job, number)
		must(w.t, err)
		if s.Result != nil {
			return *s.Result
		}
	}
}

func TestVerify_Refuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(w *world)
		want  string
		// at once: it does not even begin.
		atOnce bool
	}{
		"no job": {func(w *world) { w.change(func(s *ledger.State) { s.Jobs = nil }) }, "there is no job 100-0", true},
		"another's guest": {func(w *world) {
			w.change(func(s *ledger.State) {
				g := s.Guests[100]
				g.Owner = id("3")
				s.Guests = map[guest.ID]guest.Guest{100: g}
			})
		}, "n3 does", true},
		"not complete there": {func(w *world) {
			must(w.t, w.node("2").pool.Inherit(w.t.Context(), zfs.PropComplete, w.node("2").newest(diskDS)))
		}, "n2 has no complete point of guest 100 that its owner has too", false},
		"not its replica": {func(w *world) {
			must(w.t, w.node("2").pool.SetProps(w.t.Context(), map[string]string{zfs.PropGuest: "101"}, rootDS))
		}, "has no complete point", false},
		"no point here": {func(w *world) {
			for _, d := range []string{diskDS, rootDS} {
				for _, s := range w.node("1").dataset(d).Snapshots {
					must(w.t, w.node("1").pool.DestroySnapshots(w.t.Context(), d, []string{s.Name}))
				}
			}
		}, "guest 100 has no point yet", false},
		"key not loaded": {func(w *world) {
			must(w.t, w.node("2").pool.SetProps(w.t.Context(), map[string]string{"encryption": "aes-256-gcm"}, diskDS))
			w.node("2").pool.SetKey(diskDS, false)
		}, "its key is not loaded on n2", false},
		"disk error": {func(w *world) {
			w.node("2").pool.Inject(zfstest.Fault{Op: "Contents", Name: diskDS, Cut: 4096})
		}, "Input/output error", false},
		"pool suspended": {func(w *world) {
			w.node("2").pool.SetPool("tank", zfstest.PoolState{Suspended: true})
		}, "suspended", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(job)
			c.spoil(w)
			if c.atOnce {
				_, err := w.node("1").verifier.Start(job, 0)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				return
			}
			r := w.verify(job, 0)
			if r.Outcome != verify.Failed || !strings.Contains(r.Error, c.want) {
				t.Errorf("got %s: %q, want %q", r.Outcome, r.Error, c.want)
			}
		})
	}
	w := newWorld(t)
	if _, err := w.node("1").verifier.Start(job, -1); err == nil {
		t.Error("a negative rate was taken")
	}
}

// verifiable leaves a replica to verify.
func verifiable(w *world) {
	w.run(job)
	w.trees = [2]string{w.tree("1"), w.tree("2")}
}

func verifyOnce(w *world) error {
	n1 := w.node("1")
	number, err := n1.verifier.Start(job, 0)
	if err != nil {
		return err
	}
	w.ends(number)
	n1.verifier.Close()
	w.node("2").server.Close()
	return nil
}

// sweptAway wants a verification to have left nothing once the daemons run again, and no sync to notice.
func sweptAway(w *world) {
	for i, name := range []string{"1", "2"} {
		n := w.node(name)
		n.restart()
		must(w.t, n.reading.Sweep(w.t.Context()))
		if got := w.tree(name); got != w.trees[i] {
			w.t.Errorf("n%s has now\n%s\nand had\n%s", name, got, w.trees[i])
		}
	}
	w.node("1").write(diskDS, 300, 1)
	w.run(job)
	w.same("2")
	w.tidy("2")
}

// ends waits for the end of a verification, and ends it itself once a daemon has died.
func (w *world) ends(number uint64) {
	w.t.Helper()
	v := w.node("1").verifier
	for {
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Millisecond)
		s, err := v.Watch(ctx, job, number)
		cancel()
		must(w.t, err)
		if s.Result != nil {
			return
		}
		if w.died() {
			v.Cancel(job, number)
		}
	}
}

func TestVerify_HoldsToItsRate(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	began := time.Now()
	r := w.verify(job, 1)
	// 1.5 MiB at 1 MB/s, of which the first MiB may come at once.
	if took := time.Since(began); r.Outcome != verify.Equal || took < 400*time.Millisecond {
		t.Errorf("%s in %s", r.Outcome, took)
	}
}

// An answer that is lost on its way is told again, and nothing twice.
func TestVerify_ALostAnswerIsToldAgain(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	var lost atomic.Bool
	n2 := w.node("2")
	w.mu.Lock()
	n2.trap = func(what string) error {
		if what == "answer "+verify.PathRead && lost.CompareAndSwap(false, true) {
			return errors.New("connection reset by peer")
		}
		return nil
	}
	w.mu.Unlock()
	if r := w.verify(job, 0); r.Outcome != verify.Equal || !lost.Load() {
		t.Errorf("%+v", r)
	}
}

// owns gives the guest to another node, as a move does: the job that pointed there points back.
func (w *world) owns(node string, term uint64) {
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		was := g.Owner
		g.Owner, g.Term.N = id(node), term
		s.Guests = map[guest.ID]guest.Guest{100: g}
		jobs := map[guest.JobID]guest.Job{}
		for k, j := range s.Jobs {
			if j.Target == g.Owner {
				j.Target = was
			}
			jobs[k] = j
		}
		s.Jobs = jobs
	})
}

// What was found of a replica is known to whoever owns the guest next, be it from the target or from the owner before, and
// what he says of it, to the one after.
func TestVerify_TheAlarmGoesWithTheGuest(t *testing.T) {
	w := newWorld(t)
	secondJob(w)
	n1, n2, n3 := w.node("1"), w.node("2"), w.node("3")
	for _, j := range []guest.JobID{job, second} {
		w.run(j)
	}
	must(t, n2.pool.Damage(n2.newest(rootDS), 3*4096, blocks(1, 7)))
	must(t, n3.pool.Damage(n3.newest(rootDS), 3*4096, blocks(1, 7)))
	alarms := func(n *node) (out []string) {
		for _, j := range []guest.JobID{job, second} {
			conf := w.View().Jobs[j]
			if r := n.verifier.Record(conf); r.Alarm() && r.Differs.Target == conf.Target {
				out = append(out, j.String())
			}
		}
		return out
	}
	equal(t, w.verify(job, 0).Outcome, verify.Differs)
	equal(t, w.verify(second, 0).Outcome, verify.Differs)

	w.owns("2", 2)
	n2.restart()
	n1.restart()
	n2.verifier.Carry(t.Context())
	equal(t, alarms(n2), []string{"100-0", "100-1"})
	must(t, n2.verifier.Acknowledge(w.View().Jobs[second], "root@n2"))
	n2.verifier.Carry(t.Context())

	w.owns("1", 3)
	n1.verifier.Carry(t.Context())
	equal(t, alarms(n1), []string{"100-0"})
	equal(t, n1.verifier.Record(w.View().Jobs[second]).Known, "root@n2")

	// A target that is away has it told when it is back; nothing is asked for twice.
	asked := 0
	w.mu.Lock()
	n3.trap = func(what string) error {
		asked++
		return errKilled
	}
	w.mu.Unlock()
	n1.restart()
	n1.verifier.Carry(t.Context())
	equal(t, []any{alarms(n1), asked}, []any{[]string{"100-0"}, 0})
	w.owns("2", 4)
	n2.verifier.Carry(t.Context())
	equal(t, []any{alarms(n2), asked}, []any{[]string{"100-0"}, 1})
	n3.restart()
	n2.verifier.Carry(t.Context())
	equal(t, n2.verifier.Record(w.View().Jobs[second]).Known, "root@n2")
}
