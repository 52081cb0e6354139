// Package checks holds what is true of the whole tree: which package may import which, that every package says what it is,
// how long a main.go may be. The scripts beside it are the other parts of `make check`. Nothing imports it.
package checks_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tandemd/tandem"

// root is the top of the tree, seen from this folder.
const root = "../.."

// A layer is a row of DESIGN.md's tree; a package imports packages of lower layers, and of its own where that is said.
type layer struct {
	name     string
	packages []string // below pkg/, with everything under them
	mayUse   []string // packages or "pure" that it may import besides its own folder
}

// layers is the tree, in words. Where an engine package names an adapter it is for the adapter's value types only:
// what it does goes through interfaces that it declares itself.
func layers() []layer {
	return []layer{
		{name: "pure", packages: []string{"advice", "guest", "calendar", "job", "sched", "plan", "ledger"}, mayUse: []string{"pure"}},
		{name: "leaf", packages: []string{"statefile", "hook"}},
		{
			name:     "adapter",
			packages: []string{"zfs", "consensus", "gossip", "peer", "identity", "history", "config", "journal", "unit", "quiesce"},
			mayUse:   []string{"pure", "statefile", "hook"},
		},
		{name: "engine", packages: []string{"replicate"}, mayUse: []string{"pure", "zfs"}},
		{name: "engine", packages: []string{"member"}, mayUse: []string{"pure"}},
		{name: "engine", packages: []string{"move"}, mayUse: []string{"pure", "zfs", "replicate"}},
		{name: "engine", packages: []string{"keeper"}, mayUse: []string{"pure", "zfs"}},
		{name: "engine", packages: []string{"node"}, mayUse: []string{"pure", "replicate", "history"}},
		{name: "edge", packages: []string{"api"}, mayUse: []string{"pure"}},
		{name: "edge", packages: []string{"web"}, mayUse: []string{"pure", "api"}},
		{name: "assembly", packages: []string{"cli"}, mayUse: []string{"pure", "api", "config", "identity", "statefile", "zfs", "unit", "keeper"}},
		{name: "assembly", packages: []string{"daemon"}, mayUse: []string{"*"}},
		{name: "assembly", packages: []string{"sim"}, mayUse: []string{"pure", "consensus", "member"}},
	}
}

// forbiddenToPure are packages of the standard library through which a pure package would do I/O, wait or decide by chance.
func forbiddenToPure() []string {
	return []string{
		"context", "crypto/rand", "io/fs", "io/ioutil", "log", "math/rand", "math/rand/v2", "net", "net/http", "os", "os/exec",
		"os/signal", "os/user", "path/filepath", "runtime", "sync", "sync/atomic", "syscall",
	}
}

// goPackage is what the checks need to know of one folder.
type goPackage struct {
	folder  string              // relative to the top, with slashes
	name    string              // of the package clause, without _test
	doc     string              // the package comment
	imports map[string][]string // import path -> files, without test files
}

// tree parses every Go file of the project, whatever its build tags are.
func tree(t *testing.T) []goPackage {
	t.Helper()
	found := map[string]*goPackage{}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if name == "testdata" || name == "bin" || strings.HasPrefix(name, ".") && file != root {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		folder = filepath.ToSlash(folder)
		if found[folder] == nil {
			found[folder] = &goPackage{folder: folder, imports: map[string][]string{}}
		}
		found[folder].add(name, parsed)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var packages []goPackage
	for _, folder := range slices.Sorted(maps.Keys(found)) {
		packages = append(packages, *found[folder])
	}
	if len(packages) < 10 {
		t.Fatalf("found %d packages from %s: the test looks in the wrong place", len(packages), root)
	}
	return packages
}

func (p *goPackage) add(file string, parsed *ast.File) {
	isTest := strings.HasSuffix(file, "_test.go")
	if p.name == "" || !isTest {
		p.name = strings.TrimSuffix(parsed.Name.Name, "_test")
	}
	p.doc += parsed.Doc.Text()
	if isTest {
		return
	}
	for _, spec := range parsed.Imports {
		name := strings.Trim(spec.Path.Value, `"`)
		p.imports[name] = append(p.imports[name], file)
	}
}

// layerOf finds the layer of a package below pkg/ by its first folder.
func layerOf(folder string) (layer, string, bool) {
	rest, ok := strings.CutPrefix(folder, "pkg/")
	if !ok {
		return layer{}, "", false
	}
	top, _, _ := strings.Cut(rest, "/")
	for _, l := range layers() {
		if slices.Contains(l.packages, top) {
			return l, top, true
		}
	}
	return layer{}, top, false
}

// allows says whether a package below pkg/TOP of this layer may import the package in folder.
func (l layer) allows(top, folder string) bool {
	target, targetTop, known := layerOf(folder)
	switch {
	case !known:
		return false
	case targetTop == top, slices.Contains(l.mayUse, "*"):
		return true
	case target.name == "pure" && slices.Contains(l.mayUse, "pure"):
		return true
	default:
		return slices.Contains(l.mayUse, targetTop)
	}
}

func TestImports_GoDownOnly(t *testing.T) {
	for _, p := range tree(t) {
		if !strings.HasPrefix(p.folder, "pkg/") {
			continue
		}
		l, top, known := layerOf(p.folder)
		if !known {
			t.Errorf("%s is in no layer: add it to layers() here, and to DESIGN's tree in docs/architecture.md", p.folder)
			continue
		}
		for name, files := range p.imports {
			folder, ours := strings.CutPrefix(name, module+"/")
			if ours && !l.allows(top, folder) {
				t.Errorf("%s (%s) imports %s in %s: it may import only %s",
					p.folder, l.name, folder, strings.Join(files, ", "), strings.Join(append([]string{"its own folder"}, l.mayUse...), ", "))
			}
		}
	}
}

func TestImports_PurePackagesUseValuesOnly(t *testing.T) {
	for _, p := range tree(t) {
		if l, _, _ := layerOf(p.folder); l.name != "pure" {
			continue
		}
		for name, files := range p.imports {
			first, _, _ := strings.Cut(name, "/")
			isStandard := !strings.Contains(first, ".")
			switch {
			case slices.Contains(forbiddenToPure(), name):
				t.Errorf("%s imports %s in %s: pure packages take values and return values", p.folder, name, strings.Join(files, ", "))
			case !isStandard && !strings.HasPrefix(name, module+"/"):
				t.Errorf("%s imports %s in %s: pure packages use the standard library only", p.folder, name, strings.Join(files, ", "))
			}
		}
	}
}

// TestImports_CommandsAndLabStayOutside checks the ends of the tree: nothing imports cmd or deploy, the commands only
// start the assembly, and the lab runs machines without knowing the product.
func TestImports_CommandsAndLabStayOutside(t *testing.T) {
	for _, p := range tree(t) {
		for name, files := range p.imports {
			folder, ours := strings.CutPrefix(name, module+"/")
			if !ours {
				continue
			}
			top, _, _ := strings.Cut(folder, "/")
			var wrong string
			switch {
			case top == "cmd":
				wrong = "nothing imports a command"
			case top == "deploy" && !strings.HasPrefix(p.folder, "deploy/"):
				wrong = "the product does not know its lab"
			case strings.HasPrefix(p.folder, "cmd/") && folder != "pkg/cli" && folder != "pkg/daemon":
				wrong = "a command starts pkg/cli or pkg/daemon and knows nothing else"
			case strings.HasPrefix(p.folder, "deploy/") && top != "deploy":
				wrong = "the lab does not know the product"
			default:
				continue
			}
			t.Errorf("%s imports %s in %s: %s", p.folder, folder, strings.Join(files, ", "), wrong)
		}
	}
}

func TestPackages_SayWhatTheyAre(t *testing.T) {
	for _, p := range tree(t) {
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command " + path.Base(p.folder) + " "
		}
		if !strings.HasPrefix(p.doc, want) {
			t.Errorf("%s: the package comment must begin with %q, and say what it is, what it is not and who calls it; got %q",
				p.folder, want, firstLine(p.doc))
		}
	}
}

func TestCommands_MainIsShort(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "cmd", "*", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(text, []byte("\n")); lines > 40 {
			t.Errorf("%s has %d lines: at most 40; what it does belongs to pkg/cli or pkg/daemon", file, lines)
		}
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
