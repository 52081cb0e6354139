package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// RemovalFacts are what the removal of a member is planned on.
type RemovalFacts struct {
	// Quorate: this node can give commands at all.
	Quorate bool
	// Leader is the node that leads.
	Leader guest.NodeID
	// Alive are the members that gossip or a connection shows alive; Voters are
	// the nodes that vote.
	Alive, Voters map[guest.NodeID]bool
	// Force insists while the cluster runs on forced quorum.
	Force bool
}

// RemovalPlan is what `tandem cluster remove` does, or why it does not.
type RemovalPlan struct {
	// Steps is what is done, in order; Leaves what stays behind, for the operator
	// to know or to clean.
	Steps, Leaves []string
	// HandOver: the node leads, and hands over before the command is given.
	HandOver bool
	Op       ledger.RemoveMember
	// Refusal is set where nothing is done.
	Refusal *Refusal
}

// PlanRemoval plans to take the node with that name off the member list. The jobs to it
// that are still in s are dropped: whoever asks ends those before that can be cleaned up.
func PlanRemoval(s *ledger.State, name guest.NodeName, f RemovalFacts) RemovalPlan {
	m, ok := s.MemberByName(name)
	if !ok {
		return RemovalPlan{Refusal: Refuse("the members are "+memberNames(s), "node %s is not a member", name)}
	}
	if r := refuseRemoval(s, m, f); r != nil {
		return RemovalPlan{Refusal: r}
	}
	jobs := jobsTo(s, m.ID)
	p := RemovalPlan{
		HandOver: f.Leader == m.ID,
		Op:       ledger.RemoveMember{ID: m.ID, DropJobs: len(jobs) > 0, Force: f.Force},
	}
	if p.HandOver {
		p.Steps = append(p.Steps, fmt.Sprintf("%s leads: another voter takes over first", m.Name))
	}
	for _, j := range jobs {
		p.Steps = append(p.Steps, fmt.Sprintf("drop job %s, which replicates guest %s to %s", j.ID, j.ID.Guest, m.Name))
		p.Leaves = append(p.Leaves, fmt.Sprintf("on %s: the replica of guest %s (%s), read-only; Tandem forgets it there",
			m.Name, j.ID.Guest, volumesOf(s, j.ID.Guest)))
	}
	p.Steps = append(p.Steps,
		fmt.Sprintf("take %s off the member list: its key is refused from then on", m.Name),
		"change the gossip key, which it knows")
	if f.Voters[m.ID] {
		p.Steps = append(p.Steps, fmt.Sprintf("%s loses its vote: %s", m.Name, votersAfter(s)))
	}
	p.Leaves = append(p.Leaves, fmt.Sprintf("on %s: its key, its state folder and its volumes, with which it can join again by a new token", m.Name))
	if s.Forced {
		p.Leaves = append(p.Leaves, "a note in the cluster's log that it was removed on forced quorum")
	}
	return p
}

func refuseRemoval(s *ledger.State, m ledger.Member, f RemovalFacts) *Refusal {
	var owned []string
	for _, g := range s.GuestList() {
		if g.Owner == m.ID {
			owned = append(owned, g.ID.String())
		}
	}
	switch {
	case len(s.Members) == 1:
		return Refuse("to end Tandem on this machine, stop tandemd and remove its state folder; volumes stay as they are",
			"%s is the last member: a cluster cannot be without one", m.Name)
	case !f.Quorate:
		return Refuse("see with `tandem cluster status` which members are away; if they are gone for good, `tandem cluster expected` comes first",
			"%s cannot be removed: this node is not quorate", m.Name)
	case len(owned) > 0 && f.Alive[m.ID]:
		return Refuse("move them to other nodes, or take them out with `tandem guest remove`", "%s owns guests: %s", m.Name, list(owned))
	case len(owned) > 0:
		return Refuse("recover them on other nodes, or take them out with `tandem guest remove`", "%s owns guests: %s", m.Name, list(owned))
	case s.Forced && !f.Force:
		return Refuse("bring the other members back first, or insist with --force", "%s cannot be removed now: the cluster runs on forced quorum", m.Name)
	}
	return refuseVotes(s, m, f)
}

// refuseVotes refuses what would leave no majority.
func refuseVotes(s *ledger.State, m ledger.Member, f RemovalFacts) *Refusal {
	if !f.Voters[m.ID] {
		return nil
	}
	votes, living := 0, 0
	var dead []string
	for _, id := range slices.Sorted(maps.Keys(f.Voters)) {
		if !f.Voters[id] || id == m.ID {
			continue
		}
		votes++
		if f.Alive[id] {
			living++
		} else {
			dead = append(dead, s.NameOf(id))
		}
	}
	switch {
	case living == 0:
		return Refuse("bring another voter back, or wait until another member has a vote: see `tandem cluster status`",
			"%s is the last voter that is alive", m.Name)
	case living < votes/2+1:
		return Refuse("bring back or remove first what is dead: "+list(dead),
			"without %s %d of %d votes would be alive, and %d needed", m.Name, living, votes, votes/2+1)
	default:
		return nil
	}
}

func votersAfter(s *ledger.State) string {
	n := len(s.Members) - 1
	return fmt.Sprintf("of %d members %d vote", n, Voters(n))
}

func jobsTo(s *ledger.State, node guest.NodeID) []guest.Job {
	return slices.DeleteFunc(s.JobList(), func(j guest.Job) bool { return j.Target != node })
}

func volumesOf(s *ledger.State, id guest.ID) string {
	var out []string
	for _, v := range s.Guests[id].Volumes {
		out = append(out, v.String())
	}
	return strings.Join(out, ", ")
}

func memberNames(s *ledger.State) string {
	var out []string
	for _, m := range s.MemberList() {
		out = append(out, string(m.Name))
	}
	return list(out)
}
