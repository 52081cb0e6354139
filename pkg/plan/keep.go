package plan

import (
	"cmp"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// Holding is what is known of the copies on one target, from its last answers.
type Holding struct {
	Node guest.NodeID
	// Known is false while nobody has heard of it: then nothing is removed anywhere.
	Known bool
	// Away says that it has been away for longer than keep_base: it no longer keeps
	// snapshots, but bookmarks of them.
	Away    bool
	Volumes map[guest.Volume]Held
}

// Held is what a target holds of one volume.
type Held struct {
	// Has are the GUIDs of Tandem's points on it.
	Has []uint64 `json:"has,omitempty"`
	// Pins are the GUIDs that the pair of owner and target needs on every node: its
	// base, its newest complete point, both ends of partial receives, and what a
	// sync that runs or was cut is sending.
	Pins []uint64 `json:"pins,omitempty"`
}

// Judged is the node whose snapshots Keep judges.
type Judged struct {
	// Volumes are all volumes of the guest with all their snapshots there.
	Volumes map[guest.Volume][]Snapshot
	// Targets are those of all jobs of the guest.
	Targets []Holding
	// Reading are GUIDs of snapshots that are being read, to be compared.
	Reading map[guest.Volume][]uint64
}

// Verdict says which of Tandem's points one node keeps.
type Verdict struct {
	// Keep tells the reason for each GUID.
	Keep map[guest.Volume]map[uint64]string
	// Spare are the ones that nobody needs, oldest first.
	Spare map[guest.Volume][]Ref
	// Bookmark are those of Spare of which a bookmark is made before they go: the
	// targets that need them have been away for long.
	Bookmark map[guest.Volume]map[uint64]bool
}

// Keep applies the rule: "every node keeps its newest complete point, the base of
// each pair owner-target, both ends of every partial receive, and the newest
// point that all targets have which have any". Where a target is unknown,
// everything stays. What a target needs that has been away for long becomes a
// bookmark. Only Tandem's own points are judged.
func Keep(j Judged) Verdict {
	v := Verdict{Keep: map[guest.Volume]map[uint64]string{}, Spare: map[guest.Volume][]Ref{}, Bookmark: map[guest.Volume]map[uint64]bool{}}
	for vol := range j.Volumes {
		v.Keep[vol] = map[uint64]string{}
	}
	v.keepOthers(j)
	if !v.keepTargets(j) {
		return v
	}
	points := Points(j.Volumes)
	if i := slices.IndexFunc(points, Point.Complete); i >= 0 {
		v.keepPoint(points[i], "the newest complete point")
	}
	holders := slices.DeleteFunc(slices.Clone(j.Targets), func(h Holding) bool { return h.Away || h.empty() })
	if i := slices.IndexFunc(points, func(p Point) bool { return p.whole && p.heldByAll(holders) }); i >= 0 && len(holders) > 0 {
		v.keepPoint(points[i], "the newest point that all targets have")
	}
	for vol, snaps := range j.Volumes {
		for _, s := range ordered(snaps) {
			if s.Tandem && s.GUID != 0 && v.Keep[vol][s.GUID] == "" {
				v.Spare[vol] = append(v.Spare[vol], s.ref())
				v.bookmark(j, vol, s)
			}
		}
	}
	return v
}

// keepOthers keeps what cannot go, or not now, whoever needs it.
func (v Verdict) keepOthers(j Judged) {
	for vol, guids := range j.Reading {
		for _, guid := range guids {
			v.keep(vol, guid, "it is being read")
		}
	}
	for vol, snaps := range j.Volumes {
		for _, s := range snaps {
			if s.Held {
				v.keep(vol, s.GUID, "it is held")
			}
		}
	}
}

// keepTargets keeps what targets need. It is false where one is unknown: then
// everything stays.
func (v Verdict) keepTargets(j Judged) bool {
	for _, t := range j.Targets {
		if !t.Known {
			v.keepAll(j, "nothing is known of target "+t.Node.Short()+" yet")
			return false
		}
		if t.Away {
			continue
		}
		for vol, held := range t.Volumes {
			for _, guid := range held.Pins {
				v.keep(vol, guid, "needed for target "+t.Node.Short())
			}
		}
	}
	return true
}

// bookmark notes a spare snapshot that a target needs which is away.
func (v Verdict) bookmark(j Judged, vol guest.Volume, s Snapshot) {
	for _, t := range j.Targets {
		if t.Away && slices.Contains(t.Volumes[vol].Pins, s.GUID) {
			if v.Bookmark[vol] == nil {
				v.Bookmark[vol] = map[uint64]bool{}
			}
			v.Bookmark[vol][s.GUID] = true
		}
	}
}

func (v Verdict) keepAll(j Judged, reason string) {
	for vol, snaps := range j.Volumes {
		for _, s := range snaps {
			if s.Tandem {
				v.keep(vol, s.GUID, reason)
			}
		}
	}
}

func (v Verdict) keepPoint(p Point, reason string) {
	for vol, s := range p.Snapshots {
		v.keep(vol, s.GUID, reason)
	}
}

func (v Verdict) keep(vol guest.Volume, guid uint64, reason string) {
	if v.Keep[vol] != nil && v.Keep[vol][guid] == "" {
		v.Keep[vol][guid] = reason
	}
}

func (h Holding) empty() bool {
	for _, held := range h.Volumes {
		if len(held.Has) > 0 {
			return false
		}
	}
	return true
}

// Point is one of Tandem's points as one node has it.
type Point struct {
	Name      string
	Snapshots map[guest.Volume]Snapshot
	newest    uint64 // the highest createtxg
	whole     bool   // all volumes that it lists are here
}

// Points groups a node's snapshots to points, newest first. The snapshots of one
// point are those that carry Tandem's mark and the same name.
func Points(volumes map[guest.Volume][]Snapshot) []Point {
	byName := map[string]*Point{}
	for vol, snaps := range volumes {
		for _, s := range snaps {
			if !s.Tandem {
				continue
			}
			p := byName[s.Name]
			if p == nil {
				p = &Point{Name: s.Name, Snapshots: map[guest.Volume]Snapshot{}}
				byName[s.Name] = p
			}
			p.Snapshots[vol] = s
			p.newest = max(p.newest, s.TXG)
		}
	}
	var out []Point
	for _, p := range byName {
		p.whole = p.has(volumes)
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Point) int { return cmp.Or(cmp.Compare(b.newest, a.newest), cmp.Compare(a.Name, b.Name)) })
	return out
}

// has says whether all volumes that the point lists are there; where the list
// did not travel, all volumes of the guest.
func (p Point) has(volumes map[guest.Volume][]Snapshot) bool {
	for _, s := range p.Snapshots {
		for _, vol := range s.Volumes {
			if _, ok := p.Snapshots[vol]; !ok {
				return false
			}
		}
		if len(s.Volumes) > 0 {
			return true
		}
	}
	return len(p.Snapshots) == len(volumes)
}

// Whole says that all volumes that the point lists are on this node.
func (p Point) Whole() bool { return p.whole }

// Complete says that all volumes that the point lists are on this node and marked so.
func (p Point) Complete() bool {
	if !p.whole {
		return false
	}
	for _, s := range p.Snapshots {
		if !s.Complete {
			return false
		}
	}
	return true
}

func (p Point) heldByAll(targets []Holding) bool {
	for _, t := range targets {
		for vol, s := range p.Snapshots {
			if !slices.Contains(t.Volumes[vol].Has, s.GUID) {
				return false
			}
		}
	}
	return true
}

// Shared is the newest of the source's points of which the target has all
// volumes, and whether the target has marked it complete. It is not marked where
// the last sync ended between the last receive and the commit.
func Shared(pairs []Pair) (p Point, marked, ok bool) {
	source, target, at := map[guest.Volume][]Snapshot{}, map[guest.Volume][]Snapshot{}, map[guest.Volume]places{}
	for _, x := range pairs {
		source[x.Volume] = x.Source.Snapshots
		if x.Target.Marks.Role == Replica {
			target[x.Volume], at[x.Volume] = x.Target.Snapshots, placesOf(x.Target.Snapshots)
		}
	}
	for _, p := range Points(source) {
		if !p.Complete() {
			continue
		}
		has, marked := true, true
		for vol, s := range p.Snapshots {
			i := at[vol].of(s.GUID)
			has = has && i >= 0
			marked = marked && i >= 0 && target[vol][i].Complete
		}
		if has {
			return p, marked, true
		}
	}
	return Point{}, false, false
}

// Unchanged is the source's newest point, where nothing was written and nobody
// made a snapshot since: what another target's sync took serves this one too.
func Unchanged(pairs []Pair) (string, bool) {
	source := map[guest.Volume][]Snapshot{}
	for _, x := range pairs {
		source[x.Volume] = x.Source.Snapshots
	}
	points := Points(source)
	if len(points) == 0 || !points[0].Complete() || len(points[0].Snapshots) != len(pairs) {
		return "", false
	}
	for _, x := range pairs {
		s := ordered(x.Source.Snapshots)
		if x.Source.Written != 0 || s[len(s)-1].GUID != points[0].Snapshots[x.Volume].GUID {
			return "", false
		}
		if guid := s[len(s)-1].GUID; x.branches(guid) || x.beyond(guid) {
			return "", false // A replica begins anew with an increment, be it an empty one; whether one was changed, an increment tells.
		}
	}
	return points[0].Name, true
}

// Current says that nothing was written since a point that the target has
// complete, and nothing else is newer at the source or at the target: "skipped only
// when written=0 on all volumes". It returns that point's name.
func Current(pairs []Pair) (string, bool) {
	p, marked, ok := Shared(pairs)
	if !ok || !marked || len(p.Snapshots) != len(pairs) {
		return "", false
	}
	for _, x := range pairs {
		s := ordered(x.Source.Snapshots)
		if x.Source.Written != 0 || s[len(s)-1].GUID != p.Snapshots[x.Volume].GUID || x.Target.Partial != nil || x.beyond(s[len(s)-1].GUID) {
			return "", false
		}
	}
	return p.Name, true
}
