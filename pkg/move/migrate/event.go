package migrate

import (
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Effect is what is to be done next. Each ends in one event; all that it needs is in
// the record, which is on disk before it is done. Each may be done again.
type Effect string

// The effects.
const (
	// DoNothing: what is being done goes on, or nothing is left.
	DoNothing Effect = ""
	// DoCheck looks whether the migration can be done.
	DoCheck Effect = "check"
	// DoSync brings what was written to the target while the guest runs.
	DoSync Effect = "sync"
	// DoHold keeps everybody else's hands off the guest, and looks whether it runs.
	DoHold Effect = "hold"
	// DoStop stops it.
	DoStop Effect = "stop"
	// DoSeal makes its volumes read-only.
	DoSeal Effect = "seal"
	// DoShip brings the rest to the target.
	DoShip Effect = "ship"
	// DoProve makes sure that the target has all.
	DoProve Effect = "prove"
	// DoPropose sends the owner change, again with the same ID.
	DoPropose Effect = "propose"
	// DoRetain sends the command that cancels it, again with the same ID.
	DoRetain Effect = "retain"
	// DoAwait waits for the target to start the guest.
	DoAwait Effect = "await"
	// DoUndo makes the guest's volumes usable again where it was, and starts it if it ran.
	DoUndo Effect = "undo"
)

// Event is what happened.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Began says: the record is new.
	Began struct{}
	// Resumed says: the daemon was restarted, and has read the record.
	Resumed struct{}
	// Cancel says: an operator wants it back. Retain is a new command ID.
	Cancel struct{ Retain string }
	// Failed says: the effect did not succeed.
	Failed struct{ Reason string }
	// Checked says: it can be done.
	Checked struct{}
	// Synced says: a sync while the guest runs is done.
	Synced struct{ Round Round }
	// Held says: nobody else touches the guest; Ran says whether it runs.
	Held struct{ Ran bool }
	// Halted says: it does not run.
	Halted struct{}
	// Closed says: nobody can write to its volumes.
	Closed struct{}
	// Shipped says: the target has the point.
	Shipped struct {
		Point string
		Round Round
	}
	// Proven says: the target has all. Command is a new command ID.
	Proven struct {
		GUIDs   map[guest.Volume]uint64
		Command string
	}
	// Done says: the owner change was carried out.
	Done struct{}
	// Retained says: the cancel was carried out.
	Retained struct{}
	// Unsent says: the command has certainly never been sent.
	Unsent struct{ Reason string }
	// Unknown says: the command may have been carried out or not.
	Unknown struct{ Reason string }
	// Refused says: the ledger refused the command, and says now whose the guest is. Spent
	// says that the guest has another term by now: no owner change of this migration can be
	// carried out any more.
	Refused struct {
		Reason string
		Now    Standing
		Spent  bool
	}
	// Arrived says: the target has finished.
	Arrived struct {
		Started  bool
		Downtime *time.Duration
		Warnings []string
	}
	// Restored says: the guest is where it was, its volumes usable. Warnings say why it
	// does not run although it did; its keeper sees to that.
	Restored struct{ Warnings []string }
	// Gone says: by a confirmed ledger it is somebody else's business now.
	Gone struct{ Reason string }
	// Unwritten says: what Event led to could not be written down. The disk may have it all
	// the same, or what it had before. Retain is a new command ID.
	Unwritten struct {
		Event  Event
		Reason string
		Retain string
	}
)

func (Began) event()     {}
func (Resumed) event()   {}
func (Cancel) event()    {}
func (Failed) event()    {}
func (Checked) event()   {}
func (Synced) event()    {}
func (Held) event()      {}
func (Halted) event()    {}
func (Closed) event()    {}
func (Shipped) event()   {}
func (Proven) event()    {}
func (Done) event()      {}
func (Retained) event()  {}
func (Unsent) event()    {}
func (Unknown) event()   {}
func (Refused) event()   {}
func (Arrived) event()   {}
func (Restored) event()  {}
func (Gone) event()      {}
func (Unwritten) event() {}
