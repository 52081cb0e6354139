// Package quiesce brings a running guest to a consistent state for the moment in
// which a point of it is taken, and lets it run on: by its guest agent, by stopping the
// processes of its unit, or by an operator's hook.
//
// That it runs on is guaranteed. A timer thaws while the snapshot hangs. What is
// frozen is noted on disk before, and thawed at the daemon's next start. A process
// beside the daemon (Watch) thaws when the daemon dies. And what could not be thawed
// is tried again, and reported, until it is.
//
// It takes no snapshot and does not decide whether one is needed: pkg/replicate asks
// it, through an interface of its own, and pkg/daemon joins them.
package quiesce

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/statefile"
)

// Units is what is needed of systemd. All may be called for a unit that does not exist.
type Units interface {
	Running(ctx context.Context, unit string) (bool, error)
	Frozen(ctx context.Context, unit string) (bool, error)
	Freeze(ctx context.Context, unit string) error
	// Thaw of one that is not frozen is no error.
	Thaw(ctx context.Context, unit string) error
}

// The limits of a moment.
const (
	// freezeTimeout is how long a guest may take to write what it has and stand still.
	freezeTimeout = 10 * time.Second
	// thawTimeout is for one try to let it run on.
	thawTimeout = 10 * time.Second
	// retryEvery is how often what could not be thawed is tried again.
	retryEvery = 5 * time.Second
)

// AgentSocket is where the agent of a guest that runs under tandem-vm@.service answers.
func AgentSocket(id guest.ID) string { return "/run/tandem-guests/" + id.String() + "/agent" }

// Options say how.
type Options struct {
	// Dir is an existing folder of its own for the notes of what is frozen.
	Dir   string
	Units Units
	// Agent is the socket of a guest's agent; default AgentSocket.
	Agent func(guest.ID) string
	// Deadline is how long a guest stands still at most; default 10 s.
	Deadline time.Duration
	// Watchdog is the command that runs Watch on the note whose path is appended to it;
	// empty: none.
	Watchdog []string
	// Adopt takes the watchdog's process out of the daemon's control group, with which
	// systemd would end it; nil: it stays.
	Adopt func(ctx context.Context, id guest.ID, pid int) error
	// Report tells that a guest cannot be thawed, and with nil that it was; it may be nil.
	Report func(id guest.ID, err error)
}

// Quiescer freezes and thaws the guests of one node.
type Quiescer struct {
	o Options

	mu sync.Mutex
	// frozen are the guests that stand still, or may; stuck those of them that nobody
	// else is about to thaw.
	frozen map[guest.ID]bool
	stuck  map[guest.ID]note
}

// New makes one, and reads what a daemon before this one left frozen: Run thaws it.
func New(o Options) (*Quiescer, error) {
	if o.Dir == "" || o.Units == nil {
		return nil, errors.New("quiesce: a folder and systemd are needed")
	}
	if o.Agent == nil {
		o.Agent = AgentSocket
	}
	if o.Deadline == 0 {
		o.Deadline = 10 * time.Second
	}
	if o.Report == nil {
		o.Report = func(guest.ID, error) {}
	}
	q := &Quiescer{o: o, frozen: map[guest.ID]bool{}, stuck: map[guest.ID]note{}}
	return q, q.load()
}

// load reads the notes.
func (q *Quiescer) load() error {
	entries, err := os.ReadDir(q.o.Dir)
	if err != nil {
		return fmt.Errorf("what a daemon before left frozen: %w", err)
	}
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".json")
		id, err := guest.ParseID(stem)
		if !ok || err != nil {
			continue
		}
		n := note{Guest: id}
		if err := statefile.Read(q.path(id), &n); err != nil {
			// Who it was is in the name; how is lost.
			q.o.Report(id, fmt.Errorf("guest %s may stand still since a daemon before this one, and how is not known: %w", id, err))
			continue
		}
		q.frozen[id], q.stuck[id] = true, n
	}
	return nil
}

func (q *Quiescer) path(id guest.ID) string { return filepath.Join(q.o.Dir, id.String()+".json") }

// Run thaws what is left frozen, until ctx ends.
func (q *Quiescer) Run(ctx context.Context) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		q.retry(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (q *Quiescer) retry(ctx context.Context) {
	q.mu.Lock()
	var notes []note
	for _, n := range q.stuck {
		notes = append(notes, n)
	}
	q.mu.Unlock()
	slices.SortFunc(notes, func(a, b note) int { return int(a.Guest - b.Guest) })
	var wg sync.WaitGroup
	for _, n := range notes {
		wg.Go(func() { _, _ = q.thaw(ctx, n) }) // It was reported.
	}
	wg.Wait()
}

// Quiesce makes the guest stand still, if it is to and runs. It never fails: where it
// cannot, the point is as after a power cut, and the warning says why. Thaw must be
// called once the point is taken; its error says that the guest did not stand still
// until then, or that it still does.
func (q *Quiescer) Quiesce(ctx context.Context, g guest.Guest) (how guest.Consistency, thaw func() error, warning string) {
	none := func() error { return nil }
	if g.Quiesce == "" {
		return guest.Crash, none, ""
	}
	running, err := q.running(ctx, g)
	if err == nil && !running {
		return guest.Crash, none, "" // There is nobody to ask, and nobody who writes.
	}
	var h *hold
	if err == nil {
		h, err = q.hold(ctx, g)
	}
	if err != nil {
		return guest.Crash, none, fmt.Sprintf("guest %s was not quiesced, this point is as after a power cut: %v", g.ID, err)
	}
	return h.note.how(), h.end, ""
}

// running says whether there is something to freeze. A guest without a unit may run.
func (q *Quiescer) running(ctx context.Context, g guest.Guest) (bool, error) {
	if g.Unit == "" {
		if g.Quiesce == guest.QuiesceFreeze {
			return false, errors.New("its processes are to be frozen, and it has no unit")
		}
		return true, nil
	}
	return q.o.Units.Running(ctx, g.Unit)
}

// claim notes on disk that the guest is about to be frozen.
func (q *Quiescer) claim(g guest.Guest) (note, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.frozen[g.ID] {
		return note{}, errors.New("it still stands still from an earlier time, and is being thawed")
	}
	n := note{Guest: g.ID, Way: g.Quiesce, Unit: g.Unit, Agent: q.o.Agent(g.ID), Since: time.Now(), Within: q.o.Deadline}
	if err := statefile.Write(q.path(g.ID), n); err != nil {
		return n, fmt.Errorf("it could not be noted that it is frozen: %w", err)
	}
	q.frozen[g.ID] = true
	return n, nil
}

// released takes the note back.
func (q *Quiescer) released(id guest.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, stuck := q.stuck[id]
	delete(q.frozen, id)
	delete(q.stuck, id)
	err := os.Remove(q.path(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("guest %s runs again, and is thawed once more at the next start: %w", id, err)
		q.o.Report(id, err)
	} else if stuck {
		q.o.Report(id, nil)
	}
}

// thaw lets a guest run on. Held says that it stood still until now. If it fails Run
// goes on trying.
func (q *Quiescer) thaw(ctx context.Context, n note) (held bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, thawTimeout)
	defer cancel()
	if held, err = n.thaw(ctx, q.o.Units); err == nil {
		q.released(n.Guest)
		return held, nil
	}
	err = fmt.Errorf("guest %s stands still and cannot be thawed: %w", n.Guest, err)
	q.mu.Lock()
	q.stuck[n.Guest] = n
	q.mu.Unlock()
	q.o.Report(n.Guest, err)
	return false, err
}

// hold is a guest that stands still.
type hold struct {
	q     *Quiescer
	note  note
	dog   *dog
	timer *time.Timer
	ended func() error
}

// hold freezes a guest.
func (q *Quiescer) hold(ctx context.Context, g guest.Guest) (*hold, error) {
	n, err := q.claim(g)
	if err != nil {
		return nil, err
	}
	d, err := q.watch(ctx, n)
	if err != nil {
		q.released(g.ID)
		return nil, fmt.Errorf("nobody would thaw it if the daemon died: %w", err)
	}
	h := &hold{q: q, note: n, dog: d}
	limited, cancel := context.WithTimeout(ctx, freezeTimeout)
	err = n.freeze(limited, q.o.Units)
	cancel()
	h.ended = sync.OnceValue(func() error { return h.thaw(context.WithoutCancel(ctx)) })
	if errors.Is(err, errUntouched) {
		q.released(g.ID)
		d.release()
		return nil, err
	}
	if err != nil {
		// It may be frozen all the same, or in part. What that says matters if it fails.
		if failed := h.ended(); failed != nil && !errors.Is(failed, errEarly) {
			err = errors.Join(err, failed)
		}
		return nil, err
	}
	h.note.Since = time.Now()
	h.timer = time.AfterFunc(q.o.Deadline, func() { _ = h.ended() })
	return h, nil
}

// errEarly: the guest ran on before the point was taken.
var errEarly = errors.New("it ran on before the point was taken")

// end thaws the guest, unless the timer did.
func (h *hold) end() error {
	h.timer.Stop()
	return h.ended()
}

func (h *hold) thaw(ctx context.Context) error {
	late := time.Since(h.note.Since) >= h.q.o.Deadline
	held, err := h.q.thaw(ctx, h.note)
	if err != nil {
		h.dog.alarm()
		return err
	}
	h.dog.release()
	switch {
	case late:
		return fmt.Errorf("%w: it took longer than %s", errEarly, h.q.o.Deadline)
	case !held:
		return errEarly
	default:
		return nil
	}
}
