// Package migrate moves a guest from its owner to another node without losing a
// byte: the source's side of a migration, as a machine of phases that are written
// down before they are acted on.
//
//	prepared → presync(n) → stopping → stopped → sealed → final → sent → confirmed → ended
//	    └─────────┴────────────┴─────────┴─────────┴───────┘       │
//	                           ↓  every failure, a cancel, a crash  │ a cancel that the ledger
//	                          back → ended  ←───────────────────────┘ took before the change
//
// What cannot be written down goes back, too. Where the disk may then say sent although the
// change was not, the cancel is sent first: a restart would send the change.
//
// Until the owner change is sent, everything goes back. Once it is sent and its
// outcome not known the move is in doubt, over restarts too: the guest stays stopped
// on both nodes, and only a command ends it. Of the owner change and the cancel, which
// gives the same owner a new term, the first to commit makes the other be refused.
// Once it is confirmed everything goes forward: the new owner finishes from what the
// ledger says.
//
// Step is pure. Mover performs what it says; pkg/daemon gives it the syncs, the
// volumes, the units, the ledger and the other node.
package migrate

import (
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Phase is how far a migration is.
type Phase string

// The phases, in their order.
const (
	// Prepared: it is being checked whether it can be done.
	Prepared Phase = "prepared"
	// Presync: the guest runs, and what it wrote is brought to the target.
	Presync Phase = "presync"
	// Stopping: the guest is told to stop.
	Stopping Phase = "stopping"
	// Stopped: it does not run, and its volumes are being made read-only.
	Stopped Phase = "stopped"
	// Sealed: nobody can write, and the last sync brings what is left.
	Sealed Phase = "sealed"
	// Final: both sides have the same, which is being proven.
	Final Phase = "final"
	// Sent: the owner change may have been sent.
	Sent Phase = "sent"
	// Confirmed: the target owns the guest, and is starting it.
	Confirmed Phase = "confirmed"
	// Back: the guest's volumes are being made usable again where it was, and it is started if it ran.
	Back Phase = "back"
	// Ended: nothing is left to do; Outcome says how it ended.
	Ended Phase = "ended"
)

// Phases are all of them.
func Phases() []Phase {
	return []Phase{Prepared, Presync, Stopping, Stopped, Sealed, Final, Sent, Confirmed, Back, Ended}
}

// Outcome is how a migration ended.
type Outcome string

// The outcomes.
const (
	// Moved: the target owns the guest.
	Moved Outcome = "moved"
	// Undone: the guest is where it was, and nothing has changed.
	Undone Outcome = "undone"
	// Superseded: somebody else gave the guest to a node meanwhile, or removed it.
	Superseded Outcome = "superseded"
)

// Version is that of the record.
const Version = 1

// Record is a migration as it is written down: all that a restart needs to know.
type Record struct {
	Version int `json:"version"`
	// ID is random.
	ID    string       `json:"id"`
	Guest guest.ID     `json:"guest"`
	From  guest.NodeID `json:"from"`
	To    guest.NodeID `json:"to"`
	// Term is the one at which From owned the guest when it began.
	Term guest.Term `json:"term"`
	// NoStart leaves the guest stopped on the target.
	NoStart bool `json:"no_start,omitempty"`
	// DeleteSource removes the copy that From keeps.
	DeleteSource bool   `json:"delete_source,omitempty"`
	By           string `json:"by,omitempty"`
	// Begun and Since, when the phase was entered, are by the wall clock, for people.
	Begun time.Time `json:"begun"`
	Since time.Time `json:"since"`
	Phase Phase     `json:"phase"`
	// Rounds are the syncs so far; the last one of a guest that is stopped among them.
	Rounds []Round `json:"rounds,omitempty"`
	// Touched says that the guest was told to stop: going back then has something to do.
	Touched bool `json:"touched,omitempty"`
	// Ran says that it ran before that.
	Ran bool `json:"ran,omitempty"`
	// Point and GUIDs are what the new term begins from; set from Final on.
	Point string                  `json:"point,omitempty"`
	GUIDs map[guest.Volume]uint64 `json:"guids,omitempty"`
	// Command is the ID of the owner change, Retain that of the command that cancels it.
	Command string `json:"command,omitempty"`
	Retain  string `json:"retain,omitempty"`
	// Cancelled: it is not to go on: an operator asked for the cancel, or it could not be written down.
	Cancelled bool `json:"cancelled,omitempty"`
	// Doubt is since when the outcome of a command that was sent is not known; zero: it is, or none was sent.
	Doubt time.Time `json:"doubt,omitzero"`
	// Trouble is why it does not go on at the moment, Reason why it went back.
	Trouble string  `json:"trouble,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Outcome Outcome `json:"outcome,omitempty"`
	// Downtime is from the beginning of the stop to the start on the target; nil: not measured.
	Downtime *time.Duration `json:"downtime,omitempty"`
	// Started says that the guest runs on the target.
	Started bool `json:"started,omitempty"`
	// Warnings are what somebody should look at after the end.
	Warnings []string  `json:"warnings,omitempty"`
	Finished time.Time `json:"finished,omitzero"`
}

// Round is one sync of a migration.
type Round struct {
	Bytes uint64        `json:"bytes"`
	Took  time.Duration `json:"took"`
}

// Beginning is what the new owner's term begins from.
func (r Record) Beginning() *guest.Beginning {
	return &guest.Beginning{How: guest.ByMigration, Point: r.Point, GUIDs: r.GUIDs, Stopped: r.NoStart || !r.Ran}
}

// InDoubt says that nobody knows whether the owner change has happened.
func (r Record) InDoubt() bool { return r.Phase == Sent && !r.Doubt.IsZero() }

// Over says that nothing is left to do.
func (r Record) Over() bool { return r.Phase == Ended }
