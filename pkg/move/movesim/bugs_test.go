package movesim_test

import (
	"flag"
	"go/parser"
	"go/token"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/sim/bug"
)

var (
	bugs  = flag.Bool("movesim.bugs", false, "build each recorded bug in and require that it is found")
	tries = flag.Uint64("movesim.tries", 200, "with movesim.bugs: how many seeds may be run, after the recorded ones, until a bug is found")
)

// root is the top of the tree, seen from this folder.
const root = "../../.."

func recorded(t *testing.T) []bug.Bug {
	t.Helper()
	out, err := bug.Recorded("testdata/bugs")
	must(t, err)
	if len(out) < 5 {
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
	}
}

// found runs one seed and says what the judge said; empty: nothing.
func found(t *testing.T, binary string, seed uint64) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "-test.run=^TestSimulated$", "-movesim.fixed=0", "-movesim.runs=1",
		"-movesim.seed="+strconv.FormatUint(seed, 10)).CombinedOutput()
	if err == nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, ": seed ") {
			return strings.TrimSpace(line)
		}
	}
	t.Logf("seed %d tells nothing: %v\n%.2000s", seed, err, out)
	return ""
}

// TestBugs_AreFound requires that each recorded bug is found: by its recorded seeds, or by
// as many others as -movesim.tries allows. A seed fixes the faults, not how goroutines
// take turns.
func TestBugs_AreFound(t *testing.T) {
	if !*bugs {
		t.Skip("run by make moves-bugs: it builds the tree once for each bug")
	}
	for _, b := range recorded(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			binary, err := b.Build(t.Context(), root, t.TempDir())
			must(t, err)
			seeds := slices.Concat(b.Seeds, b.Seeds)
			for s := uint64(1); s <= *tries; s++ {
				seeds = append(seeds, s)
			}
			for n, s := range seeds {
				if said := found(t, binary, s); said != "" {
					t.Logf("found by run %d, seed %d: %.300s", n+1, s, said)
					return
				}
			}
			t.Errorf("not found in %d runs", len(seeds))
		})
	}
}
