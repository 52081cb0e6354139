// Package drill proves replicas on their own node: a clone of the newest complete
// point, under another name, on which a command checks the data or the guest itself
// is started without a network. How it went is remembered; the clone goes again.
//
// It stands in nobody's way: it takes no lock that a sync, a promotion or a removal
// needs, and whatever changes the replica for good ends it first. What a dead process
// left of drills is swept away, by the marks on the clones. It decides nothing about
// guests and talks to no other node; pkg/daemon is its caller.
package drill

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/watched"
	"github.com/tandemd/tandem/pkg/zfs"
)

// ZFS is what it needs of pkg/zfs.
type ZFS interface {
	List(ctx context.Context, names ...string) ([]zfs.Dataset, error)
	Children(ctx context.Context, root string) ([]zfs.Dataset, error)
	Try(ctx context.Context, spec zfs.TrialSpec) (path string, err error)
	DropTrial(ctx context.Context, spec zfs.TrialSpec) error
}

// Stage is what runs guests beside themselves: systemd.
type Stage interface {
	// Launch starts the guest of the play under a service of that name.
	Launch(ctx context.Context, unit string, p Play) error
	Running(ctx context.Context, unit string) (bool, error)
	// Stop ends it; one that is not there is no error.
	Stop(ctx context.Context, unit string) error
	// Journal are the last lines of what it said.
	Journal(ctx context.Context, unit string, n int) ([]string, error)
}

// Play is a guest as it is started in a drill.
type Play struct {
	Guest guest.Guest
	// Folder has the guest's configuration file, and room for its sockets.
	Folder string
	Disks  []Disk
	// Lifetime is after how long it is ended whatever happens.
	Lifetime time.Duration
}

// Disk is a volume of the point as the drill has it.
type Disk struct {
	Volume guest.Volume
	// Dataset is the clone, Path its device or where it is mounted.
	Dataset, Path string
}

// Checker runs an operator's check, and gives the end of what it said.
type Checker func(ctx context.Context, c Check) (said string, err error)

// Check is a call of it.
type Check struct {
	Path      string
	Args, Env []string
	Dir       string
}

// Options are those of a node; all fields without a default are required.
type Options struct {
	local.Options
	ZFS   ZFS
	Stage Stage
	// Check runs a check; Checkable refuses one that would not be run.
	Check     Checker
	Checkable func(path string) error
	// Folder is an existing one of the daemon's own.
	Folder string
	Logger *zap.Logger
	// Settle is how long a guest must stay up; default 30 s.
	Settle time.Duration
	// Tick is how often what goes on is looked at; default 1 s.
	Tick time.Duration
}

// The limits of a drill's time.
const (
	DefaultTimeout = 5 * time.Minute
	MaxTimeout     = 24 * time.Hour
)

// Request asks for a drill.
type Request struct {
	Guest guest.ID
	// Check is the absolute path of an executable on this node; empty: the guest is started.
	Check string
	// Timeout is for all but the cleaning; 0: DefaultTimeout.
	Timeout time.Duration
	// By is who asked.
	By string
}

// Outcome is how a drill ended.
type Outcome string

// The outcomes.
const (
	// Passed: the check was content, or the guest stayed up.
	Passed Outcome = "passed"
	// Failed: it was not, or the replica could not be used.
	Failed Outcome = "failed"
	// Ended: it was ended before that could be told.
	Ended Outcome = "ended"
)

// Result is what came of a drill.
type Result struct {
	Guest guest.ID   `json:"guest"`
	Owner string     `json:"owner"`
	Term  guest.Term `json:"term"`
	// Point is what was tried; Age is how old its content was when the drill began.
	Point string        `json:"point,omitempty"`
	Age   time.Duration `json:"age,omitempty"`
	// Check is the command; empty where the guest was started.
	Check   string    `json:"check,omitempty"`
	By      string    `json:"by,omitempty"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Outcome Outcome   `json:"outcome"`
	Error   string    `json:"error,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	// Output is the end of what the check or the guest's console said.
	Output []string `json:"output,omitempty"`
	// Left is what could not be cleaned yet.
	Left string `json:"left,omitempty"`
}

// Phase is what a drill is at.
type Phase string

// The phases.
const (
	Cloning  Phase = "clone"
	Checking Phase = "check"
	Starting Phase = "start"
	Watching Phase = "watch"
	Cleaning Phase = "clean"
)

// State is a drill as it is now.
type State struct {
	Number  uint64
	Guest   guest.ID
	Check   string
	Started time.Time
	Phase   Phase
	Point   string
	Age     time.Duration
	// Result is nil while it goes on.
	Result *Result
}

// Drills are those of a node.
type Drills struct {
	o  Options
	wg sync.WaitGroup
	// sweeping is held by the one who sweeps.
	sweeping sync.Mutex

	mu     sync.Mutex
	closed bool
	number uint64
	// drills are the last one of each guest in this process.
	drills map[guest.ID]*drill
	// open are the names of those that go on: nobody sweeps what is theirs.
	open    map[string]bool
	records map[guest.ID]*Record
}

// New makes those of a node. It shares the pins with the node's target.
func New(o Options) *Drills {
	if o.Settle == 0 {
		o.Settle = 30 * time.Second
	}
	if o.Tick == 0 {
		o.Tick = time.Second
	}
	return &Drills{o: o, drills: map[guest.ID]*drill{}, open: map[string]bool{}, records: map[guest.ID]*Record{}}
}

// Why drills are ended, besides what all watched work is ended for.
var (
	errOwner   = errors.New("the guest has another owner")
	errReplica = errors.New("the replica is being replaced or removed")
	errRoom    = errors.New("it wrote more than half of what was free in the storage")
	errTime    = errors.New("its time was over")
)

// Start begins a drill and tells its number. It goes on as long as somebody watches.
func (d *Drills) Start(r Request) (number uint64, err error) {
	x := &drill{d: d, check: r.Check, timeout: r.Timeout, by: r.By}
	if err := x.admit(r); err != nil {
		return 0, err
	}
	name := make([]byte, 8)
	_, _ = rand.Read(name) // never fails
	x.name = hex.EncodeToString(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, fault.Retry("", "the daemon ends")
	}
	if other := d.drills[r.Guest]; other != nil && other.goesOn() {
		return 0, fault.Busy("wait until it has ended, or end it with Ctrl-C where it was begun",
			"guest %s is being drilled on %s already", r.Guest, d.o.Name)
	}
	d.number++
	x.state = State{Number: d.number, Guest: r.Guest, Check: r.Check, Started: d.o.Now(), Phase: Cloning}
	var ctx context.Context
	ctx, x.Work = watched.Begin()
	d.drills[r.Guest], d.open[x.name] = x, true
	d.wg.Go(func() {
		x.run(ctx)
		x.Done()
	})
	return d.number, nil
}

// admit reads the ledger and the request: another node must own the guest, and what
// is to be done must be possible.
func (x *drill) admit(r Request) error {
	o := x.d.o
	view := o.Ledger.View()
	g, ok := view.Guests[r.Guest]
	switch {
	case !ok:
		return fault.Never("", "there is no guest %s", r.Guest)
	case g.Owner == o.Node:
		return fault.Never("name a node that has a replica of it with --on", "guest %s is %s's own: there is no replica of it to try", g.ID, o.Name)
	case r.Timeout < 0 || r.Timeout > MaxTimeout:
		return fault.Never("", "timeout %s: must be from a second to %s", r.Timeout, MaxTimeout)
	case r.Check == "" && !startable(g):
		return fault.Never("name an executable of root's on "+string(o.Name)+" that checks the data: --check PATH",
			"guest %s cannot be started beside itself: its unit is %q, and only tandem-vm@%s.service and tandem-ct@%s.service are known to run without a network",
			g.ID, g.Unit, g.ID, g.ID)
	}
	if r.Check != "" {
		if err := o.Checkable(r.Check); err != nil {
			return fault.Never("", "check %s on %s: %v", r.Check, o.Name, err)
		}
	}
	if x.timeout == 0 {
		x.timeout = DefaultTimeout
	}
	x.view, x.guest = view, g
	return nil
}

// startable says that the unit is one of those that Tandem ships.
func startable(g guest.Guest) bool {
	return g.Unit == fmt.Sprintf("tandem-%s@%s.service", g.Type, g.ID)
}

// Watch tells how a drill fares, and keeps it going.
func (d *Drills) Watch(ctx context.Context, id guest.ID, number uint64) (State, error) {
	x := d.drill(id)
	if x == nil || x.now().Number != number {
		return State{}, fault.Never("see `tandem guest drill --list` for what the last one found", "guest %s: node %s knows no drill %d of it", id, d.o.Name, number)
	}
	x.Watch(ctx)
	return x.now(), nil
}

// drill is the last one of a guest; nil: there was none.
func (d *Drills) drill(id guest.ID) *drill {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.drills[id]
}

// Cancel ends a drill; one that has ended is no error.
func (d *Drills) Cancel(id guest.ID, number uint64) {
	if x := d.drill(id); x != nil && x.now().Number == number {
		x.End(watched.ErrCancelled)
	}
}

// EndGuest ends the drill of a guest whose replicas are about to go, and waits until
// its clones are gone, or ctx ends.
func (d *Drills) EndGuest(ctx context.Context, id guest.ID) {
	if x := d.drill(id); x != nil {
		x.End(errReplica)
		x.Wait(ctx)
	}
}

// Learn ends the drills of guests that have another owner by now: the replica may be
// the guest's own volume. It does not wait.
func (d *Drills) Learn(s *ledger.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, x := range d.drills {
		if g, ok := s.Guests[id]; !ok || g.Term != x.guest.Term {
			x.End(errOwner)
		}
	}
}

// Close ends all, and nothing begins any more.
func (d *Drills) Close() {
	d.mu.Lock()
	d.closed = true
	for _, x := range d.drills {
		x.End(watched.ErrStopped)
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// Running says that a guest is being drilled now.
func (d *Drills) Running(id guest.ID) bool {
	x := d.drill(id)
	return x != nil && x.goesOn()
}
