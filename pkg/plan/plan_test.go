package plan_test

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
)

var (
	vol = guest.Volume{Storage: "s", Name: "d"}
	web = guest.Guest{ID: 100, Owner: guest.NodeID(strings.Repeat("a", 32)), Term: guest.Term{N: 3, Generation: "0123456789abcdef"}}
)

// snaps reads a row of snapshots, oldest first. Names that begin with "t" are
// Tandem's points. After the name may stand: "~2" another GUID under that name,
// "!" the mark of what Tandem brought, "*" complete, "+" written to.
func snaps(row string) []plan.Snapshot {
	var out []plan.Snapshot
	for i, f := range strings.Fields(row) {
		name := strings.TrimRight(f, "!*+")
		s := plan.Snapshot{
			GUID: guid(name), TXG: uint64(10 * (i + 1)), Received: strings.Contains(f, "!"), Complete: strings.Contains(f, "*"),
		}
		s.Name, _, _ = strings.Cut(name, "~")
		s.Tandem = s.Name[0] == 't'
		if strings.Contains(f, "+") {
			s.Written = 100 << 10
		}
		out = append(out, s)
	}
	return out
}

func guid(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64()
}

func owner() plan.Marks {
	return plan.Marks{Cluster: "c", Guest: "100", Role: plan.Owner, Term: web.Term.String(), Volume: vol.String()}
}

func replica() plan.Marks {
	m := owner()
	m.Role, m.Term = plan.Replica, "1-0123456789abcdef"
	return m
}

// input has the source's row and, unless it is empty, the target's.
func input(source, target, point string) plan.Input {
	p := plan.Pair{
		Volume: vol, Root: plan.Root{Dataset: "tank/g", Available: 1 << 40},
		Source: plan.Side{Dataset: "tank/g/d", Exists: true, Kind: plan.Zvol, Marks: owner(), Snapshots: snaps(source)},
		Target: plan.Side{Dataset: "tank/g/d"},
	}
	if target != "" {
		p.Target = plan.Side{Dataset: "tank/g/d", Exists: true, Kind: plan.Zvol, Marks: replica(), Snapshots: snaps(target)}
		for i := range p.Target.Snapshots { // There, the mark tells, and comes with the commit.
			s := &p.Target.Snapshots[i]
			s.Tandem = s.Tandem && (s.Received || s.Complete)
		}
	}
	return plan.Input{
		Cluster: "c", Guest: web, Mode: guest.Mirror, TargetName: "n2", Point: point,
		SourceZFS: "2.3.3-1", TargetZFS: "2.3.3-1", Pairs: []plan.Pair{p},
	}
}

func steps(p plan.Plan) string {
	var out []string
	for _, v := range p.Volumes {
		for _, s := range v.Steps {
			text := string(s.Verb)
			if s.From.Name != "" {
				text += " " + s.From.Name
			}
			out = append(out, strings.TrimSpace(text+" > "+s.To.Name))
		}
	}
	for _, r := range p.Refusals {
		out = append(out, "refused: "+string(r.Kind))
	}
	return strings.Join(out, "; ")
}

func names(refs []plan.Ref) string {
	var out []string
	for _, r := range refs {
		out = append(out, r.Name)
	}
	return strings.Join(out, " ")
}

func TestMake_Steps(t *testing.T) {
	for _, tc := range []struct {
		name, source, target string
		change               func(*plan.Input)
		want, mark, gone     string
	}{
		{name: "first sync of a fresh volume", source: "t1", want: "full > t1", mark: "t1"},
		{name: "first sync brings older snapshots", source: "a b t1", want: "full > a; incremental run a > t1", mark: "a b t1"},
		{name: "the point is about to be taken", source: "a", want: "full > a; incremental a > t1", mark: "a t1"},
		{name: "an increment", source: "t0 t1", target: "t0*", want: "incremental t0 > t1", mark: "t1"},
		{name: "with snapshots between", source: "t0 a b t1", target: "t0*", want: "incremental run t0 > t1", mark: "a b t1"},
		{name: "snapshots after the point wait", source: "t0 t1 late", target: "t0*", want: "incremental t0 > t1", mark: "t1"},
		{name: "nothing", source: "t1", target: "t1*", want: ""},
		{name: "the acknowledgement was lost", source: "t0 a t1", target: "t0* a t1", want: "", mark: "a t1"},
		{name: "an older base", source: "t0 a t2 t1", target: "t0* x", want: "incremental run t0 > t1", mark: "a t2 t1"},
		{name: "base by GUID, not by name", source: "t0 a~1 t1", target: "t0* a~2", want: "incremental t0 > t1", mark: "t1"},
		{
			name: "a name that is taken is stepped over", source: "t0 a b~1 c d t1", target: "t0* b~2",
			want: "incremental t0 > a; incremental a > c; incremental run c > t1", mark: "a c d t1",
		},
		{name: "the point's name is taken", source: "t0 t1~1", target: "t0* t1~2", want: "refused: name"},
		{
			name: "a name too long is stepped over", source: "t0 " + strings.Repeat("x", 250) + " t1", target: "t0*",
			want: "incremental t0 > t1", mark: "t1",
		},
		{name: "a point's name too long", source: "", want: "refused: name", change: func(in *plan.Input) { in.Point = strings.Repeat("t", 250) }},
		{name: "mode none", source: "a t0 b t1", want: "full > t1", mark: "t1", change: func(in *plan.Input) { in.Mode = guest.None }},
		{
			name: "mode none with a base that another target needs", source: "a t0 b t2 c t1", target: "t0*",
			want: "incremental t0 > t2; incremental t2 > t1", mark: "t2 t1",
			change: func(in *plan.Input) { in.Mode, in.Needed = guest.None, map[uint64]bool{guid("t2"): true} },
		},
		{
			name: "from a bookmark", source: "a b t1", target: "t0*", want: "incremental t0 > a; incremental run a > t1", mark: "a b t1",
			change: func(in *plan.Input) {
				in.Pairs[0].Source.Bookmarks = []plan.Bookmark{{Name: "t0", GUID: guid("t0"), TXG: 1}}
			},
		},
		{
			name: "a bookmark newer than the newest common snapshot", source: "t0 b t1", target: "t0* a", want: "incremental a > b; incremental b > t1",
			mark: "b t1", change: func(in *plan.Input) {
				in.Pairs[0].Source.Bookmarks = []plan.Bookmark{{Name: "a", GUID: guid("a"), TXG: 15}}
			},
		},
		{name: "gone at the source", source: "b c t0 t1", target: "a! b! c! t0*", want: "incremental t0 > t1", mark: "t1", gone: "a"},
		{name: "no mark, never gone", source: "b t0 t1", target: "a b! t0*", want: "incremental t0 > t1", mark: "t1"},
		{name: "more than half are not removed", source: "c t0 t1", target: "a! b! c! t0*", want: "incremental t0 > t1", mark: "t1"},
		{
			name: "mode keep removes nothing", source: "b c t0 t1", target: "a! b! c! t0*", want: "incremental t0 > t1", mark: "t1",
			change: func(in *plan.Input) { in.Mode = guest.Keep },
		},
		{name: "an empty snapshot of somebody's on the replica", source: "t0 t1", target: "t0* x", want: "incremental t0 > t1", mark: "t1"},
		{name: "data of somebody's on the replica", source: "t0 t1", target: "t0* x+", want: "set aside t0 >"},
		{
			name: "the replica was written to", source: "t0 t1", target: "t0*", want: "set aside t0 >",
			change: func(in *plan.Input) { in.Pairs[0].Target.Written = 1 << 20 },
		},
		{
			name: "so little that it may be nothing", source: "t0 t1", target: "t0*", want: "incremental t0 > t1", mark: "t1",
			change: func(in *plan.Input) { in.Pairs[0].Target.Written = 1024 },
		},
		{
			name: "so little, but ZFS refused", source: "t0 t1", target: "t0*", want: "set aside t0 >",
			change: func(in *plan.Input) { in.Pairs[0].Target.Written, in.Pairs[0].Target.Modified = 1024, true },
		},
		{name: "the owner was rolled back", source: "t0 t2 t1", target: "t0* t3*+", want: "set aside t0 >"},
		{name: "nothing in common", source: "t1", target: "t0*", want: "set aside >"},
		{name: "the same name is nothing in common", source: "t0~1 t1", target: "t0~2*", want: "set aside >"},
		{
			name: "a foreign dataset", source: "t1", target: "t0*", want: "refused: foreign",
			change: func(in *plan.Input) { in.Pairs[0].Target.Marks = plan.Marks{} },
		},
		{
			name: "another guest's replica", source: "t0 t1", target: "t0*", want: "refused: foreign",
			change: func(in *plan.Input) { in.Pairs[0].Target.Marks.Guest = "101" },
		},
		{
			name: "an owner's volume on the target", source: "t0 t1", target: "t0*", want: "refused: former owner",
			change: func(in *plan.Input) { in.Pairs[0].Target.Marks.Role = plan.Owner },
		},
		{
			name: "an owner's volume of no term", source: "t0 t1", target: "t0*", want: "refused: foreign",
			change: func(in *plan.Input) { in.Pairs[0].Target.Marks.Role, in.Pairs[0].Target.Marks.Term = plan.Owner, "" },
		},
		{
			name: "a filesystem on the target", source: "t0 t1", target: "t0*", want: "set aside >",
			change: func(in *plan.Input) { in.Pairs[0].Target.Kind = plan.Filesystem },
		},
		{
			name: "a mounted replica is unmounted there", source: "t0 t1", target: "t0*", want: "incremental t0 > t1", mark: "t1",
			change: func(in *plan.Input) { in.Pairs[0].Target.Mounted = true },
		},
		{name: "no volume", want: "refused: missing", change: func(in *plan.Input) { in.Pairs[0].Source.Exists = false }},
		{
			name: "our own volume is of an older term", source: "t1", want: "refused: not the owner's",
			change: func(in *plan.Input) { in.Pairs[0].Source.Marks.Term = "2-0123456789abcdef" },
		},
		{name: "too little room", source: "t1+", want: "full > t1; refused: no space", mark: "t1", change: func(in *plan.Input) { in.Pairs[0].Root.Available = 99 << 10 }},
		{
			name: "unencrypted to an encrypted storage", source: "t1", want: "refused: encryption",
			change: func(in *plan.Input) { in.Pairs[0].Root.Encrypted = true },
		},
		{
			name: "encrypted with a ZFS that damages it", source: "t1", want: "refused: version",
			change: func(in *plan.Input) { in.Pairs[0].Source.Encrypted, in.TargetZFS = true, "2.3.2-1" },
		},
		{
			name: "encrypted over somebody's snapshot", source: "t0 t1", target: "t0* x", want: "refused: diverged",
			change: func(in *plan.Input) { in.Pairs[0].Source.Encrypted, in.Pairs[0].Target.Encrypted = true, true },
		},
	} {
		in := input(tc.source, tc.target, "t1")
		if tc.change != nil {
			tc.change(&in)
		}
		p := plan.Make(in)
		if d := cmp.Diff(tc.want, steps(p)); d != "" {
			t.Errorf("%s: steps (-want +got)\n%s", tc.name, d)
		}
		if len(p.Volumes) > 0 {
			if d := cmp.Diff([]string{tc.mark, tc.gone}, []string{names(p.Volumes[0].Mark), names(p.Volumes[0].Gone)}); d != "" {
				t.Errorf("%s: mark, gone (-want +got)\n%s", tc.name, d)
			}
		}
		for _, r := range p.Refusals {
			if r.Hint == "" || r.Reason == "" {
				t.Errorf("%s: a refusal without reason or hint: %+v", tc.name, r)
			}
		}
		for _, v := range p.Volumes {
			for _, s := range v.Steps {
				if s.Reason == "" {
					t.Errorf("%s: a step without reason: %+v", tc.name, s)
				}
			}
		}
	}
}

func TestMake_PartialReceives(t *testing.T) {
	good := plan.Partial{Token: "1-a", ToGUID: guid("t1"), Bytes: 50, Valid: true}
	for _, tc := range []struct {
		name, target string
		unborn       bool
		killed       bool
		copied       string // the newest snapshot of the copy
		change       func(*plan.Partial)
		want         string
	}{
		{name: "resumed", target: "t0*", want: "resume > t1"},
		{name: "of a first full stream, without marks yet", unborn: true, want: "resume > t1"},
		{name: "of a first full stream whose receive was killed, with marks", killed: true, want: "resume > t1"},
		{name: "out of a copy set aside, whose receive was killed", killed: true, copied: "t0", want: "resume > t1"},
		{name: "out of another copy", killed: true, copied: "other", want: "abort >"},
		{name: "the source lost the snapshot", target: "t0*", change: func(p *plan.Partial) { p.ToGUID = 7 }, want: "abort >"},
		{name: "the token is refused", target: "t0*", change: func(p *plan.Partial) { p.Valid = false }, want: "abort >"},
		{name: "its replica was changed", target: "t0* x+", want: "abort >"},
		{name: "it does not move", target: "t0*", change: func(p *plan.Partial) { p.Stuck = true }, want: "abort >"},
		{name: "a stale one that we began", unborn: true, change: func(p *plan.Partial) { p.ToGUID, p.Ours = 7, true }, want: "abort >"},
		{name: "a stale one of nobody knows whom", unborn: true, change: func(p *plan.Partial) { p.ToGUID = 7 }, want: "refused: foreign"},
	} {
		in := input("t0 t1", cmpOr(tc.target, "x"), "t1")
		if tc.unborn {
			in.Pairs[0].Target.Marks, in.Pairs[0].Target.Snapshots = plan.Marks{}, nil
		}
		if tc.killed {
			in.Pairs[0].Target.Snapshots = nil
		}
		partial := good
		if !tc.unborn && (!tc.killed || tc.copied != "") {
			partial.FromGUID = guid("t0")
		}
		if tc.copied != "" {
			marks := in.Pairs[0].Target.Marks
			marks.Role = plan.Aside
			in.Pairs[0].Target.Origin = "tank/diverged/100/d@" + tc.copied
			in.Pairs[0].Aside = []plan.Side{{Dataset: "tank/diverged/100/d", Exists: true, Marks: marks, Snapshots: snaps(tc.copied + "*")}}
		}
		if tc.change != nil {
			tc.change(&partial)
		}
		in.Pairs[0].Target.Partial = &partial
		p := plan.Make(in)
		if d := cmp.Diff(tc.want, steps(p)); d != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, d)
		}
		if again := p.Again(); again != (len(p.Refusals) == 0) {
			t.Errorf("%s: Again() = %v", tc.name, again)
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestKeep(t *testing.T) {
	n2, n3 := guest.NodeID(strings.Repeat("2", 32)), guest.NodeID(strings.Repeat("3", 32))
	target := func(n guest.NodeID, has, pins string) plan.Holding {
		h := plan.Holding{Node: n, Known: true, Volumes: map[guest.Volume]plan.Held{}}
		h.Volumes[vol] = plan.Held{Has: guids(has), Pins: guids(pins)}
		return h
	}
	for _, tc := range []struct {
		name, row string
		targets   []plan.Holding
		want      string // what is spare
	}{
		{"only the newest is needed", "t1* t2* a t3*", []plan.Holding{target(n2, "t3", "t3")}, "t1 t2"},
		{"the base of another pair", "t1* t2* t3*", []plan.Holding{target(n2, "t3", "t3"), target(n3, "t1", "t1")}, "t2"},
		{"both ends of a partial receive", "t1* t2* t3* t4*", []plan.Holding{target(n2, "t1", "t1 t3")}, "t2"},
		{"what all targets have", "t1* t2* t3*", []plan.Holding{target(n2, "t1 t3", "t3"), target(n3, "t1 t2", "t2")}, ""},
		{"an empty target asks for nothing", "t1* t2*", []plan.Holding{target(n2, "t2", "t2"), target(n3, "", "")}, "t1"},
		{"an unknown target keeps everything", "t1* t2*", []plan.Holding{target(n2, "t2", "t2"), {Node: n3}}, ""},
		{"the newest complete one, not the newest", "t1* t2* t3", []plan.Holding{target(n2, "", "")}, "t1 t3"},
		{"never an operator's", "a b!", nil, ""},
	} {
		v := plan.Keep(plan.Judged{Volumes: map[guest.Volume][]plan.Snapshot{vol: snaps(tc.row)}, Targets: tc.targets})
		if d := cmp.Diff(tc.want, names(v.Spare[vol])); d != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, d)
		}
	}
}

func guids(row string) []uint64 {
	var out []uint64
	for f := range strings.FieldsSeq(row) {
		out = append(out, guid(f))
	}
	return out
}

func TestKeep_APointIsWholeOnlyWithAllItsVolumes(t *testing.T) {
	other := guest.Volume{Storage: "s", Name: "e"}
	both := func(row string) []plan.Snapshot {
		s := snaps(row)
		for i := range s {
			s[i].Volumes = []guest.Volume{vol, other}
		}
		return s
	}
	j := plan.Judged{Volumes: map[guest.Volume][]plan.Snapshot{vol: both("t1* t2*"), other: both("t1*")}}
	v := plan.Keep(j)
	if v.Keep[vol][guid("t1")] == "" {
		t.Error("the newest point that is complete on all volumes is not kept")
	}
	if d := cmp.Diff("t2", names(v.Spare[vol])); d != "" {
		t.Error(d)
	}
	// A point from before the second disk was added counts with its one volume.
	j.Volumes[vol] = snaps("t1*")
	j.Volumes[vol][0].Volumes = []guest.Volume{vol}
	j.Volumes[other] = nil
	if v := plan.Keep(j); v.Keep[vol][guid("t1")] == "" {
		t.Error("a point of one volume is not kept because the guest has two")
	}
}

func TestCurrent(t *testing.T) {
	for _, tc := range []struct {
		source, target string
		change         func(*plan.Pair)
		want           string
	}{
		{source: "t1*", target: "t1*", want: "t1"},
		{source: "t1*", target: "t1"},
		{source: "t1* a", target: "t1*"},
		{source: "t1* t2*", target: "t1*"},
		{source: "t1*", target: "t1*", change: func(p *plan.Pair) { p.Source.Written = 1 }},
		{source: "t1*", target: "t1*", change: func(p *plan.Pair) { p.Target.Partial = &plan.Partial{} }},
		{source: "t1*", target: ""},
		// Too little to be sure that data was changed: an increment tells.
		{source: "t1*", target: "t1*", change: func(p *plan.Pair) { p.Target.Written = 512 }},
		{source: "t1*", target: "t1*", change: func(p *plan.Pair) { p.Target.Modified = true }},
		{source: "t1*", target: "t1* o2", change: func(p *plan.Pair) { p.Target.Snapshots[1].Written = 512 }},
		{source: "t1*", target: "t1* o2", change: func(p *plan.Pair) { p.Target.Snapshots[1].Written = 0 }, want: "t1"},
	} {
		in := input(tc.source, tc.target, "t9")
		if tc.change != nil {
			tc.change(&in.Pairs[0])
		}
		if got, _ := plan.Current(in.Pairs); got != tc.want {
			t.Errorf("source %q, target %q: Current = %q, want %q", tc.source, tc.target, got, tc.want)
		}
		if _, ok := plan.Unchanged(in.Pairs); ok && tc.change != nil && tc.want == "" && in.Pairs[0].Target.Partial == nil {
			t.Errorf("source %q, target %q: nothing new would be sent", tc.source, tc.target)
		}
	}
}

func TestMake_OldZFSIsAWarning(t *testing.T) {
	for version, warns := range map[string]bool{
		"2.1.11-1": true, "2.1.14": false, "2.2.1": true, "2.2.2-0ubuntu9": false, "2.3.0": false, "0.8.6-1": true, "": false,
	} {
		in := input("t1", "", "t1")
		in.TargetZFS = version
		if got := slices.ContainsFunc(plan.Make(in).Warnings, func(w plan.Warning) bool { return strings.Contains(w.Text, version) }); got != (warns && version != "") {
			t.Errorf("%q: warning %v, want %v", version, got, warns)
		}
	}
}

func ExampleMake() {
	p := plan.Make(input("t0 hourly t1", "t0*", "t1"))
	for _, s := range p.Volumes[0].Steps {
		fmt.Printf("%s from %s to %s: %s\n", s.Verb, s.From.Name, s.To.Name, s.Reason)
	}
	// Output: incremental run from t0 to t1: all that is newer than t0
}
