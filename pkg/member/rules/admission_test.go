package rules_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/member/rules"
)

func TestAdmission(t *testing.T) {
	own := rules.Own{Boots: 8, Generation: "X", Term: 5, LastIndex: 100}
	heard := func(boots uint64, marks ...rules.Mark) rules.Record { return rules.Record{Boots: boots, Marks: marks} }
	for _, tc := range []struct {
		name  string
		heard []rules.Record
		need  int
		want  rules.GateKind
		says  string
		boots uint64
	}{
		{"alone in the cluster", nil, 0, rules.GateStart, "", 0},
		{"nobody answered", nil, 1, rules.GateWait, "waiting to hear from 1 more of the other members (n2, n3)", 0},
		{"one of two needed answered", []rules.Record{heard(7)}, 2, rules.GateWait, "from 1 more", 0},
		{"never heard of", []rules.Record{heard(0)}, 1, rules.GateStart, "", 0},
		{"up to date", []rules.Record{heard(7, rules.Mark{Generation: "X", Term: 5, LastIndex: 100, Applied: 99})}, 1, rules.GateStart, "", 0},
		{"its unconfirmed tail was cut", []rules.Record{heard(7, rules.Mark{Generation: "X", Term: 5, LastIndex: 110, Applied: 99})}, 1, rules.GateStart, "", 0},
		{"term lower", []rules.Record{heard(7, rules.Mark{Generation: "X", Term: 6})}, 1, rules.GateSetAside, "term 6, here 5", 0},
		{"ledger shorter", []rules.Record{heard(7, rules.Mark{Generation: "X", Term: 5, Applied: 101})}, 1, rules.GateSetAside, "ledger index 101, here 100", 0},
		{"before enough have answered", []rules.Record{heard(7, rules.Mark{Generation: "X", Term: 6})}, 3, rules.GateSetAside, "term 6, here 5", 0},
		{"an older image by its starts", []rules.Record{heard(12)}, 1, rules.GateSetAside, "start 12 of its daemon, this is start 8", 13},
		{"the same start twice, on a full disk", []rules.Record{heard(8)}, 1, rules.GateStart, "", 0},
		{"the same start twice, with a lower term", []rules.Record{heard(8, rules.Mark{Generation: "X", Term: 6})}, 1, rules.GateSetAside, "term 6, here 5", 9},
		{"marks of another generation", []rules.Record{heard(7, rules.Mark{Generation: "A", Term: 50, Applied: 1000})}, 1, rules.GateStart, "", 0},
		{"the highest of several", []rules.Record{heard(7), heard(20), heard(9)}, 3, rules.GateSetAside, "the disk was put back to an earlier state", 21},
	} {
		t.Run(tc.name, func(t *testing.T) {
			remembered := map[guest.NodeID]rules.Record{}
			for i, r := range tc.heard {
				remembered[nodeID(i+2)] = r
			}
			got := rules.Admission(own, remembered, tc.need, []string{"n2", "n3"})
			if got.Kind != tc.want || !strings.Contains(got.Reason, tc.says) || got.Boots != tc.boots {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A node that only ever went forward is let in, however often it is heard and
// restarted; one that was put back behind what was heard is not.
func TestAdmission_OnlyTheWayBackIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := in("X"[:1], 2)
		c.Boots, c.Term, c.Index, c.LastIndex = 1, 1, 1, 1
		var heard rules.Record
		var image *rules.Own
		ahead := false // of the image, as heard
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				c.Boots++
			case 1:
				c.Term++
			case 2:
				c.LastIndex += 2
			case 3:
				c.Index = c.LastIndex
			case 4:
				heard = heard.With(c)
				ahead = image != nil && (c.Boots > image.Boots || c.Term > image.Term || c.Index > image.LastIndex)
			case 5:
				image = &rules.Own{Boots: c.Boots, Generation: "X", Term: c.Term, LastIndex: c.LastIndex}
				ahead = false
			}
			c.LastIndex = max(c.Index, c.LastIndex-1) // what is not confirmed may be cut
		}
		all := map[guest.NodeID]rules.Record{nodeID(1): heard}
		own := rules.Own{Boots: c.Boots + 1, Generation: "X", Term: c.Term, LastIndex: c.LastIndex}
		if v := rules.Admission(own, all, 1, nil); v.Kind != rules.GateStart {
			t.Fatalf("refused without need: %+v, own %+v, heard %+v", v, own, heard)
		}
		if image == nil {
			return
		}
		image.Boots++ // counted at its start
		if v := rules.Admission(*image, all, 1, nil); ahead && heard.Boots > image.Boots && v.Kind != rules.GateSetAside {
			t.Fatalf("an old image was let in: %+v, heard %+v", *image, heard)
		}
	})
}

func TestRecord_KeepsTheHighestOfTheLastGenerations(t *testing.T) {
	var r rules.Record
	for _, g := range []string{"A", "B", "C", "D", "E", "C"} {
		c := in(g, 1)
		c.Term, c.Index = 7, 70
		r = r.With(c)
	}
	low := in("C", 1)
	low.Term, low.Index = 3, 30
	r = r.With(low)
	var got string
	for _, m := range r.Marks {
		got += m.Generation
		if m.Term != 7 || m.Applied != 70 {
			t.Errorf("%+v", m)
		}
	}
	if got != "BDEC" {
		t.Errorf("kept %s", got)
	}
}
