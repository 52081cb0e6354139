// Package verify compares replicas with their sources at the same point: both
// nodes read the snapshots and tell each other checksums, never data. It finds
// what ZFS cannot know of: copies with equal GUIDs and different bytes.
//
// It changes neither side, holds up no sync, and decides nothing: what differs is
// told, and an alarm stays until a later comparison is clean or an operator says
// that he knows. pkg/daemon serves it to clients (Verifier, on the guest's owner)
// and to other nodes (Server, on the target).
package verify

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/verify/content"
	"github.com/tandemd/tandem/pkg/replicate/verify/reading"
	"github.com/tandemd/tandem/pkg/replicate/watched"
)

// Link asks other nodes.
type Link interface {
	Call(ctx context.Context, node guest.NodeID, path string, req, resp any) error
}

// Outcome is how a verification ended.
type Outcome string

// The outcomes.
const (
	// Equal: all volumes of the point hold the same on both nodes.
	Equal Outcome = "equal"
	// Differs: at least one does not.
	Differs Outcome = "differs"
	// Failed: it could not be told.
	Failed Outcome = "failed"
)

// Result is what a verification found.
type Result struct {
	Target  guest.NodeID   `json:"target"`
	Point   string         `json:"point,omitempty"`
	Started time.Time      `json:"started"`
	Ended   time.Time      `json:"ended"`
	Outcome Outcome        `json:"outcome"`
	Volumes []VolumeResult `json:"volumes,omitempty"`
	// Error is why it failed, and Hint what to do.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// Bytes were read on the owner.
	Bytes uint64 `json:"bytes"`
}

// VolumeResult is what was found of one volume.
type VolumeResult struct {
	Volume guest.Volume `json:"volume"`
	Kind   plan.Kind    `json:"kind,omitempty"`
	// Compared: to its end.
	Compared bool `json:"compared"`
	content.Findings
	// Problem is why it was not compared.
	Problem *Problem `json:"problem,omitempty"`
}

// State is a verification as it is now.
type State struct {
	Job guest.JobID
	// Number counts the verifications of this process.
	Number  uint64
	Started time.Time
	Point   string
	// Volume is the one that is being read.
	Volume guest.Volume
	// Bytes were read of Total, which is an estimate, on the owner.
	Bytes, Total uint64
	// Result is nil while it goes on.
	Result *Result
}

// Verifier is the owner's side.
type Verifier struct {
	o      local.Options
	link   Link
	reader *reading.Reader
	log    *zap.Logger

	wg      sync.WaitGroup
	mu      sync.Mutex
	closed  bool
	number  uint64
	checks  map[guest.JobID]*check
	records map[guest.JobID]*Record
}

// New makes the owner's side of a node. It shares the locks and the pins with its source.
func New(o local.Options, link Link, r *reading.Reader, log *zap.Logger) *Verifier {
	return &Verifier{o: o, link: link, reader: r, log: log, checks: map[guest.JobID]*check{}, records: map[guest.JobID]*Record{}}
}

// Start begins to verify a job's replica at so many MB/s (0: no limit) and tells
// the verification's number. It goes on as long as somebody watches.
func (v *Verifier) Start(id guest.JobID, mbs float64) (number uint64, err error) {
	if !(mbs >= 0 && mbs <= maxRate) {
		return 0, fault.Never("", "rate %v: must be from 0 to %v MB/s", mbs, maxRate)
	}
	c := &check{v: v, mbs: mbs}
	if err := c.admit(id); err != nil {
		return 0, err
	}
	release, err := v.reader.Claim(c.guest.ID, c.names)
	if err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		release()
		return 0, fault.Retry("", "the daemon ends")
	}
	var ctx context.Context
	ctx, c.Work = watched.Begin()
	v.number++
	c.state = State{Job: id, Number: v.number, Started: v.o.Now()}
	v.checks[id] = c
	v.wg.Go(func() {
		c.run(ctx)
		release()
		c.Done()
	})
	return v.number, nil
}

// admit reads the ledger: this node must own the guest.
func (c *check) admit(id guest.JobID) error {
	view := c.v.o.Ledger.View()
	job, ok := view.Jobs[id]
	g, known := view.Guests[id.Guest]
	switch {
	case !ok || !known:
		return fault.Never("", "there is no job %s", id)
	case job.Removing:
		return fault.Never("", "job %s is being removed", id)
	case g.Owner != c.v.o.Node:
		return fault.Never("", "job %s: this node does not own guest %s, %s does", id, g.ID, view.NameOf(g.Owner))
	}
	names, err := c.v.o.Datasets(g.Volumes)
	if err != nil {
		return err
	}
	c.view, c.job, c.guest, c.names, c.target = view, job, g, names, view.NameOf(job.Target)
	return nil
}

// Watch tells how a verification fares, and keeps it going.
func (v *Verifier) Watch(ctx context.Context, id guest.JobID, number uint64) (State, error) {
	c := v.check(id, number)
	if c == nil {
		return State{}, fault.Never("see `tandem status --details` for what the last one found", "job %s: this node knows no verification %d of it", id, number)
	}
	c.Watch(ctx)
	return c.now(), nil
}

// check is the one with that number; nil: there is none.
func (v *Verifier) check(id guest.JobID, number uint64) *check {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c := v.checks[id]; c != nil && c.now().Number == number {
		return c
	}
	return nil
}

// Cancel ends a verification; one that has ended is no error.
func (v *Verifier) Cancel(id guest.JobID, number uint64) {
	if c := v.check(id, number); c != nil {
		c.End(watched.ErrCancelled)
	}
}

// Why comparisons are ended, besides what all watched work is ended for.
var (
	errOwner = errors.New("the guest has another owner")
	// ErrRemoved: the volumes go, or Tandem no longer takes care of them.
	ErrRemoved = errors.New("the volumes are being removed")
)

// EndGuest ends what is read of a guest's volumes here, before they go.
func (v *Verifier) EndGuest(id guest.ID) {
	var ending []*check
	v.each(func(c *check) {
		if c.guest.ID == id {
			c.End(ErrRemoved)
			ending = append(ending, c)
		}
	})
	for _, c := range ending {
		c.Wait(context.Background())
	}
}

// Learn ends the verifications of guests that have another owner by now. It does not
// wait.
func (v *Verifier) Learn(view *ledger.State) {
	v.each(func(c *check) {
		if moved(view, c.guest) {
			c.End(errOwner)
		}
	})
}

func (v *Verifier) each(do func(*check)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.checks {
		do(c)
	}
}

// Close ends all, and nothing begins any more.
func (v *Verifier) Close() {
	v.mu.Lock()
	v.closed = true
	for _, c := range v.checks {
		c.End(watched.ErrStopped)
	}
	v.mu.Unlock()
	v.wg.Wait()
}

// check is one verification.
type check struct {
	*watched.Work

	v      *Verifier
	mbs    float64
	view   *ledger.State
	job    guest.Job
	guest  guest.Guest
	names  []string // datasets of the guest's volumes
	target string   // its name
	// session and begun are what was agreed with the target.
	session string
	begun   BeginReply

	mu    sync.Mutex
	state State
	// reading is the own volume that is read now.
	reading *reading.Reading
	before  uint64 // bytes of the volumes before
}

// now is the state with the bytes of this moment.
func (c *check) now() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	if c.reading != nil {
		s.Bytes = c.before + c.reading.Bytes.Load()
	}
	return s
}

func (c *check) note(change func(*State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.state)
}
