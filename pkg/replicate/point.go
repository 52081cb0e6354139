package replicate

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// nextName is the name of the point to take.
func (r *run) nextName() guest.SnapshotName {
	name := guest.SnapshotName{Term: r.guest.Term, Node: r.s.o.Name, Time: r.s.o.Now()}
	for _, d := range r.own {
		for _, snap := range d.Snapshots {
			if n, err := guest.ParseSnapshotName(snap.Name); err == nil {
				name.Seq = max(name.Seq, n.Seq)
			}
		}
	}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	name.Seq = max(name.Seq, r.s.seqs[r.guest.ID]) + 1
	return name
}

// take takes a point of all volumes at one moment, and with it destroys what nobody
// needs any more since the last sync: that takes no process of its own.
func (r *run) take(ctx context.Context) (string, error) {
	next, now := r.nextName(), r.s.o.Now()
	property, err := guest.Point{Volumes: r.guest.Volumes, Consistency: guest.Crash, Taken: now.Unix()}.Property()
	if err != nil {
		return "", err
	}
	r.s.mu.Lock()
	r.s.seqs[r.guest.ID] = next.Seq
	r.s.mu.Unlock()
	name := next.String()
	change := r.destroying(r.spare())
	change.Take, change.Props = name, map[string]string{zfs.PropPoint: property}
	carryOut := r.takeNear
	if r.guest.Quiesce != "" && r.s.o.Quiescer != nil {
		carryOut = r.quiet
	}
	done, err := carryOut(ctx, change)
	if err = cmp.Or(err, done.Err); err != nil {
		return "", fault.Wrap(err, "snapshot guest %s", r.guest.ID)
	}
	r.note(func() { r.result.Point, r.result.Taken = name, time.Unix(now.Unix(), 0) })
	same := r.taken(done)
	r.destroyed(change, done)
	if same {
		return name, nil
	}
	return name, r.list(ctx)
}

// takeNear takes it with those of others that are due.
func (r *run) takeNear(ctx context.Context, change zfs.Change) (zfs.Changed, error) {
	return r.near.Change(ctx, r.s.o.Together, local.StepTake, change)
}

// taken adds the new snapshots to what this run has read. It is false where somebody
// made or destroyed others since: then it is read again, because what lies between
// two points travels with them.
func (r *run) taken(done zfs.Changed) bool {
	same := true
	for i, got := range done.Volumes {
		d := &r.own[i]
		var before uint64
		if n := len(d.Snapshots); n > 0 {
			before = d.Snapshots[n-1].GUID
		}
		same = same && (before == got.Before || before == 0 && d.Origin != "")
		d.Snapshots = append(slices.Clone(d.Snapshots), got.Taken)
		d.Written = 0
	}
	return same
}

// newest is the newest point if it needs no new one, or empty. It is looked at
// again under the guest's lock: another sync may have taken or cleaned one.
func (r *run) newest(ctx context.Context) (string, error) {
	r.unwritten = time.Time{}
	if _, ok := plan.Unchanged(r.pairs); !ok {
		return "", nil
	}
	looked := r.s.o.Now() // before the list: it must not be told younger than it is
	if err := r.list(ctx); err != nil {
		return "", err
	}
	if err := r.pair(ctx); err != nil {
		return "", err
	}
	name, ok := plan.Unchanged(r.pairs)
	if ok {
		r.unwritten = looked
	}
	return name, nil
}

// snapshot takes a point of all volumes at once, plans with it, and pins what is
// to be sent. One at a time for a guest: another sync must not clean in between.
func (r *run) snapshot(ctx context.Context) (plan.Plan, string, error) {
	r.phase(PhaseSnapshot, 0)
	release, err := r.lockGuest(ctx)
	if err != nil {
		return plan.Plan{}, "", err
	}
	defer release()
	name, err := r.newest(ctx)
	if name != "" {
		r.near.Rest()
	}
	if err == nil && name == "" {
		name, err = r.take(ctx)
	}
	if err != nil {
		return plan.Plan{}, "", err
	}
	if err := r.pair(ctx); err != nil {
		return plan.Plan{}, "", err
	}
	p, err := r.plan(name)
	if err != nil {
		return plan.Plan{}, "", err
	}
	if p.Again() {
		return plan.Plan{}, "", fault.Retry("", "the target's partial receive appeared while the snapshot was taken")
	}
	for _, v := range p.Volumes {
		r.log("%s: %s", v.Volume, v.Reason)
	}
	return p, name, r.pin(p)
}

// pin keeps all that is about to be sent from being cleaned, also by a run after
// this one was cut.
func (r *run) pin(p plan.Plan) error {
	held := heldNow(r.pairs)
	for _, v := range p.Volumes {
		for _, step := range v.Steps {
			for _, a := range step.Arrivals {
				if a.Tandem {
					held.pin(v.Volume, a.GUID)
				}
			}
		}
	}
	r.s.bases.sending(r.guest, r.job.Target, r.operators(p))
	return r.s.bases.put(r.guest, r.job.Target, held)
}
