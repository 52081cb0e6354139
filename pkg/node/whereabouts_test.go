package node_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
)

const (
	ours   = "0123456789abcdef"
	theirs = "fedcba9876543210"
)

// agreed is a ledger of three members, n1 to n3; n1 owns guest 100, n2 guest 200.
func agreed() *ledger.State {
	s := state()
	s.Cluster, s.Generation, s.Index, s.Changed = strings.Repeat("c", 32), ours, 9, 9
	s.Members = map[guest.NodeID]ledger.Member{}
	for n := 1; n <= 3; n++ {
		s.Members[nodeID(n)] = ledger.Member{
			ID: nodeID(n), Name: guest.NodeName(fmt.Sprintf("n%d", n)), Gossip: fmt.Sprintf("192.0.2.%d:7946", n),
		}
	}
	for id, g := range s.Guests {
		g.Term = guest.Term{N: 4, Generation: ours}
		s.Guests[id] = g
	}
	return s
}

// word is what node n2 says: what its ledger says, and more.
func word(applied uint64, claims map[string]string) map[guest.NodeID]node.Word {
	w := node.Word{Generation: ours, Applied: applied, Entries: node.Announcement(agreed(), nodeID(2))}
	for key, term := range claims {
		b, _ := json.Marshal(node.Whereabouts{Term: term})
		w.Entries[key] = b
	}
	return map[guest.NodeID]node.Word{nodeID(2): w}
}

// told is what is shown at the end of some seconds, each with what n2 said from then
// on.
func told(s *ledger.State, seconds map[int]map[guest.NodeID]node.Word, end int) []string {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var pace node.Pace
	var last map[guest.NodeID]node.Word
	for sec := range end + 1 {
		if w, ok := seconds[sec]; ok {
			last = w
			pace = pace.See(s, w, begin.Add(time.Duration(sec)*time.Second))
		}
	}
	return node.Disagreements(s, last, pace, begin.Add(time.Duration(end)*time.Second))
}

func TestDisagreements(t *testing.T) {
	other := map[string]string{"guest/100": "3-" + ours}
	foreign := word(9, other)
	w := foreign[nodeID(2)]
	w.Generation = theirs
	foreign[nodeID(2)] = w
	for name, tc := range map[string]struct {
		said map[int]map[guest.NodeID]node.Word
		end  int
		want []string // a part of each sentence
	}{
		"agreement":         {map[int]map[guest.NodeID]node.Word{0: word(9, nil)}, 60, nil},
		"nobody else":       {nil, 0, nil},
		"another's guest":   {map[int]map[guest.NodeID]node.Word{0: word(9, other)}, 0, []string{"node n2 says that it owns guest 100 at term 3-" + ours + ", but the ledger gives it to n1 at term 4-" + ours + ": make sure that the guest does not run on n2"}},
		"another term":      {map[int]map[guest.NodeID]node.Word{0: word(9, map[string]string{"guest/200": "3-" + ours})}, 0, []string{"but the ledger says term 4-" + ours + ": restart tandemd there"}},
		"a guest of nobody": {map[int]map[guest.NodeID]node.Word{0: word(9, map[string]string{"guest/999": "1-" + ours})}, 0, []string{"owns guest 999, which the ledger does not know"}},
		"a guest that runs elsewhere": {
			map[int]map[guest.NodeID]node.Word{0: word(9, map[string]string{"runs/100": ""})},
			0,
			[]string{"guest 100 runs on n2 although it is n1's at term 4-" + ours + ": n2 stops it by itself"},
		},
		"its own guest runs":     {map[int]map[guest.NodeID]node.Word{0: word(9, map[string]string{"runs/200": ""})}, 0, nil},
		"a hostile term":         {map[int]map[guest.NodeID]node.Word{0: word(9, map[string]string{"guest/100": "\x1b[2J"})}, 0, []string{"at term ?, but"}},
		"what is not a guest":    {map[int]map[guest.NodeID]node.Word{0: word(9, map[string]string{"guest/x": "1", "load": "2"})}, 0, nil},
		"merely behind":          {map[int]map[guest.NodeID]node.Word{0: word(8, other)}, 9, nil},
		"behind for 10 s":        {map[int]map[guest.NodeID]node.Word{0: word(8, other)}, 10, []string{"node n2 has been behind for 10s: its ledger stands at index 8, here it is 9", "owns guest 100"}},
		"behind, then not":       {map[int]map[guest.NodeID]node.Word{0: word(8, other), 5: word(9, nil)}, 60, nil},
		"ahead of us":            {map[int]map[guest.NodeID]node.Word{0: word(12, other)}, 9, nil},
		"ahead of us for long":   {map[int]map[guest.NodeID]node.Word{0: word(12, other)}, 20, []string{"this node has been behind node n2 for 20s"}},
		"another generation":     {map[int]map[guest.NodeID]node.Word{0: foreign}, 0, []string{`node n2 follows another generation of the ledger ("` + theirs + `", here "` + ours + `")`, "owns guest 100"}},
		"said while it was away": {map[int]map[guest.NodeID]node.Word{0: word(8, other), 3: {}}, 60, nil},
	} {
		got := told(agreed(), tc.said, tc.end)
		if len(got) != len(tc.want) {
			t.Errorf("%s: got %q, want %d sentences", name, got, len(tc.want))
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], tc.want[i]) {
				t.Errorf("%s: got %q, want something with %q", name, got[i], tc.want[i])
			}
		}
	}
}

// A node that follows a busy ledger at a small distance is never called wrong.
func TestPace_ABusyLedger(t *testing.T) {
	begin := time.Now()
	s := agreed()
	var pace node.Pace
	for i := range uint64(600) {
		s.Index, s.Changed = 10+i, 10+i
		now := begin.Add(time.Duration(i) * 100 * time.Millisecond)
		heard := word(8+i, map[string]string{"guest/100": "3-" + ours})
		pace = pace.See(s, heard, now)
		if got := node.Disagreements(s, heard, pace, now); len(got) != 0 {
			t.Fatalf("after %s: %q", now.Sub(begin), got)
		}
	}
}

func TestDisagreements_ManyAreSummedUp(t *testing.T) {
	claims := map[string]string{}
	for id := 1000; id < 2000; id++ {
		claims[fmt.Sprintf("guest/%d", id)] = "1-" + ours
	}
	got := told(agreed(), map[int]map[guest.NodeID]node.Word{0: word(9, claims)}, 0)
	if len(got) != 11 || !strings.Contains(got[0], "guest 1000,") || !strings.Contains(got[10], "990 more") {
		t.Errorf("%d sentences: %q", len(got), got)
	}
}

func TestStrange(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	got := node.Strange(agreed(), []node.Stranger{
		{Address: "192.0.2.2", First: ago(time.Minute), Last: ago(time.Second)},
		{Address: "192.0.2.77", Cluster: strings.Repeat("d", 32), First: ago(time.Minute), Last: ago(time.Second)},
		{Address: "192.0.2.78", First: ago(9 * time.Second), Last: now},
		{Address: "192.0.2.79", First: ago(time.Hour), Last: ago(10 * time.Minute)},
	}, now)
	want := []string{"192.0.2.77 gossips to this node for another cluster (dddddddd, this one is cccccccc)", "node n2 (192.0.2.2) gossips with a key that this cluster no longer uses"}
	if len(got) != 2 || !strings.HasPrefix(got[0], want[0]) || !strings.HasPrefix(got[1], want[1]) {
		t.Errorf("got %q", got)
	}
}

func TestUnitAnnouncement_TellsOfOwnAndForeignUnits(t *testing.T) {
	s := agreed()
	words := map[guest.ID]node.UnitWord{100: {State: "running", Since: 7}, 200: {State: "stopped"}}
	entries := node.UnitAnnouncement(s, nodeID(2), words)
	if entries["runs/100"] == nil || entries["guest/200"] == nil || len(entries) != 2 {
		t.Errorf("the entries are %q", entries)
	}
	if d := cmp.Diff(words, node.UnitWords(entries)); d != "" {
		t.Error(d)
	}
	var whole node.Whereabouts
	if err := json.Unmarshal(entries["guest/200"], &whole); err != nil || whole.Term != s.Guests[200].Term.String() {
		t.Errorf("the term is lost: %+v, %v", whole, err)
	}
}
