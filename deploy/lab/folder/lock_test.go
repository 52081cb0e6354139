package folder_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tandemd/tandem/deploy/lab/folder"
)

func TestLock_IsExclusiveUntilReleased(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	lock, err := folder.TryLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := folder.TryLock(dir); !errors.Is(err, folder.ErrLocked) {
		t.Errorf("second lock: got %v, want ErrLocked", err)
	}
	lock.Release()
	lock, err = folder.TryLock(dir)
	if err != nil {
		t.Errorf("after release: %v", err)
	}
	lock.Release()
}

func TestLock_NoticesThatTheFolderWasReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	first, err := folder.TryLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	// As Down does: the folder goes while it is locked. Whoever comes next has a new one.
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	second, err := folder.TryLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

func TestSweep_RemovesOnlyDeadBuilds(t *testing.T) {
	parent := t.TempDir()
	live, liveLock, err := folder.Work(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer liveLock.Release()
	dead, deadLock, err := folder.Work(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, "half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	deadLock.Release() // as the kernel does when the builder dies
	finished := filepath.Join(parent, "finished")
	if err := os.Mkdir(finished, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := folder.Sweep(parent); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{live: true, dead: false, finished: true} {
		_, err := os.Stat(path)
		if got := err == nil; got != want {
			t.Errorf("%s is there: %v, want %v", path, got, want)
		}
	}
}

func TestPublish_MovesTheWhole(t *testing.T) {
	parent := t.TempDir()
	work, lock, err := folder.Work(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if err := os.WriteFile(filepath.Join(work, "disk"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	final := filepath.Join(parent, "final")
	if err := folder.Publish(work, final); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(final, "disk"))
	if err != nil || string(got) != "data" {
		t.Errorf("got %q, %v", got, err)
	}
}
