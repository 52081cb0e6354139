package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
)

// slack is how many bytes a dataset can seem to have written although nothing was
// changed: after a rollback the kilobyte of its own object set counts, in all
// its copies. Up to it an increment is tried, which ZFS refuses where data was
// changed (Side.Modified).
const slack = 64 << 10

// divergence is why the target's replica cannot be received into.
type divergence struct {
	why string
	// base is the newest state that both have; nil: there is none.
	base *Base
	// refusal is set where nothing is set aside for it.
	refusal *Refusal
}

// base finds the newest state that both have, and what stands in the way of an
// increment from it.
func (v *volume) base() (*Base, *divergence) {
	s, t := v.pair.Source, v.pair.Target
	b, at := v.newestCommon()
	d := &divergence{base: b}
	switch {
	case v.leaving():
		d.why = "its setting aside was interrupted"
	case s.Kind != t.Kind:
		d.why, d.base = fmt.Sprintf("it is a %s there and a %s here", t.Kind, s.Kind), nil
	case b == nil:
		d.why = "none of its snapshots is known to the source"
	default:
		if d.why = v.changed(at, "last common snapshot "+b.Name); d.why != "" {
			return nil, d
		}
		if s.Encrypted && slices.ContainsFunc(v.target[at+1:], ofTandem) {
			d.why = "it has gone on from the last common snapshot " + b.Name + " on a line that was left"
			return nil, d
		}
		if s.Encrypted && at+1 < len(v.target) {
			d.refusal = v.refuse(Diverged, "remove that snapshot there, and keep the tool that made it off replicas",
				"%s has a snapshot %s%s that is newer than the last common one; encrypted data cannot be received over it",
				v.in.TargetName, v.target[at+1].Name, maker(v.target[at+1].Name))
			return nil, d
		}
		return b, nil
	}
	return nil, d
}

// ofTandem says that a snapshot of the replica was brought by Tandem, or bears a name that only Tandem gives.
func ofTandem(s Snapshot) bool {
	_, err := guest.ParseSnapshotName(s.Name)
	return err == nil || s.Tandem || s.Received
}

// changed tells what the target has beyond its snapshot at a place; empty where
// that is nothing, or so little that it may be nothing.
func (v *volume) changed(at int, since string) string {
	t := v.pair.Target
	sum := t.Written
	newest := -1
	for i, s := range v.target[at+1:] {
		sum += s.Written
		if s.Written > 0 {
			newest = at + 1 + i
		}
	}
	switch {
	case sum <= slack && !t.Modified:
		return ""
	case newest >= 0 && v.sentOnly(at):
		return fmt.Sprintf("snapshot %s, which was sent from here, is gone here", v.target[newest].Name)
	case newest >= 0:
		return fmt.Sprintf("its snapshot %s holds data that is newer than the %s: %s in all", v.target[newest].Name, since, size(sum))
	case t.Written > 0:
		return fmt.Sprintf("it was written to: %s since its newest snapshot", size(t.Written))
	default:
		return "it was written to since its newest snapshot"
	}
}

// sentOnly says that all that is newer at the target than a place was sent by the
// last sync, and destroyed here since.
func (v *volume) sentOnly(at int) bool {
	return v.pair.Target.Written == 0 && !v.pair.Target.Modified && !slices.ContainsFunc(v.target[at+1:], func(s Snapshot) bool {
		return !slices.Contains(v.pair.Sent, s.GUID)
	})
}

// misfit tells why an interrupted receive on top of a snapshot, or of none, cannot end
// well. A first one that was killed may carry its marks already.
func (v *volume) misfit(from uint64) string {
	at := v.atTarget.of(from)
	switch {
	case v.leaving():
		return "its replica is being set aside"
	case v.pair.Source.Kind != v.pair.Target.Kind:
		return "its replica is of another type"
	case len(v.pair.Target.Snapshots) == 0 && (from == 0 || v.stems(from)):
		return ""
	case at < 0:
		return "its replica lost the snapshot on which it builds"
	default:
		return v.changed(at, "snapshot on which it builds")
	}
}

func (v *volume) setAside(d divergence) VolumePlan {
	what := "; all that it has is kept; everything is then sent again, about " + size(v.written(v.source))
	step := Step{Verb: SetAside, Dataset: v.pair.Target.GUID}
	if d.base != nil {
		step.From = *d.base
		what = "; all that it has is kept; what is newer than " + d.base.Name + " is then sent"
	}
	step.Why = d.why
	if d.base != nil {
		if at := v.atTarget.of(d.base.GUID); v.sentOnly(at) {
			for _, s := range v.target[at+1:] {
				step.Superseded = append(step.Superseded, s.GUID)
			}
		}
	}
	step.Reason = fmt.Sprintf("set the replica %s on %s aside: %s%s", v.pair.Target.Dataset, v.in.TargetName, d.why, what)
	return VolumePlan{Volume: v.pair.Volume, Base: d.base, Steps: []Step{step}, After: v.target, Reason: step.Reason}
}

// renamed refuses to send a volume again of which the target has a replica under another name, with a state that the source has
// too: whoever renamed it knows what for.
func (v *volume) renamed() *Refusal {
	for _, m := range v.pair.Moved {
		w := *v
		w.target = ordered(m.Snapshots)
		w.atTarget = placesOf(w.target)
		b, _ := w.newestCommon()
		if b == nil || m.Kind != v.pair.Source.Kind {
			continue
		}
		return v.refuse(Renamed,
			fmt.Sprintf("on %s: `zfs rename %s %s`, and the next sync goes on from %s; or, to keep it apart and have everything sent again, `zfs inherit tandem:role %s`",
				v.in.TargetName, m.Dataset, v.pair.Target.Dataset, b.Name, m.Dataset),
			"the replica on %s was renamed to %s, and nothing is sent again for that, about %s", v.in.TargetName, m.Dataset, size(v.written(v.source)))
	}
	return nil
}

// renew plans for a target without the replica: one increment out of what was
// set aside there, where the source shares a snapshot with it, else everything.
func (v *volume) renew() (VolumePlan, *Refusal) {
	whole := *v
	var best *Base
	var at int
	for _, a := range v.copies() {
		w := whole
		w.target = ordered(a.Snapshots)
		w.atTarget = placesOf(w.target)
		b, i := w.newestCommon()
		if b != nil && a.Kind == v.pair.Source.Kind && (best == nil || v.orderOf(*b) > v.orderOf(*best)) {
			best, at = b, i
			v.target, v.atTarget = w.target, w.atTarget
		}
	}
	if best == nil {
		return v.steps(nil)
	}
	// What is newer there stays with the copy.
	v.target = v.target[:at+1]
	v.atTarget, v.branch = placesOf(v.target), true
	return v.steps(best)
}

// copies are those of the copies set aside that carry the marks of this very volume.
func (v *volume) copies() []Side {
	return slices.DeleteFunc(slices.Clone(v.pair.Aside), func(a Side) bool { return !v.marked(a.Marks, Aside) })
}

// orderOf is a base's place in the source's order.
func (v *volume) orderOf(b Base) uint64 {
	if i := v.atSource.of(b.GUID); i >= 0 {
		return v.source[i].TXG
	}
	for _, m := range v.pair.Source.Bookmarks {
		if m.GUID == b.GUID {
			return m.TXG
		}
	}
	return 0
}

// promote ends a replica's beginning out of what was set aside, where it was cut.
// Names that clash would make it fail: then the replica stays a clone, which is
// as good for syncs.
func (v *volume) promote() (VolumePlan, bool) {
	t := v.pair.Target
	dataset, own, _ := strings.Cut(t.Origin, "@")
	i := slices.IndexFunc(v.copies(), func(a Side) bool { return a.Dataset == dataset })
	if i < 0 || !v.ours() {
		return VolumePlan{}, false
	}
	a := v.copies()[i]
	shared := ordered(a.Snapshots)
	shared = shared[:indexName(shared, own)+1]
	for _, s := range shared {
		if indexName(v.target, s.Name) >= 0 {
			v.warn("the replica %s on %s depends on %s: both have a snapshot %s; rename one of them, and the next sync parts them",
				t.Dataset, v.in.TargetName, a.Dataset, s.Name)
			return VolumePlan{}, false
		}
	}
	step := Step{Verb: Promote, Reason: fmt.Sprintf("the replica on %s takes over the snapshots that it shares with %s", v.in.TargetName, a.Dataset)}
	return VolumePlan{Volume: v.pair.Volume, Steps: []Step{step}, After: v.target, Reason: step.Reason}, true
}

// stems says that the replica is being made out of that snapshot of a copy set aside.
func (v *volume) stems(from uint64) bool {
	dataset, own, _ := strings.Cut(v.pair.Target.Origin, "@")
	return slices.ContainsFunc(v.copies(), func(a Side) bool {
		i := indexName(a.Snapshots, own)
		return a.Dataset == dataset && i >= 0 && a.Snapshots[i].GUID == from
	})
}

// branches says that the target has no replica, but something set aside whose
// newest state that the source has too is the snapshot with that GUID.
func (x Pair) branches(guid uint64) bool {
	return !x.Target.Exists && slices.ContainsFunc(x.Aside, func(a Side) bool {
		return slices.ContainsFunc(a.Snapshots, func(s Snapshot) bool { return s.GUID == guid })
	})
}

// beyond says that the replica may hold something newer than its snapshot with that GUID, be it too little to be sure
// (see slack).
func (x Pair) beyond(guid uint64) bool {
	t := ordered(x.Target.Snapshots)
	at := placesOf(t).of(guid)
	return at >= 0 && (x.Target.Written > 0 || x.Target.Modified || slices.ContainsFunc(t[at+1:], func(s Snapshot) bool { return s.Written > 0 }))
}

// Bases are the GUIDs of the newest snapshot and of the newest bookmark of the
// source, by its own order, of which the target has the snapshot, be it in what
// was set aside or renamed there. A bookmark counts only where it is newer.
func (x Pair) Bases() []uint64 {
	has := map[uint64]bool{}
	for _, side := range slices.Concat([]Side{x.Target}, x.Aside, x.Moved) {
		for _, s := range side.Snapshots {
			has[s.GUID] = true
		}
	}
	var out []uint64
	var newest uint64
	for _, s := range slices.Backward(ordered(x.Source.Snapshots)) {
		if has[s.GUID] {
			out, newest = append(out, s.GUID), s.TXG
			break
		}
	}
	var mark Bookmark
	for _, b := range x.Source.Bookmarks {
		if has[b.GUID] && b.TXG > max(newest, mark.TXG) {
			mark = b
		}
	}
	if mark.GUID != 0 {
		out = append(out, mark.GUID)
	}
	return out
}
