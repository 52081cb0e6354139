// Package rules decides what a node does about one guest: whether what runs here
// is what may run here, and what is to be done where it is not.
//
// It is pure: facts in, one next step out, with its reason in words. pkg/keeper
// gathers the facts, does the step, and asks again.
//
// The rule on knowledge: an entry of the ledger that this node knows is committed,
// and true of its index. Terms of a guest only grow, so an entry that gives the
// guest to another node at a later term than the volumes here carry is enough to
// stop it here, however old that entry is. Everything else that cannot be undone by
// itself (to start, to take over, to set data aside) needs a read that a majority
// confirmed a moment ago.
package rules

import "github.com/tandemd/tandem/pkg/guest"

// Facts are all that a step is decided from.
type Facts struct {
	Self guest.NodeID
	// Guest is as the newest ledger that is known here has it.
	Guest guest.Guest
	// Owner is the name of its owner, for sentences.
	Owner string
	// Confirmed says that a read confirmed within the last seconds says the same owner and term.
	Confirmed bool
	// Paused is why the guest is not to be touched (it is moving), or empty.
	Paused string
	Unit   Unit
	Disks  Disks
	Note   Note
	// Due says that the guest is to be started now, since the machine has booted.
	Due bool
}

// Unit is what runs the guest.
type Unit struct {
	// Named is unset for a guest without a unit: Tandem only replicates it.
	Named bool
	// Unknown is why its state cannot be told, or empty.
	Unknown string
	// Running is true from the beginning of a start to the end of a stop. Passing is true of it while a start waits for the
	// answer of a condition, which may be no, or for its time after a failure, and while a stop is going on.
	Running, Passing bool
}

// Runs says that it is past the point at which its start may be refused, and nobody stops it.
func (u Unit) Runs() bool { return u.Running && !u.Passing }

// Disks are the volumes of the guest on this node.
type Disks struct {
	// Unknown is why they cannot be read, or empty.
	Unknown string
	Volumes []Volume
}

// Volume is one of them.
type Volume struct {
	Volume guest.Volume
	// Missing: there is no such dataset here. Foreign: it carries marks of another guest or cluster.
	Missing, Foreign bool
	// Marked says that it carries this guest's marks; then Role and Term are they.
	Marked bool
	Role   string
	Term   guest.Term
	// ReadOnly is the property. Unmounted: it is a filesystem that ZFS mounts by itself, and is not mounted.
	ReadOnly, Unmounted bool
	// Unfinished says that its becoming a replica after it was an owner's, or its being set aside, was cut.
	Unfinished bool
}

// RoleOwner marks an owner's volume; pkg/zfs writes it.
const RoleOwner = "owner"

// Note is what a node remembers of a guest over restarts of its daemon.
type Note struct {
	// Term is the newest under which the guest was this node's own, its volumes
	// included; zero: never.
	Term guest.Term `json:"term,omitzero"`
	// Begun is the Term of the guest's Beginning that this node has taken over, or has begun to.
	Begun guest.Term `json:"begun,omitzero"`
	// Start says that the guest is to be started once that is finished.
	Start bool `json:"start,omitempty"`
}

// Do is a step.
type Do string

// The steps.
const (
	// Nothing: all is as it should be.
	Nothing Do = "nothing"
	// Tell: something is not, and nothing can be done about it now.
	Tell Do = "tell"
	// Confirm: find out whether the ledger that is known here is still true.
	Confirm Do = "confirm"
	// Adopt: remember that the guest is this node's own.
	Adopt Do = "adopt"
	// TakeOver: make the volumes here the owner's data of the guest's term.
	TakeOver Do = "take over"
	// Start the unit.
	Start Do = "start"
	// Stop the unit: the guest may not run here.
	Stop Do = "stop"
	// Retire: what a former owner has becomes a replica or a kept copy.
	Retire Do = "retire"
)

// Step is what to do next, and why; Why is a clause for people.
type Step struct {
	Do  Do
	Why string
}

// Older says that term a of a guest was before b. Terms of different generations
// of the ledger are compared by their counters too: a fork goes on from the count
// that it found. Where these are equal nothing can be said.
func Older(a, b guest.Term) bool { return !a.IsZero() && a.N < b.N }

// Usable says that every volume stands here as the owner's of the present term, ready
// to be written to.
func (f Facts) Usable() bool {
	h := f.held()
	return f.Guest.Owner == f.Self && h.ready() && !h.unmounted
}

// held is what the volumes here say, all together.
type held struct {
	// owner: some carry role owner, of any term; older: all these carry an older term than the ledger's.
	owner, older bool
	// unfinished: some were an owner's and are no replica yet.
	unfinished bool
	// replica: some carry another role. other: some carry role owner of another term.
	replica, other bool
	// bare: some carry no mark. Of the present term, sealed: some are read-only; unmounted: some are not mounted.
	bare, sealed, unmounted bool
	missing                 *guest.Volume
	foreign                 *guest.Volume
}

func (f Facts) held() held {
	var h held
	h.older = true
	for _, v := range f.Disks.Volumes {
		h.unfinished = h.unfinished || v.Unfinished
		switch {
		case v.Missing:
			h.missing = &v.Volume
		case v.Foreign:
			h.foreign = &v.Volume
		case !v.Marked:
			h.bare = true
		case v.Role != RoleOwner:
			h.replica = true
		default:
			h.owner = true
			h.other = h.other || v.Term != f.Guest.Term
			h.older = h.older && Older(v.Term, f.Guest.Term)
			h.sealed = h.sealed || v.Term == f.Guest.Term && v.ReadOnly
			h.unmounted = h.unmounted || v.Term == f.Guest.Term && v.Unmounted
		}
	}
	h.older = h.older && h.owner
	return h
}

// ready says that every volume stands here as the owner's of the present term.
func (h held) ready() bool {
	return h.owner && !h.replica && !h.other && !h.bare && !h.sealed && h.missing == nil && h.foreign == nil
}
