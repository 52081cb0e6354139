package recovery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/recovery"
)

func node(n string) guest.NodeID { return guest.NodeID(strings.Repeat("0", 31) + n) }

func at(minute int) time.Time {
	return time.Unix(1_800_000_000, 0).Add(time.Duration(minute) * time.Minute)
}

func vol(n string) guest.Volume { return guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-" + n} }

// point is the seq-th of n1's; its GUIDs are made of that.
func point(seq uint64, volumes ...string) recovery.Point {
	name := guest.SnapshotName{Term: guest.Term{N: 3, Generation: "0123456789abcdef"}, Node: "n1", Seq: seq, Time: at(int(seq))}
	p := recovery.Point{Name: name.String(), Taken: at(int(seq)), GUIDs: map[guest.Volume]uint64{}}
	for i, v := range volumes {
		p.GUIDs[vol(v)] = seq*10 + uint64(i)
	}
	return p
}

// facts: n1 is dead and owned the guest; n2 and n3 live.
func facts() recovery.Facts {
	f := recovery.Facts{
		Self: node("2"), Quorate: true, Members: map[guest.NodeID]ledger.Member{}, Words: map[guest.NodeID]recovery.Word{},
		Alive: map[guest.NodeID]bool{node("2"): true, node("3"): true}, DownSince: at(20),
		Guest: guest.Guest{
			ID: 100, Owner: node("1"), Term: guest.Term{N: 3, Generation: "0123456789abcdef"}, Volumes: []guest.Volume{vol("0"), vol("1")},
		},
	}
	for _, n := range []string{"1", "2", "3"} {
		f.Members[node(n)] = ledger.Member{ID: node(n), Name: guest.NodeName("n" + n), Storages: []string{"local-zfs"}}
	}
	f.Words[node("2")] = recovery.Word{Points: []recovery.Point{point(12, "0", "1"), point(11, "0", "1")}}
	f.Words[node("3")] = recovery.Word{Points: []recovery.Point{point(15, "0", "1"), point(12, "0", "1")}}
	return f
}

func TestMake_TakesTheNewestPointWithAllVolumes(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*recovery.Facts)
		node   string
		point  uint64
	}{
		"newest":                        {func(*recovery.Facts) {}, "3", 15},
		"on the one that was asked for": {func(f *recovery.Facts) { f.On = node("2") }, "2", 12},
		"a point that lacks a volume does not count": {func(f *recovery.Facts) {
			f.Words[node("3")] = recovery.Word{Points: []recovery.Point{point(15, "0"), point(10, "0", "1")}}
		}, "2", 12},
		"by number where neither has the other's": {func(f *recovery.Facts) {
			f.Words[node("3")] = recovery.Word{Points: []recovery.Point{point(15, "0", "1")}}
		}, "3", 15},
		"by what they have, whatever the clock said": {func(f *recovery.Facts) {
			late := point(15, "0", "1")
			late.Taken = at(-1000)
			f.Words[node("3")] = recovery.Word{Points: []recovery.Point{late, point(12, "0", "1")}}
		}, "3", 15},
		"equal points go to the node with fewer guests": {func(f *recovery.Facts) {
			f.Words[node("2")] = f.Words[node("3")]
			f.Load = map[guest.NodeID]int{node("2"): 1, node("3"): 4}
		}, "2", 15},
		"then to the job with the lower number": {func(f *recovery.Facts) {
			f.Words[node("2")] = f.Words[node("3")]
			f.Jobs = map[guest.NodeID]int{node("2"): 1, node("3"): 0}
		}, "3", 15},
		"then by name": {func(f *recovery.Facts) {
			f.Words[node("2")] = f.Words[node("3")]
			m := f.Members[node("3")]
			m.Name = "a3"
			f.Members[node("3")] = m
		}, "3", 15},
		"a node without the storage is passed over": {func(f *recovery.Facts) {
			m := f.Members[node("3")]
			m.Storages = nil
			f.Members[node("3")] = m
		}, "2", 12},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts()
			tc.change(&f)
			p := recovery.Make(f)
			if p.Refusal != nil {
				t.Fatal(p.Refusal)
			}
			want := point(tc.point, "0", "1")
			if p.Chosen.Node != node(tc.node) || p.Chosen.Point.Name != want.Name {
				t.Errorf("chosen is %s with %s", p.Chosen.Node.Short(), p.Chosen.Point.Name)
			}
			op := p.Change()
			if d := cmp.Diff(want.GUIDs, op.Beginning.GUIDs); d != "" || op.Owner != node("1") || op.Term.N != 3 || op.Beginning.How != guest.ByRecovery {
				t.Errorf("the command %+v:\n%s", op, d)
			}
		})
	}
}

func TestMake_Refuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*recovery.Facts)
		want   string
	}{
		"no quorum":               {func(f *recovery.Facts) { f.Quorate, f.Votes = false, "1 of 3 votes, 2 needed" }, "not quorate: 1 of 3 votes, 2 needed"},
		"the owner is alive":      {func(f *recovery.Facts) { f.Alive[node("1")] = true }, "on n1, which is alive"},
		"a member hears it":       {func(f *recovery.Facts) { f.Words[node("3")] = recovery.Word{Hears: true} }, "still heard by n3"},
		"a member does not tell":  {func(f *recovery.Facts) { f.Words[node("3")] = recovery.Word{Silent: "timeout"} }, "n3 did not tell"},
		"a member was not asked":  {func(f *recovery.Facts) { delete(f.Words, node("3")) }, "n3 did not tell"},
		"generations in conflict": {func(f *recovery.Facts) { f.Conflict = "two sides" }, "no owner can be changed: two sides"},
		"its own guest":           {func(f *recovery.Facts) { f.Self = node("1") }, "this node's own"},
		"on the dead owner":       {func(f *recovery.Facts) { f.On = node("1") }, "choose another node"},
		"on a node without points": {func(f *recovery.Facts) {
			f.On, f.Words[node("2")] = node("2"), recovery.Word{}
		}, "cannot be recovered on n2: it has no complete point"},
		"nobody has a point": {func(f *recovery.Facts) {
			f.Words[node("2")], f.Words[node("3")] = recovery.Word{}, recovery.Word{}
		}, "no live node has a complete point"},
		"a volume is nowhere": {func(f *recovery.Facts) {
			f.Words[node("2")], f.Words[node("3")] = recovery.Word{}, recovery.Word{Points: []recovery.Point{point(15, "0")}}
		}, "volume local-zfs:vm-100-disk-1 is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts()
			tc.change(&f)
			p := recovery.Make(f)
			if p.Refusal == nil || !strings.Contains(p.Refusal.Text, tc.want) || p.Chosen != nil {
				t.Errorf("got %v, want a refusal that says %q", p.Refusal, tc.want)
			}
		})
	}
}

// A dead third member does not stand in the way.
func TestMake_ADeadMemberHasNoVeto(t *testing.T) {
	f := facts()
	f.Alive[node("3")] = false
	f.Words[node("3")] = recovery.Word{Silent: "no route"}
	if p := recovery.Make(f); p.Refusal != nil || p.Chosen.Node != node("2") {
		t.Errorf("%+v", p)
	}
}

func TestMake_TellsWhatATieIsDecidedBy(t *testing.T) {
	f := facts()
	if p := recovery.Make(f); p.Tie != "" {
		t.Errorf("without a tie: %q", p.Tie)
	}
	f.Words[node("2")] = f.Words[node("3")]
	f.Load = map[guest.NodeID]int{node("2"): 1, node("3"): 4}
	if got, want := recovery.Make(f).Tie, "n3 has as new a point: of guests n2 has 1 and n3 4"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f.Load, f.Jobs = nil, map[guest.NodeID]int{node("3"): 2}
	if got, want := recovery.Make(f).Tie, "n2 has as new a point: both have 0 guests, and the lower number is that of the job to n3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f.On = node("2")
	if p := recovery.Make(f); p.Tie != "" {
		t.Errorf("for a node that was asked for: %q", p.Tie)
	}
}

func TestMake_TellsWhatIsLost(t *testing.T) {
	f := facts()
	f.On = node("2")
	got := strings.Join(recovery.Make(f).Loss, "\n")
	for _, want := range []string{"written after 2027-01-15T08:12:00Z is lost: n1 was alive until 2027-01-15T08:20:00Z, 8m0s later", "n3 has a newer point"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

// What was given up comes last, and is better than nothing, for somebody who has been told.
func TestMake_APointThatWasLeftComesLast(t *testing.T) {
	left := point(15, "0", "1")
	left.Left = true
	f := facts()
	f.Words[node("3")] = recovery.Word{Points: []recovery.Point{left, point(9, "0", "1")}}
	p := recovery.Make(f)
	if p.Refusal != nil || p.Chosen.Node != node("2") || p.Chosen.Point.Name != point(12, "0", "1").Name {
		t.Fatalf("got %+v, %v", p.Chosen, p.Refusal)
	}
	if text := strings.Join(p.Loss, "; "); !strings.Contains(text, "n3 has the point "+left.Name+", which was given up") {
		t.Errorf("it is not told: %s", text)
	}
	f.Words[node("2")] = recovery.Word{}
	if p = recovery.Make(f); p.Refusal != nil || p.Chosen.Point.Left {
		t.Errorf("got %+v, %v", p.Chosen, p.Refusal)
	}
	f.Words[node("3")] = recovery.Word{Points: []recovery.Point{left}}
	if p = recovery.Make(f); p.Refusal != nil || !p.Chosen.Point.Left {
		t.Fatalf("got %+v, %v", p.Chosen, p.Refusal)
	}
	if text := strings.Join(p.Loss, "; "); !strings.Contains(text, "what was given up comes back, and all is lost that was written since") {
		t.Errorf("it is not told: %s", text)
	}
}
