// Package bugtest requires of a simulator that it finds the mistakes which are recorded for it. Tests of pkg/sim and
// pkg/move/movesim call it.
package bugtest

import (
	"go/parser"
	"go/token"
	"os/exec"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/sim/bug"
)

// Suite are the mistakes of testdata/bugs, and how the simulator whose tests these are runs a seed.
type Suite struct {
	// Root is the top of the tree, seen from the tests' folder.
	Root string
	// Least is how many mistakes there are at least.
	Least int
	// Profiled: each mistake names the profile by which it is found.
	Profiled bool
	// Arguments have the tests' binary run one seed.
	Arguments func(b bug.Bug, seed uint64) []string
	// Finds says whether a line of what it prints tells of a find.
	Finds func(line string) bool
	// Repeated is how often each recorded seed is run: a seed fixes the faults, not how goroutines take turns. After them come
	// Tries others, from First on.
	Repeated     int
	First, Tries uint64
}

func (s Suite) recorded(t *testing.T) []bug.Bug {
	t.Helper()
	out, err := bug.Recorded("testdata/bugs")
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < s.Least {
		t.Fatalf("only %d bugs are recorded: the test looks in the wrong place", len(out))
	}
	return out
}

// Apply requires that the mistakes still fit the tree.
func (s Suite) Apply(t *testing.T) {
	t.Helper()
	for _, b := range s.recorded(t) {
		text, err := b.Apply(s.Root)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), b.File, text, parser.AllErrors); err != nil {
			t.Errorf("bug %s: %v", b.Name, err)
		}
		if s.Profiled && b.Notes["profile"] == "" {
			t.Errorf("bug %s: it must name a profile", b.Name)
		}
	}
}

// Find requires that each mistake is found: by its recorded seeds, or by as many others as there are tries.
func (s Suite) Find(t *testing.T) {
	t.Helper()
	for _, b := range s.recorded(t) {
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			binary, err := b.Build(t.Context(), s.Root, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			seeds := s.seeds(b)
			for n, seed := range seeds {
				if said := s.found(t, b, binary, seed); said != "" {
					t.Logf("found by run %d, seed %d: %.300s", n+1, seed, said)
					return
				}
			}
			t.Errorf("not found in %d runs", len(seeds))
		})
	}
}

func (s Suite) seeds(b bug.Bug) []uint64 {
	var out []uint64
	for range s.Repeated {
		out = append(out, b.Seeds...)
	}
	for seed := s.First; seed < s.First+s.Tries; seed++ {
		out = append(out, seed)
	}
	return out
}

// found runs one seed and returns the line that tells of the find; empty: nothing.
func (s Suite) found(t *testing.T, b bug.Bug, binary string, seed uint64) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, s.Arguments(b, seed)...).CombinedOutput()
	if err == nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if s.Finds(line) {
			return strings.TrimSpace(line)
		}
	}
	t.Logf("seed %d tells nothing: %v\n%.2000s", seed, err, out)
	return ""
}
