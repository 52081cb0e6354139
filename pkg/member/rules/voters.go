package rules

import (
	"cmp"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

const (
	// SettleTime is how long a member must have been caught up before it votes.
	SettleTime = 10 * time.Second
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
	// Leads: it is the leader itself.
	Leads bool
	// Leaving: it is to be removed, and must have no vote before.
	Leaving bool
	// Strange: a live member has not applied its join, and would refuse its key.
	Strange bool
	// SetAside: its raft folder was set aside. It has forgotten votes that it gave,
	// so that it must lose its vote until it has caught up.
	SetAside bool
	// ReadySince is since when it has been alive and caught up; zero: it is not.
	ReadySince time.Time
	// DeadSince is since when it has been dead; zero: it is not.
	DeadSince time.Time
}

func (s Standing) alive() bool { return s.DeadSince.IsZero() }

// deadForLong: its place is to be taken by another.
func (s Standing) deadForLong(now time.Time) bool {
	return !s.alive() && now.Sub(s.DeadSince) >= replaceAfter
}

// fit: it can be given a vote.
func (s Standing) fit(now time.Time) bool {
	return s.Listed && s.Follows && !s.Votes && !s.Leaving && !s.Strange && !s.SetAside && !s.ReadySince.IsZero() && now.Sub(s.ReadySince) >= SettleTime
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
	// HandOver lets another voter lead in place of Node, which leads.
	HandOver ChangeKind = "hand over"
)

// NextChange is the one change of raft's configuration that is due: members
// follow before they vote; they vote once they kept up for 10 s and every live
// member knows them; a voter dead for 10 minutes is replaced, and one that leaves,
// promotion first where somebody is fit. The number of voters never shrinks by
// itself, only with the member list. A leader that is to go hands over first.
// Storages play no part: a witness votes as any.
func NextChange(all []Standing, now time.Time) Change {
	all = slices.SortedFunc(slices.Values(all), func(a, b Standing) int { return cmp.Compare(a.Node, b.Node) })
	if c := enrol(all); c.Kind != NoChange {
		return c
	}
	stay := count(all, func(s Standing) bool { return s.Listed && !s.Leaving })
	votes := count(all, func(s Standing) bool { return s.Votes })
	candidate := slices.IndexFunc(all, func(s Standing) bool { return s.fit(now) })
	dead := slices.IndexFunc(all, func(s Standing) bool { return s.Votes && s.deadForLong(now) })
	leaving := slices.IndexFunc(all, func(s Standing) bool { return s.Votes && s.Leaving })
	want, replaced := Voters(stay), dead >= 0 || leaving >= 0
	switch {
	case candidate >= 0 && (votes < want || votes == want && replaced):
		return Change{Promote, all[candidate].Node}
	case leaving >= 0 && !enough(all, all[leaving]):
		return Change{}
	case leaving >= 0:
		return without(all, all[leaving], Demote)
	case votes > want:
		return without(all, leastUseful(all, now), Demote)
	default:
		return Change{}
	}
}

func count(all []Standing, is func(Standing) bool) (n int) {
	for _, s := range all {
		if is(s) {
			n++
		}
	}
	return n
}

// enrol brings raft's configuration in step with the member list.
func enrol(all []Standing) Change {
	for _, s := range all {
		switch {
		case s.Listed && !s.Follows:
			return Change{AddFollower, s.Node}
		case !s.Listed && s.Follows:
			if c := without(all, s, Drop); c.Kind != NoChange {
				return c
			}
		case s.SetAside && s.Votes:
			if c := without(all, s, Demote); c.Kind != NoChange {
				return c
			}
		}
	}
	return Change{}
}

// without takes a node out, or has it hand over first; the last voter stays.
func without(all []Standing, s Standing, kind ChangeKind) Change {
	others := slices.ContainsFunc(all, func(o Standing) bool {
		return o.Node != s.Node && o.Votes && o.Listed && o.alive() && !o.SetAside && !o.Leaving
	})
	switch {
	case s.Votes && !others:
		return Change{}
	case s.Leads:
		return Change{HandOver, s.Node}
	default:
		return Change{kind, s.Node}
	}
}

// enough says whether the voters that stay are a majority of themselves without one
// that is to be removed: nobody could bring them back to it.
func enough(all []Standing, leaving Standing) bool {
	votes, living := 0, 0
	for _, s := range all {
		if s.Votes && s.Node != leaving.Node {
			votes++
			if s.Leads || s.alive() && !s.SetAside && !s.ReadySince.IsZero() {
				living++
			}
		}
	}
	return living > votes/2
}

// leastUseful is the voter that goes where there is one too many: one long dead,
// then one dead, then one that lags; the leader last.
func leastUseful(all []Standing, now time.Time) Standing {
	rank := func(s Standing) int {
		switch {
		case s.Leads:
			return 4
		case s.deadForLong(now):
			return 0
		case !s.alive():
			return 1
		case s.ReadySince.IsZero():
			return 2
		default:
			return 3
		}
	}
	voters := slices.DeleteFunc(slices.Clone(all), func(s Standing) bool { return !s.Votes })
	return slices.MinFunc(voters, func(a, b Standing) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), -cmp.Compare(a.Node, b.Node))
	})
}

// Complete says whether a cluster that was forced is one as any again: as many
// members vote as the list asks for, and a majority of them is alive.
func Complete(all []Standing) bool {
	listed, votes, living := 0, 0, 0
	for _, s := range all {
		if s.Listed {
			listed++
		}
		if s.Votes {
			votes++
			if s.alive() {
				living++
			}
		}
	}
	return votes == Voters(listed) && living > votes/2
}
