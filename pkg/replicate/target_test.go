package replicate_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

func TestSync_OnlyTheOwnerAtTheTermIsServed(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.node("1").write(diskDS, 1, 1)
	n2 := w.node("2")
	req := replicate.InventoryRequest{Request: replicate.Request{Version: replicate.WireVersion, Job: job, Term: term}}
	h := replicate.ReceiveHeader{Request: req.Request, Volume: disk, Kind: "volume", Verb: "incremental", From: 1}
	h.To.Name, h.To.GUID = "x", 2
	for name, tc := range map[string]struct {
		from  guest.NodeID
		spoil func(*replicate.Request)
		class replicate.Class
	}{
		"not the owner":     {id("3"), func(*replicate.Request) {}, replicate.ClassNever},
		"an older term":     {id("1"), func(r *replicate.Request) { r.Term.N = 0 }, replicate.ClassNever},
		"a newer term":      {id("1"), func(r *replicate.Request) { r.Term.N = 2 }, replicate.ClassNever},
		"other generation":  {id("1"), func(r *replicate.Request) { r.Term.Generation = "f" }, replicate.ClassNever},
		"no such job":       {id("1"), func(r *replicate.Request) { r.Job.Number = 7 }, replicate.ClassNever},
		"a ledger ahead":    {id("1"), func(r *replicate.Request) { r.Index = 99 }, replicate.ClassBusy},
		"another wire form": {id("1"), func(r *replicate.Request) { r.Version = 2 }, replicate.ClassNever},
	} {
		i, hh := req, h
		tc.spoil(&i.Request)
		tc.spoil(&hh.Request)
		if _, err := n2.target.Inventory(t.Context(), tc.from, i); replicate.ClassOf(err) != tc.class || err == nil {
			t.Errorf("%s: inventory: error %v, want class %s", name, err, tc.class)
		}
		if _, err := n2.target.Receive(t.Context(), tc.from, hh, strings.NewReader("")); replicate.ClassOf(err) != tc.class || err == nil {
			t.Errorf("%s: receive: error %v, want class %s", name, err, tc.class)
		}
		if _, err := n2.target.Remove(t.Context(), tc.from, replicate.RemoveRequest{Request: i.Request}); err == nil {
			t.Errorf("%s: remove: no error", name)
		}
	}
	equal(t, n2.points(diskDS), 1)
}

func TestTarget_ANewTermEndsAReceive(t *testing.T) {
	w := newWorld(t)
	n2 := w.node("2")
	var once sync.Once
	w.mu.Lock()
	n2.trap = func(what string) error {
		if what != "got" {
			return nil
		}
		once.Do(func() {
			w.change(func(s *ledger.State) {
				g := s.Guests[100]
				g.Term.N++
				s.Guests = map[guest.ID]guest.Guest{100: g}
			})
			n2.target.EndStale()
		})
		return nil
	}
	w.mu.Unlock()
	_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: job})
	if err == nil || replicate.ClassOf(err) != replicate.ClassNever || !strings.Contains(err.Error(), " term") {
		t.Fatalf("got %v", err)
	}
}

func TestReplicas_LagSurvivesARestart(t *testing.T) {
	w := newWorld(t)
	r := w.run(job)
	n2 := w.node("2")
	w.pass(90 * time.Second)
	for range 2 {
		list, err := n2.target.Replicas(t.Context())
		must(t, err)
		equal(t, len(list), 1)
		equal(t, list[0].Point.Name, r.Point)
		equal(t, list[0].Point.Consistency, guest.Crash)
		equal(t, list[0].Point.Lag(w.clock()), 90*time.Second)
		equal(t, len(list[0].Volumes), 2)
		n2.restart()
	}
	w.run(job) // Nothing was written: the point is current as of now.
	n2.restart()
	list, err := n2.target.Replicas(t.Context())
	must(t, err)
	equal(t, list[0].Point.Name, r.Point)
	equal(t, list[0].Point.Lag(w.clock()), 5*time.Second)
}

func TestRemove_DestroysReplicasAndOwnPoints(t *testing.T) {
	for _, keep := range []bool{false, true} {
		w := newWorld(t)
		n1, n2 := w.node("1"), w.node("2")
		n1.snap(diskDS + "@op")
		w.run(job)
		n2.snap(rootDS + "@theirs")
		if _, err := n1.source.Remove(t.Context(), replicate.Task{Job: job}); err == nil {
			t.Fatal("a job that nobody removed was removed")
		}
		w.change(func(s *ledger.State) {
			j := s.Jobs[job]
			j.Removing, j.KeepReplica = true, keep
			s.Jobs = map[guest.JobID]guest.Job{job: j}
		})
		r, err := n1.source.Remove(t.Context(), replicate.Task{Job: job})
		must(t, err)
		equal(t, n1.points(diskDS), 0)
		equal(t, n1.operators(diskDS), []string{"op"})
		equal(t, n2.dataset(diskDS).Exists(), keep)
		equal(t, n2.operators(rootDS), []string{"theirs"})
		want := 1 // Of the root's replica, because of their snapshot.
		if keep {
			want = 2
		}
		equal(t, len(r.Left), want)
	}
}

func TestRemove_AfterACutFirstSync(t *testing.T) {
	w := newWorld(t)
	w.node("1").snap(diskDS + "@op")
	w.node("2").pool.Inject(zfstest.Fault{Op: "Receive", Name: "root", Times: 1, Cut: 4 * 4096})
	w.fails(replicate.ClassRetry, "root")
	w.change(func(s *ledger.State) {
		j := s.Jobs[job]
		j.Removing = true
		s.Jobs = map[guest.JobID]guest.Job{job: j}
	})
	w.fails(replicate.ClassNever, "being removed")
	r, err := w.node("1").source.Remove(t.Context(), replicate.Task{Job: job})
	must(t, err)
	equal(t, len(r.Left), 0)
	equal(t, w.node("2").dataset(diskDS).Exists(), false)
	equal(t, w.node("2").dataset(rootDS).Exists(), false)
}
