package replicate

import (
	"context"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// Handover is the syncs of a guest to the node that is to own it, whether a job
// points there or not. As long as it is open that job does not run by itself, and
// what the node gets is kept here as what a job's target needs is.
type Handover struct {
	s     *Source
	guest guest.ID
	to    guest.NodeID
	done  func()
}

// handing is what a sync needs to know of the move that it is a part of.
type handing struct {
	// locked: the caller has the guest's lock.
	locked bool
}

// Transfer is one sync of a handover.
type Transfer struct {
	// Locked says that the caller has the guest's lock. Nothing is cleaned then.
	Locked bool
	// Progress and Log may be nil. They are not called concurrently and must not block.
	Progress func(Progress)
	Log      func(line string)
}

// Handover opens one. It waits for a sync of the job to that node that runs already, and for copies of the guest that are
// being removed.
func (s *Source) Handover(ctx context.Context, id guest.ID, to guest.NodeID) (*Handover, error) {
	if err := s.occupy(ctx, id, to); err != nil {
		return nil, fault.Final(ctx, err)
	}
	h := &Handover{s: s, guest: id, to: to}
	r, err := h.begin(Transfer{})
	if err != nil {
		s.vacate(id)
		return nil, fault.Final(ctx, err)
	}
	volumes := map[guest.Volume][]uint64{}
	for _, v := range r.guest.Volumes {
		volumes[v] = nil // Which points are needed the bases know; this says that there are such.
	}
	unpin := s.o.Pins.Pin(id, volumes)
	h.done = func() {
		s.o.Pins.Moving(id, s.o.Now())
		unpin()
		s.vacate(id)
	}
	select {
	case s.locks.Turn("job-" + r.job.ID.String()) <- struct{}{}:
		<-s.locks.Turn("job-" + r.job.ID.String()) // No later run begins.
		return h, nil
	case <-ctx.Done():
		h.Close()
		return nil, fault.Final(ctx, context.Cause(ctx))
	}
}

// Close ends the handover.
func (h *Handover) Close() { h.done() }

// occupy has one move at a time change who owns a guest. A copy that is being removed goes first; none is, once this has returned.
func (s *Source) occupy(ctx context.Context, id guest.ID, to guest.NodeID) error {
	release, ok := s.removals(ctx, id)
	if !ok {
		return context.Cause(ctx)
	}
	defer release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.handovers[id]; taken {
		return fault.Busy("", "guest %s is being moved already", id)
	}
	s.handovers[id] = to
	return nil
}

func (s *Source) vacate(id guest.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handovers, id)
}

// handover is where a guest is being moved to.
func (s *Source) handover(id guest.ID) (guest.NodeID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to, ok := s.handovers[id]
	return to, ok
}

// begin is a run to the node, by its job or by one that the ledger does not have.
func (h *Handover) begin(t Transfer) (*run, error) {
	view := h.s.o.Ledger.View()
	g, ok := view.Guests[h.guest]
	switch {
	case !ok:
		return nil, fault.Never("", "there is no guest %s", h.guest)
	case g.Owner != h.s.o.Node:
		return nil, fault.Never("", "this node does not own guest %s, %s does", g.ID, view.NameOf(g.Owner))
	case h.to == g.Owner:
		return nil, fault.Never("", "guest %s is on %s already", g.ID, view.NameOf(g.Owner))
	}
	names, err := h.s.o.Datasets(g.Volumes)
	if err != nil {
		return nil, err
	}
	j := jobTo(view, g.ID, h.to)
	return &run{
		s: h.s, task: Task{Job: j.ID, Progress: t.Progress, Log: t.Log}, view: view, job: j, guest: g, target: view.NameOf(h.to),
		names: names, volumes: map[guest.Volume]*VolumeResult{}, hand: &handing{locked: t.Locked},
	}, nil
}

// jobTo is the guest's job to a node or, where there is none, one as it would be, with
// a number that none has.
func jobTo(view *ledger.State, id guest.ID, to guest.NodeID) guest.Job {
	number := guest.MaxJobNumber
	for _, j := range view.JobsOf(id) {
		if j.Target == to && !j.Removing {
			return j
		}
	}
	for {
		j := guest.JobID{Guest: id, Number: number}
		if _, ok := view.Jobs[j]; !ok {
			return guest.Job{ID: j, Target: to, Schedule: calendar.Default, Snapshots: guest.Mirror}
		}
		number--
	}
}

// ForeseeHandover tells what the first sync of the handover of a guest to a node would do,
// and what stands against it; nothing is changed. See [Source.Foresee].
func (s *Source) ForeseeHandover(ctx context.Context, id guest.ID, to guest.NodeID) (Preview, error) {
	h := &Handover{s: s, guest: id, to: to}
	r, err := h.begin(Transfer{})
	if err != nil {
		return Preview{}, fault.Final(ctx, err)
	}
	r.preview = true
	out, err := r.foresee(ctx, s.o.CallTimeout)
	return out, fault.Final(ctx, err)
}

// Sync does one sync, as [Source.Run] does.
func (h *Handover) Sync(ctx context.Context, t Transfer) (Result, error) {
	r, err := h.begin(t)
	if err != nil {
		return Result{}, fault.Final(ctx, err)
	}
	err = r.rounds(ctx)
	h.s.doubt(r.job.ID, err)
	return r.finish(), fault.Final(ctx, err)
}

// lockGuest is Source.lockGuest, unless who moves the guest has it.
func (r *run) lockGuest(ctx context.Context) (release func(), err error) {
	if r.hand != nil && r.hand.locked {
		return func() {}, nil
	}
	if len(r.s.locks.Turn(local.GuestLock(r.guest.ID))) > 0 {
		r.near.Rest() // Who has the lock would wait for it in vain.
	}
	return r.s.lockGuest(ctx, r.guest.ID)
}

// Prove makes sure that a point is all that there is of the guest: on each of its
// volumes here it is the newest snapshot with nothing written since, and the node
// has it, by GUID, complete and with nothing half received. It returns the GUIDs.
func (h *Handover) Prove(ctx context.Context, point string) (map[guest.Volume]uint64, error) {
	r, err := h.begin(Transfer{Locked: true})
	if err != nil {
		return nil, fault.Final(ctx, err)
	}
	guids, err := r.prove(ctx, point)
	return guids, fault.Final(ctx, err)
}

func (r *run) prove(ctx context.Context, point string) (map[guest.Volume]uint64, error) {
	if err := r.list(ctx); err != nil {
		return nil, err
	}
	req := wire.InventoryRequest{Request: r.request(), Ahead: wire.Ahead{Volumes: r.guest.Volumes}}
	if err := r.s.call(ctx, r.job.Target, wire.PathInventory, req, &r.inv); err != nil {
		return nil, fault.Wrap(err, "ask %s what it has", r.target)
	}
	if err := r.inv.Validate(r.guest); err != nil {
		return nil, err
	}
	guids := map[guest.Volume]uint64{}
	for i, v := range r.guest.Volumes {
		here := local.Side(r.names[i], r.own[i])
		newest := last(here.Snapshots)
		switch {
		case !here.Exists:
			return nil, fault.Person(v, "", "the dataset %s is gone", r.names[i])
		case here.Written != 0 || newest.Name != point:
			return nil, fault.Retry("something writes to it although the guest is stopped: see `fuser -v` on its device or folder",
				"volume %s: %d bytes were written, and its newest snapshot is %q, not the point %s", v, here.Written, newest.Name, point)
		}
		there := last(r.inv.Volumes[i].Side().Snapshots)
		switch {
		case r.inv.Volumes[i].Token != "":
			return nil, fault.Retry("", "volume %s: %s has a part of a receive", v, r.target)
		case there.GUID != newest.GUID:
			return nil, fault.Retry("", "volume %s: the newest snapshot on %s is %q with GUID %d, here it is %s with %d",
				v, r.target, there.Name, there.GUID, point, newest.GUID)
		case !there.Complete:
			return nil, fault.Retry("", "volume %s: the point %s is not complete on %s", v, point, r.target)
		}
		guids[v] = newest.GUID
	}
	return guids, nil
}

// last is the newest: they are told in the order in which the dataset's node made them.
func last(list []plan.Snapshot) plan.Snapshot {
	if len(list) == 0 {
		return plan.Snapshot{}
	}
	return list[len(list)-1]
}
