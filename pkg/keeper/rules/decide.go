package rules

import "fmt"

// Decide is the next step for a guest on this node.
func Decide(f Facts) Step {
	switch {
	case f.Guest.Owner != f.Self:
		return f.others()
	case f.Paused != "":
		return Step{Nothing, f.Paused}
	default:
		return f.own()
	}
}

// others decides about a guest of another node: whatever of it is here as an
// owner's is fenced first, and then made to follow.
func (f Facts) others() Step {
	h := f.held()
	whose := fmt.Sprintf("guest %s is %s's at term %s", f.Guest.ID, f.Owner, f.Guest.Term)
	past := h.older || !h.owner && Older(f.Note.Term, f.Guest.Term)
	former := h.owner || h.unfinished
	switch {
	case f.Unit.Named && f.Unit.Unknown != "" && (former || f.Disks.Unknown != "" && !f.Note.Term.IsZero()):
		return Step{Tell, whose + ", and whether its unit runs here cannot be told: " + f.Unit.Unknown}
	case f.Unit.Running && (past || f.Confirmed):
		return Step{Stop, whose + ", so it may not run here"}
	case f.Paused != "":
		return Step{Nothing, f.Paused}
	case f.Unit.Running:
		return Step{Confirm, whose + " by what this node knows, and runs here"}
	case f.Disks.Unknown != "" && f.Note.Term.IsZero():
		return Step{Nothing, whose + ", and was never this node's"}
	case f.Disks.Unknown != "":
		return Step{Tell, whose + ", and its volumes here cannot be read: " + f.Disks.Unknown}
	case former && !f.Confirmed:
		return Step{Confirm, whose + ", and its volumes here are still an owner's, or no replica yet"}
	case former:
		return Step{Retire, whose + ", so its volumes here follow that node from now on"}
	default:
		return Step{Nothing, whose}
	}
}

// own decides about a guest of this node.
func (f Facts) own() Step {
	h := f.held()
	g := f.Guest
	fresh := g.Beginning != nil && f.Note.Begun != g.Beginning.Term
	switch {
	case f.Disks.Unknown != "":
		return f.unless(f.Note.Start || f.Due || fresh, "its volumes cannot be read: "+f.Disks.Unknown)
	case h.foreign != nil:
		return Step{Tell, fmt.Sprintf("volume %s carries the marks of another guest", h.foreign)}
	case h.ready():
		return f.ready(h, fresh)
	case h.missing != nil && g.Beginning == nil:
		return Step{Tell, fmt.Sprintf("volume %s does not exist here", h.missing)}
	case h.replica || h.other || h.missing != nil || fresh:
		return f.takeOver(h)
	case f.Unit.Runs() || !f.Note.Start && !f.Due:
		return Step{Nothing, "it is this node's own"} // sealed or without marks, which a start mends
	case !f.Confirmed:
		return Step{Confirm, "it is to be started"}
	case h.sealed:
		return Step{TakeOver, "its volumes are read-only"}
	default:
		return Step{TakeOver, "its volumes carry no mark yet"}
	}
}

// takeOver is for a guest whose volumes here are not the present term's.
func (f Facts) takeOver(h held) Step {
	why := fmt.Sprintf("it is this node's own since term %s, and its volumes here are not yet", f.Guest.Term)
	switch {
	case !f.Confirmed:
		return Step{Confirm, why}
	case h.replica && f.Unit.Named && f.Unit.Unknown != "":
		return Step{Tell, "whether its unit runs cannot be told: " + f.Unit.Unknown}
	case h.replica && f.Unit.Running:
		return Step{Stop, "it runs on volumes that are still a replica's"}
	default:
		return Step{TakeOver, why}
	}
}

// ready is for a guest whose volumes are as they should be; fresh says that this
// node has not taken note of what the term began from.
func (f Facts) ready(h held, fresh bool) Step {
	noted := f.Note.Term == f.Guest.Term
	switch {
	case h.unmounted && f.Guest.Beginning != nil && !fresh && !noted && !f.Unit.Running:
		return f.takeOver(h) // It was cut after the marks. Later it is an operator's business what is mounted.
	case fresh || !noted || !f.Unit.Named && f.Note.Start:
		// Its taking over is finished, and this node has forgotten that it was begun, or it has the guest from a time before notes;
		// or the unit that was to be started is its own no more.
		return Step{Adopt, "it is this node's own"}
	case !f.Unit.Named:
		return Step{Nothing, "it has no unit"}
	case f.Unit.Unknown != "":
		return f.unless(f.Note.Start || f.Due, "the state of its unit cannot be told: "+f.Unit.Unknown)
	case f.Unit.Runs() && f.Note.Start:
		return Step{Adopt, "it runs already"}
	case f.Unit.Runs():
		return Step{Nothing, "it is this node's own, and runs"}
	case !f.Note.Start && !f.Due:
		return Step{Nothing, "it is this node's own, and stopped"}
	case !f.Confirmed:
		return Step{Confirm, "it is to be started"}
	case f.Note.Start:
		return Step{Start, "it has come to this node"}
	default:
		return Step{Start, "the machine has booted"}
	}
}

// unless tells what is in the way where something is to be done, and else leaves it at that.
func (f Facts) unless(wanted bool, why string) Step { //nolint:revive // flag-parameter: it is a fact
	if wanted {
		return Step{Tell, why}
	}
	return Step{Nothing, why}
}

// Taken is the note of a guest that this node begins to take over.
func Taken(f Facts) Note {
	n := f.Note
	if b := f.Guest.Beginning; b != nil && n.Begun != b.Term {
		n.Begun, n.Start = b.Term, !b.Stopped && f.Unit.Named
	}
	return n
}

// Adopted is the note of a guest whose volumes are this node's own.
func Adopted(f Facts) Note {
	n := f.Note
	if b := f.Guest.Beginning; b != nil && n.Begun != b.Term {
		n.Begun, n.Start = b.Term, false
	}
	n.Start = n.Start && f.Unit.Named && !f.Unit.Runs()
	n.Term = f.Guest.Term
	return n
}

// MayStart says whether the guest may run here, by facts with disks that were
// read just now; the reason is a clause, empty where it may.
func MayStart(f Facts) string {
	h := f.held()
	switch {
	case f.Guest.Owner != f.Self:
		return fmt.Sprintf("it is %s's at term %s", f.Owner, f.Guest.Term)
	case f.Paused != "":
		return f.Paused
	case f.Disks.Unknown != "":
		return "its volumes cannot be read: " + f.Disks.Unknown
	case h.missing != nil:
		return fmt.Sprintf("volume %s does not exist here", h.missing)
	case h.foreign != nil:
		return fmt.Sprintf("volume %s carries the marks of another guest", h.foreign)
	case h.replica || h.other:
		return fmt.Sprintf("its volumes here are not marked as the owner's of term %s", f.Guest.Term)
	case h.sealed:
		return "its volumes are read-only"
	case h.bare:
		return "its volumes carry no mark yet"
	case !f.Confirmed:
		return "whether it is still this node's own is not confirmed"
	default:
		return ""
	}
}
