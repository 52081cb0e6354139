package checks_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// failuresPage has a row for each known failure of a sync, F01 to F67, that names
// the tests which show it.
const (
	failuresPage = root + "/docs/failures.md"
	lastFailure  = 67
)

// named finds a test as the page names it: folder, function, case.
var named = regexp.MustCompile("`([a-z0-9/]+):(Test\\w+)(?:/([^`]+))?`")

func TestFailures_EachHasATestThatExists(t *testing.T) {
	page, err := os.ReadFile(failuresPage)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		tests := named.FindAllStringSubmatch(line, -1)
		for _, m := range tests {
			if why := missing(t, m[1], m[2], m[3]); why != "" {
				t.Errorf("docs/failures.md names %s: %s", m[0], why)
			}
		}
		cases, _, isRow := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		if !isRow || !strings.HasPrefix(cases, "F") {
			continue
		}
		if columns := strings.Count(line, "|") - 1; columns != 5 {
			t.Errorf("docs/failures.md: the row of %s has %d columns", cases, columns)
		}
		if len(tests) == 0 {
			t.Errorf("docs/failures.md: %s has no test", cases)
		}
		for c := range strings.SplitSeq(cases, ", ") {
			shown[c] = true
		}
	}
	for n := 1; n <= lastFailure; n++ {
		if c := fmt.Sprintf("F%02d", n); !shown[c] {
			t.Errorf("docs/failures.md has no row for %s", c)
		}
	}
}

// missing is why there is no such test, or empty. A case, and each that it is in, is looked
// for as a text in the folder's Go files and those below it: a suite may be a package of its own.
func missing(t *testing.T, folder, function, name string) string {
	t.Helper()
	hasFunction := false
	cases := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	err := filepath.WalkDir(filepath.Join(root, filepath.FromSlash(folder)), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(file, ".go") {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		cases = slices.DeleteFunc(cases, func(c string) bool { return strings.Contains(string(text), `"`+c+`"`) })
		here := filepath.ToSlash(filepath.Dir(file)) == root+"/"+folder
		if here && strings.HasSuffix(file, "_test.go") {
			hasFunction = hasFunction || declares(t, file, function)
		}
		return nil
	})
	switch {
	case err != nil:
		return err.Error()
	case !hasFunction:
		return "there is no such function in that folder"
	case len(cases) > 0:
		return "no file there has a case " + cases[0]
	}
	return ""
}

func declares(t *testing.T, file, function string) bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == function {
			return true
		}
	}
	return false
}
