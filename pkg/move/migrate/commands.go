package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/ledger"
)

// command sends the owner change or the cancel, and learns what became of it.
func (x *move) command(ctx context.Context, r Record, effect Effect) Event {
	o := &x.m.o
	c := ledger.Command{ID: r.Command, By: r.By, At: o.Now().Unix()}
	c.Op = ledger.ChangeOwner{ID: r.Guest, Owner: r.From, Term: r.Term, To: r.To, Beginning: r.Beginning()}
	if effect == DoRetain {
		c.ID, c.Op = r.Retain, ledger.Retain{ID: r.Guest, Owner: r.From, Term: r.Term}
	}
	first := !x.sent
	x.sent = true
	if x.sentAt.IsZero() {
		x.sentAt = time.Now()
	}
	err := o.Ledger.Propose(ctx, c)
	refused, isRefused := errors.AsType[*RefusedError](err)
	switch {
	case err == nil && effect == DoRetain:
		return Retained{}
	case err == nil:
		return Done{}
	case errors.Is(err, ErrUnsent) && first:
		return Unsent{Reason: fmt.Sprintf("the owner change could not be sent: %v", err)}
	case !isRefused:
		return Unknown{Reason: fmt.Sprintf("whether the guest's owner has changed is not known: %v", err)}
	}
	// Whose it is now counts, by a ledger that has this refusal.
	if err := o.Ledger.Confirm(ctx); err != nil {
		return Unknown{Reason: fmt.Sprintf("whose the guest is cannot be confirmed: %v", err)}
	}
	g, ok := o.Ledger.View().Guests[r.Guest]
	return Refused{Reason: refused.Reason, Now: r.StandingOf(g, ok), Spent: !ok || g.Term != r.Term}
}

// await waits for the target to have the guest, and for what is left here.
func (x *move) await(ctx context.Context, r Record) Event {
	o := &x.m.o
	if x.resume != nil {
		// Until this node's own copy of the ledger has the change, nobody else here gets the guest.
		if err := o.Ledger.Confirm(ctx); err != nil {
			return Failed{Reason: fmt.Sprintf("the owner change is made, and this node cannot see it yet: %v", err)}
		}
	}
	g, ok := o.Ledger.View().Guests[r.Guest]
	if ok && g.Owner == r.From && g.Term == r.Term {
		return Failed{Reason: "this node does not see the owner change yet"}
	}
	x.release() // The keeper of this node makes a replica of what is here.
	if r.StandingOf(g, ok) != Theirs {
		return Gone{Reason: "the guest went on from there meanwhile"}
	}
	if x.awaited.IsZero() {
		x.awaited = time.Now()
	}
	l, err := o.Landing(ctx, r)
	answered := time.Now()
	late := answered.Sub(x.awaited) > o.AwaitFor // By a clock that nobody sets.
	switch {
	case err == nil && l.Ready && (l.Running || r.Beginning().Stopped || g.Unit == ""):
	case err == nil && late:
		return Arrived{Warnings: []string{"it has not been started there: " + l.Trouble}}
	case late:
		return Arrived{Warnings: []string{fmt.Sprintf("whether it was started there is not known: %v", err)}}
	case err != nil:
		return Failed{Reason: fmt.Sprintf("%s does not tell whether it has started the guest: %v", x.name(r.To), err)}
	case l.Trouble != "":
		return Failed{Reason: fmt.Sprintf("%s has not started it yet: %s", x.name(r.To), l.Trouble)}
	default:
		return Failed{Reason: fmt.Sprintf("%s has not started it yet", x.name(r.To))}
	}
	a := Arrived{Started: l.Running}
	if l.Running && !x.stopBegun.IsZero() {
		d := x.downtime(answered, l.Ago)
		a.Downtime = &d
	}
	if r.DeleteSource {
		if err := o.Volumes.Discard(ctx, r.Guest); err != nil {
			a.Warnings = append(a.Warnings, fmt.Sprintf("the copy on %s is left: %v", x.name(r.From), err))
		}
	}
	return a
}

// downtime is from the beginning of the stop to the start on the target. Each node has
// measured its own part of it: this one all until the answer came, whose way back counts
// as downtime, and the target for how long the guest ran by then. It cannot have been
// started there before the owner change was sent.
func (x *move) downtime(answered time.Time, ran time.Duration) time.Duration {
	return max(x.sentAt.Sub(x.stopBegun), answered.Sub(x.stopBegun)-max(0, ran))
}

// undo makes the guest's volumes usable again where it was, if it is still this node's,
// and starts it if it ran. One that does not start is its keeper's from then on, not a
// reason to keep it from being stopped, or moved to where it would start.
func (x *move) undo(ctx context.Context, r Record) Event {
	o := &x.m.o
	if err := o.Ledger.Confirm(ctx); err != nil {
		return Failed{Reason: fmt.Sprintf("the guest stays stopped until the cluster confirms whose it is: %v", err)}
	}
	view := o.Ledger.View()
	g, ok := view.Guests[r.Guest]
	if r.StandingOf(g, ok) != Ours {
		x.release()
		return Gone{Reason: "the guest went to another node meanwhile"}
	}
	x.leave()
	if err := o.Volumes.Unseal(ctx, view.Cluster, g); err != nil {
		return Failed{Reason: fmt.Sprintf("the guest's volumes cannot be made usable again: %v", err)}
	}
	x.release()
	if !r.Ran || g.Unit == "" {
		return Restored{}
	}
	if err := o.Guests.Start(ctx, r.Guest); err != nil {
		return Restored{Warnings: []string{fmt.Sprintf("the guest does not run again yet: %v", err)}}
	}
	return Restored{}
}
