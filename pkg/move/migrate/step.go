package migrate

import (
	"cmp"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Standing is whose a guest is, by the ledger, as seen from one migration.
type Standing string

// The standings.
const (
	// Ours: From owns it, at whatever term.
	Ours Standing = "ours"
	// Theirs: To owns it because of this migration's owner change.
	Theirs Standing = "theirs"
	// Others: neither; or it does not exist.
	Others Standing = "others"
)

// StandingOf tells it from the guest as the ledger has it.
func (r Record) StandingOf(g guest.Guest, exists bool) Standing {
	b := g.Beginning
	switch {
	case exists && g.Owner == r.From:
		return Ours
	case exists && g.Owner == r.To && b != nil && b.How == guest.ByMigration && b.From == r.From && b.Term == r.Term:
		return Theirs
	default:
		return Others
	}
}

// The syncs while the guest runs.
const (
	// maxRounds is how many there are at most.
	maxRounds = 8
	// shortRound: what is written while one takes so long is brought in about that time.
	shortRound = 5 * time.Second
)

// enough says that one more sync would not make the last one shorter.
func enough(rounds []Round) bool {
	n := len(rounds)
	switch {
	case n == 0:
		return false
	case n >= maxRounds, rounds[n-1].Took < shortRound:
		return true
	default:
		return n > 1 && rounds[n-1].Took >= rounds[n-2].Took*9/10
	}
}

// Step is the machine. What does not fit the phase changes nothing.
func Step(r Record, e Event, now time.Time) (Record, Effect) {
	was := r.Phase
	r.Trouble = ""
	next, effect := step(r, e, now)
	if next.Phase != was {
		next.Since = now
	}
	if next.Phase == Ended && was != Ended {
		next.Finished, next.Doubt = now, time.Time{}
	}
	return next, effect
}

func step(r Record, e Event, now time.Time) (Record, Effect) {
	switch e := e.(type) {
	case Cancel:
		return cancel(r, e)
	case Unwritten:
		return unwritten(r, e, now)
	default:
	}
	switch r.Phase {
	case Prepared, Presync, Stopping, Stopped, Sealed, Final:
		return ahead(r, e)
	case Sent:
		return sent(r, e, now)
	case Confirmed:
		return confirmed(r, e)
	case Back:
		return back(r, e)
	case Ended:
	}
	return r, DoNothing
}

// cancel notes the wish: what is being done ends first, or is ended.
func cancel(r Record, c Cancel) (Record, Effect) {
	switch r.Phase {
	case Prepared, Presync, Stopping, Stopped, Sealed, Final:
		r.Cancelled = true
	case Sent:
		r.Cancelled = true
		if r.Retain == "" {
			r.Retain = c.Retain
		}
	case Confirmed, Back, Ended: // Too late, or on its way.
	}
	return r, DoNothing
}

// ahead is what happens before the owner change is sent: anything but the success
// that the phase waits for goes back.
func ahead(r Record, e Event) (Record, Effect) {
	switch e := e.(type) {
	case Failed:
		if r.Cancelled {
			return goBack(r, "it was cancelled")
		}
		return goBack(r, e.Reason)
	case Resumed:
		return goBack(r, "tandemd was restarted in phase "+string(r.Phase))
	case Gone:
		return end(r, Superseded, e.Reason)
	default:
	}
	next, effect, fits := onward(r, e)
	switch {
	case !fits:
		return r, DoNothing
	case r.Cancelled:
		// What was just done is part of what is undone.
		return goBack(next, "it was cancelled")
	default:
		return next, effect
	}
}

// onward is the way without trouble.
func onward(r Record, e Event) (Record, Effect, bool) {
	switch e := e.(type) {
	case Began:
		return r, DoCheck, r.Phase == Prepared
	case Checked:
		return r.in(Presync), DoSync, r.Phase == Prepared
	case Synced:
		r.Rounds = append(slices.Clone(r.Rounds), e.Round)
		if enough(r.Rounds) {
			return r, DoHold, r.Phase == Presync
		}
		return r, DoSync, r.Phase == Presync
	case Held:
		if r.Phase != Presync {
			return r, DoNothing, false
		}
		r.Ran = e.Ran
		if !r.Cancelled { // Else it is not told to stop.
			r.Touched = true
		}
		return r.in(Stopping), DoStop, true
	case Halted:
		return r.in(Stopped), DoSeal, r.Phase == Stopping
	case Closed:
		return r.in(Sealed), DoShip, r.Phase == Stopped
	case Shipped:
		r.Point, r.Rounds = e.Point, append(slices.Clone(r.Rounds), e.Round)
		return r.in(Final), DoProve, r.Phase == Sealed
	case Proven:
		if r.Phase != Final || r.Cancelled {
			return r, DoNothing, r.Phase == Final
		}
		r.GUIDs, r.Command = e.GUIDs, e.Command
		return r.in(Sent), DoPropose, true
	default:
	}
	return r, DoNothing, false
}

func (r Record) in(p Phase) Record {
	r.Phase = p
	return r
}

// sent is what happens once the owner change may be on its way.
func sent(r Record, e Event, now time.Time) (Record, Effect) {
	switch e := e.(type) {
	case Resumed:
		return doubt(r, "tandemd was restarted before the owner change was confirmed", now)
	case Unknown:
		return doubt(r, e.Reason, now)
	case Failed:
		return doubt(r, e.Reason, now)
	case Unsent:
		return goBack(r, e.Reason)
	case Done:
		return r.forward()
	case Retained:
		return goBack(r, cmp.Or(r.Reason, "it was cancelled"))
	case Refused:
		switch e.Now {
		case Theirs:
			return r.forward()
		case Ours:
			return goBack(r, e.Reason)
		case Others:
			return end(r, Superseded, e.Reason)
		}
	case Gone:
		return end(r, Superseded, e.Reason)
	default:
	}
	return r, DoNothing
}

func (r Record) forward() (Record, Effect) {
	r.Doubt = time.Time{}
	return r.in(Confirmed), DoAwait
}

// doubt is ended by a command only: the owner change once more, or the cancel.
func doubt(r Record, why string, now time.Time) (Record, Effect) {
	r.Trouble = why
	if r.Doubt.IsZero() {
		r.Doubt = now
	}
	if r.Cancelled && r.Retain != "" {
		return r, DoRetain
	}
	return r, DoPropose
}

// confirmed goes forward, whatever happens.
func confirmed(r Record, e Event) (Record, Effect) {
	switch e := e.(type) {
	case Resumed:
		return r, DoAwait
	case Failed:
		r.Trouble = e.Reason
		return r, DoAwait
	case Arrived:
		r.Started, r.Downtime, r.Warnings = e.Started, e.Downtime, e.Warnings
		return end(r, Moved, "")
	case Gone:
		r.Warnings = append(slices.Clone(r.Warnings), e.Reason)
		return end(r, Moved, "")
	default:
	}
	return r, DoNothing
}

// goBack undoes what was done, if anything was.
func goBack(r Record, why string) (Record, Effect) {
	r.Reason, r.Doubt = why, time.Time{}
	if !r.Touched {
		return end(r, Undone, why)
	}
	return r.in(Back), DoUndo
}

// back does not end before the guest is where it was, or somebody else's.
func back(r Record, e Event) (Record, Effect) {
	switch e := e.(type) {
	case Resumed:
		return r, DoUndo
	case Failed:
		r.Trouble = e.Reason
		return r, DoUndo
	case Restored:
		r.Warnings = append(slices.Clone(r.Warnings), e.Warnings...)
		return end(r, Undone, r.Reason)
	case Gone:
		return end(r, Superseded, e.Reason)
	default:
	}
	return r, DoNothing
}

// unwritten goes back where going on was not written down. What undoes things, or goes
// on with what the ledger knows, is done all the same: it is done again after a restart.
//
// But a restart that finds the phase sent on disk sends the owner change. Where the ledger
// would still take that, the guest may not run here again before the disk says otherwise:
// so the ledger is made to refuse it, by the cancel.
func unwritten(r Record, e Unwritten, now time.Time) (Record, Effect) {
	next, effect := step(r, e.Event, now)
	switch {
	case next.Phase == Sent && r.Phase != Sent:
		return retain(next, e.Reason, e)
	case next.Phase == Back && r.Phase == Sent && !spent(e.Event):
		return retain(r, next.Reason, e)
	case slices.Contains(early(), next.Phase):
		return step(r, Failed{Reason: e.Reason}, now)
	default:
		return next, effect
	}
}

// early are the phases before the owner change may have been sent.
func early() []Phase { return []Phase{Prepared, Presync, Stopping, Stopped, Sealed, Final} }

// spent says that after an event the ledger carries out no owner change of the migration.
func spent(e Event) bool {
	switch e := e.(type) {
	case Retained:
		return true
	case Refused:
		return e.Spent
	default:
		return false
	}
}

// retain has the cancel sent, whatever the disk says.
func retain(r Record, why string, e Unwritten) (Record, Effect) {
	r.Cancelled, r.Retain = true, cmp.Or(r.Retain, e.Retain)
	r.Reason, r.Trouble = why, e.Reason
	return r.in(Sent), DoRetain
}

func end(r Record, how Outcome, why string) (Record, Effect) {
	if why != "" {
		r.Reason = why
	}
	r.Outcome = how
	return r.in(Ended), DoNothing
}
