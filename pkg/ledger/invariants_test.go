package ledger_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// drawer draws commands that often fit the ledger as it stands, and often just miss it.
type drawer struct {
	*rapid.T
	s *ledger.State
}

// often is true three times of four.
func (d drawer) often(what string) bool { return rapid.IntRange(0, 3).Draw(d.T, what) > 0 }

func (d drawer) number(what string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(d.T, what) }

func (d drawer) guestID() guest.ID { return guest.ID(d.number("guest", 100, 104)) }

// digest is that of v, or of something that is no longer so.
func (d drawer) digest(v any) string {
	switch {
	case d.often("digest"):
		return ledger.Digest(v)
	case rapid.Bool().Draw(d.T, "no digest"):
		return ""
	default:
		return ledger.Digest("stale")
	}
}

// held is the owner and the term of a guest, or what they are not.
func (d drawer) held(id guest.ID) (guest.NodeID, guest.Term) {
	g := d.s.Guests[id]
	if !d.often("owner") {
		g.Owner = nodeID(d.number("wrong owner", 1, 4))
	}
	if !d.often("term") {
		g.Term.N += uint64(d.number("wrong term", 0, 2))
	}
	return g.Owner, g.Term
}

func (d drawer) member() ledger.Member {
	n := d.number("member", 1, 5)
	m := member(n)
	m.Format = d.number("format", 1, 2)
	switch d.number("oddity", 0, 9) {
	case 0:
		m.Name = member(d.number("name", 1, 5)).Name
	case 1:
		m.Fingerprint = member(d.number("key", 1, 5)).Fingerprint
	case 2:
		m.Storages = nil
	case 3:
		m.Peer = "nowhere"
	}
	return m
}

func (d drawer) guest() guest.Guest {
	g := vm(int(d.guestID()), d.number("owner", 1, 5))
	if rapid.Bool().Draw(d.T, "second volume") {
		g.Volumes = append(g.Volumes, volume(d.number("volume", 100, 104)))
	}
	return g
}

func (d drawer) memberOp() ledger.Op {
	id, force := nodeID(d.number("node", 1, 5)), d.often("force")
	switch d.number("member op", 0, 9) {
	case 0, 1, 2:
		return ledger.AddMember{Member: d.member(), Force: force}
	case 3:
		m := d.member()
		return ledger.SetMember{ID: id, Peer: m.Peer, Gossip: m.Gossip, Storages: m.Storages, Format: m.Format}
	case 4, 5:
		return ledger.RemoveMember{ID: id, DropJobs: d.often("drop jobs"), Force: force}
	case 6:
		key := ledger.GossipKey{Number: d.number("key", 1, 6), Key: make([]byte, d.number("length", 31, 32))}
		return ledger.InstallKey{Key: key}
	case 7:
		return ledger.UseKey{Number: d.number("key", 1, 6)}
	case 8:
		return ledger.DropKey{Number: d.number("key", 1, 6)}
	default:
		return ledger.EndForced{Generation: d.s.Generation}
	}
}

func (d drawer) guestOp() ledger.Op {
	id := d.guestID()
	switch d.number("guest op", 0, 9) {
	case 0, 1, 2:
		return ledger.AddGuest{Guest: d.guest(), Force: d.often("force")}
	case 3, 4:
		g := d.s.Guests[id]
		digest := d.digest(g)
		if drawn := d.guest(); d.often("volumes") {
			g.Volumes, g.Config = drawn.Volumes, "memory: 1"
		} else {
			g = drawn
		}
		return ledger.SetGuest{Guest: g, Digest: digest}
	case 5:
		return ledger.RemoveGuest{ID: id, Digest: d.digest(d.s.Guests[id])}
	case 6, 7, 8:
		owner, term := d.held(id)
		return ledger.ChangeOwner{ID: id, Owner: owner, Term: term, To: nodeID(d.number("to", 1, 5)), Beginning: d.beginning(id)}
	default:
		owner, term := d.held(id)
		return ledger.Retain{ID: id, Owner: owner, Term: term}
	}
}

func (d drawer) beginning(id guest.ID) *guest.Beginning {
	if d.often("unknown beginning") {
		return nil
	}
	b := guest.Beginning{How: guest.ByMigration, Point: "p", GUIDs: map[guest.Volume]uint64{}}
	for _, v := range d.s.Guests[id].Volumes {
		b.GUIDs[v] = uint64(d.number("guid", 0, 9)) //nolint:gosec // Small and not negative.
	}
	return &b
}

func (d drawer) jobOp() ledger.Op {
	id := guest.JobID{Guest: d.guestID(), Number: d.number("number", 0, 2)}
	switch d.number("job op", 0, 5) {
	case 0, 1, 2:
		return ledger.CreateJob{Job: job(id.Guest, id.Number, d.number("target", 1, 5))}
	case 3, 4:
		j := d.s.Jobs[id]
		digest := d.digest(j)
		if j.Target == "" { // There is none: refused, whatever it says.
			j = job(id.Guest, id.Number, 1)
		}
		if rapid.Bool().Draw(d.T, "removing") {
			j.Removing = true
		} else {
			j.Schedule = "*/5"
		}
		if !d.often("target stays") {
			j.Target = nodeID(d.number("target", 1, 5))
		}
		return ledger.UpdateJob{Job: j, Digest: digest}
	default:
		return ledger.DropJob{ID: id}
	}
}

func (d drawer) op() ledger.Op {
	switch d.number("op", 0, 9) {
	case 0, 1, 2:
		return d.memberOp()
	case 3, 4, 5, 6:
		return d.guestOp()
	case 7, 8:
		return d.jobOp()
	default:
		switch d.number("other op", 0, 2) {
		case 0:
			return ledger.SetSettings{Settings: ledger.Settings{Name: "c1"}, Digest: d.digest(d.s.Settings)}
		case 1:
			return ledger.RaiseFormat{Format: 3}
		default:
			return ledger.Ask{}
		}
	}
}

// witness remembers what must hold over a whole sequence.
type witness struct {
	owners map[guest.ID]map[guest.Term]guest.NodeID
	terms  map[guest.ID]uint64
}

func newWitness() *witness {
	return &witness{owners: map[guest.ID]map[guest.Term]guest.NodeID{}, terms: map[guest.ID]uint64{}}
}

func (w *witness) check(t *rapid.T, s *ledger.State) {
	for id, g := range s.Guests {
		if w.owners[id] == nil {
			w.owners[id] = map[guest.Term]guest.NodeID{}
		}
		if owner, ok := w.owners[id][g.Term]; ok && owner != g.Owner {
			t.Fatalf("guest %s has two owners in term %s: %s and %s", id, g.Term, s.NameOf(owner), s.NameOf(g.Owner))
		}
		w.owners[id][g.Term] = g.Owner
		if g.Term.N < w.terms[id] {
			t.Fatalf("the term of guest %s fell from %d to %d", id, w.terms[id], g.Term.N)
		}
		w.terms[id] = g.Term.N
	}
	checkInvariants(t, s)
	checkMembers(t, s)
	checkGenerations(t, s)
}

func checkMembers(t *rapid.T, s *ledger.State) {
	names, keys := map[guest.NodeName]bool{}, map[string]bool{}
	for id, m := range s.Members {
		if m.ID != id || names[m.Name] || keys[m.Fingerprint] {
			t.Fatalf("member %s: its ID, name or key is another's: %+v", id, m)
		}
		names[m.Name], keys[m.Fingerprint] = true, true
		if _, gone := s.Removed[m.Fingerprint]; gone {
			t.Fatalf("member %s is listed with a key that was removed", m.Name)
		}
	}
	if len(s.Members) == 0 {
		t.Fatal("the cluster has no member")
	}
	for id, g := range s.Guests {
		if _, ok := s.Members[g.Owner]; g.ID != id || !ok {
			t.Fatalf("guest %s has no owner in the member list: %+v", id, g)
		}
		if err := g.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	for id, j := range s.Jobs {
		if j.ID != id {
			t.Fatalf("job %s stands under %s", j.ID, id)
		}
		if err := j.Validate(); err != nil {
			t.Fatal(err)
		}
	}
}

func checkGenerations(t *rapid.T, s *ledger.State) {
	known := map[string]bool{generation: true}
	last := generation
	for _, f := range s.Lineage {
		if f.Parent != last {
			t.Fatalf("generation %s has parent %s, not %s", f.Generation, f.Parent, last)
		}
		last = f.Generation
		known[last] = true
	}
	if s.Generation != last || s.Forced && len(s.Lineage) == 0 {
		t.Fatalf("generation %s (forced: %v) does not follow from %+v", s.Generation, s.Forced, s.Lineage)
	}
	for id, g := range s.Guests {
		if !known[g.Term.Generation] || g.Term.N == 0 {
			t.Fatalf("guest %s has term %s, of no generation of this ledger", id, g.Term)
		}
	}
	if s.Changed > s.Index {
		t.Fatalf("changed at %d, but applied to %d only", s.Changed, s.Index)
	}
	numbers := map[int]bool{}
	for _, k := range s.Gossip {
		if numbers[k.Number] || len(k.Key) != ledger.GossipKeyLen {
			t.Fatalf("gossip keys: %+v", s.Gossip)
		}
		numbers[k.Number] = true
	}
	if len(s.Gossip) < 1 || len(s.Gossip) > 2 {
		t.Fatalf("there are %d gossip keys", len(s.Gossip))
	}
}

func text(t *rapid.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// carry applies one drawn command and checks what it may and may not have done.
func carry(t *rapid.T, b *book, op ledger.Op) {
	before, lines := *b.m.View(), len(b.m.History())
	out := b.apply(op)
	after := *b.m.View()
	if after.Index != b.at || out.Index != b.at {
		t.Fatalf("%T at %d: outcome %+v, ledger at %d", op, b.at, out, after.Index)
	}
	_, isAsk := op.(ledger.Ask)
	changes := b.m.History()[lines:]
	if out.Refused != "" || isAsk {
		after.Index = before.Index
		if x, y := text(t, before), text(t, after); x != y || len(changes) != 0 {
			t.Fatalf("%T was refused (%q) and changed something: %s", op, out.Refused, cmp.Diff(x, y))
		}
	} else if len(changes) != 1 || changes[0].Index != b.at || after.Changed != b.at {
		t.Fatalf("%T was done, the history tells %+v, changed at %d", op, changes, after.Changed)
	}
	x := text(t, b.m.View().Guests)
	b.at++
	if again := b.applyAs(fmt.Sprint(b.at-1), op); again != out || !isAsk && text(t, b.m.View().Guests) != x {
		t.Fatalf("%T sent again: %+v, first %+v", op, again, out)
	}
}

// Any commands in any order keep the ledger whole; what a node got by a snapshot
// goes on as what it applied itself; a fork keeps all that was there.
func TestMachine_AnySequenceKeepsItWhole(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b, seen := founded(t, 3), founded(t, 3), newWitness()
		forks := 0
		for range rapid.IntRange(1, 60).Draw(rt, "commands") {
			d := drawer{T: rt, s: a.m.View()}
			switch d.number("event", 0, 29) {
			case 0:
				b.m = restored(rt, b.m)
			case 1:
				forks++
				f := ledger.Fork{
					Generation: fmt.Sprintf("%016x", forks), Parent: d.s.Generation, Index: a.at, Term: 7,
					Node: nodeID(1), By: "operator@n1", At: 1_800_000_000,
				}
				for _, m := range []*ledger.Machine{a.m, b.m} {
					if err := m.Fork(f, d.s); err != nil {
						rt.Fatal(err)
					}
				}
			default:
				op := d.op()
				carry(rt, a, op)
				carry(rt, b, op)
			}
			seen.check(rt, a.m.View())
		}
		if x, y := encoded(rt, a.m), encoded(rt, b.m); x != y {
			rt.Fatal(cmp.Diff(x, y))
		}
	})
}

func encoded(t *rapid.T, m *ledger.Machine) string {
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A command that anybody could send does not bring a node down, and what it is
// refused changes nothing.
func FuzzMachine_Apply(f *testing.F) {
	for _, op := range []ledger.Op{
		ledger.AddGuest{Guest: vm(101, 1)},
		ledger.SetGuest{Guest: vm(100, 1)},
		ledger.CreateJob{Job: job(100, 2, 2)},
		ledger.RemoveMember{ID: nodeID(2), DropJobs: true},
		ledger.AddMember{Member: member(4)},
		ledger.Retain{ID: 100},
		ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: guest.Term{N: 1, Generation: generation}, To: nodeID(2)},
		ledger.InstallKey{Key: ledger.GossipKey{Number: 2, Key: make([]byte, ledger.GossipKeyLen)}},
		ledger.Ask{},
	} {
		data, err := ledger.Command{ID: "1", By: "root@n1", At: 1_800_000_000, Op: op}.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := founded(t, 3)
		b.must(ledger.AddGuest{Guest: vm(100, 1)})
		b.must(ledger.CreateJob{Job: job(100, 0, 3)})
		before := *b.m.View()
		out, err := b.m.Apply(before.Index+1, data)
		after := *b.m.View()
		if err != nil || out.Refused != "" {
			after.Index = before.Index
			if d := cmp.Diff(before, after); d != "" {
				t.Errorf("it was refused and changed something:\n%s", d)
			}
		}
	})
}

// A snapshot that decodes can be gone on from: it encodes to what decodes to the
// same, and takes commands.
func FuzzDecodeMachine_GoesOn(f *testing.F) {
	b := founded(f, 3)
	b.must(ledger.AddGuest{Guest: vm(100, 1)})
	b.must(ledger.CreateJob{Job: job(100, 0, 3)})
	data, err := b.m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"state":{"format":1,"cluster":"c","generation":"g","members":{},"guests":{},"jobs":{},"removed":{}}}`)) // no gossip key
	install, err := ledger.Command{ID: "i", Op: ledger.InstallKey{Key: ledger.GossipKey{Number: 2, Key: make([]byte, ledger.GossipKeyLen)}}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ledger.DecodeMachine(data)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ledger.DecodeMachine(again)
		if err != nil {
			t.Fatalf("what Encode wrote is not read: %v", err)
		}
		if d := cmp.Diff(m.View(), back.View()); d != "" {
			t.Error(d)
		}
		// An error is an answer; that a node goes down is not.
		_, _ = m.Apply(m.View().Index+1, install)
	})
}
