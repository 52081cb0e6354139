package local_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/replicate/local"
)

// A process that is being started has copies of all open files until it becomes its program: what was unlocked meanwhile must not stay
// locked by it.
func TestLocks_AChildThatIsBeingStartedKeepsNoLock(t *testing.T) {
	dir := t.TempDir()
	locks := local.NewLocks(dir)
	release, err := locks.Lock(t.Context(), "volume-a.b")
	if err != nil {
		t.Fatal(err)
	}
	dup, err := unix.Dup(descriptorOf(t, filepath.Join(dir, "volume-a.b.lock")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(dup) }()
	release()
	again, err := locks.Lock(t.Context(), "volume-a.b")
	if err != nil {
		t.Fatalf("it was unlocked, and: %v", err)
	}
	again()
}

// descriptorOf finds the descriptor of this process that is open on a file.
func descriptorOf(t *testing.T, path string) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range open {
		if is, err := os.Stat("/proc/self/fd/" + f.Name()); err == nil && os.SameFile(is, want) {
			fd, err := strconv.Atoi(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	t.Fatalf("nobody has %s open", path)
	return -1
}
