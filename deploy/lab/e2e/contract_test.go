//go:build lab

package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab"
)

// keepContract runs what the fake of ZFS is held to against the real one, on a pool of its own in a file, beside whatever else goes on.
func keepContract(t *testing.T) {
	t.Parallel()
	tree, err := lab.FindTree(".")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "zfs.test")
	build := exec.CommandContext(world.ctx, "go", "test", "-c", "-tags", "realzfs", "-o", binary, "./pkg/zfs")
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, said)
	}
	const remote = "/var/tmp/tandem-contract"
	if err := n("n3").Put(world.ctx, binary, remote+"/zfs.test"); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	result := n("n3").run(t, "cd %[1]s && nice -n 19 ./zfs.test -test.v -test.run '%[2]s' -test.timeout 60m -pooldir %[1]s -damages %[3]d -damage-seed %[4]d; code=$?; rm -rf %[1]s; exit $code",
		remote, *contract, *damages, *seed)
	passed := regexp.MustCompile(`(?m)^ *--- PASS: (\S+) \((.*)\)$`).FindAllStringSubmatch(result.Stdout, -1)
	if result.Code != 0 || len(passed) == 0 {
		t.Fatalf("exit code %d, %d parts passed:\n%s%s", result.Code, len(passed), result.Stdout, result.Stderr)
	}
	var parts []string
	for _, part := range passed {
		parts = append(parts, part[1]+" "+part[2])
	}
	t.Logf("real ZFS kept the contract, in %.0f s; %d parts:\n%s", time.Since(begun).Seconds(), len(parts), strings.Join(parts, "\n"))
}
