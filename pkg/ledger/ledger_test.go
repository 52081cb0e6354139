package ledger_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

func member(n int) ledger.Member {
	return ledger.Member{
		ID: nodeID(n), Name: guest.NodeName(fmt.Sprintf("n%d", n)), Fingerprint: fmt.Sprintf("%064x", n),
		Peer: fmt.Sprintf("127.0.0.%d:7947", n), Gossip: fmt.Sprintf("127.0.0.%d:7946", n), Storages: []string{"local-zfs"},
	}
}

func volume(n int) guest.Volume {
	return guest.Volume{Storage: "local-zfs", Name: fmt.Sprintf("vm-%d-disk-0", n)}
}

func vm(id, owner int) guest.Guest {
	return guest.Guest{
		ID: guest.ID(id), Type: guest.VM, Name: "web", Owner: nodeID(owner), Volumes: []guest.Volume{volume(id)},
	}
}

func job(id guest.ID, n, target int) guest.Job {
	return guest.Job{
		ID: guest.JobID{Guest: id, Number: n}, Target: nodeID(target), Schedule: "*/15", Snapshots: guest.Mirror,
	}
}

// book is a machine that numbers its commands.
type book struct {
	t  testing.TB
	m  *ledger.Machine
	at uint64
}

func founded(tb testing.TB, members int) *book {
	tb.Helper()
	b := &book{t: tb, m: ledger.NewMachine()}
	b.must(ledger.Found{
		Cluster: strings.Repeat("c", 32), Generation: "0123456789abcdef", Member: member(1),
		Gossip: ledger.GossipKey{Number: 1, Key: make([]byte, ledger.GossipKeyLen)},
	})
	for n := 2; n <= members; n++ {
		b.must(ledger.AddMember{Member: member(n)})
	}
	return b
}

func (b *book) apply(op ledger.Op) ledger.Outcome {
	b.t.Helper()
	b.at++
	return b.applyAs(fmt.Sprint(b.at), op)
}

func (b *book) applyAs(id string, op ledger.Op) ledger.Outcome {
	b.t.Helper()
	data, err := ledger.Command{ID: id, By: "root@n1", At: 1_800_000_000, Op: op}.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := b.m.Apply(b.at, data)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *book) must(op ledger.Op) {
	b.t.Helper()
	if out := b.apply(op); out.Refused != "" {
		b.t.Fatalf("%T refused: %s", op, out.Refused)
	}
}

func TestMachine_Refusals(t *testing.T) {
	for _, tc := range []struct {
		name string
		op   ledger.Op
		want string
	}{
		{"founded twice", ledger.Found{Cluster: "x", Generation: "y", Member: member(9)}, "exists already"},
		{"same name, other node", ledger.AddMember{Member: func() ledger.Member { m := member(9); m.Name = "n2"; return m }()}, "another ID"},
		{"same key, other node", ledger.AddMember{Member: func() ledger.Member { m := member(9); m.Fingerprint = member(2).Fingerprint; return m }()}, "belongs to member n2"},
		{"address", ledger.AddMember{Member: func() ledger.Member { m := member(9); m.Peer = "somewhere"; return m }()}, "IP address and a port"},
		{"guest twice", ledger.AddGuest{Guest: vm(100, 2)}, "exists already (web on n1)"},
		{"volume of another guest", ledger.AddGuest{Guest: func() guest.Guest { g := vm(101, 1); g.Volumes = []guest.Volume{volume(100)}; return g }()}, "belongs to guest 100"},
		{"unknown owner", ledger.AddGuest{Guest: vm(101, 9)}, "not a member"},
		{"storage", ledger.AddGuest{Guest: func() guest.Guest { g := vm(101, 1); g.Volumes[0].Storage = "fast"; return g }()}, "no storage fast"},
		{"job twice", ledger.CreateJob{Job: job(100, 0, 3)}, "exists already"},
		{"job to the own node", ledger.CreateJob{Job: job(100, 1, 1)}, "is on n1 itself"},
		{"second job to the same target", ledger.CreateJob{Job: job(100, 1, 2)}, "by job 100-0 already"},
		{"unknown target", ledger.CreateJob{Job: job(100, 1, 9)}, "not a member"},
		{"unknown guest", ledger.CreateJob{Job: job(105, 0, 2)}, "guest 105 does not exist"},
		{"rate", ledger.CreateJob{Job: func() guest.Job { j := job(100, 1, 3); j.Rate = 0.5; return j }()}, "at least 1 MB/s"},
		{"update with an old digest", ledger.UpdateJob{Job: job(100, 0, 2), Digest: "old"}, "changed meanwhile"},
		{"update to another target", ledger.UpdateJob{Job: job(100, 0, 3)}, "target cannot be changed"},
		{"drop a job nobody deleted", ledger.DropJob{ID: guest.JobID{Guest: 100}}, "not being removed"},
		{"guest with jobs", ledger.RemoveGuest{ID: 100}, "delete them first"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := founded(t, 3)
			b.must(ledger.AddGuest{Guest: vm(100, 1)})
			b.must(ledger.CreateJob{Job: job(100, 0, 2)})
			before := *b.m.View()
			out := b.apply(tc.op)
			if !strings.Contains(out.Refused, tc.want) {
				t.Errorf("refused %q, want %q", out.Refused, tc.want)
			}
			before.Index = b.m.View().Index
			if d := cmp.Diff(before, *b.m.View()); d != "" {
				t.Errorf("a refused command changed the state:\n%s", d)
			}
		})
	}
}

func TestMachine_SameCommandTwiceGetsItsFirstOutcome(t *testing.T) {
	b := founded(t, 2)
	b.at++
	first := b.applyAs("same", ledger.AddGuest{Guest: vm(100, 1)})
	b.at++
	if second := b.applyAs("same", ledger.AddGuest{Guest: vm(100, 1)}); second != first {
		t.Errorf("second outcome %+v, want the first %+v", second, first)
	}
	if got := b.m.View().Guests[100].Term; got != (guest.Term{N: 1, Generation: "0123456789abcdef"}) {
		t.Errorf("term = %v", got)
	}
}

func TestMachine_JobLifeCycle(t *testing.T) {
	b := founded(t, 2)
	b.must(ledger.AddGuest{Guest: vm(100, 1)})
	b.must(ledger.CreateJob{Job: job(100, 0, 2)})
	j := b.m.View().Jobs[guest.JobID{Guest: 100}]
	changed := j
	changed.Schedule = "*/5"
	b.must(ledger.UpdateJob{Job: changed, Digest: ledger.Digest(j)})
	gone := changed
	gone.Removing = true
	b.must(ledger.UpdateJob{Job: gone, Digest: ledger.Digest(changed)})
	if out := b.apply(ledger.UpdateJob{Job: changed}); !strings.Contains(out.Refused, "being removed") {
		t.Errorf("a job came back from removal: %q", out.Refused)
	}
	b.must(ledger.DropJob{ID: j.ID})
	b.must(ledger.RemoveGuest{ID: 100, Digest: ledger.Digest(b.m.View().Guests[100])})
	var got []string
	for _, c := range b.m.History()[2:] {
		got = append(got, c.What)
	}
	want := []string{
		"guest 100 added on n1", "job 100-0 to n2 created", `job 100-0 changed, schedule "*/5"`,
		"job 100-0 is being removed", "job 100-0 removed", "guest 100 removed",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestMachine_StopsAtAnUnknownCommand(t *testing.T) {
	m := ledger.NewMachine()
	for _, data := range []string{
		`{"id":"1","kind":"from_the_future","op":{}}`,
		`{"id":"1","kind":"ask","op":{"new_field":1}}`,
		`{"id":"1","kind":"ask","op":{},"new_field":1}`,
		`{}`, ``, `nonsense`,
	} {
		if _, err := m.Apply(1, []byte(data)); err == nil {
			t.Errorf("%s was applied", data)
		}
	}
	if _, err := m.Apply(1, []byte(`{"id":"1","kind":"x","op":{}}`)); !errors.Is(err, ledger.ErrUnknownCommand) {
		t.Errorf("got %v, want ErrUnknownCommand", err)
	}
	if m.View().Index != 0 {
		t.Error("an unknown command moved the index")
	}
}

func drawOp(t *rapid.T) ledger.Op {
	id := guest.ID(rapid.IntRange(100, 103).Draw(t, "guest"))
	n, node := rapid.IntRange(0, 2).Draw(t, "number"), rapid.IntRange(1, 4).Draw(t, "node")
	switch rapid.IntRange(0, 7).Draw(t, "op") {
	case 0:
		return ledger.AddMember{Member: member(node)}
	case 1:
		return ledger.SetMember{ID: nodeID(node), Peer: "127.0.0.9:1", Gossip: "127.0.0.9:2", Storages: []string{"local-zfs"}}
	case 2:
		return ledger.AddGuest{Guest: vm(int(id), node)}
	case 3:
		return ledger.RemoveGuest{ID: id}
	case 4:
		return ledger.CreateJob{Job: job(id, n, node)}
	case 5:
		j := job(id, n, node)
		j.Removing = rapid.Bool().Draw(t, "removing")
		return ledger.UpdateJob{Job: j}
	case 6:
		return ledger.DropJob{ID: guest.JobID{Guest: id, Number: n}}
	default:
		return ledger.Ask{}
	}
}

func checkInvariants(t *rapid.T, s *ledger.State) {
	targets := map[string]bool{}
	for id, j := range s.Jobs {
		g, ok := s.Guests[id.Guest]
		if !ok {
			t.Fatalf("job %s has no guest", id)
		}
		if j.Target == g.Owner {
			t.Fatalf("job %s replicates to its owner", id)
		}
		if _, ok := s.Members[j.Target]; !ok {
			t.Fatalf("job %s has no target", id)
		}
		key := fmt.Sprint(id.Guest, j.Target)
		if targets[key] {
			t.Fatalf("guest %s has two jobs to one target", id.Guest)
		}
		targets[key] = true
	}
	owners := map[guest.Volume]guest.ID{}
	for _, g := range s.Guests {
		for _, v := range g.Volumes {
			if other, ok := owners[v]; ok {
				t.Fatalf("volume %s belongs to %s and %s", v, other, g.ID)
			}
			owners[v] = g.ID
		}
	}
}

func TestMachine_AnySequence(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := founded(t, 2), founded(t, 2)
		for range rapid.IntRange(1, 40).Draw(rt, "commands") {
			op := drawOp(rt)
			if got, want := a.apply(op), b.apply(op); got != want {
				rt.Fatalf("two nodes disagree: %+v and %+v", got, want)
			}
			checkInvariants(rt, a.m.View())
			if err := a.m.View().Validate(); err != nil {
				rt.Fatalf("what commands led to is not valid: %v", err)
			}
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				b.m = restored(rt, b.m)
			}
		}
		x, err := a.m.Encode()
		if err != nil {
			rt.Fatal(err)
		}
		y, err := b.m.Encode()
		if err != nil {
			rt.Fatal(err)
		}
		if string(x) != string(y) {
			rt.Fatal(cmp.Diff(string(x), string(y)))
		}
	})
}

func restored(t *rapid.T, m *ledger.Machine) *ledger.Machine {
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ledger.DecodeMachine(data)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func TestView_NeverChanges(t *testing.T) {
	b := founded(t, 2)
	b.must(ledger.AddGuest{Guest: vm(100, 1)})
	view := b.m.View()
	before, err := json.Marshal(view)
	if err != nil {
		t.Fatal(err)
	}
	b.must(ledger.CreateJob{Job: job(100, 0, 2)})
	b.must(ledger.SetMember{ID: nodeID(2), Peer: "127.0.0.9:1", Gossip: "127.0.0.9:2"})
	after, err := json.Marshal(view)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(before), string(after)); d != "" {
		t.Error(d)
	}
}

func TestState_NamedIsForPeople(t *testing.T) {
	s := ledger.State{Members: map[guest.NodeID]ledger.Member{
		guest.NodeID(strings.Repeat("a", 32)): {Name: "n1"}, guest.NodeID(strings.Repeat("b", 32)): {Name: "n2"},
	}}
	got := s.Named("ask node bbbbbbbb: node aaaaaaaa says: no; node cccccccc is a stranger")
	if want := "ask node n2: node n1 says: no; node cccccccc is a stranger"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	f.Add([]byte(`{"id":"1","by":"root@n1","at":1,"kind":"remove_guest","op":{"id":100,"digest":""}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ledger.DecodeCommand(data)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ledger.DecodeCommand(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, back); d != "" {
			t.Error(d)
		}
	})
}

func FuzzDecodeMachine(f *testing.F) {
	data, err := founded(f, 3).m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		if m, err := ledger.DecodeMachine(data); err == nil {
			m.View()
		}
	})
}
