package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/watched"
	"github.com/tandemd/tandem/pkg/zfs"
)

// drill is one drill.
type drill struct {
	*watched.Work

	d       *Drills
	name    string
	view    *ledger.State
	guest   guest.Guest
	check   string
	timeout time.Duration
	by      string

	// The rest belongs to run.
	point  point
	unpin  func()
	disks  []Disk
	output []string

	mu    sync.Mutex
	state State
}

func (x *drill) now() State {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.state
}

func (x *drill) note(change func(*State)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change(&x.state)
}

func (x *drill) phase(p Phase) { x.note(func(s *State) { s.Phase = p }) }

func (x *drill) goesOn() bool { return x.now().Result == nil }

// errNotThere says that the point was replaced while it was cloned.
var errNotThere = errors.New("the point is gone")

// run does all of it: in the end nothing of it is there any more, or it is left to
// Sweep.
func (x *drill) run(ctx context.Context) {
	timed, cancel := context.WithTimeoutCause(ctx, x.timeout, errTime)
	err := x.try(timed)
	cause := context.Cause(timed)
	cancel()
	r := x.result(err, cause)
	x.phase(Cleaning)
	if left := x.clean(ctx); left != nil {
		r.Left = left.Error()
		x.d.o.Logger.Warn("something is left of a drill; it is tried again", zap.Stringer("guest", x.guest.ID), zap.Error(left))
	}
	if x.unpin != nil {
		x.unpin() // A clone that is there still keeps its snapshot by itself.
	}
	r.Ended = x.d.o.Now()
	if err := x.d.remember(r); err != nil {
		x.d.o.Logger.Warn("how a drill went is not remembered over a restart", zap.Stringer("guest", x.guest.ID), zap.Error(err))
	}
	x.d.closeName(x.name)
	x.note(func(s *State) { s.Result = &r })
}

func (x *drill) result(err, cause error) Result {
	s := x.now()
	r := Result{
		Guest: x.guest.ID, Owner: x.view.NameOf(x.guest.Owner), Term: x.guest.Term, Point: s.Point, Age: s.Age, Check: x.check,
		By: x.by, Started: s.Started, Outcome: Passed, Output: x.output,
	}
	switch {
	case err == nil:
	case cause != nil && !errors.Is(cause, errTime) && !errors.Is(cause, errRoom):
		r.Outcome, r.Error = Ended, cause.Error()
	case errors.Is(cause, errTime):
		r.Outcome, r.Error, r.Hint = Failed, fmt.Sprintf("it was not done within %s", x.timeout), "give it more time with --timeout"
	case cause != nil:
		r.Outcome, r.Error = Failed, cause.Error()
	default:
		r.Outcome, r.Error, r.Hint = Failed, err.Error(), fault.HintOf(err)
	}
	return r
}

// try clones, and has the clones tried.
func (x *drill) try(ctx context.Context) error {
	if err := x.d.Sweep(ctx); err != nil { // What is left elsewhere does not keep this one from being done.
		x.d.o.Logger.Warn("something is left of former drills", zap.Error(err))
	}
	if err := x.clone(ctx); err != nil {
		return err
	}
	watch, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { x.watchRoom(watch) })
	defer wg.Wait()
	defer stop()
	if x.check != "" {
		return x.runCheck(ctx)
	}
	return x.runGuest(ctx)
}

// cloneTries is how often a point is chosen that is gone when it is cloned: a sync was
// about to remove it.
const cloneTries = 3

// clone makes usable clones of all volumes of the newest complete point, which is not
// cleaned on this node until unpin.
func (x *drill) clone(ctx context.Context) (err error) {
	if err := os.Mkdir(x.folder(), 0o700); err != nil {
		return err
	}
	defer x.d.o.Pins.PinAll(x.guest.ID)()
	for try := 1; ; try++ {
		if x.point, err = x.d.choose(ctx, x.view.Cluster, x.guest); err != nil {
			return err
		}
		x.note(func(s *State) { s.Point, s.Age = x.point.name, x.point.age })
		x.unpin = x.d.o.Pins.Pin(x.guest.ID, x.point.guids())
		err = x.cloneAll(ctx, try)
		if !errors.Is(err, errNotThere) || try == cloneTries {
			return err
		}
		x.unpin()
		if err := x.drop(ctx); err != nil {
			return err
		}
	}
}

func (x *drill) cloneAll(ctx context.Context, try int) error {
	x.disks = nil
	for i, v := range x.point.volumes {
		spec := x.spec(fmt.Sprintf("%d-%d", try, i), v.volume.Storage)
		spec.Type, spec.Snapshot, spec.Own = v.kind, v.dataset+"@"+x.point.name, v.own
		path, err := x.d.o.ZFS.Try(ctx, spec)
		if zfs.ClassOf(err) == zfs.ClassGone {
			return fmt.Errorf("%w: %w", errNotThere, err)
		}
		if err != nil {
			return fault.WrapVolume(v.volume, err, "clone %s on %s", x.point.name, x.d.o.Name)
		}
		x.disks = append(x.disks, Disk{Volume: v.volume, Dataset: spec.Clone, Path: path})
	}
	// They were cloned by their names: they must be what they were taken for.
	return x.d.there(ctx, x.point)
}

// spec is that of one clone, as far as it is needed to take it away.
func (x *drill) spec(part, storage string) zfs.TrialSpec {
	return zfs.TrialSpec{
		Clone: x.d.o.Storages[storage] + "/" + guest.DrillPrefix + x.name + "-" + part,
		Guest: x.guest.ID.String(), Cluster: x.view.Cluster, Dir: filepath.Join(x.folder(), part),
	}
}

func (x *drill) folder() string { return filepath.Join(x.d.o.Folder, x.name) }

// runCheck has the operator's command look at the clones.
func (x *drill) runCheck(ctx context.Context) error {
	x.phase(Checking)
	c := Check{Path: x.check, Args: []string{x.guest.ID.String()}, Dir: "/", Env: []string{
		"TANDEM_GUEST=" + x.guest.ID.String(), "TANDEM_NAME=" + x.guest.Name, "TANDEM_TYPE=" + string(x.guest.Type),
		"TANDEM_NODE=" + string(x.d.o.Name), "TANDEM_POINT=" + x.point.name, "TANDEM_VOLUMES=" + strconv.Itoa(len(x.disks)),
	}}
	for i, disk := range x.disks {
		n := strconv.Itoa(i)
		c.Args = append(c.Args, disk.Path)
		c.Env = append(c.Env, "TANDEM_VOLUME_"+n+"="+disk.Volume.String(), "TANDEM_DATASET_"+n+"="+disk.Dataset, "TANDEM_PATH_"+n+"="+disk.Path)
	}
	said, err := x.d.o.Check(ctx, c)
	x.output = lines(said)
	if err != nil {
		return fmt.Errorf("%s: %w", x.check, err)
	}
	return nil
}

func lines(said string) (out []string) {
	for line := range strings.Lines(said) {
		out = append(out, strings.TrimRight(line, "\r\n "))
	}
	return out
}

const (
	// journalLines is how much of the console is kept.
	journalLines = 20
	// stageWait is for asking and stopping the service when the drill's time is over.
	stageWait = time.Minute
)

// runGuest starts the guest on the clones and wants it to stay up.
func (x *drill) runGuest(ctx context.Context) error {
	x.phase(Starting)
	if err := x.prepare(); err != nil {
		return err
	}
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stageWait)
		defer cancel()
		x.output, _ = x.d.o.Stage.Journal(late, unitOf(x.name), journalLines) // It is for people; there may be none.
	}()
	p := Play{Guest: x.guest, Folder: x.folder(), Disks: x.disks, Lifetime: x.timeout + stageWait}
	if err := x.d.o.Stage.Launch(ctx, unitOf(x.name), p); err != nil {
		return err
	}
	x.phase(Watching)
	settled := time.NewTimer(x.d.o.Settle)
	defer settled.Stop()
	tick := time.NewTicker(x.d.o.Tick)
	defer tick.Stop()
	begun := x.d.o.Now()
	for {
		over := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-settled.C:
			over = true
		case <-tick.C:
		}
		up, err := x.d.o.Stage.Running(ctx, unitOf(x.name))
		switch {
		case err != nil:
			return err
		case !up:
			return fmt.Errorf("the guest ended by itself %s after its start", x.d.o.Now().Sub(begun).Round(time.Second))
		case over:
			return nil
		}
	}
}

// unitOf is the service of a drill. A drill's name is used once.
func unitOf(name string) string { return guest.DrillPrefix + name + ".service" }

// prepare puts what the guest's service needs into the folder. That the file is
// there says that there may be a service.
func (x *drill) prepare() error {
	if err := os.Mkdir(filepath.Join(x.folder(), x.guest.ID.String()), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(x.folder(), x.guest.ID.String()+confSuffix), []byte(x.guest.Config), 0o600)
}

const confSuffix = ".conf"

// roomTicks is how many ticks pass between two looks at the room.
const roomTicks = 5

// watchRoom ends a drill that takes too much of the room which syncs need.
func (x *drill) watchRoom(ctx context.Context) {
	free := map[string]uint64{}
	var roots, clones []string
	for _, disk := range x.disks {
		root := x.d.o.Storages[disk.Volume.Storage]
		if _, known := free[root]; !known {
			free[root] = 0
			roots = append(roots, root)
		}
		clones = append(clones, disk.Dataset)
	}
	list, err := x.d.o.ZFS.List(ctx, roots...)
	if err != nil {
		return // The drill itself meets what is wrong with the pool.
	}
	for _, root := range list {
		free[root.Name] = root.Available
	}
	tick := time.NewTicker(roomTicks * x.d.o.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list, err := x.d.o.ZFS.List(ctx, clones...)
		if err != nil {
			continue
		}
		used := map[string]uint64{}
		for i, clone := range list {
			root := x.d.o.Storages[x.disks[i].Volume.Storage]
			used[root] += clone.Used
			if used[root] > free[root]/2 && used[root] > minRoom {
				x.End(errRoom)
				return
			}
		}
	}
}

// minRoom is how much a drill may write however full the storage is: a clone that is
// mounted writes a little by itself.
const minRoom = 16 << 20
