package sim_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var (
	bugs  = flag.Bool("sim.bugs", false, "build each recorded bug in and require that the simulator finds it")
	tries = flag.Uint64("sim.tries", 600, "with sim.bugs: how many seeds may be run, after the recorded ones, until a bug is found")
)

// bug is a mistake that one could make in this tree: a text in a file is replaced.
// Nothing in the product knows of it; the build is given the changed file instead.
type bug struct {
	name, file string
	old, new   string
	// profile and seeds say which runs found it.
	profile string
	seeds   []uint64
}

// root is the top of the tree, seen from this folder.
const root = "../.."

// readBug reads lines of the form "key: value" and, between markers, the two texts.
func readBug(path string) (bug, error) {
	b := bug{name: strings.TrimSuffix(filepath.Base(path), ".bug")}
	text, err := os.ReadFile(path)
	if err != nil {
		return b, err
	}
	head, rest, ok1 := strings.Cut(string(text), "--- old\n")
	before, after, ok2 := strings.Cut(rest, "--- new\n")
	after, _, ok3 := strings.Cut(after, "--- end\n")
	if !ok1 || !ok2 || !ok3 {
		return b, fmt.Errorf("%s: must have the markers --- old, --- new and --- end", path)
	}
	b.old, b.new = before, after
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "file":
			b.file = value
		case "profile":
			b.profile = value
		case "seeds":
			for s := range strings.FieldsSeq(value) {
				n, err := strconv.ParseUint(s, 10, 64)
				if err != nil {
					return b, fmt.Errorf("%s: seed %q: %w", path, s, err)
				}
				b.seeds = append(b.seeds, n)
			}
		}
	}
	if b.file == "" || b.profile == "" || len(b.seeds) == 0 {
		return b, fmt.Errorf("%s: must name file, profile and seeds", path)
	}
	return b, nil
}

// patched is the file with the bug in it.
func (b bug) patched() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, b.file))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, []byte(b.old)); n != 1 {
		return nil, fmt.Errorf("bug %s: its old text stands %d times in %s, must be once: bring testdata/bugs up to date", b.name, n, b.file)
	}
	return bytes.Replace(text, []byte(b.old), []byte(b.new), 1), nil
}

func recorded(t *testing.T) []bug {
	t.Helper()
	files, err := filepath.Glob("testdata/bugs/*.bug")
	if err != nil {
		t.Fatal(err)
	}
	var out []bug
	for _, f := range files {
		b, err := readBug(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	if len(out) < 10 {
		t.Fatalf("only %d bugs are recorded: the test looks in the wrong place", len(out))
	}
	return out
}

// The recorded bugs still fit the tree.
func TestBugs_Apply(t *testing.T) {
	for _, b := range recorded(t) {
		text, err := b.patched()
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), b.file, text, parser.AllErrors); err != nil {
			t.Errorf("bug %s: %v", b.name, err)
		}
	}
}

// build makes a test binary of this package with the bug in it.
func (b bug) build(t *testing.T) string {
	t.Helper()
	text, err := b.patched()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, filepath.Base(b.file))
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(top, b.file): changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{changed: text, filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "sim.test")
	out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("bug %s does not build: %v\n%s", b.name, err, out)
	}
	return binary
}

// found runs one seed and says what the simulator said; empty: nothing.
func (b bug) found(t *testing.T, binary string, seed uint64) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "-test.run=^TestClusters$", "-sim.runs=1", "-sim.length=10m",
		"-sim.seed="+strconv.FormatUint(seed, 10), "-sim.profile="+b.profile).CombinedOutput()
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
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			binary := b.build(t)
			seeds := b.seeds
			for range repeated - 1 {
				seeds = append(seeds, b.seeds...)
			}
			for s := *seed; s < *seed+*tries; s++ {
				seeds = append(seeds, s)
			}
			for n, s := range seeds {
				if said := b.found(t, binary, s); said != "" {
					t.Logf("found by run %d, seed %d: %.300s", n+1, s, said)
					return
				}
			}
			t.Errorf("not found in %d runs", len(seeds))
		})
	}
}
