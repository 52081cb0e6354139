package sim

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Report sums up many runs.
type Report struct {
	// Commit is the version that was run.
	Commit string
	// First and Last are the seeds.
	First, Last uint64
	// Took is how long it all took in real time.
	Took time.Duration

	runs, failed                  int
	histories, undecided, entries int
	generations, alarms, rescues  int
	nodeTime, settledMax          time.Duration
	messages, lost                uint64
	profiles                      map[Profile]int
	faults                        map[Kind]int
	commands, reads               map[Verdict]int
	nodes                         map[int]int
	problems                      []string
}

// Add takes one run, and what became of checking its history: Illegal is a failure.
func (r *Report) Add(s Result, checked porcupine.CheckResult) {
	if r.runs == 0 {
		r.profiles, r.faults, r.nodes = map[Profile]int{}, map[Kind]int{}, map[int]int{}
		r.commands, r.reads = map[Verdict]int{}, map[Verdict]int{}
		r.First = s.Options.Seed
	}
	r.runs++
	r.First, r.Last = min(r.First, s.Options.Seed), max(r.Last, s.Options.Seed)
	r.profiles[s.Options.Profile]++
	r.nodes[s.Nodes]++
	r.nodeTime += s.NodeTime
	r.settledMax = max(r.settledMax, s.Settled)
	r.messages, r.lost = r.messages+s.Messages, r.lost+s.Lost
	r.generations, r.alarms, r.rescues = r.generations+s.Generations, r.alarms+s.Alarms, r.rescues+s.Rescues
	addTo(r.faults, s.Faults)
	addTo(r.commands, s.Commands)
	addTo(r.reads, s.Reads)
	if len(s.History) > 0 {
		r.histories++
		r.entries += len(s.History)
	}
	if checked == porcupine.Unknown {
		r.undecided++
	}
	if problems := s.Failures(checked); len(problems) > 0 {
		r.failed++
		r.problems = append(r.problems, fmt.Sprintf("seed %d %s: %s", s.Options.Seed, s.Options.Profile, strings.Join(problems, "; ")))
	}
}

// Failures are the violations of a run, its history's included.
func (r Result) Failures(checked porcupine.CheckResult) []string {
	out := slices.Clone(r.Problems)
	if checked == porcupine.Illegal {
		out = append(out, "the history of its clients is not linearizable")
	}
	return out
}

func addTo[K comparable](sum, more map[K]int) {
	for k, n := range more {
		sum[k] += n
	}
}

func total[K comparable](m map[K]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

func each[K ~string](m map[K]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}

// Write writes the report as a page of docs/evidence.
func (r *Report) Write(w io.Writer) error {
	var sizes []string
	for _, n := range slices.Sorted(maps.Keys(r.nodes)) {
		sizes = append(sizes, fmt.Sprintf("%d nodes in %d", n, r.nodes[n]))
	}
	lines := []string{
		"# Simulated clusters (`make sim`)",
		"",
		"| | |",
		"| --- | --- |",
		"| version | " + r.Commit + " |",
		fmt.Sprintf("| seeds | %d to %d (%s) |", r.First, r.Last, each(r.profiles)),
		fmt.Sprintf("| clusters | %d: %s |", r.runs, strings.Join(sizes, ", ")),
		fmt.Sprintf("| real time | %s |", r.Took.Round(time.Second)),
		fmt.Sprintf("| simulated time of all nodes | %.0f hours |", r.nodeTime.Hours()),
		fmt.Sprintf("| faults injected | %d: %s |", total(r.faults), each(r.faults)),
		fmt.Sprintf("| messages | %d, of which %d lost |", r.messages, r.lost),
		fmt.Sprintf("| commands | %d: %s |", total(r.commands), each(r.commands)),
		fmt.Sprintf("| confirmed reads | %d: %s |", total(r.reads), each(r.reads)),
		fmt.Sprintf("| histories checked for linearizability | %d with %d entries, %d undecided |", r.histories, r.entries, r.undecided),
		fmt.Sprintf("| generations | %d; %d meetings and %d rescues needed a person |", r.generations, r.alarms, r.rescues),
		fmt.Sprintf("| longest time until a cluster was one again | %s |", r.settledMax.Round(time.Millisecond)),
		fmt.Sprintf("| clusters in which something happened that must not | %d |", r.failed),
		"",
	}
	for _, p := range r.problems {
		lines = append(lines, "- "+p)
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}
