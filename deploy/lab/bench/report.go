// Package bench compares Tandem with what people use today, in the lab: the cases, the samples, and the page that is made of them.
//
// `make bench` runs it: one machine with two pools, two daemons and the other contestants (package contest, which runs in that machine
// and sends a Report back). Absolute figures are the machine's, which may be emulated; what counts are ratios within a run.
package bench

import (
	"cmp"
	"math"
	"slices"
)

// Contestants.
const (
	Pipe    = "plain pipe"
	SSH     = "plain, over ssh"
	Syncoid = "syncoid, over ssh"
	Tandem  = "Tandem"
)

// Cases.
const (
	First   = "first"   // the first sync of 512 MiB that do not compress
	Delta16 = "delta16" // 16 MiB at random places since the last sync
	Delta64 = "delta64" // 64 KiB since the last sync
	Nothing = "nothing" // nothing was written since the last sync
	Many    = "many"    // 20 guests with 64 KiB each, due at the same minute
	AtOnce  = "at-once" // the same, asked for by hand at the same moment
	Eight   = "eight"   // eight first syncs of 32 MiB side by side
)

// Sample is what one contestant took for one case in one round.
type Sample struct {
	Case       string
	Contestant string
	Round      int
	Seconds    float64 // as who waits for it sees it
	// Record is the time from start to end in the daemon's records: from the first start to the last end where there are several. 0 where
	// there are none.
	Record    float64
	ZFS       int     // processes of zfs and zpool that it started, on both sides together
	Processes int     // all processes that it started
	CPU       float64 // seconds of processor time of all its processes, daemons and ssh's server too
	Machine   float64 // the same for the whole machine: with the kernel's own threads, which do most of what ZFS does
	// Resident are the peaks of the memory of the two daemons, source first, in MiB.
	Resident [2]float64
}

// Idle is what the two daemons do together while nothing is to do.
type Idle struct {
	Seconds  float64
	ZFS      int
	CPU      float64
	Resident [2]float64 // MiB, at its end
}

// Report is a whole run.
type Report struct {
	Samples []Sample
	Idle    Idle
}

// of returns the samples of a case and contestant, in the order of their rounds.
func (r Report) of(what, who string) []Sample {
	var found []Sample
	for _, s := range r.Samples {
		if s.Case == what && s.Contestant == who {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b Sample) int { return cmp.Compare(a.Round, b.Round) })
	return found
}

// values of samples.
func values(samples []Sample, value func(Sample) float64) []float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, value(s))
	}
	return all
}

// median is NaN where there is nothing.
func median(all []float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(all))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func seconds(s Sample) float64   { return s.Seconds }
func record(s Sample) float64    { return s.Record }
func zfs(s Sample) float64       { return float64(s.ZFS) }
func processes(s Sample) float64 { return float64(s.Processes) }
func cpu(s Sample) float64       { return s.CPU }
func machine(s Sample) float64   { return s.Machine }

// resident is the larger one of the daemons.
func resident(s Sample) float64 { return max(s.Resident[0], s.Resident[1]) }

// ratio is the median of the ratios within the rounds in which both took part: what slows a round down slows both.
func (r Report) ratio(mine, plain []Sample, value func(Sample) float64) float64 {
	var ratios []float64
	for _, s := range mine {
		for _, p := range plain {
			if s.Round == p.Round && p.Seconds > 0 {
				ratios = append(ratios, value(s)/p.Seconds)
			}
		}
	}
	return median(ratios)
}

// aim is what was promised of a figure, and what came out.
type aim struct {
	what string
	got  float64
	want float64
	most bool // got may be at most want; else at least
}

func (a aim) met() bool {
	if a.most {
		return a.got <= a.want
	}
	return a.got >= a.want
}

// aims are those of the replication engine.
func (r Report) aims() []aim {
	small, many := r.of(Delta64, Tandem), r.of(Many, Tandem)
	first, nothing := r.of(First, Tandem), r.of(Nothing, Tandem)
	loop := r.of(Many, Pipe)
	return []aim{
		{"one guest, 64 KiB: time by the plain pipe's, start to end of the record", r.ratio(small, r.of(Delta64, Pipe), record), 1.2, true},
		{"one guest, 64 KiB: the same, as `tandem run` takes", r.ratio(small, r.of(Delta64, Pipe), seconds), 1.2, true},
		{"one guest, 64 KiB: zfs processes", median(values(small, zfs)), 6, true},
		{"20 guests of one minute: time by the plain loop's, first start to last end", r.ratio(many, loop, record), 0.45, true},
		{"20 guests of one minute: the same, from the minute on", r.ratio(many, loop, seconds), 0.45, true},
		{"20 guests of one minute: zfs processes", median(values(many, zfs)), 50, true},
		{"first sync over TLS: speed by the plain pipe's", 1 / r.ratio(first, r.of(First, Pipe), record), 0.5, false},
		{"nothing to do: zfs processes", median(values(nothing, zfs)), 2, true},
		{"a daemon's peak of resident memory, all cases, MiB", r.peak(), 64, true},
	}
}

// peak is the most that a daemon ever had in memory.
func (r Report) peak() float64 {
	var all []float64
	for _, s := range r.Samples {
		if s.Contestant == Tandem {
			all = append(all, resident(s))
		}
	}
	if len(all) == 0 {
		return math.NaN()
	}
	return slices.Max(all)
}
