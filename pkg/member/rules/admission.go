package rules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// Mark is how far a node's raft had come in one generation.
type Mark struct {
	Generation string `json:"generation"`
	Term       uint64 `json:"term"`
	LastIndex  uint64 `json:"last_index"`
	// Applied is how much of the log was confirmed for certain.
	Applied uint64 `json:"applied"`
}

// Record is the most that was ever heard of a node.
type Record struct {
	Boots uint64 `json:"boots"`
	// Marks are of the last generations that the node was in, newest last.
	Marks []Mark `json:"marks,omitempty"`
}

// keptMarks bounds a record.
const keptMarks = 4

// With is the record after the node was heard.
func (r Record) With(c Claim) Record {
	m := Mark{Generation: c.Generation, Term: c.Term, LastIndex: c.LastIndex, Applied: c.Index}
	marks := slices.Clone(r.Marks)
	if i := slices.IndexFunc(marks, func(k Mark) bool { return k.Generation == c.Generation }); i >= 0 {
		old := marks[i]
		m.Term, m.LastIndex, m.Applied = max(m.Term, old.Term), max(m.LastIndex, old.LastIndex), max(m.Applied, old.Applied)
		marks = slices.Delete(marks, i, i+1)
	}
	marks = append(marks, m)
	return Record{Boots: max(r.Boots, c.Boots), Marks: marks[max(0, len(marks)-keptMarks):]}
}

// Equal says whether nothing differs.
func (r Record) Equal(o Record) bool { return r.Boots == o.Boots && slices.Equal(r.Marks, o.Marks) }

// Own is how far this node had come, as its own disk has it.
type Own struct {
	// Boots counts the starts of the daemon, this one included.
	Boots      uint64
	Generation string
	// Term is raft's current term, LastIndex that of the last entry of its log.
	Term, LastIndex uint64
}

// GateKind says what a starting node does with its raft folder.
type GateKind string

// The kinds of gate verdicts.
const (
	// GateWait: not enough have answered yet.
	GateWait GateKind = "wait"
	// GateStart: raft may be started.
	GateStart GateKind = "start"
	// GateSetAside: the folder is that of an older time, and must not vote.
	GateSetAside GateKind = "set_aside"
)

// GateVerdict is what a starting node does, and why.
type GateVerdict struct {
	Kind   GateKind
	Reason string
	// Boots is what the counter of the daemon's starts is to be set to; 0: leave it.
	Boots uint64
}

// Admission decides whether a node may start raft on the folder that it has, from
// what others remember of it. A node whose disk was put back to an older state
// has forgotten votes that it gave and commands that it confirmed, so that it
// could make a second truth. need is how many others have to answer, names says
// who has not.
func Admission(own Own, remembered map[guest.NodeID]Record, need int, silent []string) GateVerdict {
	var boots uint64
	reason := ""
	for _, node := range slices.Sorted(maps.Keys(remembered)) {
		r := remembered[node]
		boots = max(boots, r.Boots)
		if why := olderThan(own, r); why != "" && reason == "" {
			reason = fmt.Sprintf("the raft folder of generation %s is older than what node %s remembers of this node (%s): the disk was put back to an earlier state",
				Short(own.Generation), node.Short(), why)
		}
	}
	switch {
	case reason != "":
		v := GateVerdict{Kind: GateSetAside, Reason: reason}
		if boots >= own.Boots {
			v.Boots = boots + 1
		}
		return v
	case len(remembered) >= need:
		return GateVerdict{Kind: GateStart}
	default:
		return GateVerdict{Kind: GateWait, Reason: fmt.Sprintf(
			"waiting to hear from %d more of the other members (%s) whether this node's disk is up to date", need-len(remembered), list(silent))}
	}
}

// olderThan says how a node's disk is older than what was heard of it. The last
// index is held against what was applied, because raft rightly cuts what was not
// confirmed. The same start twice is no sign: a full disk does not count.
func olderThan(own Own, r Record) string {
	if own.Boots < r.Boots {
		return fmt.Sprintf("start %d of its daemon, this is start %d", r.Boots, own.Boots)
	}
	i := slices.IndexFunc(r.Marks, func(m Mark) bool { return m.Generation == own.Generation })
	if i < 0 {
		return ""
	}
	switch m := r.Marks[i]; {
	case own.Term < m.Term:
		return fmt.Sprintf("term %d, here %d", m.Term, own.Term)
	case own.LastIndex < m.Applied:
		return fmt.Sprintf("ledger index %d, here %d", m.Applied, own.LastIndex)
	default:
		return ""
	}
}
