package movesim_test

import (
	"flag"
	"strconv"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/sim/bug"
	"github.com/tandemd/tandem/pkg/sim/bug/bugtest"
)

var (
	bugs  = flag.Bool("movesim.bugs", false, "build each recorded bug in and require that it is found")
	tries = flag.Uint64("movesim.tries", 200, "with movesim.bugs: how many seeds may be run, after the recorded ones, until a bug is found")
)

func recorded() bugtest.Suite {
	return bugtest.Suite{
		Root: "../../..", Least: 5, Repeated: 2, First: 1, Tries: *tries,
		Arguments: func(_ bug.Bug, seed uint64) []string {
			return []string{"-test.run=^TestSimulated$", "-movesim.fixed=0", "-movesim.runs=1", "-movesim.seed=" + strconv.FormatUint(seed, 10)}
		},
		Finds: func(line string) bool { return strings.Contains(line, ": seed ") },
	}
}

func TestBugs_Apply(t *testing.T) { recorded().Apply(t) }

func TestBugs_AreFound(t *testing.T) {
	if !*bugs {
		t.Skip("run by make moves-bugs: it builds the tree once for each bug")
	}
	recorded().Find(t)
}
