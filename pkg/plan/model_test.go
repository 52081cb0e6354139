package plan_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
)

// toy is a cluster of one owner and two targets that knows only lists of
// snapshots. It does what plans say, as ZFS and pkg/replicate would, and dies
// where it is told to.
type toy struct {
	t       *rapid.T
	mode    guest.SnapshotMode
	txg     uint64
	points  int
	source  plan.Side
	targets [2]plan.Side
	known   [2]plan.Holding
	// operators are the GUIDs of snapshots that operators made, by the node that they were made on.
	operators [3][]uint64
}

func (m *toy) snapshot(on *plan.Side, s plan.Snapshot) {
	m.txg++
	s.GUID, s.TXG = 1000+m.txg, m.txg
	on.Snapshots = append(on.Snapshots, s)
}

func (m *toy) node(i int) *plan.Side {
	if i == 0 {
		return &m.source
	}
	return &m.targets[i-1]
}

// sync does one sync to a target and stops after the given number of effects.
func (m *toy) sync(i, effects int) bool {
	die := func() bool { effects--; return effects < 0 }
	m.points++
	name := fmt.Sprintf("t%d", m.points)
	m.snapshot(&m.source, plan.Snapshot{Name: name, Tandem: true, Complete: true, Written: 1})
	in := plan.Input{
		Cluster: "c", Guest: web, Mode: m.mode, TargetName: "target", Point: name,
		Pairs: []plan.Pair{{Volume: vol, Source: m.source, Target: m.targets[i], Root: plan.Root{Available: 1 << 40}}},
	}
	p := plan.Make(in)
	if len(p.Refusals) > 0 {
		m.t.Fatalf("refused: %+v\nsource %+v\ntarget %+v", p.Refusals[0], m.source.Snapshots, m.targets[i].Snapshots)
	}
	v := p.Volumes[0]
	held := plan.Held{Has: m.held(i)}
	if v.Base != nil {
		held.Pins = append(held.Pins, v.Base.GUID)
	}
	for _, s := range m.targets[i].Snapshots {
		if s.Complete {
			held.Pins = append(held.Pins, s.GUID)
		}
	}
	for _, s := range v.Steps {
		for _, a := range s.Arrivals {
			held.Pins = append(held.Pins, a.GUID)
		}
	}
	m.know(i, held)
	for _, s := range v.Steps {
		if die() {
			return false
		}
		m.receive(i, s)
	}
	if die() {
		return false
	}
	m.commit(i, name, v)
	if die() {
		return false
	}
	m.remove(&m.source, 0, plan.Keep(plan.Judged{Volumes: map[guest.Volume][]plan.Snapshot{vol: m.source.Snapshots}, Targets: m.known[:]}).Spare[vol])
	return true
}

func (m *toy) know(i int, h plan.Held) {
	m.known[i] = plan.Holding{Known: true, Volumes: map[guest.Volume]plan.Held{vol: h}}
}

func (m *toy) held(i int) (out []uint64) {
	for _, s := range m.targets[i].Snapshots {
		if s.Tandem {
			out = append(out, s.GUID)
		}
	}
	return out
}

// receive checks what zfs receive checks.
func (m *toy) receive(i int, s plan.Step) {
	t := &m.targets[i]
	switch s.Verb {
	case plan.Full:
		if t.Exists {
			m.t.Fatal("a full stream into a replica that exists")
		}
		*t = plan.Side{Dataset: t.Dataset, Exists: true, Kind: plan.Zvol, Marks: replica()}
	case plan.Single, plan.Run:
		at := slices.IndexFunc(t.Snapshots, func(x plan.Snapshot) bool { return x.GUID == s.From.GUID })
		if at < 0 || slices.ContainsFunc(t.Snapshots[at+1:], func(x plan.Snapshot) bool { return x.Written > 0 }) {
			m.t.Fatalf("a stream from %s does not fit %+v", s.From.Name, t.Snapshots)
		}
	case plan.Resume, plan.Abort, plan.SetAside, plan.Branch, plan.Promote:
		m.t.Fatalf("verb %s", s.Verb)
	}
	for _, a := range s.Arrivals {
		if slices.ContainsFunc(t.Snapshots, func(x plan.Snapshot) bool { return x.Name == a.Name }) {
			m.t.Fatalf("the name %s is taken", a.Name)
		}
		m.txg++
		t.Snapshots = append(t.Snapshots, plan.Snapshot{Name: a.Name, GUID: a.GUID, TXG: m.txg, Written: 1})
	}
}

func (m *toy) commit(i int, point string, v plan.VolumePlan) {
	t := &m.targets[i]
	for n := range t.Snapshots {
		s := &t.Snapshots[n]
		for _, ref := range v.Mark {
			if ref.GUID == s.GUID {
				s.Received, s.Tandem = true, ref.Tandem
			}
		}
		if s.Name == point {
			s.Complete, s.Tandem = true, true
		}
	}
	m.know(i, plan.Held{Has: m.held(i), Pins: []uint64{v.After[len(v.After)-1].GUID}})
	spare := plan.Keep(plan.Judged{Volumes: map[guest.Volume][]plan.Snapshot{vol: t.Snapshots}, Targets: m.known[:]}).Spare[vol]
	m.remove(t, i+1, slices.Concat(spare, v.Gone))
	m.know(i, plan.Held{Has: m.held(i), Pins: []uint64{v.After[len(v.After)-1].GUID}})
}

// remove destroys snapshots; what an operator made on that node is never among them.
func (m *toy) remove(on *plan.Side, node int, refs []plan.Ref) {
	for _, r := range refs {
		if slices.Contains(m.operators[node], r.GUID) {
			m.t.Fatalf("snapshot %s, made by an operator on node %d, is to be destroyed", r.Name, node)
		}
		on.Snapshots = slices.DeleteFunc(on.Snapshots, func(s plan.Snapshot) bool { return s.GUID == r.GUID })
	}
}

// TestMake_Converges lets operators make and destroy snapshots anywhere while
// syncs to two targets run and die anywhere. Every sync that is not killed ends
// with the point on the target; no increment loses its base; what operators made
// stays where they made it; nothing of Tandem's piles up.
func TestMake_Converges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &toy{
			t: t, mode: rapid.SampledFrom([]guest.SnapshotMode{guest.Mirror, guest.Keep, guest.None}).Draw(t, "mode"),
			source: plan.Side{Dataset: "tank/d", Exists: true, Kind: plan.Zvol, Marks: owner()},
			known:  [2]plan.Holding{{Known: true}, {Known: true}},
		}
		m.targets[0].Dataset, m.targets[1].Dataset = "tank/d", "tank/d"
		t.Repeat(map[string]func(*rapid.T){
			"operator": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "node")
				n := m.node(i)
				if !n.Exists {
					return
				}
				name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "name")
				if slices.ContainsFunc(n.Snapshots, func(s plan.Snapshot) bool { return s.Name == name }) {
					return
				}
				s := plan.Snapshot{Name: name}
				if i == 0 {
					s.Written = 1
				}
				m.snapshot(n, s)
				m.operators[i] = append(m.operators[i], n.Snapshots[len(n.Snapshots)-1].GUID)
			},
			"prune": func(t *rapid.T) {
				// An operator's tool removes an old snapshot of its own at the source; the
				// newest, which may be where a cut sync has come to, it leaves.
				for i, s := range m.source.Snapshots {
					if !s.Tandem && i < len(m.source.Snapshots)-1 && !m.newestOnATarget(s.GUID) && rapid.Bool().Draw(t, "this") {
						m.source.Snapshots = slices.Delete(m.source.Snapshots, i, i+1)
						return
					}
				}
			},
			"sync": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "target")
				if !m.sync(i, rapid.IntRange(0, 12).Draw(t, "effects")) {
					return
				}
				last := m.source.Snapshots[len(m.source.Snapshots)-1]
				if !slices.ContainsFunc(m.targets[i].Snapshots, func(s plan.Snapshot) bool { return s.GUID == last.GUID && s.Complete }) {
					t.Fatalf("after a sync the target has not %s: %+v", last.Name, m.targets[i].Snapshots)
				}
			},
		})
		for range 2 {
			m.sync(0, 100)
			m.sync(1, 100)
		}
		for i := range 3 {
			if n := count(m.node(i).Snapshots); n > 3 {
				t.Fatalf("node %d ends with %d points", i, n)
			}
		}
	})
}

// newestOnATarget says whether a target's newest data is that snapshot's: its
// loss at the source is divergence, which is refused.
func (m *toy) newestOnATarget(guid uint64) bool {
	for _, t := range m.targets {
		for _, s := range slices.Backward(t.Snapshots) {
			if s.Written > 0 {
				if s.GUID == guid {
					return true
				}
				break
			}
		}
	}
	return false
}

func count(s []plan.Snapshot) (n int) {
	for _, x := range s {
		if x.Tandem {
			n++
		}
	}
	return n
}
