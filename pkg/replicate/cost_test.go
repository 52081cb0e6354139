package replicate_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// crowd adds guests from 201 on with one zvol each, and a job every minute to n2.
func (w *world) crowd(guests int) (jobs []guest.JobID) {
	w.t.Helper()
	w.change(func(s *ledger.State) {
		s.Guests, s.Jobs = maps.Clone(s.Guests), maps.Clone(s.Jobs)
		for n := range guests {
			g := guest.Guest{ID: guest.ID(201 + n), Type: guest.VM, Name: fmt.Sprint("g", n), Owner: id("1"), Term: term}
			g.Volumes = []guest.Volume{{Storage: "local-zfs", Name: fmt.Sprintf("vm-%s-disk-0", g.ID)}}
			j := guest.Job{ID: guest.JobID{Guest: g.ID}, Target: id("2"), Schedule: "*/1", Snapshots: guest.Mirror}
			s.Guests[g.ID], s.Jobs[j.ID] = g, j
			jobs = append(jobs, j.ID)
		}
	})
	for _, j := range jobs {
		must(w.t, w.node("1").pool.Create(crowdDS(j), 1<<20, nil))
		w.node("1").write(crowdDS(j), 0, 8)
	}
	return jobs
}

func crowdDS(j guest.JobID) string { return fmt.Sprintf("tank/g/vm-%s-disk-0", j.Guest) }

// together runs jobs that are due at the same moment.
func (w *world) together(jobs []guest.JobID) (results []replicate.Result) {
	w.t.Helper()
	w.pass(time.Minute)
	results = make([]replicate.Result, len(jobs))
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() {
			var err error
			if results[i], err = w.node("1").source.Run(w.t.Context(), replicate.Task{Job: j}); err != nil {
				w.t.Errorf("job %s: %v", j, err)
			}
		})
	}
	wg.Wait()
	return results
}

// processes is what both sides have started since the last time, by what they did.
func (w *world) processes() (n int, each map[string]int) {
	each = map[string]int{}
	for _, name := range []string{"1", "2"} {
		x := w.node(name)
		calls := x.pool.Calls()
		for _, c := range calls[x.counted:] {
			each[name+" "+c.Op]++
			n++
		}
		x.counted = len(calls)
	}
	return n, each
}

func TestCost_OneGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		j := w.crowd(1)[0]
		n1 := w.node("1")
		for round := range 5 {
			if round > 0 {
				n1.write(crowdDS(j), int64(round), 16)
			}
			w.processes()
			began := time.Now()
			w.run(j)
			n, each := w.processes()
			if round > 1 && n > 6 {
				t.Errorf("a small sync took %d processes, want at most 6: %v", n, each)
			}
			if took := time.Since(began); took > 20*time.Millisecond {
				t.Errorf("a sync alone waited %s for others", took)
			}
		}
		for range 3 {
			equal(t, w.run(j).Kind, replicate.KindNothing)
			if n, each := w.processes(); n > 2 {
				t.Errorf("a sync with nothing to do took %d processes, want at most 2: %v", n, each)
			}
		}
		// What the last sync left for the next one to destroy is not left for long.
		equal(t, n1.points(crowdDS(j)), 2)
		w.pass(15 * time.Minute)
		equal(t, w.run(j).Kind, replicate.KindNothing)
		equal(t, n1.points(crowdDS(j)), 1)
		equal(t, w.node("2").points(crowdDS(j)), 1)
	})
}

func TestCost_TwentyGuestsDueTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		jobs := w.crowd(20)
		w.together(jobs)
		for round := range 3 {
			for _, j := range jobs {
				w.node("1").write(crowdDS(j), int64(round), 1)
			}
			w.processes()
			for _, r := range w.together(jobs) {
				equal(t, r.Kind, replicate.KindIncremental)
			}
			if n, each := w.processes(); n > 50 {
				t.Errorf("20 guests took %d processes, want at most 50: %v", n, each)
			} else {
				t.Logf("20 guests took %d processes: %v", n, each)
			}
			for _, j := range jobs {
				got, want := w.node("2").dataset(crowdDS(j)).Snapshots, w.node("1").dataset(crowdDS(j)).Snapshots
				if len(got) != 1 || len(want) != 2 || got[0].GUID != want[1].GUID || got[0].Props[zfs.PropComplete] == "" {
					t.Fatalf("job %s: the target has %+v, the owner %+v", j, got, want)
				}
			}
		}
		w.processes()
		w.together(jobs)
		if n, each := w.processes(); n > 4 {
			t.Errorf("20 guests with nothing to do took %d processes: %v", n, each)
		}
	})
}

// What stands in the way of one guest is not in the way of those that are due with it.
func TestCost_OneOfManyFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		jobs := w.crowd(6)
		w.together(jobs)
		for _, j := range jobs {
			w.node("1").write(crowdDS(j), 3, 1)
		}
		// One guest's replica carries another's mark, a second's volume is gone, and the old
		// points of a third are held on both nodes.
		n1, n2 := w.node("1"), w.node("2")
		n1.pool.Destroy(crowdDS(jobs[1]))
		must(t, n2.pool.SetProps(t.Context(), map[string]string{zfs.PropGuest: "999"}, crowdDS(jobs[0])))
		for _, n := range []*node{n1, n2} {
			must(t, n.pool.Hold(t.Context(), "operator", crowdDS(jobs[2])+"@"+n.dataset(crowdDS(jobs[2])).Snapshots[0].Name))
		}
		w.pass(time.Minute)
		var mu sync.Mutex
		var failed []guest.JobID
		var wg sync.WaitGroup
		for _, j := range jobs {
			wg.Go(func() {
				if _, err := n1.source.Run(t.Context(), replicate.Task{Job: j}); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = append(failed, j)
				}
			})
		}
		wg.Wait()
		slices.SortFunc(failed, guest.JobID.Compare)
		equal(t, failed, []guest.JobID{jobs[0], jobs[1]})
		for _, j := range jobs[2:] {
			if got := n2.dataset(crowdDS(j)).Snapshots; got[len(got)-1].Props[zfs.PropComplete] == "" {
				t.Errorf("job %s did not end well: %+v", j, got)
			}
		}
		equal(t, n2.points(crowdDS(jobs[2])), 2)
		equal(t, n2.points(crowdDS(jobs[3])), 1)
	})
}

// A pool that does not answer stops the guests on it, and no others.
func TestCost_AHungPoolStopsItsOwnGuestsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		jobs := w.crowd(4)
		w.together(jobs)
		for _, j := range jobs {
			w.node("1").write(crowdDS(j), 3, 1)
		}
		hang := make(chan struct{})
		defer close(hang)
		w.node("1").pool.Inject(zfstest.Fault{Op: "List", Name: crowdDS(jobs[0]), Hang: hang, Times: 1})
		ended := make(chan error)
		go func() {
			_, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: jobs[0]})
			ended <- err
		}()
		time.Sleep(10 * time.Second)
		began := time.Now()
		w.together(jobs[1:])
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the other guests waited %s for one that hangs", took)
		}
		if err := <-ended; err == nil || zfs.ClassOf(err) != zfs.ClassHung {
			t.Errorf("the hung list ended with %v", err)
		}
	})
}

// A snapshot that somebody makes between the list and the point travels with the
// point, and has to be marked as brought.
func TestCost_ASnapshotMadeMeanwhileIsNotOverlooked(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.node("1").write(diskDS, 3, 1)
	var once sync.Once
	w.node("1").setTrap(func(what string) error {
		if what == "n1 Change "+diskDS+" "+rootDS+" after=false" {
			once.Do(func() {
				w.node("1").setTrap(nil)
				w.node("1").snap(diskDS + "@meanwhile")
			})
		}
		return nil
	})
	w.run(job)
	w.same("2")
	equal(t, w.node("2").operators(diskDS), []string{"meanwhile"})
	must(t, w.node("1").pool.DestroySnapshots(t.Context(), diskDS, []string{"meanwhile"}))
	w.node("1").snap(diskDS + "@other")
	w.run(job)
	if got := w.node("2").operators(diskDS); !slices.Contains(got, "other") {
		t.Errorf("the target has %v", got)
	}
	for _, s := range w.node("2").dataset(diskDS).Snapshots {
		if s.Props[zfs.PropReceived] == "" && s.Props[zfs.PropComplete] == "" {
			t.Errorf("%s carries no mark", s.Name)
		}
	}
}

// What an operator does to a replica between a sync's inventory and its stream is
// seen without a list.
func TestCost_AReplicaMountedMeanwhileIsUnmounted(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.node("1").write(rootDS, 3, 1)
	n2 := w.node("2")
	w.node("1").setTrap(func(what string) error {
		if what == "answered "+replicate.PathInventory {
			must(t, n2.pool.Mount(t.Context(), rootDS))
			n2.pool.SetBusy(rootDS, true)
		}
		return nil
	})
	w.fails(replicate.ClassRetry, "is mounted")
	w.node("1").setTrap(nil)
	n2.pool.SetBusy(rootDS, false)
	w.run(job) // Nobody uses it any more: it is unmounted.
	w.same("2")
}

// A replica that lost its marks does not get a complete point; one that became
// writable is made read-only first.
func TestCost_ACommitLooksAtTheReplicaAsItIs(t *testing.T) {
	for name, value := range map[string]string{
		zfs.PropGuest: "999", zfs.PropRole: zfs.RoleOwner, zfs.PropCluster: "other", zfs.PropVolume: "local-zfs:other", "readonly": "off",
	} {
		w := newWorld(t)
		first := w.run(job)
		w.node("1").write(diskDS, 3, 1)
		n2 := w.node("2")
		n2.setTrap(func(what string) error {
			if what == "called "+replicate.PathCommit {
				n2.setTrap(nil)
				must(t, n2.pool.SetProps(t.Context(), map[string]string{name: value}, diskDS))
			}
			return nil
		})
		if name == "readonly" {
			w.run(job)
			w.same("2")
			continue
		}
		w.fails(replicate.ClassPerson, name)
		list, err := n2.target.Replicas(t.Context())
		must(t, err)
		for _, r := range list {
			if r.Point != nil && r.Point.Name != first.Point {
				t.Errorf("%s: %s became the complete point", name, r.Point.Name)
			}
		}
	}
}

// What is about very many snapshots is done in pieces: nothing else happens in a
// pool meanwhile.
func TestCost_ManySnapshotsAreMarkedAndDestroyedInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n1, n2 := w.node("1"), w.node("2")
		var names []string
		for i := range 300 {
			names = append(names, fmt.Sprintf("op-%03d", i))
			n1.snap(diskDS + "@" + names[i])
		}
		changes := func() int {
			_, each := w.processes()
			return each["2 Change"]
		}
		changes()
		w.run(job)
		if n := changes(); n != 3 {
			t.Errorf("300 snapshots were marked in %d processes", n)
		}
		for _, s := range n2.dataset(diskDS).Snapshots {
			if s.Props[zfs.PropReceived] == "" && s.Props[zfs.PropComplete] == "" {
				t.Errorf("%s carries no mark", s.Name)
			}
		}
		must(t, n1.pool.DestroySnapshots(t.Context(), diskDS, names[:149]))
		must(t, n2.pool.Hold(t.Context(), "operator", diskDS+"@"+names[3], diskDS+"@"+names[140]))
		n1.write(diskDS, 3, 1)
		w.run(job)
		w.same("2")
		if n := changes(); n != 2 {
			t.Errorf("149 snapshots were destroyed in %d processes", n)
		}
		equal(t, n2.operators(diskDS), slices.Concat([]string{names[3], names[140]}, names[149:]))
	})
}
