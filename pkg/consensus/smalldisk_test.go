package consensus_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inside is set in the process that smallDisk starts, to the folder of its disk.
const inside = "TANDEM_TEST_SMALL_DISK"

// smallDisk gives the test a tmpfs of that many bytes that only it sees: it starts
// the test again in a mount namespace of its own, and says no to the first, for
// which nothing is left to do. Where that is not allowed the test is skipped.
func smallDisk(t *testing.T, size int) (dir string, ok bool) {
	t.Helper()
	if dir := os.Getenv(inside); dir != "" {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatal(err)
		}
		return dir, true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		t.Fatalf("%s", out)
	case err != nil:
		t.Skipf("no mount namespace here: %v", err)
	}
	return "", false
}
