// Package recovery decides how a guest comes back after its owner is lost: which
// node has the newest complete point, what stands against it, and what will be lost.
//
// It is pure: pkg/daemon asks the nodes and carries the owner change to the ledger;
// what follows is the new owner's (pkg/keeper).
package recovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Point is a complete point of a guest on a node.
type Point struct {
	Name string `json:"name"`
	// GUIDs are those of its snapshots.
	GUIDs map[guest.Volume]uint64 `json:"guids"`
	// Taken is by the clock of the owner that took it.
	Taken time.Time `json:"taken"`
	// Arrived is by that node's clock: until then, less Age, it has all that the owner had.
	Arrived time.Time     `json:"arrived,omitzero"`
	Age     time.Duration `json:"age,omitempty"`
	// Left: it was given up when the guest's term began from an older one. It is taken only where nobody has another.
	Left bool `json:"left,omitempty"`
}

// Word is what one member says when it is asked about a guest.
type Word struct {
	// Silent is why it did not answer; empty: it did.
	Silent string `json:"silent,omitempty"`
	// Hears says that the owner's daemon answers it on the peer connection.
	Hears bool `json:"hears"`
	// Points are the complete ones that it has, the newest first.
	Points []Point `json:"points"`
	// Trouble is why that may not be all.
	Trouble string `json:"trouble,omitempty"`
	// Newer are things of the owner's that it has, newer than its newest complete point, in words.
	Newer []string `json:"newer,omitempty"`
}

// Facts are what a recovery is decided by.
type Facts struct {
	Self  guest.NodeID
	Guest guest.Guest
	// Members are all of the cluster, Alive those that gossip holds for alive, this node among them.
	Members map[guest.NodeID]ledger.Member
	Alive   map[guest.NodeID]bool
	// DownSince is when the owner was last alive by gossip; zero: not known.
	DownSince time.Time
	// Quorate and Votes are of this node.
	Quorate bool
	Votes   string
	// Conflict is why no owner may be changed: generations of the ledger are in conflict.
	Conflict string
	Words    map[guest.NodeID]Word
	// On is the node that was asked for; empty: the best.
	On guest.NodeID
	// Load is how many guests each node has or is about to get, and Jobs the number of
	// the guest's job to it: to choose between equals.
	Load, Jobs map[guest.NodeID]int
}

// Candidate is what a live node has of the guest.
type Candidate struct {
	Node guest.NodeID
	// Point is its newest complete one with all volumes or, where it has none, with the
	// most of them; nil: none.
	Point *Point
	// Lacks are volumes that the point does not have.
	Lacks []guest.Volume
	// Why is why it cannot be chosen; empty: it can.
	Why string
	// Newer are things that it has besides.
	Newer []string
}

// Plan is how a guest would be recovered.
type Plan struct {
	Guest guest.Guest
	// Candidates are the live nodes, the best first.
	Candidates []Candidate
	// Chosen is nil where there is a Refusal.
	Chosen *Candidate
	// Tie is why Chosen is taken before others that have as new a point; empty: none has.
	Tie string
	// Loss tells what is lost, in whole sentences.
	Loss []string
	// Refusal is why it cannot be done now.
	Refusal *Refusal
}

// Refusal says why a recovery is not done, and what to do.
type Refusal struct{ Text, Advice string }

// Error is the text.
func (r *Refusal) Error() string { return r.Text }

// ErrorCode is that of a refusal, for clients.
func (r *Refusal) ErrorCode() string { return "refused" }

// ErrorHint is the advice.
func (r *Refusal) ErrorHint() string { return r.Advice }

// Make decides.
func Make(f Facts) Plan {
	p := Plan{Guest: f.Guest}
	for _, id := range slices.Sorted(maps.Keys(f.Members)) {
		if id != f.Guest.Owner && f.Words[id].Silent == "" && f.Alive[id] {
			p.Candidates = append(p.Candidates, candidate(f, id))
		}
	}
	slices.SortStableFunc(p.Candidates, func(a, b Candidate) int {
		if a.rank() != b.rank() || a.Point == nil {
			return cmp.Compare(a.rank(), b.rank())
		}
		order, _ := prefer(f, a.Node, b.Node)
		return cmp.Or(-compare(f, a, b), order)
	})
	if p.Refusal = against(f); p.Refusal != nil {
		return p
	}
	p.choose(f)
	return p
}

// rank puts those first that can be chosen, and last those that have nothing.
func (c Candidate) rank() int {
	switch {
	case c.Why == "":
		return 0
	case c.Point != nil:
		return 1
	default:
		return 2
	}
}

// candidate is what one node has.
func candidate(f Facts, id guest.NodeID) Candidate {
	w := f.Words[id]
	c := Candidate{Node: id, Newer: w.Newer}
	for i := range w.Points {
		lacks := lacking(f.Guest, w.Points[i])
		if c.Point == nil || len(lacks) < len(c.Lacks) || len(lacks) == len(c.Lacks) && c.Point.Left && !w.Points[i].Left {
			c.Point, c.Lacks = &w.Points[i], lacks
		}
	}
	m := f.Members[id]
	switch {
	case c.Point == nil && w.Trouble != "":
		c.Why = w.Trouble
	case c.Point == nil:
		c.Why = "it has no complete point"
	case len(c.Lacks) > 0:
		c.Why = "its point has no " + volumes(c.Lacks)
	}
	for _, v := range f.Guest.Volumes {
		if c.Why == "" && !m.Has(v.Storage) {
			c.Why = "it has no storage " + v.Storage
		}
	}
	return c
}

func lacking(g guest.Guest, p Point) []guest.Volume {
	var out []guest.Volume
	for _, v := range g.Volumes {
		if p.GUIDs[v] == 0 {
			out = append(out, v)
		}
	}
	return out
}

func volumes(list []guest.Volume) string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return "volume " + strings.Join(out, ", ")
}

// compare says whose point is newer: 1 is a's. What was given up comes last. Who has the other's newest point as an
// older one of its own has the newer data; else the numbers in the names that one
// owner gave in one term, and last its clock.
func compare(f Facts, a, b Candidate) int {
	switch {
	case same(*a.Point, *b.Point):
		return 0
	case a.Point.Left && !b.Point.Left:
		return -1
	case b.Point.Left && !a.Point.Left:
		return 1
	}
	if has(f.Words[a.Node].Points, *b.Point) {
		return 1
	}
	if has(f.Words[b.Node].Points, *a.Point) {
		return -1
	}
	x, errX := guest.ParseSnapshotName(a.Point.Name)
	y, errY := guest.ParseSnapshotName(b.Point.Name)
	if errX == nil && errY == nil && x.Term.Generation == y.Term.Generation {
		switch {
		case x.Term.N != y.Term.N:
			return cmp.Compare(x.Term.N, y.Term.N)
		case x.Node == y.Node && x.Seq != y.Seq:
			return cmp.Compare(x.Seq, y.Seq)
		}
	}
	return a.Point.Taken.Compare(b.Point.Taken)
}

func same(a, b Point) bool { return maps.Equal(a.GUIDs, b.GUIDs) }

func has(list []Point, p Point) bool {
	return slices.ContainsFunc(list, func(x Point) bool { return same(x, p) })
}

// prefer says which of two nodes with equal points is taken, -1 is a, and by what: the
// one with fewer guests, then the one whose job has the lower number, then by name.
func prefer(f Facts, a, b guest.NodeID) (order int, by string) {
	nameA, nameB := f.Members[a].Name, f.Members[b].Name
	number := func(id guest.NodeID) int {
		if n, ok := f.Jobs[id]; ok {
			return n
		}
		return guest.MaxJobNumber + 1
	}
	if c := cmp.Compare(f.Load[a], f.Load[b]); c != 0 {
		return c, fmt.Sprintf("of guests %s has %d and %s %d", nameA, f.Load[a], nameB, f.Load[b])
	}
	if c := cmp.Compare(number(a), number(b)); c != 0 {
		return c, fmt.Sprintf("both have %d guests, and the lower number is that of the job to %s", f.Load[a], nameA)
	}
	return cmp.Compare(nameA, nameB), fmt.Sprintf("both have %d guests, and %s comes first by name", f.Load[a], nameA)
}

// against is what stands against a recovery, whoever has what.
func against(f Facts) *Refusal {
	owner, id := f.Members[f.Guest.Owner].Name, f.Guest.ID
	hearing, unsure := witnesses(f)
	switch {
	case !f.Quorate:
		return &Refusal{
			Text:   fmt.Sprintf("not quorate: %s; nothing was changed", f.Votes),
			Advice: "bring members back (`tandem cluster status`); only if that is not possible, and the others are off: `tandem cluster expected`",
		}
	case f.Conflict != "":
		return &Refusal{Text: "no owner can be changed: " + f.Conflict, Advice: "`tandem cluster yield` on one side settles it"}
	case f.Guest.Owner == f.Self:
		return &Refusal{Text: fmt.Sprintf("guest %s is this node's own", id), Advice: fmt.Sprintf("`tandem guest start %s` starts it", id)}
	case f.Alive[f.Guest.Owner]:
		return &Refusal{
			Text:   fmt.Sprintf("guest %s is on %s, which is alive", id, owner),
			Advice: fmt.Sprintf("`tandem guest migrate %s NODE` moves it without losing anything; if %s is broken although it is alive, turn it off first", id, owner),
		}
	case len(hearing) > 0:
		return &Refusal{
			Text:   fmt.Sprintf("guest %s: its owner %s is still heard by %s, so the guest may run there", id, owner, strings.Join(hearing, ", ")),
			Advice: fmt.Sprintf("turn %s off, or stop the guest and tandemd there; then try again", owner),
		}
	case len(unsure) > 0:
		return &Refusal{
			Text:   fmt.Sprintf("guest %s: %s did not tell whether its owner %s is still heard there", id, strings.Join(unsure, ", "), owner),
			Advice: "try again in a moment; see with `tandem cluster status` who is alive",
		}
	default:
		return nil
	}
}

// witnesses are the live members that hear the owner, and those that did not tell.
func witnesses(f Facts) (hearing, unsure []string) {
	for _, id := range slices.Sorted(maps.Keys(f.Members)) {
		switch w, asked := f.Words[id]; {
		case id == f.Guest.Owner:
		case w.Hears:
			hearing = append(hearing, string(f.Members[id].Name))
		case f.Alive[id] && (!asked || w.Silent != ""):
			unsure = append(unsure, string(f.Members[id].Name))
		}
	}
	return hearing, unsure
}

// choose takes the node that was asked for, or the best.
func (p *Plan) choose(f Facts) {
	id := f.Guest.ID
	for i := range p.Candidates {
		c := &p.Candidates[i]
		switch {
		case f.On != "" && c.Node != f.On:
			continue
		case c.Why == "":
			p.Chosen = c
			p.ties(f)
			p.losses(f)
			return
		case f.On != "":
			p.Refusal = &Refusal{
				Text:   fmt.Sprintf("guest %s cannot be recovered on %s: %s", id, f.Members[f.On].Name, c.Why),
				Advice: "leave --on out to take the node with the newest point",
			}
			return
		}
	}
	switch {
	case f.On == f.Guest.Owner && f.On != "":
		p.Refusal = &Refusal{Text: fmt.Sprintf("guest %s is on %s: choose another node", id, f.Members[f.On].Name)}
	case f.On != "":
		p.Refusal = &Refusal{
			Text:   fmt.Sprintf("guest %s cannot be recovered on %s, which is not alive or does not answer", id, f.Members[f.On].Name),
			Advice: "choose one that `tandem cluster status` shows alive",
		}
	default:
		p.Refusal = p.nothing(id)
	}
}

// nothing is the refusal where no node has a point with all volumes.
func (p *Plan) nothing(id guest.ID) *Refusal {
	r := &Refusal{
		Text:   fmt.Sprintf("no live node has a complete point of guest %s", id),
		Advice: "bring its owner back, or a node that it was replicated to; without either it is in your backups only",
	}
	for _, c := range p.Candidates {
		if len(c.Lacks) > 0 {
			r.Text = fmt.Sprintf("no live node has a point of guest %s with all its volumes: %s is missing", id, volumes(c.Lacks))
			r.Advice = fmt.Sprintf("bring a node back that has it; to go on without it: `tandem guest set %s --remove-volume %s`, then try again", id, c.Lacks[0])
			break
		}
	}
	return r
}

// ties tells why the chosen node was taken before the next one that has as much.
func (p *Plan) ties(f Facts) {
	for _, other := range p.Candidates {
		if f.On == "" && other.Node != p.Chosen.Node && other.Why == "" && compare(f, other, *p.Chosen) == 0 {
			_, by := prefer(f, p.Chosen.Node, other.Node)
			p.Tie = fmt.Sprintf("%s has as new a point: %s", f.Members[other.Node].Name, by)
			return
		}
	}
}

// losses tells what is not in the chosen point.
func (p *Plan) losses(f Facts) {
	c, owner := p.Chosen, f.Members[f.Guest.Owner].Name
	current := c.Point.Taken
	if !c.Point.Arrived.IsZero() {
		current = c.Point.Arrived.Add(-c.Point.Age)
	}
	text := fmt.Sprintf("what was written after %s is lost", current.UTC().Format(time.RFC3339))
	if !f.DownSince.IsZero() && f.DownSince.After(current) {
		text += fmt.Sprintf(": %s was alive until %s, %s later", owner, f.DownSince.UTC().Format(time.RFC3339), f.DownSince.Sub(current).Round(time.Second))
	}
	p.Loss = append(p.Loss, text)
	if c.Point.Left {
		p.Loss = append(p.Loss, fmt.Sprintf("the point %s was given up when the guest went on from an older one: what was given up comes back, and all is lost that was written since",
			c.Point.Name))
	}
	for _, other := range p.Candidates {
		if other.Node != c.Node && other.Why == "" && compare(f, other, *c) > 0 {
			p.Loss = append(p.Loss, fmt.Sprintf("%s has a newer point, %s, taken %s", f.Members[other.Node].Name, other.Point.Name,
				other.Point.Taken.UTC().Format(time.RFC3339)))
		}
		for _, n := range other.Newer {
			p.Loss = append(p.Loss, fmt.Sprintf("%s has %s", f.Members[other.Node].Name, n))
		}
		points := f.Words[other.Node].Points
		if i := slices.IndexFunc(points, func(x Point) bool { return x.Left && !same(x, *c.Point) }); i >= 0 {
			p.Loss = append(p.Loss, fmt.Sprintf("%s has the point %s, which was given up when the guest went on from an older one", f.Members[other.Node].Name, points[i].Name))
		}
	}
}

// Change is the command that carries the plan out; it has the owner and term that
// were shown as its precondition. Its Beginning starts the guest, unless the caller sets Stopped.
func (p Plan) Change() ledger.ChangeOwner {
	guids := map[guest.Volume]uint64{}
	for _, v := range p.Guest.Volumes {
		guids[v] = p.Chosen.Point.GUIDs[v]
	}
	return ledger.ChangeOwner{
		ID: p.Guest.ID, Owner: p.Guest.Owner, Term: p.Guest.Term, To: p.Chosen.Node,
		Beginning: &guest.Beginning{How: guest.ByRecovery, Point: p.Chosen.Point.Name, GUIDs: guids},
	}
}
