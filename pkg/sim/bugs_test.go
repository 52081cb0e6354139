package sim_test

import (
	"flag"
	"strconv"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/sim/bug"
	"github.com/tandemd/tandem/pkg/sim/bug/bugtest"
)

var (
	bugs  = flag.Bool("sim.bugs", false, "build each recorded bug in and require that the simulator finds it")
	tries = flag.Uint64("sim.tries", 600, "with sim.bugs: how many seeds may be run, after the recorded ones, until a bug is found")
)

func recorded() bugtest.Suite {
	return bugtest.Suite{
		Root: "../..", Least: 10, Profiled: true, Repeated: 3, First: *seed, Tries: *tries,
		Arguments: func(b bug.Bug, seed uint64) []string {
			return []string{
				"-test.run=^TestClusters$", "-sim.runs=1", "-sim.length=10m",
				"-sim.seed=" + strconv.FormatUint(seed, 10), "-sim.profile=" + b.Notes["profile"],
			}
		},
		Finds: func(line string) bool {
			return strings.Contains(line, "seed ") && strings.Contains(line, ": at ") || strings.Contains(line, "not linearizable") ||
				strings.HasPrefix(line, "panic:") && !strings.Contains(line, hanging)
		},
	}
}

func TestBugs_Apply(t *testing.T) { recorded().Apply(t) }

func TestBugs_AreFound(t *testing.T) {
	if !*bugs {
		t.Skip("run by make sim-bugs: it builds the tree once for each bug")
	}
	recorded().Find(t)
}
