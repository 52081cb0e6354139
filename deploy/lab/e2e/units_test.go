//go:build lab

package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandemd/tandem/deploy/lab"
)

// keepUnitContract runs what the fake of systemd is held to against the real one, with units of its own, beside whatever else goes on.
func keepUnitContract(t *testing.T) {
	t.Parallel()
	tree, err := lab.FindTree(".")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "unit.test")
	build := exec.CommandContext(world.ctx, "go", "test", "-c", "-tags", "realsystemd", "-o", binary, "./pkg/unit")
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, said)
	}
	const remote = "/var/tmp/tandem-units"
	if err := n("n3").Put(world.ctx, binary, remote+"/unit.test"); err != nil {
		t.Fatal(err)
	}
	result := n("n3").run(t, "cd %[1]s && nice -n 19 ./unit.test -test.v -test.run '^TestRealSystemd' -test.timeout 15m; code=$?; rm -rf %[1]s; exit $code", remote)
	if result.Code != 0 || !strings.Contains(result.Stdout, "--- PASS: TestRealSystemd_KeepsTheContract") {
		t.Fatalf("exit code %d:\n%s%s", result.Code, result.Stdout, result.Stderr)
	}
}
