package plan

import (
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// MaxName is ZFS's limit for a full name, in bytes.
const MaxName = 255

// volume is the planning of one volume.
type volume struct {
	in             *Input
	pair           Pair
	source, target []Snapshot // in the order of their node
	// atSource and atTarget are the places in them.
	atSource, atTarget places
	// named are the places in target by name, once they were asked for.
	named map[string]int
	// branch: target is what a clone of a copy set aside will have once it is promoted.
	branch   bool
	warnings []Warning
}

func (v *volume) warn(format string, args ...any) {
	v.warnings = append(v.warnings, Warning{Volume: v.pair.Volume, Text: fmt.Sprintf(format, args...)})
}

func (v *volume) plan() (VolumePlan, *Refusal) {
	if r := v.checkSource(); r != nil {
		return VolumePlan{}, r
	}
	if r := v.checkEncryption(); r != nil {
		return VolumePlan{}, r
	}
	if r := v.checkGates(); r != nil {
		return VolumePlan{}, r
	}
	if !v.pair.Target.Exists {
		if r := v.renamed(); r != nil {
			return VolumePlan{}, r
		}
		return v.renew()
	}
	if v.pair.Target.Partial != nil {
		return v.partial()
	}
	if r := v.checkTarget(); r != nil {
		return VolumePlan{}, r
	}
	if out, ok := v.promote(); ok {
		return out, nil
	}
	base, d := v.base()
	switch {
	case d == nil:
		return v.steps(base)
	case d.refusal != nil:
		return VolumePlan{}, d.refusal
	default:
		return v.setAside(*d), nil
	}
}

// partial goes on with an interrupted receive, or drops it. A dataset without
// marks and snapshots is one whose first stream never ended: the marks come with
// its end. It is known by the GUID of what was being sent.
func (v *volume) partial() (VolumePlan, *Refusal) {
	t, p := v.pair.Target, v.pair.Target.Partial
	unborn := t.Marks.None() && len(t.Snapshots) == 0
	if !unborn {
		if r := v.checkTarget(); r != nil {
			return VolumePlan{}, r
		}
	}
	if unborn && t.Kind != v.pair.Source.Kind {
		return VolumePlan{}, v.foreign()
	}
	out := VolumePlan{Volume: v.pair.Volume, After: v.target}
	i := v.atSource.of(p.ToGUID)
	why := ""
	switch {
	case i < 0:
		why = "the source no longer has the snapshot that was being sent"
	case !p.Valid:
		why = "it cannot be resumed: " + p.Problem
	case p.Stuck:
		why = "it was resumed again and again and did not move"
	case !unborn && v.misfit(p.FromGUID) != "":
		why = v.misfit(p.FromGUID)
	default:
		step := Step{Verb: Resume, To: v.source[i].ref(), Token: p.Token, Raw: v.pair.Source.Encrypted}
		step.Bytes = max(v.source[i].Written, p.Bytes) - p.Bytes
		step.Reason = fmt.Sprintf("an interrupted transfer of %s: %s has the first %s", v.source[i].Name, v.in.TargetName, size(p.Bytes))
		out.Steps, out.Bytes, out.Reason = []Step{step}, step.Bytes, step.Reason
		return out, nil
	}
	if unborn && !p.Ours {
		return VolumePlan{}, v.refuse(Foreign,
			"if nobody needs it, run `zfs receive -A "+t.Dataset+"` on "+v.in.TargetName+", then run the job again",
			"%s has an interrupted receive in %s that is not known to be of guest %s (%s)", v.in.TargetName, t.Dataset, v.in.Guest.ID, why)
	}
	out.Steps = []Step{{Verb: Abort, Token: p.Token, Reason: "drop an interrupted transfer: " + why}}
	out.Reason = out.Steps[0].Reason
	return out, nil
}

// newestCommon is the newest by the source's order, and its place in the target's.
func (v *volume) newestCommon() (*Base, int) {
	for _, s := range slices.Backward(v.source) {
		at := v.atTarget.of(s.GUID)
		if at < 0 {
			continue
		}
		if b, bat := v.newestBookmark(s.TXG); b != nil {
			return b, bat
		}
		return &Base{Ref: s.ref()}, at
	}
	return v.newestBookmark(0)
}

// newestBookmark is the newest bookmark after txg of which the target has the snapshot.
func (v *volume) newestBookmark(txg uint64) (best *Base, at int) {
	for _, b := range v.pair.Source.Bookmarks {
		if i := v.atTarget.of(b.GUID); i >= 0 && b.TXG > txg {
			txg, at = b.TXG, i
			best = &Base{Ref: Ref{Name: b.Name, GUID: b.GUID}, Bookmark: true}
		}
	}
	return best, at
}

func (v *volume) written(s []Snapshot) uint64 {
	n := v.pair.Source.Written
	for _, x := range s {
		n += x.Written
	}
	return n
}

// candidates are the source's snapshots after the base up to the point, oldest
// first. The point is added where it is about to be taken.
func (v *volume) candidates(base *Base) ([]Snapshot, *Refusal) {
	all := v.source
	end := indexName(all, v.in.Point)
	switch {
	case v.in.Point == "":
		return nil, nil
	case end < 0:
		var txg uint64
		if len(all) > 0 {
			txg = all[len(all)-1].TXG
		}
		all = append(slices.Clone(all), Snapshot{Name: v.in.Point, TXG: txg + 1, Written: v.pair.Source.Written, Tandem: true})
		end = len(all) - 1
	case !all[end].Tandem:
		return nil, v.refuse(BadName, "rename it", "the snapshot %s here is not one of Tandem's", v.in.Point)
	}
	if why := v.blocked(all[end]); why != "" {
		return nil, v.refuse(BadName, "a name taken there: rename that snapshot; a name too long: use a storage with a shorter name",
			"the point %s cannot be received by %s: %s", v.in.Point, v.in.TargetName, why)
	}
	start := 0
	if base != nil {
		start = v.after(*base)
	}
	if start > end {
		return nil, nil
	}
	return all[start : end+1], nil
}

// after is the index of the first of the source's snapshots that is newer than the base.
func (v *volume) after(b Base) int {
	if !b.Bookmark {
		return v.atSource.of(b.GUID) + 1
	}
	i := slices.IndexFunc(v.pair.Source.Bookmarks, func(x Bookmark) bool { return x.GUID == b.GUID })
	txg := v.pair.Source.Bookmarks[i].TXG
	n := slices.IndexFunc(v.source, func(s Snapshot) bool { return s.TXG > txg })
	if n < 0 {
		return len(v.source)
	}
	return n
}

// blocked tells why the target cannot take a snapshot under its name; empty if it can.
func (v *volume) blocked(s Snapshot) string {
	if n := len(v.pair.Target.Dataset) + 1 + len(s.Name); n > MaxName {
		return fmt.Sprintf("its full name there would have %d bytes, ZFS allows %d", n, MaxName)
	}
	if v.named == nil {
		v.named = make(map[string]int, len(v.target))
		for i, x := range v.target {
			v.named[x.Name] = i
		}
	}
	if i, taken := v.named[s.Name]; taken && v.target[i].GUID != s.GUID {
		return "another snapshot has that name there"
	}
	return ""
}

// wanted says whether a snapshot travels on this job.
func (v *volume) wanted(s Snapshot) bool {
	return v.in.Mode != guest.None || s.Name == v.in.Point || s.Tandem && v.in.Needed[s.GUID]
}

// steps are runs (-I) of what lies next to each other at the source, joined by
// single steps (-i) over what does not travel.
func (v *volume) steps(base *Base) (VolumePlan, *Refusal) {
	candidates, r := v.candidates(base)
	if r != nil {
		return VolumePlan{}, r
	}
	w := walk{from: base, raw: v.pair.Source.Encrypted, branch: v.branch}
	for _, s := range candidates {
		w.bytes += s.Written
		if !v.wanted(s) {
			w.gap = true
			continue
		}
		if why := v.blocked(s); why != "" {
			v.warn("snapshot %s is not sent to %s: %s", s.Name, v.in.TargetName, why)
			w.gap = true
			continue
		}
		w.reach(s)
	}
	out := VolumePlan{Volume: v.pair.Volume, Base: base, Steps: w.steps, After: slices.Clone(v.target)}
	for _, s := range out.Steps {
		out.Bytes += s.Bytes
		out.After = append(out.After, s.Arrivals...)
	}
	out.Reason = v.reason(out)
	v.settle(&out)
	return out, nil
}

// walk goes along the source's snapshots and notes the steps.
type walk struct {
	steps []Step
	from  *Base // what the target has so far; nil: nothing
	raw   bool
	gap   bool // something between from and here does not travel
	// branch: the first step makes a clone of what was set aside
	branch bool
	open   bool   // the last step can be made to reach further
	bytes  uint64 // between from and here
}

// reach adds a step to s or lets the last one reach to it.
func (w *walk) reach(s Snapshot) {
	s.Received, s.Complete = false, false
	step := Step{Verb: Single, To: s.ref(), Arrivals: []Snapshot{s}, Raw: w.raw, Bytes: w.bytes}
	switch last := len(w.steps) - 1; {
	case w.from == nil:
		step.Verb, step.Reason = Full, "the target has nothing of it: the oldest snapshot that travels goes whole"
		w.steps = append(w.steps, step)
		w.open = false
	case w.branch:
		step.Verb, step.From = Branch, *w.from
		step.Reason = "the replica begins anew at " + w.from.Name + " out of what was set aside: nothing older is sent again"
		w.steps = append(w.steps, step, Step{Verb: Promote, To: s.ref(), Reason: "the new replica takes the shared snapshots over"})
		w.branch, w.open = false, false
	case w.open && !w.gap:
		l := &w.steps[last]
		l.Verb, l.Reason = Run, "all that is newer than "+l.From.Name
		l.To, l.Arrivals, l.Bytes = step.To, append(l.Arrivals, s), l.Bytes+w.bytes
	default:
		step.From = *w.from
		step.Reason, w.open = "the next snapshot", true
		if w.gap {
			step.Reason, w.open = "over snapshots that do not travel", false
		}
		if w.from.Bookmark {
			step.Reason, w.open = "the source has only a bookmark of the base", false
		}
		w.steps = append(w.steps, step)
	}
	w.from, w.gap, w.bytes = &Base{Ref: s.ref()}, false, 0
}

func (v *volume) reason(p VolumePlan) string {
	switch {
	case len(p.Steps) == 0:
		return v.in.TargetName + " has it already"
	case p.Base == nil && len(v.pair.Aside) > 0:
		return fmt.Sprintf("what was set aside shares nothing with the source: everything is sent again, about %s", size(p.Bytes))
	case p.Base == nil:
		return fmt.Sprintf("first sync: everything, about %s", size(p.Bytes))
	default:
		return fmt.Sprintf("what is newer than %s, about %s", p.Base.Name, size(p.Bytes))
	}
}

// settle decides what the target marks as brought by Tandem and which copies of
// operators' snapshots go.
func (v *volume) settle(p *VolumePlan) {
	newestMarked, newestComplete := -1, -1
	for i, s := range v.target {
		if s.Tandem {
			newestMarked = i
		}
		if s.Complete {
			newestComplete = i
		}
	}
	for i, s := range p.After {
		if i < newestComplete && v.lost(s) {
			p.After[i].Tandem, p.After[i].Received = true, true
			p.Mark = append(p.Mark, p.After[i].ref())
			continue
		}
		if s.Tandem && i < len(v.target) || s.Received || i <= newestMarked {
			continue
		}
		at := v.atSource.of(s.GUID)
		if s.GUID != 0 && at < 0 && !slices.Contains(v.pair.Sent, s.GUID) {
			continue
		}
		if at >= 0 {
			p.After[i].Tandem = v.source[at].Tandem
		}
		p.After[i].Received = true
		p.Mark = append(p.Mark, p.After[i].ref())
	}
	if v.in.Mode == guest.Mirror && p.Base != nil {
		v.gone(p)
	}
}

// lost says that a snapshot of the replica is a point of which nothing is known any more: it arrived, its sync was cut before
// it was marked, and it went at the source. It bears a name that only Tandem gives, and nobody but Tandem writes to a replica.
func (v *volume) lost(s Snapshot) bool {
	_, err := guest.ParseSnapshotName(s.Name)
	known := v.atSource.of(s.GUID) >= 0 ||
		slices.ContainsFunc(v.pair.Source.Bookmarks, func(b Bookmark) bool { return b.GUID == s.GUID })
	return err == nil && !known && !s.Tandem && !s.Received && s.GUID != 0
}

// gone lists the marked copies of what the source, in this very list, does not
// have. The base proves that it is the same volume and not another of its name.
func (v *volume) gone(p *VolumePlan) {
	marked := 0
	var gone []Ref
	for _, s := range v.target {
		if !s.Received || s.Tandem {
			continue
		}
		marked++
		if v.atSource.of(s.GUID) < 0 && (!s.Held || v.pair.Target.Inherited) {
			gone = append(gone, s.ref())
		}
	}
	if v.pair.Target.Inherited {
		p.Stay = gone
		if len(gone) > 0 {
			v.warn("%d of %d copies of operators' snapshots on %s came from an earlier owner of the guest and are not on this node; they may be the only "+
				"ones, so they stay: if nobody needs them, destroy them there (%s …)", len(gone), marked, v.in.TargetName, gone[0].Name)
		}
		return
	}
	if 2*len(gone) > marked {
		v.warn("%d of %d copies of operators' snapshots on %s are no longer at the source; more than half at once are not removed: "+
			"if that is right, destroy them there (%s …)", len(gone), marked, v.in.TargetName, gone[0].Name)
		return
	}
	p.Gone = gone
}
