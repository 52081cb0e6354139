package statefile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tandemd/tandem/pkg/statefile"
)

func TestReserve_IsGivenUpAndComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			return -1
		}
		return info.Size()
	}
	r, err := statefile.OpenReserve(path, 1<<20)
	if err != nil || !r.Held() || size() != 1<<20 {
		t.Fatalf("a new reserve: %v, held %v, %d bytes", err, r.Held(), size())
	}
	if !r.Release() || r.Held() || size() > 0 || r.Release() {
		t.Errorf("given up: held %v, %d bytes", r.Held(), size())
	}
	if err := r.Renew(); err != nil || !r.Held() || size() != 1<<20 {
		t.Errorf("made again: %v, held %v, %d bytes", err, r.Held(), size())
	}

	// One that a crash left half made is made anew.
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	if r, err := statefile.OpenReserve(path, 1<<20); err != nil || !r.Held() || size() != 1<<20 {
		t.Errorf("half a reserve: %v, %d bytes", err, size())
	}
}

func TestReserve_IsNotMadeWhereThereIsNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	r, err := statefile.OpenReserve(path, 1<<60)
	if err == nil || r.Held() {
		t.Errorf("a reserve that fits no disk: %v, held %v", err, r.Held())
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("and something was written")
	}
}
