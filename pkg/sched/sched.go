// Package sched decides which of the due jobs start now, under the limits of the
// node and of each target.
//
// The order is fair: who has waited longest comes first (of those due at the same
// minute, who ran longest ago), what an operator asked for before all, a job in error behind the healthy ones. No kind of run can
// take all the places: long syncs (first ones, and those of jobs whose last one
// was long) and jobs in error, which may hang until they fail, leave a quarter of
// the places (at least one, where there are two) to the others, and of many places
// three quarters. A job that has to
// wait for its target's limit holds up nobody who goes elsewhere, so that
// transfers of one guest to different targets run side by side.
//
// The package is pure and keeps nothing: pkg/node tells it what is due (from
// pkg/job) and what runs, starts what it answers, and asks again when a run
// ends or at Wake. That a guest's snapshots are taken one at a time is not its
// business.
package sched

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// FailingHandicap is how much longer a job in error has to wait than a healthy
// one to come before it. It is not behind all healthy ones for ever, or a node
// at its limits would never try it again.
const FailingHandicap = 30 * time.Minute

// Limits bound what runs at the same time.
type Limits struct {
	// Node is the number of runs on this node, Target the number to one target.
	// Less than 1 counts as 1.
	Node, Target int
	// Spread is the time over which nodes spread what they start at the same minute;
	// each node's place in it is fixed. 0 starts them at once. It concerns what the
	// calendar brings, which is due at a whole minute: other runs have moments of their own.
	//
	// The jobs of one node start together: what is due together is listed,
	// snapshotted and committed together, which costs less than what a spread of
	// them would even out. It is a target of several nodes that the spread relieves.
	Spread time.Duration
	// Self is the node.
	Self guest.NodeID
}

// DefaultLimits are those of a node whose configuration gives none.
func DefaultLimits() Limits { return Limits{Node: 32, Target: 24, Spread: 2 * time.Second} }

// Candidate is a job that waits for its next run.
type Candidate struct {
	Job    guest.JobID
	Target guest.NodeID
	// Due is when it is, or was, due; Last is when it was run last.
	Due, Last time.Time
	// Manual is set when an operator asked for the run; it is not spread.
	Manual bool
	// Failing is set when its last run failed.
	Failing bool
	// Long is set when the run is expected to be long: there was no full sync yet,
	// or the last run took longer than LongRun.
	Long bool
}

// LongRun is what a run may take before the next one of its job counts as long.
const LongRun = 5 * time.Minute

// Slow says whether a run of this candidate counts as slow: it is expected to be
// long, or its job is in error.
func (c *Candidate) Slow() bool { return c.Failing || c.Long }

// start is when the run may begin.
func (c *Candidate) start(l Limits) time.Time {
	if c.Manual {
		return c.Due
	}
	return Begin(l.Self, c.Due, l.Spread)
}

// Begin is when a run that nobody asked for may begin that is due at this time on
// the node: what the calendar brings has the node's place in the spread.
func Begin(node guest.NodeID, due time.Time, spread time.Duration) time.Time {
	if !due.Equal(due.Truncate(time.Minute)) {
		return due
	}
	return due.Add(Offset(node, spread))
}

// Active is a run that goes on.
type Active struct {
	Job    guest.JobID
	Target guest.NodeID
	// Slow is what Candidate.Slow said when it was started.
	Slow bool
}

// Decision is what to do now.
type Decision struct {
	// Start are the jobs to start now, in order.
	Start []guest.JobID
	// Wake is when to ask again, unless a run ends before; zero is never.
	Wake time.Time
	// Held are the jobs that are due and have to wait, and why.
	Held []Held
}

// Held is a job that a limit keeps from running.
type Held struct {
	Job    guest.JobID
	Reason string
}

// Pick decides. A job that runs already is left out, and a job that is given
// twice is started once.
func Pick(waiting []Candidate, running []Active, l Limits, now time.Time) Decision {
	var d Decision
	u := usage{limits: l.atLeastOne(), targets: map[guest.NodeID]load{}, reasons: map[full]string{}}
	taken := make(map[guest.JobID]bool, len(running))
	for _, a := range running {
		taken[a.Job] = true
		u.add(a.Target, a.Slow)
	}
	due := make([]int32, 0, len(waiting)) // places in waiting, which is large: it is not copied
	for i := range waiting {
		if at := waiting[i].start(l); !at.After(now) {
			due = append(due, int32(i)) //nolint:gosec // there are not so many jobs
		} else if !taken[waiting[i].Job] && (d.Wake.IsZero() || at.Before(d.Wake)) {
			d.Wake = at
		}
	}
	slices.SortFunc(due, func(a, b int32) int { return order(&waiting[a], &waiting[b]) })
	for _, i := range due {
		c := &waiting[i]
		if taken[c.Job] {
			continue
		}
		if reason, ok := u.room(c); !ok {
			d.Held = append(d.Held, Held{Job: c.Job, Reason: reason})
			continue
		}
		taken[c.Job] = true
		u.add(c.Target, c.Slow())
		d.Start = append(d.Start, c.Job)
	}
	return d
}

// order puts first who starts first.
func order(a, b *Candidate) int {
	if a.Manual != b.Manual {
		if a.Manual {
			return -1
		}
		return 1
	}
	return cmp.Or(a.rank().Compare(b.rank()), a.Last.Compare(b.Last), a.Job.Compare(b.Job))
}

func (c *Candidate) rank() time.Time {
	if c.Failing && !c.Manual {
		return c.Due.Add(FailingHandicap)
	}
	return c.Due
}

// load counts runs.
type load struct{ all, slow int }

func (l load) plus(slow bool) load { //nolint:revive // flag-parameter: the run's kind is data
	l.all++
	if slow {
		l.slow++
	}
	return l
}

// usage is what runs, by place.
type usage struct {
	limits  Limits
	node    load
	targets map[guest.NodeID]load
	// reasons are texts that were made already: hundreds may wait for the same.
	reasons map[full]string
}

// full is a limit that is reached, and what it counts.
type full struct {
	text string
	runs int
}

func (u *usage) reason(f full) string {
	text, ok := u.reasons[f]
	if !ok {
		text = fmt.Sprintf(f.text, f.runs)
		u.reasons[f] = text
	}
	return text
}

func (l Limits) atLeastOne() Limits {
	l.Node, l.Target = max(1, l.Node), max(1, l.Target)
	return l
}

func (u *usage) add(target guest.NodeID, slow bool) {
	u.node = u.node.plus(slow)
	u.targets[target] = u.targets[target].plus(slow)
}

// slowPlaces is how many of the places slow runs may take. A single place
// cannot be shared. Many places are for short runs, that they can be due together:
// so many long streams at once would only be in each other's way.
func slowPlaces(places int) int {
	if places < 2 {
		return places
	}
	return min(places-max(1, places/4), max(6, places/4))
}

// room says whether one more run fits, or which limit it would exceed.
func (u *usage) room(c *Candidate) (reason string, ok bool) {
	target := u.targets[c.Target]
	slow := c.Slow() && !c.Manual // what was asked for may use the last place
	switch {
	case u.node.all >= u.limits.Node:
		return u.reason(full{"%d syncs run on this node, the limit (max_jobs)", u.node.all}), false
	case target.all >= u.limits.Target:
		return u.reason(full{"%d syncs run to this target, the limit (max_jobs_per_target)", target.all}), false
	case slow && u.node.slow >= slowPlaces(u.limits.Node):
		return u.reason(full{"%d long syncs or failing jobs run on this node, the other places are kept free for the rest", u.node.slow}), false
	case slow && target.slow >= slowPlaces(u.limits.Target):
		return u.reason(full{"%d long syncs or failing jobs run to this target, the other places are kept free for the rest", target.slow}), false
	default:
		return "", true
	}
}

// Offset is a node's fixed place in the spread, from 0 to less than spread.
func Offset(node guest.NodeID, spread time.Duration) time.Duration {
	if spread <= 0 {
		return 0
	}
	h := uint64(fnvOffset)
	for i := range len(node) { // asked for often, so that nothing is allocated
		h = (h ^ uint64(node[i])) * fnvPrime
	}
	return time.Duration(mix(h) % uint64(spread)) //nolint:gosec // less than spread
}

// FNV-1a, 64 bits.
const (
	fnvOffset = 0xcbf29ce484222325
	fnvPrime  = 0x100000001b3
)

// mix spreads the last bits of FNV, which IDs that differ in one digit share.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
