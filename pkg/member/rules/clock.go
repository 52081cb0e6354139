package rules

import (
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// ForkSight is when a node first knew of a fork.
type ForkSight struct {
	Generation string `json:"generation"`
	// Boottime is the boot-time clock then.
	Boottime time.Duration `json:"boottime"`
	// Made: this node made it then, so that its age is known exactly.
	Made bool `json:"made,omitempty"`
}

// Ages tells how long ago forks were made. Wall clocks may be years off or be
// set, so that the boot-time clock counts where this boot saw the fork made, and
// is the least age otherwise.
type Ages struct {
	self  guest.NodeID
	known map[string]ForkSight
	begun bool
}

// NewAges begins with what was seen earlier in this boot.
func NewAges(self guest.NodeID, seen []ForkSight) *Ages {
	a := &Ages{self: self, known: map[string]ForkSight{}}
	for _, f := range seen {
		a.known[f.Generation] = f
	}
	return a
}

// Seen is what there is to remember of a lineage for the rest of the boot.
func (a *Ages) Seen(lineage []ledger.Fork) []ForkSight {
	var out []ForkSight
	for _, f := range lineage {
		out = append(out, a.known[f.Generation])
	}
	return out
}

// Of is the age of each fork of the lineage; it remembers those that are new.
func (a *Ages) Of(lineage []ledger.Fork, now time.Time, boottime time.Duration) []time.Duration {
	var ages []time.Duration
	for _, f := range lineage {
		seen, ok := a.known[f.Generation]
		if !ok {
			// What a node forced is new to it only in the moment it does so.
			seen = ForkSight{Generation: f.Generation, Boottime: boottime, Made: a.begun && f.Node == a.self}
			a.known[f.Generation] = seen
		}
		age := boottime - seen.Boottime
		if !seen.Made {
			age = max(age, now.Sub(time.Unix(f.At, 0)))
		}
		ages = append(ages, age)
	}
	a.begun = true
	return ages
}

// Outliving keeps which forks of this node's generation are younger than its
// quorum. Each is judged once, when it is first heard of, and by this side alone:
// if both sides compared two running clocks, a message's way could part them.
type Outliving struct {
	generation string
	judged     map[string]bool
}

// Look judges the forks that others tell of.
func (o *Outliving) Look(ours Claim, others []Claim) {
	if !ours.Quorate || o.generation != ours.Generation || o.judged == nil {
		o.generation, o.judged = ours.Generation, map[string]bool{}
	}
	if !ours.Quorate {
		return
	}
	oldest := map[string]time.Duration{}
	for _, c := range others {
		i := slices.IndexFunc(c.Lineage, func(f ledger.Fork) bool { return f.Parent == ours.Generation })
		if c.Cluster != ours.Cluster || i < 0 || i >= len(c.Ages) || c.root() != ours.root() {
			continue
		}
		fork := c.Lineage[i].Generation
		oldest[fork] = max(oldest[fork], c.Ages[i])
	}
	for fork, age := range oldest {
		if _, done := o.judged[fork]; !done {
			o.judged[fork] = ours.QuorateFor > age
		}
	}
}

// Forks are the IDs of those that were outlived, ordered.
func (o *Outliving) Forks() []string {
	var out []string
	for fork, younger := range o.judged {
		if younger {
			out = append(out, fork)
		}
	}
	slices.Sort(out)
	return out
}
