package replicate

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
)

// holdings is what a target holds of each volume.
type holdings map[guest.Volume]plan.Held

// bases remembers what each target holds, from its last answers and from what
// was sent to it since. It decides what may be cleaned, and is a cache: where it
// knows nothing of a target, nothing is cleaned until that target answers.
type bases struct {
	store local.Store
	// quorate is how long this node has been quorate in all, keep for how much of that
	// a silent target's base stays a snapshot.
	quorate func() time.Duration
	keep    time.Duration
	mu      sync.Mutex
	guests  map[guest.ID]*known
}

// sentLists are, for each volume, what the last sync may have brought of
// operators' snapshots.
type sentLists map[guest.Volume]sentList

type sentList struct {
	// Point is the GUID of the point with which they were sent: as long as the source
	// has it, it was not rolled back to before them.
	Point uint64   `json:"point"`
	GUIDs []uint64 `json:"guids"`
}

// known is the file of one guest. Of another term it says nothing: in between
// another node was the owner.
type known struct {
	Term    guest.Term                `json:"term"`
	Targets map[guest.NodeID]holdings `json:"targets"`
	// Seen is how long this node had been quorate, in seconds, when the target last
	// answered, or when this owner first looked for it.
	Seen map[guest.NodeID]int64 `json:"seen,omitempty"`
	// Kept are nodes with a copy to which no job points any more. What it builds on stays
	// here as a bookmark, for a job that points to it later.
	Kept map[guest.NodeID]bool `json:"kept,omitempty"`
	// Sent is by target.
	Sent map[guest.NodeID]sentLists `json:"sent,omitempty"`
	// broken is why the file could not be read. It is then left as it is, and what
	// is learnt stays in memory.
	broken error
	// file is held by who writes it. Those of other guests are written at the same time.
	file sync.Mutex
}

func newBases(o local.Options) *bases {
	return &bases{store: o.Store, quorate: o.Quorate, keep: o.KeepBase, guests: map[guest.ID]*known{}}
}

func basesFile(id guest.ID) string { return "bases-" + id.String() }

// of loads what is known of the guest. The caller holds the lock.
func (b *bases) of(g guest.Guest) *known {
	k := b.guests[g.ID]
	if k == nil {
		k = &known{}
		if err := b.store.Read(basesFile(g.ID), k); err != nil {
			k = &known{}
			if !errors.Is(err, fs.ErrNotExist) {
				k.broken = err
			}
		}
		b.guests[g.ID] = k
	}
	if k.Term != g.Term || k.Targets == nil {
		k.Term, k.Targets, k.Seen, k.Kept, k.Sent = g.Term, map[guest.NodeID]holdings{}, nil, nil, nil
	}
	return k
}

// targets is what is known of the given targets, in their order, and then of the nodes
// with kept copies, as of targets that are away.
func (b *bases) targets(g guest.Guest, nodes []guest.NodeID) []plan.Holding {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.of(g)
	var out []plan.Holding
	for _, n := range nodes {
		h, ok := k.Targets[n]
		out = append(out, plan.Holding{Node: n, Known: ok, Away: k.Kept[n] || b.away(k, n), Volumes: maps.Clone(h)})
	}
	for _, n := range slices.Sorted(maps.Keys(k.Kept)) {
		if !slices.Contains(nodes, n) {
			out = append(out, plan.Holding{Node: n, Known: true, Away: true, Volumes: maps.Clone(k.Targets[n])})
		}
	}
	return out
}

// put replaces what is known of one target, on disk before it returns.
func (b *bases) put(g guest.Guest, node guest.NodeID, h holdings) error {
	b.mu.Lock()
	k := b.of(g)
	fresh := b.see(k, node)
	old, ok := k.Targets[node]
	same := ok && maps.EqualFunc(old, h, sameHeld) && fresh && !k.Kept[node]
	k.Targets[node] = h
	delete(k.Kept, node)
	b.mu.Unlock()
	if same {
		return nil
	}
	return b.write(g.ID, k)
}

// arrived replaces what is known of one target by the end of a sync, of which put has
// written what was about to be sent. On disk that stays until the next one: a daemon
// that is killed then takes the sync for one that was cut before its end was known
// here, and keeps what either state needs.
func (b *bases) arrived(g guest.Guest, node guest.NodeID, h holdings) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(g).Targets[node] = h
}

func sameHeld(a, b plan.Held) bool { return slices.Equal(a.Has, b.Has) && slices.Equal(a.Pins, b.Pins) }

// forget says that nothing is needed any more for a target that is about to be none.
func (b *bases) forget(g guest.Guest, node guest.NodeID) error {
	return b.leave(g, node, func(k *known) {
		k.Targets[node] = holdings{}
		delete(k.Kept, node)
	})
}

// retain is forget where the target keeps its copy.
func (b *bases) retain(g guest.Guest, node guest.NodeID) error {
	return b.leave(g, node, func(k *known) {
		if k.Kept == nil {
			k.Kept = map[guest.NodeID]bool{}
		}
		k.Kept[node] = true
	})
}

// leave makes a change to what is known of a node that is about to be no target.
func (b *bases) leave(g guest.Guest, node guest.NodeID, change func(*known)) error {
	b.mu.Lock()
	k := b.of(g)
	change(k)
	delete(k.Sent, node)
	delete(k.Seen, node)
	b.mu.Unlock()
	return b.write(g.ID, k)
}

// forgotten says that nothing is needed for a target whose job may still be there.
func (b *bases) forgotten(g guest.Guest, node guest.NodeID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.of(g).Targets[node]
	return ok && len(h) == 0 || b.of(g).Kept[node]
}

// write writes what is known of a guest, as it is once it is its turn. The caller does
// not hold the lock: only the guest's own syncs wait for the disk.
func (b *bases) write(id guest.ID, k *known) error {
	k.file.Lock()
	defer k.file.Unlock()
	b.mu.Lock()
	broken := k.broken
	now := known{Term: k.Term, Targets: maps.Clone(k.Targets), Seen: maps.Clone(k.Seen), Kept: maps.Clone(k.Kept), Sent: maps.Clone(k.Sent)}
	b.mu.Unlock()
	var err error
	if broken == nil {
		err = b.store.Write(basesFile(id), &now)
	}
	return fault.Wrap(err, "remember what the targets of guest %s hold", id)
}

// sent are the GUIDs of operators' snapshots that the last sync to the node may
// have brought, if the source still has the point that it brought them with.
func (b *bases) sent(g guest.Guest, node guest.NodeID, p plan.Pair) []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.of(g).Sent[node][p.Volume]
	if slices.ContainsFunc(p.Source.Snapshots, func(s plan.Snapshot) bool { return s.GUID == list.Point && list.Point != 0 }) {
		return list.GUIDs
	}
	return nil
}

// sending puts what a sync is about to send beside what is known of its target.
// It is on disk once put has returned.
func (b *bases) sending(g guest.Guest, node guest.NodeID, lists sentLists) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.of(g)
	if k.Sent == nil {
		k.Sent = map[guest.NodeID]sentLists{}
	}
	k.Sent[node] = lists
}

// warning tells of a broken file.
func (b *bases) warning(g guest.Guest) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k := b.of(g); k.broken != nil {
		return fmt.Sprintf("what is known of targets is not kept over a restart: %v", k.broken)
	}
	return ""
}

// heldNow is what the target holds by its own inventory, with what it needs on
// every node: the base, its newest complete point, both ends of partial receives.
func heldNow(pairs []plan.Pair) holdings {
	out := holdings{}
	target := map[guest.Volume][]plan.Snapshot{}
	for _, p := range pairs {
		out[p.Volume] = plan.Held{Has: points(p)}
		for _, guid := range p.Bases() {
			out.pin(p.Volume, guid)
		}
		if x := p.Target.Partial; x != nil {
			out.pin(p.Volume, x.ToGUID)
			out.pin(p.Volume, x.FromGUID)
		}
		target[p.Volume] = p.Target.Snapshots
	}
	for _, point := range plan.Points(target) {
		if !point.Complete() {
			continue
		}
		for vol, s := range point.Snapshots {
			out.pin(vol, s.GUID)
		}
		break
	}
	return out
}

// points are the GUIDs of Tandem's points that the target has, be it in what was
// set aside or renamed there.
func points(p plan.Pair) (out []uint64) {
	own := make(map[uint64]bool, len(p.Source.Snapshots))
	for _, s := range p.Source.Snapshots {
		own[s.GUID] = s.Tandem
	}
	for _, side := range slices.Concat([]plan.Side{p.Target}, p.Aside, p.Moved) {
		for _, s := range side.Snapshots {
			if s.Tandem || own[s.GUID] {
				out = append(out, s.GUID)
			}
		}
	}
	return out
}

func (h holdings) pin(vol guest.Volume, guid uint64) {
	held := h[vol]
	if guid != 0 && !slices.Contains(held.Pins, guid) {
		held.Pins = append(held.Pins, guid)
	}
	h[vol] = held
}
