// Package bug builds tests of this tree with a recorded mistake in it, to show that simulators find it. Nothing in the product
// knows of it: the build is given the changed file instead (`go test -overlay`). Tests of pkg/sim and pkg/move/movesim call it.
package bug

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Bug is a mistake that one could make: a text in a file is replaced.
type Bug struct {
	// Name is that of its file, File the one that it changes, from the top of the tree.
	Name, File string
	Old, New   string
	// Seeds are those whose runs found it, Notes the other keys of its head.
	Seeds []uint64
	Notes map[string]string
}

// Recorded reads all files of a folder that end in .bug: lines of the form "key: value" and, between markers, the two texts.
func Recorded(dir string) ([]Bug, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.bug"))
	if err != nil {
		return nil, err
	}
	var out []Bug
	for _, f := range files {
		b, err := read(f)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

func read(path string) (Bug, error) {
	b := Bug{Name: strings.TrimSuffix(filepath.Base(path), ".bug"), Notes: map[string]string{}}
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
	b.Old, b.New = before, after
	for line := range strings.Lines(head) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case !ok:
		case key == "file":
			b.File = value
		case key == "seeds":
			for s := range strings.FieldsSeq(value) {
				n, err := strconv.ParseUint(s, 10, 64)
				if err != nil {
					return b, fmt.Errorf("%s: seed %q: %w", path, s, err)
				}
				b.Seeds = append(b.Seeds, n)
			}
		default:
			b.Notes[key] = value
		}
	}
	if b.File == "" || len(b.Seeds) == 0 {
		return b, fmt.Errorf("%s: must name file and seeds", path)
	}
	return b, nil
}

// Apply is the file with the bug in it. It fails where the tree has gone on and the text is not there any more.
func (b Bug) Apply(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, b.File))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, []byte(b.Old)); n != 1 {
		return nil, fmt.Errorf("bug %s: its old text stands %d times in %s, must be once: bring testdata/bugs up to date", b.Name, n, b.File)
	}
	return bytes.Replace(text, []byte(b.Old), []byte(b.New), 1), nil
}

// Build makes a test binary of the package in the working folder with the bug in it, in dir.
func (b Bug) Build(ctx context.Context, root, dir string) (binary string, err error) {
	text, err := b.Apply(root)
	if err != nil {
		return "", err
	}
	top, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	changed, list := filepath.Join(dir, filepath.Base(b.File)), filepath.Join(dir, "overlay.json")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(top, b.File): changed}})
	if err != nil {
		return "", err
	}
	for name, data := range map[string][]byte{changed: text, list: overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return "", err
		}
	}
	binary = filepath.Join(dir, "sim.test")
	out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", list, "-o", binary, ".").CombinedOutput() //nolint:gosec // fixed arguments and files of the test's own
	if err != nil {
		return "", fmt.Errorf("bug %s does not build: %w\n%s", b.Name, err, out)
	}
	return binary, nil
}
