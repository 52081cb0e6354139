package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what a fault does.
type Kind string

// The kinds of faults.
const (
	// Loss lets messages of one node, or of all, get lost at random.
	Loss Kind = "loss"
	// Delay lets messages come late and out of order.
	Delay Kind = "delay"
	// OneWay cuts one direction between two nodes.
	OneWay Kind = "one-way"
	// Isolate cuts one node off from all others, one way or both.
	Isolate Kind = "isolate"
	// Partition cuts the cluster in two.
	Partition Kind = "partition"
	// PowerCut turns a machine off: what was not synced is lost, its guests are gone.
	PowerCut Kind = "power-cut"
	// Blackout turns all machines off at once.
	Blackout Kind = "blackout"
	// Kill ends a daemon while its machine and its guests go on.
	Kill Kind = "kill"
	// Pause lets a node stand still.
	Pause Kind = "pause"
	// Clock sets a node's wall clock.
	Clock Kind = "clock"
	// DiskFull lets a node's writes fail for lack of space.
	DiskFull Kind = "disk-full"
	// DiskError lets some of a node's writes fail.
	DiskError Kind = "disk-error"
	// DiskSlow lets a node's writes take long.
	DiskSlow Kind = "disk-slow"
	// DiskHang lets no write of a node return.
	DiskHang Kind = "disk-hang"
	// Restore puts a node's disk back to an older image.
	Restore Kind = "restore"
	// Rollback puts a disk back while a node that was cut off, and one that was put
	// back, see each other only: together they would be a majority.
	Rollback Kind = "rollback"
	// Straggle lets a node give a guest away while what it sends comes late.
	Straggle Kind = "straggle"
	// Unheard lets a follower hear the leader and not be heard, until it has made a snapshot.
	Unheard Kind = "unheard"
	// Replace removes a member; its machine joins again, with or without what it had.
	Replace Kind = "replace"
	// Join takes a new node in.
	Join Kind = "join"
	// Force cuts the cluster so that a node loses its majority, and forces quorum there.
	Force Kind = "force"
	// ForceTwo forces quorum on two nodes at the same time.
	ForceTwo Kind = "force-two"
	// Return lets dead nodes come back that see each other first, while one that was
	// forced works.
	Return Kind = "return"
)

// ends says whether daemons may end by it.
func (k Kind) ends() bool {
	return slices.Contains([]Kind{PowerCut, Blackout, Kill, Restore, Rollback, Replace, Force, ForceTwo, Return}, k)
}

// Fault is one thing that goes wrong.
type Fault struct {
	At   time.Duration
	Kind Kind
	// Node is whom it hits, Other a second one: indices into the nodes of the moment.
	// Leader: whoever leads then is hit instead.
	Node, Other int
	Leader      bool
	// Split says who is on the one side of a cut, by index.
	Split uint64
	// For is how long it lasts.
	For time.Duration
	// Amount is the share of messages or writes, or what else the kind needs, from 0 to 1.
	Amount float64
}

// String is the fault as one line.
func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", f.At.Round(time.Millisecond), f.Kind)
	if f.Leader {
		b.WriteString(" leader")
	} else {
		fmt.Fprintf(&b, " node %d", f.Node)
	}
	fmt.Fprintf(&b, " other %d split %b for %s amount %.2f", f.Other, f.Split, f.For.Round(time.Millisecond), f.Amount)
	return b.String()
}

// Profile says which faults a run draws from.
type Profile string

const (
	// Plain is every fault that a cluster must bear without losing anything.
	Plain Profile = "plain"
	// Forced adds forced quorum, after which what one generation did may be lost.
	Forced Profile = "forced"
	// Traps is Plain with more of the situations in which a mistake shows, for
	// small clusters.
	Traps Profile = "traps"
)

// Profiles are all profiles.
func Profiles() []Profile { return []Profile{Plain, Forced, Traps} }

type weight struct {
	kind   Kind
	weight int
}

// weights say how often each kind is drawn.
func (p Profile) weights() []weight {
	w := []weight{
		{Loss, 8},
		{Delay, 8},
		{OneWay, 10},
		{Isolate, 12},
		{Partition, 12},
		{PowerCut, 14},
		{Blackout, 2},
		{Kill, 8},
		{Pause, 10},
		{Clock, 4},
		{DiskFull, 4},
		{DiskError, 4},
		{DiskSlow, 4},
		{DiskHang, 4},
		{Restore, 3},
		{Rollback, 3},
		{Straggle, 2},
		{Unheard, 2},
		{Replace, 3},
		{Join, 1},
	}
	if p == Forced {
		w = append(w, weight{Force, 10}, weight{ForceTwo, 5}, weight{Return, 6})
	}
	if p == Traps {
		w = append(w, weight{Rollback, 12}, weight{Straggle, 12}, weight{Unheard, 12})
	}
	return w
}

// size draws how many nodes a cluster has at the start.
func (p Profile) size(rng *rand.Rand) int {
	if p == Traps {
		return minNodes + rng.IntN(2) // Three voters.
	}
	return minNodes + rng.IntN(maxNodes-minNodes+1)
}

// trailing draws how many entries of its log a node keeps before a snapshot.
func (p Profile) trailing(rng *rand.Rand) uint64 {
	n := rng.Uint64N(30)
	if p == Traps {
		n %= 5
	}
	return n
}

// Plan draws the faults of a run; the same arguments give the same faults.
func Plan(seed uint64, p Profile, length time.Duration) []Fault {
	rng := rand.New(rand.NewPCG(seed, 2))
	// Some clusters hardly have a quiet moment, others time to settle between faults.
	gap := time.Duration(3+rng.IntN(12)) * time.Second
	weights := p.weights()
	total := 0
	for _, w := range weights {
		total += w.weight
	}
	var out []Fault
	for at := 5 * time.Second; at < length; at += time.Duration(rng.ExpFloat64() * float64(gap)) {
		f := Fault{
			At: at, Node: rng.IntN(64), Other: rng.IntN(64), Leader: rng.IntN(3) == 0, Split: rng.Uint64(),
			For: time.Second + time.Duration(rng.ExpFloat64()*float64(12*time.Second)), Amount: rng.Float64(),
		}
		n := rng.IntN(total)
		i := slices.IndexFunc(weights, func(w weight) bool { n -= w.weight; return n < 0 })
		f.Kind = weights[i].kind
		f.For = min(f.For, longest(f.Kind))
		out = append(out, f)
	}
	return out
}

// longest bounds how long a kind lasts.
func longest(k Kind) time.Duration {
	switch k {
	case Pause, DiskHang:
		return 30 * time.Second
	case Blackout:
		return 10 * time.Second
	case Loss, Delay, OneWay, Isolate, Partition, PowerCut, Kill, Clock, DiskFull, DiskError, DiskSlow, Restore, Rollback, Straggle, Unheard, Replace,
		Join, Force, ForceTwo, Return:
		return time.Minute
	}
	return 0
}
