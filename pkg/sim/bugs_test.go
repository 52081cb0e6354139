package sim_test

import (
	"flag"
	"go/parser"
	"go/token"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/sim/bug"
)

var (
	bugs  = flag.Bool("sim.bugs", false, "build each recorded bug in and require that the simulator finds it")
	tries = flag.Uint64("sim.tries", 600, "with sim.bugs: how many seeds may be run, after the recorded ones, until a bug is found")
)

// root is the top of the tree, seen from this folder.
const root = "../.."

func recorded(t *testing.T) []bug.Bug {
	t.Helper()
	out, err := bug.Recorded("testdata/bugs")
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("only %d bugs are recorded: the test looks in the wrong place", len(out))
	}
	return out
}

// The recorded bugs still fit the tree.
func TestBugs_Apply(t *testing.T) {
	for _, b := range recorded(t) {
		text, err := b.Apply(root)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), b.File, text, parser.AllErrors); err != nil {
			t.Errorf("bug %s: %v", b.Name, err)
		}
		if b.Notes["profile"] == "" {
			t.Errorf("bug %s: it must name a profile", b.Name)
		}
	}
}

// found runs one seed and says what the simulator said; empty: nothing.
func found(t *testing.T, b bug.Bug, binary string, seed uint64) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "-test.run=^TestClusters$", "-sim.runs=1", "-sim.length=10m",
		"-sim.seed="+strconv.FormatUint(seed, 10), "-sim.profile="+b.Notes["profile"]).CombinedOutput()
	if err == nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "seed ") && strings.Contains(line, ": at ") || strings.Contains(line, "not linearizable") ||
			strings.HasPrefix(line, "panic:") && !strings.Contains(line, hanging) {
			return strings.TrimSpace(line)
		}
	}
	t.Logf("seed %d tells nothing: %v\n%.2000s", seed, err, out)
	return ""
}

// repeated is how often each recorded seed is run: a seed fixes the faults, not how
// goroutines take turns.
const repeated = 3

// TestBugs_AreFound requires that the simulator finds each recorded bug: by its
// recorded seeds, or by as many others as -sim.tries allows.
func TestBugs_AreFound(t *testing.T) {
	if !*bugs {
		t.Skip("run by make sim-bugs: it builds the tree once for each bug")
	}
	for _, b := range recorded(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			binary, err := b.Build(t.Context(), root, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			var seeds []uint64
			for range repeated {
				seeds = append(seeds, b.Seeds...)
			}
			for s := *seed; s < *seed+*tries; s++ {
				seeds = append(seeds, s)
			}
			for n, s := range seeds {
				if said := found(t, b, binary, s); said != "" {
					t.Logf("found by run %d, seed %d: %.300s", n+1, s, said)
					return
				}
			}
			t.Errorf("not found in %d runs", len(seeds))
		})
	}
}
