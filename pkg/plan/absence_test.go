package plan_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
)

// pairs is an owner with three targets, of which each can be away: it then keeps
// what it has, and its owner keeps for it what Keep says. Operators destroy what
// they like, on any node. It says whether a base was lost that nobody destroyed.
type pairs struct {
	t       *rapid.T
	txg     uint64
	source  plan.Side
	targets [3]plan.Side
	known   [3]plan.Holding
	// lost are targets whose base, or what else they need, somebody destroyed.
	lost [3]bool
}

func (m *pairs) take(name string) plan.Snapshot {
	m.txg++
	s := plan.Snapshot{Name: name, GUID: 1000 + m.txg, TXG: m.txg, Tandem: true, Complete: true, Written: 1 << 20}
	m.source.Snapshots = append(m.source.Snapshots, s)
	return s
}

// clean does what Keep says on one node.
func (m *pairs) clean(on *plan.Side) {
	v := plan.Keep(plan.Judged{Volumes: map[guest.Volume][]plan.Snapshot{vol: on.Snapshots}, Targets: m.known[:]})
	for _, ref := range v.Spare[vol] {
		i := slices.IndexFunc(on.Snapshots, func(s plan.Snapshot) bool { return s.GUID == ref.GUID })
		if v.Bookmark[vol][ref.GUID] {
			on.Bookmarks = append(on.Bookmarks, plan.Bookmark{Name: plan.BookmarkName(ref.GUID), GUID: ref.GUID, TXG: on.Snapshots[i].TXG})
		}
		on.Snapshots = slices.Delete(on.Snapshots, i, i+1)
	}
	needless := plan.Needless(vol, on.Bookmarks, m.known[:])
	on.Bookmarks = slices.DeleteFunc(on.Bookmarks, func(b plan.Bookmark) bool { return slices.Contains(needless, b.Name) })
}

// sync does a whole sync to a target. One that has diverged by what an operator
// destroyed begins anew.
func (m *pairs) sync(i int) {
	t := &m.targets[i]
	x := plan.Pair{Volume: vol, Source: m.source, Target: *t, Root: plan.Root{Available: 1 << 40}}
	m.known[i] = plan.Holding{Known: true, Volumes: map[guest.Volume]plan.Held{vol: {Has: guidsOf(t.Snapshots), Pins: x.Bases()}}}
	point := m.take(fmt.Sprintf("t%d", m.txg))
	x.Source = m.source
	p := plan.Make(plan.Input{Cluster: "c", Guest: web, Mode: guest.Mirror, TargetName: "target", Point: point.Name, Pairs: []plan.Pair{x}})
	if len(p.Refusals) > 0 {
		m.t.Fatalf("refused: %+v", p.Refusals)
	}
	v := p.Volumes[0]
	if t.Exists && !m.lost[i] && (v.Base == nil || v.Steps[0].Verb == plan.SetAside) {
		m.t.Fatalf("target %d has %+v, the owner %+v and %+v: %+v", i, t.Snapshots, m.source.Snapshots, m.source.Bookmarks, v.Steps)
	}
	if !t.Exists || v.Steps[0].Verb == plan.SetAside {
		*t = plan.Side{Dataset: "tank/d", Exists: true, Kind: plan.Zvol, Marks: replica()}
	}
	for _, s := range m.source.Snapshots {
		if !slices.Contains(guidsOf(t.Snapshots), s.GUID) && s.TXG > newest(t.Snapshots) {
			t.Snapshots = append(t.Snapshots, s)
		}
	}
	m.lost[i] = false
	m.known[i] = plan.Holding{Known: true, Volumes: map[guest.Volume]plan.Held{vol: {Has: guidsOf(t.Snapshots), Pins: []uint64{point.GUID}}}}
	m.clean(t)
	m.known[i].Volumes[vol] = plan.Held{Has: guidsOf(t.Snapshots), Pins: []uint64{point.GUID}}
	m.clean(&m.source)
}

func newest(s []plan.Snapshot) (txg uint64) {
	for _, x := range s {
		txg = max(txg, x.TXG)
	}
	return txg
}

func guidsOf(s []plan.Snapshot) (out []uint64) {
	for _, x := range s {
		out = append(out, x.GUID)
	}
	return out
}

// destroyed notes whose base it was.
func (m *pairs) destroyed(guid uint64, at int) {
	for i, k := range m.known {
		if (at < 0 || at == i) && slices.Contains(k.Volumes[vol].Pins, guid) {
			m.lost[i] = true
		}
	}
}

// TestKeep_NeverLosesABaseThatNobodyDestroyed: no sequence of syncs, absences and
// destructions by operators has a target begin anew whose base nobody destroyed,
// and neither points nor bookmarks pile up.
func TestKeep_NeverLosesABaseThatNobodyDestroyed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &pairs{t: t, source: plan.Side{Dataset: "tank/d", Exists: true, Kind: plan.Zvol, Marks: owner()}}
		for i := range m.targets {
			m.targets[i].Dataset = "tank/d"
			m.known[i] = plan.Holding{Known: true}
		}
		t.Repeat(map[string]func(*rapid.T){
			"sync": func(t *rapid.T) { m.sync(rapid.IntRange(0, 2).Draw(t, "target")) },
			"away": func(t *rapid.T) { m.known[rapid.IntRange(0, 2).Draw(t, "target")].Away = true },
			"destroy at the owner": func(t *rapid.T) {
				if len(m.source.Snapshots) == 0 {
					return
				}
				i := rapid.IntRange(0, len(m.source.Snapshots)-1).Draw(t, "snapshot")
				m.destroyed(m.source.Snapshots[i].GUID, -1)
				m.source.Snapshots = slices.Delete(m.source.Snapshots, i, i+1)
			},
			"destroy at a target": func(t *rapid.T) {
				at := rapid.IntRange(0, 2).Draw(t, "target")
				s := m.targets[at].Snapshots
				if len(s) == 0 {
					return
				}
				i := rapid.IntRange(0, len(s)-1).Draw(t, "snapshot")
				if i < len(s)-1 {
					s[i+1].Written += s[i].Written // Its data is the next one's now.
				} else {
					m.targets[at].Written += s[i].Written
				}
				m.destroyed(s[i].GUID, at)
				m.targets[at].Snapshots = slices.Delete(slices.Clone(s), i, i+1)
			},
			"": func(t *rapid.T) {
				for n, side := range []plan.Side{m.source, m.targets[0], m.targets[1], m.targets[2]} {
					if len(side.Bookmarks) > 3 || n == 0 && len(side.Snapshots) > 8 {
						t.Fatalf("node %d has %d snapshots and %d bookmarks", n, len(side.Snapshots), len(side.Bookmarks))
					}
				}
			},
		})
		for i := range 3 {
			m.sync(i)
		}
		m.sync(0)
		if n := len(m.source.Snapshots); n > 4 || len(m.source.Bookmarks) > 0 {
			t.Fatalf("the owner ends with %d points and %d bookmarks", n, len(m.source.Bookmarks))
		}
	})
}
