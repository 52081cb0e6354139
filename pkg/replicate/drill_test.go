package replicate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/drill"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/fault"
)

// driller is the part of a node's daemon that tries replicas.
type driller struct {
	drills *drill.Drills
	stage  *stage
	// check is what checks do; nil: they are content.
	check drill.Checker
}

// drill makes it anew, as a new process does. What systemd runs, runs on.
func (n *node) drill(o local.Options) {
	o, err := o.WithDefaults()
	must(n.w.t, err)
	if n.stage == nil {
		n.stage = &stage{plays: map[string]drill.Play{}}
	}
	must(n.w.t, os.MkdirAll(n.drillFolder(), 0o700))
	n.drills = drill.New(drill.Options{
		Options: o, ZFS: n.pool, Stage: n.stage, Folder: n.drillFolder(), Logger: zap.NewNop(),
		Settle: 20 * time.Millisecond, Tick: time.Millisecond,
		Check: func(ctx context.Context, c drill.Check) (string, error) {
			n.w.mu.Lock()
			check := n.check
			n.w.mu.Unlock()
			if check == nil {
				return "", nil
			}
			return check(ctx, c)
		},
		Checkable: func(path string) error {
			if path == "/missing" {
				return errors.New("no such file or directory")
			}
			return nil
		},
	})
}

func (n *node) drillFolder() string { return filepath.Join(n.dir, "drills") }

func (n *node) setCheck(c drill.Checker) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.check = c
}

// stage is a systemd for services without a file.
type stage struct {
	mu    sync.Mutex
	plays map[string]drill.Play // that run
	last  drill.Play
	// files are those of the last play's folder when it was launched.
	files []string
	// ends: the guest does not stay up.
	ends bool
	// gone fails all that is asked: the daemon is dead.
	gone error
}

func (s *stage) Launch(_ context.Context, unit string, p drill.Play) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone != nil {
		return s.gone
	}
	list, err := os.ReadDir(p.Folder)
	s.last, s.files = p, nil
	for _, f := range list {
		s.files = append(s.files, f.Name())
	}
	if !s.ends {
		s.plays[unit] = p
	}
	return err
}

func (s *stage) Running(_ context.Context, unit string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.plays[unit]
	return ok, s.gone
}

func (s *stage) Stop(_ context.Context, unit string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		delete(s.plays, unit)
	}
	return s.gone
}

func (s *stage) Journal(context.Context, string, int) ([]string, error) {
	return []string{"login:"}, nil
}

// startDrill begins one on n2.
func (w *world) startDrill(r drill.Request) uint64 {
	w.t.Helper()
	r.Guest = 100
	number, err := w.node("2").drills.Start(r)
	must(w.t, err)
	return number
}

// drilled waits for the end of one on n2.
func (w *world) drilled(number uint64) drill.Result {
	w.t.Helper()
	for {
		s, err := w.node("2").drills.Watch(w.t.Context(), 100, number)
		must(w.t, err)
		if s.Result != nil {
			return *s.Result
		}
	}
}

// leftOfDrills is what is there of them on n2.
func (w *world) leftOfDrills() []string {
	w.t.Helper()
	n := w.node("2")
	list, err := n.pool.Children(w.t.Context(), "tank/g")
	must(w.t, err)
	var out []string
	for _, d := range list {
		if strings.Contains(d.Name, guest.DrillPrefix) {
			out = append(out, d.Name)
		}
	}
	files, err := os.ReadDir(n.drillFolder())
	must(w.t, err)
	for _, f := range files {
		out = append(out, f.Name())
	}
	n.stage.mu.Lock()
	defer n.stage.mu.Unlock()
	for unit := range n.stage.plays {
		out = append(out, unit)
	}
	return out
}

const checker = "/etc/tandem/check"

// held is a check that is content once the gate is opened.
func held(begun chan<- struct{}, gate <-chan struct{}) drill.Checker {
	return func(ctx context.Context, _ drill.Check) (string, error) {
		close(begun)
		select {
		case <-gate:
			return "", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func TestDrill_TriesTheNewestCompletePoint(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	w.node("1").write(diskDS, 100, 8)
	point := w.run(job).Point
	n2, n1 := w.node("2"), w.node("1")
	n1.write(diskDS, 120, 8) // Which was not sent yet.
	w.pass(90 * time.Second)
	n2.setCheck(func(_ context.Context, c drill.Check) (string, error) {
		if !slices.Equal(c.Args[:1], []string{"100"}) || len(c.Args) != 3 || c.Path != checker {
			t.Errorf("called as %+v", c)
		}
		for i, v := range []guest.Volume{disk, root} {
			dataset := ""
			for _, e := range c.Env {
				if name, value, _ := strings.Cut(e, "="); name == fmt.Sprintf("TANDEM_DATASET_%d", i) {
					dataset = value
				}
			}
			d := n2.dataset(dataset) //nolint:contextcheck // the test's
			equal(t, []any{d.ReadOnly, d.Props[zfs.PropRole], d.Props[zfs.PropGuest]}, []any{false, zfs.RoleDrill, "100"})
			want, err := n1.pool.Read("tank/g/" + v.Name + "@" + point)
			must(t, err)
			got, err := n2.pool.Read(dataset)
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what %s was at %s", dataset, v, point)
			}
			must(t, n2.pool.Write(dataset, 0, make([]byte, 4096))) // It may be written to.
		}
		for _, want := range []string{"TANDEM_GUEST=100", "TANDEM_POINT=" + point, "TANDEM_VOLUMES=2", "TANDEM_VOLUME_1=" + root.String()} {
			if !slices.Contains(c.Env, want) {
				t.Errorf("%s is not in %v", want, c.Env)
			}
		}
		return "all\nis well\n", nil
	})
	w.untouched(func() {
		r := w.drilled(w.startDrill(drill.Request{Check: checker, By: "root@n1"}))
		if r.Outcome != drill.Passed || r.Point != point || r.Left != "" || r.By != "root@n1" || r.Age < 90*time.Second || r.Age > time.Hour {
			t.Errorf("%+v", r)
		}
		equal(t, r.Output, []string{"all", "is well"})
	})
	equal(t, w.leftOfDrills(), []string(nil))
	w.run(job)
	w.same("2")
}

func TestDrill_IsRememberedOverARestart(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	n2.setCheck(func(context.Context, drill.Check) (string, error) {
		return "page 7 is torn", errors.New("exit status 3")
	})
	r := w.drilled(w.startDrill(drill.Request{Check: checker}))
	if r.Outcome != drill.Failed || !strings.Contains(r.Error, "/etc/tandem/check: exit status 3") || r.Output[0] != "page 7 is torn" {
		t.Errorf("%+v", r)
	}
	n2.restart()
	if rec := n2.drills.Records()[100]; rec.Bad == nil || rec.Good != nil || rec.Last.Outcome != drill.Failed {
		t.Errorf("%+v", rec)
	}
	n2.setCheck(nil)
	good := w.drilled(w.startDrill(drill.Request{Check: checker}))
	gate := make(chan struct{})
	begun := make(chan struct{})
	n2.setCheck(held(begun, gate))
	number := w.startDrill(drill.Request{Check: checker})
	<-begun
	n2.drills.Cancel(100, number)
	if r := w.drilled(number); r.Outcome != drill.Ended || !strings.Contains(r.Error, "ended by whoever began it") {
		t.Errorf("%+v", r)
	}
	n2.restart()
	// One that was ended tells nothing about the replica.
	if rec := n2.drills.Records()[100]; rec.Bad != nil || rec.Good == nil || !rec.Good.Ended.Equal(good.Ended) || rec.Last.Outcome != drill.Ended {
		t.Errorf("%+v", rec)
	}
	w.change(func(s *ledger.State) { s.Guests = map[guest.ID]guest.Guest{} })
	must(t, n2.drills.Forget(w.View()))
	n2.restart()
	equal(t, len(n2.drills.Records()), 0)
	equal(t, w.leftOfDrills(), []string(nil))
}

// shipped makes guest 100 one that can be started beside itself.
func (w *world) shipped() {
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		g.Unit, g.Config = "tandem-vm@100.service", "memory = 64\n"
		s.Guests = map[guest.ID]guest.Guest{100: g}
	})
}

func TestDrill_StartsTheGuestAndWantsItToStayUp(t *testing.T) {
	w := newWorld(t)
	w.shipped()
	w.run(job)
	s := w.node("2").stage
	r := w.drilled(w.startDrill(drill.Request{}))
	if r.Outcome != drill.Passed || r.Output[0] != "login:" {
		t.Errorf("%+v", r)
	}
	slices.Sort(s.files)
	if len(s.files) < 2 || !slices.Contains(s.files, "100") || !slices.Contains(s.files, "100.conf") {
		t.Errorf("the folder held %v", s.files)
	}
	if len(s.last.Disks) != 2 || s.last.Disks[0].Volume != disk || s.last.Lifetime < drill.DefaultTimeout || s.last.Guest.Config != "memory = 64\n" {
		t.Errorf("%+v", s.last)
	}
	s.ends = true
	if r := w.drilled(w.startDrill(drill.Request{})); r.Outcome != drill.Failed || !strings.Contains(r.Error, "the guest ended by itself") {
		t.Errorf("%+v", r)
	}
	equal(t, w.leftOfDrills(), []string(nil))
}

func TestDrill_Refuses(t *testing.T) {
	w := newWorld(t)
	refused := func(n string, r drill.Request, class replicate.Class, text string) {
		t.Helper()
		_, err := w.node(n).drills.Start(r)
		if err == nil || replicate.ClassOf(err) != class || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v of class %s, want %s with %q", err, replicate.ClassOf(err), class, text)
		}
	}
	refused("2", drill.Request{Guest: 101}, replicate.ClassNever, "no guest 101")
	refused("1", drill.Request{Guest: 100, Check: checker}, replicate.ClassNever, "n1's own")
	refused("2", drill.Request{Guest: 100}, replicate.ClassNever, "cannot be started beside itself")
	refused("2", drill.Request{Guest: 100, Check: "/missing"}, replicate.ClassNever, "no such file")
	refused("2", drill.Request{Guest: 100, Check: checker, Timeout: 48 * time.Hour}, replicate.ClassNever, "timeout 48h")
	if r := w.drilled(w.startDrill(drill.Request{Check: checker})); r.Outcome != drill.Failed || !strings.Contains(r.Error, "no complete point") {
		t.Errorf("%+v", r)
	}
	w.run(job)
	begun, gate := make(chan struct{}), make(chan struct{})
	w.node("2").setCheck(held(begun, gate))
	number := w.startDrill(drill.Request{Check: checker})
	<-begun
	refused("2", drill.Request{Guest: 100, Check: checker}, replicate.ClassBusy, "being drilled on n2 already")
	close(gate)
	equal(t, w.drilled(number).Outcome, drill.Passed)
	if _, err := w.node("2").drills.Watch(t.Context(), 100, 99); err == nil {
		t.Error("an unknown drill was watched")
	}
	w.node("2").drills.Close()
	refused("2", drill.Request{Guest: 100, Check: checker}, replicate.ClassRetry, "the daemon ends")
}

func TestDrill_EndsForWhatComesFirst(t *testing.T) {
	for what, c := range map[string]struct {
		do      func(w *world)
		timeout time.Duration
		outcome drill.Outcome
		want    string
	}{
		"another owner": {do: func(w *world) {
			w.change(func(s *ledger.State) {
				g := s.Guests[100]
				g.Owner, g.Term.N = id("2"), 2
				s.Guests = map[guest.ID]guest.Guest{100: g}
			})
			w.node("2").drills.Learn(w.View())
		}, outcome: drill.Ended, want: "another owner"},
		"the replica goes": {do: func(w *world) { w.node("2").drills.EndGuest(w.t.Context(), 100) }, outcome: drill.Ended, want: "replaced or removed"},
		"its time":         {do: func(*world) {}, timeout: 50 * time.Millisecond, outcome: drill.Failed, want: "not done within 50ms"},
		"the daemon's end": {do: func(w *world) { w.node("2").drills.Close() }, outcome: drill.Ended, want: "the daemon ended"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.run(job)
			begun := make(chan struct{})
			w.node("2").setCheck(held(begun, nil))
			number := w.startDrill(drill.Request{Check: checker, Timeout: c.timeout})
			<-begun
			c.do(w)
			if r := w.drilled(number); r.Outcome != c.outcome || !strings.Contains(r.Error, c.want) || r.Left != "" {
				t.Errorf("%+v", r)
			}
			equal(t, w.leftOfDrills(), []string(nil))
		})
	}
}

// A sync at every step of a drill: none fails, none warns, and the point that is tried
// goes once nobody needs it.
func TestDrill_SyncsGoOnAtEveryStep(t *testing.T) {
	w := newWorld(t)
	w.shipped()
	w.run(job)
	w.node("1").write(diskDS, 90, 4)
	w.run(job)
	n2 := w.node("2")
	var mu sync.Mutex
	var syncs int
	busy := false
	syncNow := func(what string) {
		mu.Lock()
		if busy {
			mu.Unlock()
			return // It is the sync's own step.
		}
		busy = true
		mu.Unlock()
		w.node("1").write(diskDS, int64(100+syncs), 2)
		w.pass(time.Minute)
		r, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: job})
		if err != nil || len(r.Warnings) > 0 {
			t.Errorf("a sync at %s: %v, %q", what, err, r.Warnings)
		}
		mu.Lock()
		busy = false
		syncs++
		mu.Unlock()
	}
	n2.setTrap(func(what string) error {
		syncNow(what)
		return nil
	})
	r := w.drilled(w.startDrill(drill.Request{}))
	n2.setTrap(nil)
	if r.Outcome != drill.Passed || syncs < 10 || r.Left != "" {
		t.Errorf("after %d syncs: %+v", syncs, r)
	}
	equal(t, w.leftOfDrills(), []string(nil))
	for range 2 {
		w.node("1").write(diskDS, 90, 4)
		w.run(job)
	}
	w.same("2")
	if n := n2.points(diskDS); n > 3 {
		t.Errorf("%d points are left on n2", n)
	}
}

// While a drill goes on, what it tries is not cleaned on that node, without a hold.
func TestDrill_PinsItsPoint(t *testing.T) {
	w := newWorld(t)
	point := w.run(job).Point
	n2 := w.node("2")
	begun, gate := make(chan struct{}), make(chan struct{})
	n2.setCheck(held(begun, gate))
	number := w.startDrill(drill.Request{Check: checker})
	<-begun
	for i := range 4 {
		w.node("1").write(diskDS, int64(90+i), 1)
		if r := w.run(job); len(r.Warnings) > 0 {
			t.Errorf("warnings %q", r.Warnings)
		}
	}
	has := func() bool {
		return slices.ContainsFunc(n2.dataset(diskDS).Snapshots, func(s zfs.Snapshot) bool { return s.Name == point })
	}
	for _, s := range n2.dataset(diskDS).Snapshots {
		equal(t, s.UserRefs, uint64(0))
	}
	if !has() {
		t.Error("the point that is tried is gone")
	}
	close(gate)
	equal(t, w.drilled(number).Outcome, drill.Passed)
	w.node("1").write(diskDS, 99, 1)
	w.run(job)
	if has() {
		t.Error("the point is there still, and nobody needs it")
	}
}

// The process is killed, or the power cut, before and after each effect of a drill:
// the next one leaves nothing of it, and syncs go on.
func TestDrill_KilledAnywhereLeavesNothing(t *testing.T) {
	effects := []string{" Clone ", " Try ", " DropTrial ", " DestroyDataset ", "write drill", "rename drill", "written drill"}
	effect := func(what string) bool {
		return slices.ContainsFunc(effects, func(e string) bool { return strings.Contains(what, e) })
	}
	prepared := func() *world {
		w := newWorld(t)
		w.shipped()
		w.run(job)
		for _, n := range w.nodes {
			n.pool.Sync()
		}
		return w
	}
	var mu sync.Mutex
	moments := 0
	w := prepared()
	w.node("2").setTrap(func(what string) error {
		mu.Lock()
		defer mu.Unlock()
		if effect(what) {
			moments++
		}
		return nil
	})
	equal(t, w.drilled(w.startDrill(drill.Request{})).Outcome, drill.Passed)
	w.node("2").setTrap(nil)
	if moments < 12 {
		t.Fatalf("only %d moments", moments)
	}
	for at := range moments {
		for _, power := range []bool{false, true} {
			w := prepared()
			n2 := w.node("2")
			seen, dead, where := 0, false, ""
			n2.setTrap(func(what string) error {
				mu.Lock()
				defer mu.Unlock()
				if !dead && effect(what) {
					if seen++; seen == at+1 {
						dead, where = true, what
						n2.stage.mu.Lock()
						n2.stage.gone = errKilled
						n2.stage.mu.Unlock()
						if power {
							n2.pool.PowerCut()
						}
					}
				}
				if dead {
					return errKilled
				}
				return nil
			})
			w.startDrill(drill.Request{})
			n2.drills.Close() // The process's end: it does nothing any more that has an effect.
			mu.Lock()
			died := dead
			mu.Unlock()
			n2.stage.gone = nil
			if power {
				n2.stage.plays = map[string]drill.Play{}
			}
			n2.restart()
			must(t, n2.drills.Sweep(t.Context()))
			if left := w.leftOfDrills(); len(left) > 0 || n2.dataset(diskDS).Props[zfs.PropRole] != zfs.RoleReplica {
				t.Fatalf("killed (%v, power %v) at %s: %v is left", died, power, where, left)
			}
			w.node("1").write(diskDS, 70, 2)
			if r := w.run(job); len(r.Warnings) > 0 {
				t.Errorf("killed at %s: warnings %q", where, r.Warnings)
			}
			w.same("2")
		}
	}
}

// A storage whose pool is not there, or does not answer, keeps no drill from being tidied up in another one.
func TestDrill_AnotherStorageThatIsAway(t *testing.T) {
	w := newWorld(t)
	w.more = map[string]string{"away": "absent/g", "broken": "tank/broken"}
	n2 := w.node("2")
	must(t, n2.pool.Create("tank/broken", 0, map[string]string{"canmount": "off"}))
	n2.restart()
	n2.pool.Inject(zfstest.Fault{Op: "Children", Name: "absent/g", Err: fault.Fail("list", "absent/g", "cannot open 'absent/g': no such pool\n")})
	n2.pool.Inject(zfstest.Fault{Op: "Children", Name: "tank/broken", Err: fault.Fail("list", "tank/broken", "cannot open 'tank/broken': I/O error\n")})
	w.run(job)
	if r := w.drilled(w.startDrill(drill.Request{Check: checker})); r.Outcome != drill.Passed || r.Left != "" {
		t.Errorf("a drill in a storage that is well: %+v", r)
	}
	equal(t, w.leftOfDrills(), []string(nil))
	left := "tank/g/" + guest.DrillPrefix + "0123456789abcdef-1-0"
	marks := map[string]string{zfs.PropRole: zfs.RoleDrill, zfs.PropGuest: "100", zfs.PropCluster: "c1"}
	must(t, n2.pool.Clone(t.Context(), n2.newest(diskDS), left, marks))
	if err := n2.drills.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), "storage broken") || strings.Contains(err.Error(), "storage away") {
		t.Errorf("a sweep beside a storage that cannot be read, and one that is away: %v", err)
	}
	equal(t, w.leftOfDrills(), []string(nil))
}

// Only what is provably a drill's goes.
func TestDrill_SweepTouchesNothingElse(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	snap := n2.newest(diskDS)
	name := "tank/g/" + guest.DrillPrefix + "0123456789abcdef-1-0"
	marks := map[string]string{zfs.PropRole: zfs.RoleDrill, zfs.PropGuest: "100", zfs.PropCluster: "c1"}
	// Without a mark, of another cluster, under another name, and with a snapshot in it.
	must(t, n2.pool.Clone(t.Context(), snap, name, nil))
	other := map[string]string{zfs.PropRole: zfs.RoleDrill, zfs.PropGuest: "100", zfs.PropCluster: "c2"}
	must(t, n2.pool.Clone(t.Context(), snap, strings.Replace(name, "-1-0", "-1-1", 1), other))
	must(t, n2.pool.Clone(t.Context(), snap, "tank/g/mine", marks))
	must(t, os.WriteFile(filepath.Join(n2.drillFolder(), "mine"), nil, 0o600))
	before := w.tree("2")
	must(t, n2.drills.Sweep(t.Context()))
	equal(t, w.tree("2"), before)
	used := strings.Replace(name, "0123", "4567", 1)
	must(t, n2.pool.Clone(t.Context(), snap, used, marks))
	n2.snap(used + "@mine")
	if err := n2.drills.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), used) {
		t.Errorf("one with a snapshot of somebody's: %v", err)
	}
	must(t, n2.pool.DestroySnapshots(t.Context(), used, []string{"mine"}))
	must(t, n2.drills.Sweep(t.Context()))
	equal(t, w.tree("2"), before)
	if _, err := os.Stat(filepath.Join(n2.drillFolder(), "mine")); err != nil {
		t.Error(err)
	}
}

// A replica that is set aside, or removed with its job, ends the drill; nothing fails.
func TestDrill_LosesAgainstSettingAsideAndRemoval(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	n2 := w.node("2")
	begin := func() uint64 {
		begun := make(chan struct{})
		n2.setCheck(held(begun, nil))
		number := w.startDrill(drill.Request{Check: checker})
		<-begun
		return number
	}
	number := begin()
	must(t, n2.pool.SetProps(t.Context(), map[string]string{"readonly": "off"}, diskDS))
	must(t, n2.pool.Write(diskDS, 0, bytes.Repeat([]byte{1}, 1<<20)))
	w.node("1").write(diskDS, 90, 4)
	w.run(job)
	w.same("2")
	equal(t, w.drilled(number).Outcome, drill.Ended)
	number = begin()
	w.change(func(s *ledger.State) {
		j := s.Jobs[job]
		j.Removing = true
		s.Jobs = map[guest.JobID]guest.Job{job: j}
	})
	r, err := w.node("1").source.Remove(t.Context(), replicate.Task{Job: job})
	must(t, err)
	if len(r.Left) > 0 && strings.Contains(strings.Join(r.Left, " "), "clone") {
		t.Errorf("left: %q", r.Left)
	}
	equal(t, w.drilled(number).Outcome, drill.Ended)
	equal(t, w.leftOfDrills(), []string(nil))
}
