// Package job is the state machine of a replication job: when it runs, what a
// result means, how it backs off.
//
//	             Picked                    Succeeded
//	    ┌──────────────────► running ──────────────────┐
//	    │                    │ ▲   │                   ▼
//	   ok ◄──────────────────┼─┼───┼────────────────── ok
//	    ▲     Skipped        │ │   │ Failed
//	    │                    │ │   ▼
//	    │ Enable    Skipped  │ │ Picked (5, 10, 15, then every 30 minutes;
//	    │                    ▼ │         at once on TargetUp and Ask)
//	    └──── disabled ◄──── error(n) ◄── Failed
//	            ▲  │ Disable              ok, error(n): Disable → disabled
//	            │  └ Enable → ok or error(n), by its facts
//	            running: Disable takes effect when the run has ended
//
//	any state ── Delete ──► removing ── Succeeded ──► forgotten (effect Forget)
//	                        │      ▲
//	                        └──────┘ Failed: the same back-off
//	any state ── Delete with Force ──► forgotten
//	any state ── Restarted ──► what its facts and the ledger say; a run that
//	                           was cut is due at once
//
// Facts are stored (when it was last tried, how often it failed since), and all
// else is derived from them and the present time: the state after a restart,
// when it is due, what status says. Missed runs (daemon down, machine asleep,
// clock stepped) collapse into one, because a job is due or not, never twice.
//
// The package is pure: it has no clock, starts nothing and stores nothing.
// pkg/node keeps one Job for each job of its guests, feeds it events and
// performs the effects; which of the due jobs run now is pkg/sched's business.
package job

import (
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/guest"
)

const (
	// SkipPause is the time after which a run that was skipped, because the
	// guest was locked, is tried again.
	SkipPause = time.Minute
	// MinPause is the least time between the end of a failed run and the next
	// try that nobody asked for, however long the failed run took.
	MinPause = time.Minute
	// clockSlack is how far in the future a fact may lie before it tells that
	// the clock was set back.
	clockSlack = time.Minute
)

// DefaultRetries are the times from a failed try to the next; the last repeats
// for ever and is the interval while the target is dead ("The failed
// replication is repeatedly tried again in a 30 minute interval").
func DefaultRetries() []time.Duration {
	return []time.Duration{5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute}
}

// Settings say how a job runs.
type Settings struct {
	Schedule calendar.Schedule
	// Local is the zone of a schedule that names none; nil is UTC.
	Local *time.Location
	// Target is the node's name, for people.
	Target guest.NodeName
	// Retries are the times from try to try while it fails; empty means DefaultRetries.
	Retries []time.Duration
}

func (s Settings) equal(o Settings) bool {
	return s.Schedule.Equal(o.Schedule) && s.Local == o.Local && s.Target == o.Target && slices.Equal(s.Retries, o.Retries)
}

// retry is the time from the start of the n-th failed try in a row to the next.
func (s Settings) retry(n int) time.Duration {
	list := s.Retries
	if len(list) == 0 {
		list = DefaultRetries()
	}
	return list[min(max(n, 1), len(list))-1]
}

// slow is the interval of tries while the target is dead.
func (s Settings) slow() time.Duration { return s.retry(1 << 30) }

// Spec is what the ledger and the configuration say about a job.
type Spec struct {
	Settings
	Disabled bool
	// Removing is set when an operator deleted the job; Keep leaves its replica.
	Removing, Keep bool
}

// Facts are what is known of a job's past; with the Spec they give its state.
type Facts struct {
	// Known is since when this daemon knows the job. A job that was never tried
	// runs at its first due time after it.
	Known time.Time
	// LastTry is the start of the last run, LastEnd its end.
	LastTry, LastEnd time.Time
	// LastSync is the start of the last run that succeeded.
	LastSync time.Time
	// Fails counts the failed runs since then.
	Fails int
	// LastError is why the last of them failed; empty where Fails is 0.
	LastError string
	// Interrupted is set when the last run was cut by the daemon's end.
	Interrupted bool
}

// Job is one job as its owner sees it.
type Job struct {
	Settings Settings
	Facts    Facts
	// DownSince is since when gossip has held the target for dead; zero while it is alive.
	DownSince time.Time
	State     State
}

// State is one of OK, Running, Failing, Disabled, Removing.
//
//sumtype:decl
type State interface{ isState() }

// OK is a job that succeeded, or is new: the calendar says when it runs.
type OK struct{ Wait }

// Failing is a job whose last runs failed, Facts.Fails times in a row.
type Failing struct{ Wait }

// Running is a job whose sync is under way.
type Running struct {
	Started time.Time
	// Now and Manual are those of the wait that ended with this run.
	Now    time.Time
	Manual bool
	// Again is since when an operator wants another run after this one; zero is not.
	Again time.Time
	// Back is since when the target is alive again that went down during this run;
	// zero where it did not. If the run fails, that was why.
	Back time.Time
	// Disable makes the job disabled when the run has ended.
	Disable bool
}

// Disabled is a job that an operator switched off.
type Disabled struct{}

// Removing is a job that an operator deleted and whose traces are being cleaned.
type Removing struct {
	Since time.Time
	// Keep leaves the replica's data on the target.
	Keep bool
	// Busy is set while a run goes on: the cleaning, or the sync that was cancelled.
	Busy bool
	// Fails counts the failed cleanings, LastTry is the start of the last, LastError why it failed.
	Fails     int
	LastTry   time.Time
	LastError string
	// Wait holds a try that was put off or asked for.
	Wait Wait
	// Gone is set once nothing is left to do; the loop forgets the job.
	Gone bool
}

// Wait is what can move the next run of a waiting job.
type Wait struct {
	// Now is since when a run is wanted at once; zero leaves it to the calendar or the back-off.
	Now time.Time
	// Manual is set when an operator asked for it.
	Manual bool
	// Until puts off the next run, and Why says why.
	Until time.Time
	Why   string
}

func (OK) isState()       {}
func (Failing) isState()  {}
func (Running) isState()  {}
func (Disabled) isState() {}
func (Removing) isState() {}

// New is the job from plain facts: one that was just created, taken over, or
// found again by a daemon that starts. A zero Known becomes now.
func New(spec Spec, facts Facts, now time.Time) Job {
	if facts.Known.IsZero() {
		facts.Known = now
	}
	j := Job{Settings: spec.Settings, Facts: facts}
	switch {
	case spec.Removing:
		j.State = Removing{Since: now, Keep: spec.Keep}
	case spec.Disabled:
		j.State = Disabled{}
	default:
		j.State = idle(facts, Wait{})
	}
	return j
}

// idle is the state of a job that neither runs nor is switched off.
func idle(f Facts, w Wait) State {
	if f.Interrupted && w.Now.IsZero() {
		w.Now = f.LastTry
	}
	if f.Fails > 0 {
		return Failing{w}
	}
	return OK{w}
}
