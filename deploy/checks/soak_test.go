package checks_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// soakRepo is a repository with soak.sh and targets of its own.
type soakRepo struct {
	t   *testing.T
	dir string
}

const soakMakefile = `
good:
	@echo run >>bin/runs
	@printf '    good_test.go:7: -seed=42\n--- PASS: TestGood (0.01s)\nok  good\n'
bad:
	@printf -- '--- FAIL: TestBad (0.01s)\n'; test -e bin/mended
meddles:
	@echo 'package main' >main.go
`

func newSoakRepo(t *testing.T) soakRepo {
	t.Helper()
	r := soakRepo{t: t, dir: t.TempDir()}
	script, err := os.ReadFile("soak.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"Makefile": soakMakefile, ".gitignore": "/bin/\n", "deploy/checks/soak.sh": string(script)} {
		r.write(name, text)
	}
	r.git("init", "-q")
	r.git("add", ".")
	r.git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "begin")
	return r
}

func (r soakRepo) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		r.t.Fatal(err)
	}
}

func (r soakRepo) git(args ...string) string {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), "git", append([]string{"-C", r.dir}, args...)...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// soak runs parts and returns whether they passed and what was said.
func (r soakRepo) soak(parts ...string) (passed bool, said string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(r.dir, "deploy/checks/soak.sh"), parts...)
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	out, err := cmd.CombinedOutput()
	return err == nil, string(out)
}

// page is what a part left in the evidence of the newest commit.
func (r soakRepo) page(part string) string {
	text, err := os.ReadFile(filepath.Join(r.dir, "docs/evidence/soak-"+r.git("rev-parse", "--short=12", "HEAD"), part+".md"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestSoak_GoesOnWhereItWasCut(t *testing.T) {
	r := newSoakRepo(t)
	passed, said := r.soak("bad", "good")
	if passed || !strings.Contains(said, "failed: bad") {
		t.Errorf("a part failed, and soak says: %s", said)
	}
	for part, want := range map[string]string{"good": "| result | passed |", "bad": "| result | failed |"} {
		if got := r.page(part); !strings.Contains(got, want) {
			t.Errorf("the page of %s lacks %q: %s", part, want, got)
		}
	}
	if got := r.page("good"); !strings.Contains(got, "-seed=42") {
		t.Errorf("the page does not tell the seed: %s", got)
	}

	r.write("bin/mended", "")
	if passed, said = r.soak("bad", "good"); !passed || !strings.Contains(said, "good passed already") {
		t.Errorf("started again: %s", said)
	}
	if got := r.page("bad"); !strings.Contains(got, "| result | passed |") {
		t.Errorf("what failed was not run again: %s", got)
	}
	if runs, err := os.ReadFile(filepath.Join(r.dir, "bin/runs")); err != nil || strings.Count(string(runs), "run") != 1 {
		t.Errorf("what passed was run again: %q, %v", runs, err)
	}
}

func TestSoak_EvidenceIsOfACommit(t *testing.T) {
	r := newSoakRepo(t)
	if passed, said := r.soak("meddles"); passed || !strings.Contains(said, "the tree was changed while meddles ran") {
		t.Errorf("the tree was changed, and soak says: %s", said)
	}
	if passed, said := r.soak("good"); !passed || !strings.Contains(said, "the tree has changes") {
		t.Errorf("with changes: %s", said)
	}
	if got := r.page("good"); !strings.Contains(got, "no such file") {
		t.Errorf("a tree with changes left evidence of a commit: %s", got)
	}
}
