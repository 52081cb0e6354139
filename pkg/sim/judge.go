package sim

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// judge knows all that happened in a cluster, on every node, and says at once
// when something did that never may. It sees what no node can.
type judge struct {
	now  func() time.Duration
	seed maphash.Seed

	mu       sync.Mutex
	problems []string
	broken   chan struct{} // closed with the first problem
	worlds   map[string]*world
	owners   map[guest.ID]map[guest.Term]guest.NodeID
	runs     map[guest.ID]map[guest.NodeID]guest.Term
	forced   bool
}

// world is what was seen of one generation.
type world struct {
	// applied is the highest index that any node applied.
	applied uint64
	// truths is the ledger as the first node had it that was seen there, by State.Changed.
	truths map[uint64]truth
	// terms are the indices at which each term of a guest was seen.
	terms map[guest.ID]map[uint64]span
	// acks are the commands that were acknowledged as done, by index.
	acks map[uint64]string
	// owed are commands of earlier generations that this one must have, by index.
	owed map[uint64]string
}

type truth struct {
	sum uint64
	on  string
}

type span struct{ from, to uint64 }

func newJudge(now func() time.Duration) *judge {
	return &judge{
		now: now, seed: maphash.MakeSeed(), broken: make(chan struct{}), worlds: map[string]*world{},
		owners: map[guest.ID]map[guest.Term]guest.NodeID{}, runs: map[guest.ID]map[guest.NodeID]guest.Term{},
	}
}

// maxProblems bounds what is kept: the first ones tell most.
const maxProblems = 8

// blame keeps a violation.
func (j *judge) blame(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.blameLocked(format, args...)
}

func (j *judge) blameLocked(format string, args ...any) {
	if len(j.problems) == 0 {
		close(j.broken)
	}
	if len(j.problems) < maxProblems {
		j.problems = append(j.problems, fmt.Sprintf("at %s: ", j.now().Round(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

func (j *judge) found() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.problems)
}

func (j *judge) world(generation string) *world {
	w := j.worlds[generation]
	if w == nil {
		w = &world{truths: map[uint64]truth{}, terms: map[guest.ID]map[uint64]span{}, acks: map[uint64]string{}, owed: map[uint64]string{}}
		j.worlds[generation] = w
	}
	return w
}

// sees takes note of a ledger that raft applied on a node.
func (j *judge) sees(on string, s *ledger.State) {
	if !s.Founded() {
		return
	}
	sum := j.fingerprint(s)
	j.mu.Lock()
	defer j.mu.Unlock()
	w := j.world(s.Generation)
	w.applied = max(w.applied, s.Index)
	if t, ok := w.truths[s.Changed]; ok {
		if t.sum != sum {
			j.blameLocked("two truths: the ledger of generation %s changed last at %d differs on %s and %s", s.Generation, s.Changed, t.on, on)
		}
		return
	}
	w.truths[s.Changed] = truth{sum: sum, on: on}
	for id, g := range s.Guests {
		j.owner(g)
		w.grows(j, id, g.Term.N, s.Changed)
	}
}

// fingerprint tells ledgers apart by their content.
func (j *judge) fingerprint(s *ledger.State) uint64 {
	bare := *s
	bare.Index = 0
	b, err := json.Marshal(bare)
	if err != nil {
		panic(err) // a State always encodes
	}
	return maphash.Bytes(j.seed, b)
}

// owner holds that a term of a guest has one owner, ever, and that a guest does not
// run any more where it is taken away.
func (j *judge) owner(g guest.Guest) {
	if j.owners[g.ID] == nil {
		j.owners[g.ID] = map[guest.Term]guest.NodeID{}
	}
	if first, ok := j.owners[g.ID][g.Term]; ok {
		if first != g.Owner {
			j.blameLocked("two owners: guest %s in term %s belongs to %s and to %s", g.ID, g.Term, short(first), short(g.Owner))
		}
		return
	}
	newest := true // A node that is behind shows what is long over.
	for t := range j.owners[g.ID] {
		newest = newest && t.N < g.Term.N
	}
	j.owners[g.ID][g.Term] = g.Owner
	for on := range j.runs[g.ID] {
		if on != g.Owner && newest && !j.forced {
			j.blameLocked("guest %s was given to %s in term %s while it ran on %s: what it wrote since is lost", g.ID, short(g.Owner), g.Term, short(on))
		}
	}
}

// grows holds that a guest's term only grows with the ledger.
func (w *world) grows(j *judge, id guest.ID, term, index uint64) {
	if w.terms[id] == nil {
		w.terms[id] = map[uint64]span{}
	}
	s, ok := w.terms[id][term]
	if !ok {
		s = span{index, index}
	}
	s.from, s.to = min(s.from, index), max(s.to, index)
	w.terms[id][term] = s
	for other, at := range w.terms[id] {
		if other < term && at.to > s.from || other > term && at.from < s.to {
			j.blameLocked("the term of guest %s fell: %d at index %d to %d, %d at %d to %d", id, term, s.from, s.to, other, at.from, at.to)
		}
	}
}

// floor is how far any node has applied a generation by now: whatever is
// confirmed from here on must show as much.
func (j *judge) floor(generation string) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.world(generation).applied
}

// confirmed holds a confirmed read against the floor from before it was asked.
func (j *judge) confirmed(on string, s *ledger.State, generation string, floor uint64) {
	if s.Generation == generation && s.Index < floor {
		j.blame("stale read: %s confirmed a read at index %d of generation %s, when %d was applied elsewhere before it asked", on, s.Index, generation, floor)
	}
}

// acknowledged takes note of a command that was done, as its client was told.
func (j *judge) acknowledged(generation string, index uint64, tag string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	acks := j.world(generation).acks
	if other, ok := acks[index]; ok && other != tag {
		j.blameLocked("two commands were acknowledged at index %d of generation %s: %s and %s", index, generation, other, tag)
	}
	acks[index] = tag
}

// forks takes note of a new generation: log is what stood in the forced node's
// log, by index, its unconfirmed tail included.
func (j *judge) forks(parent, child string, log map[uint64]string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forced = true
	old, w := j.world(parent), j.world(child)
	maps.Copy(w.owed, old.owed)
	maps.Copy(w.owed, log)
}

// inherited says whether a generation must have a command of an earlier one.
func (j *judge) inherited(generation string, index uint64, tag string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.world(generation).owed[index] == tag
}

// audit holds a node's history against all that was acknowledged.
func (j *judge) audit(on string, s *ledger.State, history []ledger.Change) {
	at := make(map[uint64]string, len(history))
	tags := make(map[string]uint64, len(history))
	for _, c := range history {
		if other, ok := tags[c.By]; ok && isTag(c.By) {
			j.blame("%s was carried out twice on %s: at index %d and %d", c.By, on, other, c.Index)
		}
		if at[c.Index] == "" || isTag(c.By) { // A fork stands at the index of the last command before it.
			at[c.Index] = c.By
		}
		tags[c.By] = c.Index
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	w := j.world(s.Generation)
	for index, tag := range w.acks {
		if index <= s.Index && at[index] != tag {
			j.blameLocked("lost: %s was acknowledged at index %d of generation %s, %s has %q there", tag, index, s.Generation, on, at[index])
		}
	}
	for _, f := range s.Lineage {
		for index, tag := range j.world(f.Parent).acks {
			if w.owed[index] == tag && at[index] != tag {
				j.blameLocked("lost by force: %s was acknowledged at index %d of generation %s and in the log of the forced node, %s has %q there",
					tag, index, f.Parent, on, at[index])
			}
		}
	}
}

// starts takes note of a guest that a node starts, by a confirmed read.
func (j *judge) starts(on guest.NodeID, g guest.Guest) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if g.Owner != on {
		j.blameLocked("%s starts guest %s, which belongs to %s", short(on), g.ID, short(g.Owner))
	}
	if j.runs[g.ID] == nil {
		j.runs[g.ID] = map[guest.NodeID]guest.Term{}
	}
	for other, term := range j.runs[g.ID] {
		if other != on && (!j.forced || term == g.Term) {
			j.blameLocked("guest %s runs twice: on %s in term %s, and now on %s in term %s", g.ID, short(other), term, short(on), g.Term)
		}
	}
	j.runs[g.ID][on] = g.Term
}

// stops takes note of a guest that does not run on a node any more.
func (j *judge) stops(on guest.NodeID, id guest.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.runs[id], on)
}

// off takes note of a node whose power was cut.
func (j *judge) off(node guest.NodeID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, on := range j.runs {
		delete(on, node)
	}
}

func (j *judge) wasForced() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.forced
}

// short is a node's number, as in plans and reports.
func short(id guest.NodeID) string { return "n" + string(id[len(id)-2:]) }
