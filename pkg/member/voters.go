package member

import (
	"cmp"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

const (
	// settleTime is how long a member must have been caught up before it votes.
	settleTime = 10 * time.Second
	// replaceAfter is how long a voter must have been dead before another takes its place.
	replaceAfter = 10 * time.Minute
)

// Voters is how many of n members vote.
func Voters(n int) int {
	table := []int{0, 1, 2, 3, 3, 5, 5, 7}
	return table[min(n, len(table)-1)]
}

// Standing is what the leader knows of one member.
type Standing struct {
	Node guest.NodeID
	// Listed: on the ledger's member list; Follows: in raft's configuration; Votes: as a voter.
	Listed, Follows, Votes bool
	// ReadySince is since when it has been alive and caught up; zero: it is not.
	ReadySince time.Time
	// DeadSince is since when it has been dead; zero: it is not.
	DeadSince time.Time
}

// Change is one change of raft's configuration; the zero Change is none.
type Change struct {
	Kind ChangeKind
	Node guest.NodeID
}

// ChangeKind says what a Change does.
type ChangeKind string

// The kinds of changes.
const (
	NoChange    ChangeKind = ""
	AddFollower ChangeKind = "follow"
	Promote     ChangeKind = "promote"
	Demote      ChangeKind = "demote"
	Drop        ChangeKind = "drop"
)

// NextChange is the one change of raft's configuration that is due: members
// follow before they vote, vote once they kept up for 10 s, and a voter dead for
// 10 minutes is replaced, promotion first. The number of voters never shrinks by
// itself.
func NextChange(all []Standing, now time.Time) Change {
	all = slices.SortedFunc(slices.Values(all), func(a, b Standing) int { return cmp.Compare(a.Node, b.Node) })
	listed, votes := 0, 0
	var candidate, dead *Standing
	for i := range all {
		s := &all[i]
		switch {
		case s.Listed && !s.Follows:
			return Change{AddFollower, s.Node}
		case !s.Listed && s.Follows:
			return Change{Drop, s.Node}
		}
		if s.Listed {
			listed++
		}
		if s.Votes {
			votes++
			if dead == nil && !s.DeadSince.IsZero() && now.Sub(s.DeadSince) >= replaceAfter {
				dead = s
			}
		} else if candidate == nil && s.Follows && !s.ReadySince.IsZero() && now.Sub(s.ReadySince) >= settleTime {
			candidate = s
		}
	}
	want := Voters(listed)
	switch {
	case candidate != nil && (votes < want || votes == want && dead != nil):
		return Change{Promote, candidate.Node}
	case dead != nil && votes > want:
		return Change{Demote, dead.Node}
	default:
		return Change{}
	}
}
