package replicate

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Foresee is Preview for a job, or for volumes of a guest, that the ledger does not have yet: what would stand in the way of the
// first sync is told when somebody asks for it, and not at night. Nothing is changed on either side.
func (s *Source) Foresee(ctx context.Context, g guest.Guest, j guest.Job, patience time.Duration) (Preview, error) {
	view := s.o.Ledger.View()
	if known, ok := view.Guests[g.ID]; !ok || known.Owner != s.o.Node {
		return Preview{}, fault.Never("", "this node does not own guest %s", g.ID)
	}
	names, err := s.o.Datasets(g.Volumes)
	if err != nil {
		return Preview{}, err
	}
	r := &run{
		s: s, task: Task{Job: j.ID}, view: view, job: j, guest: g, target: view.NameOf(j.Target), names: names,
		volumes: map[guest.Volume]*VolumeResult{}, preview: true, ahead: true,
	}
	out, err := r.foresee(ctx, patience)
	return out, fault.Final(ctx, err)
}

// pointAhead is the name with which a preview plans: ahead of a job the longest that it can come to.
func (r *run) pointAhead() string {
	name := r.nextName()
	if r.ahead {
		name.Seq = math.MaxUint32
	}
	return name.String()
}

// Standing says that a refusal is not one that passes by itself or that the next sync may find a way around: a job that meets it
// is better not made.
func Standing(refusal *Error) bool {
	r, ok := errors.AsType[plan.Refusal](refusal)
	if !ok {
		return true
	}
	switch r.Kind {
	case plan.Missing, plan.Foreign, plan.NoSpace, plan.Encryption, plan.Version, plan.BadName, plan.Feature, plan.Pools,
		plan.ReadOnly, plan.Renamed:
		return true
	case plan.NotOurs, plan.Diverged, plan.Former:
	}
	return false
}

// checkNew tells what stands against a guest with these volumes on this node, whatever its targets are: they are on one pool, and
// the names of its points fit.
func (s *Source) checkNew(g guest.Guest, names []string) error {
	volumes, all := g.Volumes, names
	if known, ok := s.o.Ledger.View().Guests[g.ID]; ok { // Volumes are added to those that it has.
		if has, err := s.o.Datasets(known.Volumes); err == nil {
			volumes, all = slices.Concat(known.Volumes, volumes), slices.Concat(has, all)
		}
	}
	longest := guest.SnapshotName{
		Term: guest.Term{N: math.MaxUint32, Generation: "0123456789abcdef"}, Node: s.o.Name, Seq: math.MaxUint32, Time: s.o.Now(),
	}.String()
	for i, name := range all {
		if why := plan.TwoPools(volumes[0], all[0], volumes[i], name); why != "" {
			return fault.Person(volumes[i], plan.TwoPoolsHint, "%s", why)
		}
		if why := plan.TooLong(name, longest); why != "" {
			return fault.Person(volumes[i], "rename the dataset, or use a storage whose dataset has a shorter name", "%s", why)
		}
	}
	return nil
}

func namesOf(list []zfs.Dataset) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.Name)
	}
	return out
}
