package statefile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/statefile"
)

type content struct {
	Name  string         `json:"name"`
	Boots uint64         `json:"boots"`
	Known map[string]int `json:"known"`
}

func sample() content {
	return content{Name: "n1", Boots: 7, Known: map[string]int{"a": 1, "b": 2}}
}

func TestWriteRead_RoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, want := range []content{sample(), {Name: "later"}} {
		if err := statefile.Write(path, want); err != nil {
			t.Fatal(err)
		}
		var got content
		if err := statefile.Read(path, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("read differs from what was written (-want +got):\n%s", diff)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode().Perm())
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("folder holds %v, want the file alone", entries)
	}
}

func TestRead_MissingFile(t *testing.T) {
	err := statefile.Read(filepath.Join(t.TempDir(), "none.json"), &content{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

// Every truncation and a flipped bit in every byte is noticed, named, and left as it is.
func TestRead_EveryDamageIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := statefile.Write(path, sample()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, damaged []byte) {
		t.Helper()
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		var got content
		err := statefile.Read(path, &got)
		var broken *statefile.BrokenError
		if !errors.As(err, &broken) || broken.Path != path || !strings.Contains(broken.Hint(), path) {
			t.Fatalf("%s: got %v, want a BrokenError that names %s", what, err, path)
		}
		if after, _ := os.ReadFile(path); !cmp.Equal(after, damaged) {
			t.Fatalf("%s: reading changed the file", what)
		}
	}
	for n := range good {
		check("cut", good[:n])
		flipped := append([]byte(nil), good...)
		flipped[n] ^= 1 << (n % 8)
		check("flipped", flipped)
	}
	check("longer", append(append([]byte(nil), good...), '\n'))
}

func TestWrite_FailureKeepsTheOldContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := statefile.Write(path, sample()); err != nil {
		t.Fatal(err)
	}
	// A folder in the place of the file written aside makes the write fail.
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	err := statefile.Write(path, content{Name: "new"})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v, want an error that names %s", err, path)
	}
	var got content
	if err := statefile.Read(path, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("old content changed (-want +got):\n%s", diff)
	}
}

// A disk that takes no more: a real one says so when it is written to.
func TestWrite_FullDiskKeepsTheOldContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := statefile.Write(path, sample()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", path+".new"); err != nil {
		t.Fatal(err)
	}
	err := statefile.Write(path, content{Name: "new"})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v, want ENOSPC with the name %s", err, path)
	}
	var got content
	if err := statefile.Read(path, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("old content changed (-want +got):\n%s", diff)
	}
	// Once there is room again, nothing of the failure is in the way.
	if err := statefile.Write(path, content{Name: "new"}); err != nil {
		t.Error(err)
	}
}

func TestSetAside_KeepsAllOfThem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for i, want := range []string{"first", "second"} {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		kept, err := statefile.SetAside(path)
		if err != nil {
			t.Fatal(err)
		}
		if wanted := fmt.Sprintf("%s.broken-%d", path, i+1); kept != wanted {
			t.Errorf("kept as %s, want %s", kept, wanted)
		}
	}
	for i, want := range []string{"first", "second"} {
		if got, err := os.ReadFile(fmt.Sprintf("%s.broken-%d", path, i+1)); err != nil || string(got) != want {
			t.Errorf("kept %q, %v, want %q", got, err, want)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still in its place: %v", err)
	}
	if _, err := statefile.SetAside(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestBrokenError_AdviceOfWhoKnowsBetter(t *testing.T) {
	e := &statefile.BrokenError{Path: "/x", Reason: "cut", Advice: "ask another node"}
	if got := e.Hint(); !strings.Contains(got, "left as it is") || !strings.Contains(got, "ask another node") {
		t.Errorf("hint %q", got)
	}
}

func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "state.json")
	if err := statefile.Write(path, sample()); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("tandem-state 1 sha256=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "state.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var v content
		var broken *statefile.BrokenError
		if err := statefile.Read(path, &v); err != nil && !errors.As(err, &broken) {
			t.Errorf("got %v, want a BrokenError", err)
		}
	})
}
