package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/consensus/disk"
)

const small = 150 // bytes of a segment

func entry(index, term uint64) *raft.Log {
	return &raft.Log{
		Index: index, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "entry %d of term %d", index, term),
		AppendedAt: time.Unix(1700000000, int64(index)),
	}
}

func entries(from, to, term uint64) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		out = append(out, entry(i, term))
	}
	return out
}

func openLog(t *testing.T, dir string) *disk.Log {
	t.Helper()
	l, err := disk.OpenLog(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// content is all that a log holds.
func content(t *testing.T, l *disk.Log) map[uint64]raft.Log {
	t.Helper()
	first, err1 := l.FirstIndex()
	last, err2 := l.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	out := map[uint64]raft.Log{}
	for i := first; i <= last && last > 0; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil {
			t.Fatal(err)
		}
		out[i] = e
	}
	return out
}

// TestLog_IsAMap compares it, over restarts, with the simplest log there is.
func TestLog_IsAMap(t *testing.T) {
	base, round := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		dir := filepath.Join(base, fmt.Sprint(round))
		if err := os.Mkdir(dir, 0o700); err != nil {
			rt.Fatal(err)
		}
		l := openLog(t, dir)
		defer func() { _ = l.Close() }()
		model := map[uint64]raft.Log{}
		first, last, term := uint64(0), uint64(0), uint64(1)
		remove := func(from, to uint64) {
			if err := l.DeleteRange(from, to); err != nil {
				rt.Fatalf("delete %d to %d of %d to %d: %v", from, to, first, last, err)
			}
			for i := from; i <= to; i++ {
				delete(model, i)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"store": func(rt *rapid.T) {
				from := last + 1
				if last == 0 {
					from = rapid.Uint64Range(1, 50).Draw(rt, "from")
					first = from
				}
				batch := entries(from, from+rapid.Uint64Range(0, 9).Draw(rt, "more"), term)
				if err := l.StoreLogs(batch); err != nil {
					rt.Fatal(err)
				}
				for _, e := range batch {
					model[e.Index] = *e
					last = e.Index
				}
			},
			"cut the tail": func(rt *rapid.T) {
				if last <= first {
					rt.Skip("too short")
				}
				from := rapid.Uint64Range(first+1, last).Draw(rt, "from")
				remove(from, last)
				last = from - 1
				term++
			},
			"cut the head": func(rt *rapid.T) {
				if last <= first {
					rt.Skip("too short")
				}
				to := rapid.Uint64Range(first, last-1).Draw(rt, "to")
				remove(first, to)
				first = to + 1
			},
			"clear": func(rt *rapid.T) {
				if last == 0 {
					rt.Skip("empty")
				}
				remove(first, last)
				first, last = 0, 0
			},
			"restart": func(rt *rapid.T) {
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				l = openLog(t, dir)
				// Entries of a segment that others need may be back; raft does not mind.
				if back, _ := l.FirstIndex(); back < first {
					remove(back, first-1)
				}
			},
			"": func(rt *rapid.T) {
				if d := cmp.Diff(model, content(t, l)); d != "" {
					rt.Fatalf("the log differs (-want +got):\n%s", d)
				}
				var e raft.Log
				for _, i := range []uint64{0, first - 1, last + 1} {
					if err := l.GetLog(i, &e); (last == 0 || i < first || i > last) && !errors.Is(err, raft.ErrLogNotFound) {
						rt.Fatalf("entry %d, which is not there: %v", i, err)
					}
				}
			},
		})
	})
}

func TestLog_RefusesHoles(t *testing.T) {
	l := openLog(t, t.TempDir())
	defer func() { _ = l.Close() }()
	if err := l.StoreLogs(entries(1, 9, 1)); err != nil {
		t.Fatal(err)
	}
	if l.StoreLog(entry(11, 1)) == nil || l.StoreLog(entry(9, 1)) == nil || l.StoreLogs([]*raft.Log{entry(10, 1), entry(12, 1)}) == nil {
		t.Error("a hole was taken")
	}
	if err := l.DeleteRange(3, 5); err == nil {
		t.Error("the middle was removed")
	}
	if err := l.StoreLog(entry(10, 1)); err != nil {
		t.Error(err)
	}
}

// made is a folder with a log of several segments, votes and two snapshots.
func made(t *testing.T, dir string) {
	t.Helper()
	s, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Votes.SetUint64([]byte("CurrentTerm"), 7), s.Votes.Set([]byte("LastVoteCand"), []byte("n1")), s.Close()); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, filepath.Join(dir, "log"))
	for i := uint64(1); i <= 20; i += 3 {
		if err := l.StoreLogs(entries(i, i+2, 3)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.DeleteRange(18, 21), l.StoreLogs(entries(18, 20, 7)), l.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = disk.Open(dir); err != nil {
		t.Fatal(err)
	}
	for i := uint64(5); i <= 15; i += 5 {
		k, err := s.Snapshots.Create(1, i, 3, raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}}}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(k, "the ledger at %d", i); err != nil {
			t.Fatal(err)
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// all is everything that a folder says.
type all struct {
	Log       map[uint64]raft.Log
	Term      uint64
	Vote      string
	Snapshots map[uint64]string
}

func read(t *testing.T, dir string) (a all, broken []disk.Broken, err error) {
	t.Helper()
	s, err := disk.Open(dir)
	if err != nil {
		return a, nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	a.Log = content(t, s.Log)
	if a.Term, err = s.Votes.GetUint64([]byte("CurrentTerm")); err != nil {
		return a, nil, err
	}
	vote, err := s.Votes.Get([]byte("LastVoteCand"))
	if err != nil {
		return a, nil, err
	}
	a.Vote = string(vote)
	list, err := s.Snapshots.List()
	if err != nil {
		return a, nil, err
	}
	a.Snapshots = map[uint64]string{}
	for _, m := range list {
		_, r, err := s.Snapshots.Open(m.ID)
		if err != nil {
			return a, nil, err
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return a, nil, err
		}
		if int64(len(b)) != m.Size {
			t.Errorf("snapshot %s has %d bytes, and says %d", m.ID, len(b), m.Size)
		}
		a.Snapshots[m.Index] = fmt.Sprintf("%s %+v", b, m.Configuration.Servers)
	}
	broken, err = s.Snapshots.Broken()
	return a, broken, err
}

func TestStore_ComesBackAsItWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "g")
	made(t, dir)
	got, broken, err := read(t, dir)
	if err != nil || len(broken) > 0 {
		t.Fatal(err, broken)
	}
	servers := " [{Suffrage:Voter ID:n1 Address:n1}]"
	want := all{Log: map[uint64]raft.Log{}, Term: 7, Vote: "n1", Snapshots: map[uint64]string{
		10: "the ledger at 10" + servers, 15: "the ledger at 15" + servers, // the last two are kept
	}}
	for _, e := range append(entries(1, 17, 3), entries(18, 20, 7)...) {
		want.Log[e.Index] = *e
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if n := len(files(t, dir)); n < 8 {
		t.Errorf("%d files: the log has one segment only", n)
	}
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestStore_DamageIsNeverBelieved flips bits and cuts files all over the
// folder: the folder says what it said, or names the file.
func TestStore_DamageIsNeverBelieved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "g")
	made(t, dir)
	want, _, err := read(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files(t, dir) {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(whole); i += 3 {
			flipped := slices.Clone(whole)
			flipped[i] ^= 1 << (i % 8)
			checkDamaged(t, path, fmt.Sprintf("byte %d flipped", i), flipped, want)
			if i%4 == 0 || i > len(whole)-10 {
				checkDamaged(t, path, fmt.Sprintf("cut at %d", i), whole[:i], want)
			}
		}
		zeroed := append(slices.Clone(whole[:len(whole)/2]), make([]byte, len(whole)-len(whole)/2)...)
		checkDamaged(t, path, "second half zeroed", zeroed, want)
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func checkDamaged(t *testing.T, path, what string, bytesNow []byte, want all) {
	t.Helper()
	dir := filepath.Dir(path)
	if filepath.Base(path) != "votes.json" {
		dir = filepath.Dir(dir)
	}
	if err := os.WriteFile(path, bytesNow, 0o600); err != nil {
		t.Fatal(err)
	}
	what = filepath.Base(path) + ": " + what
	got, broken, err := read(t, dir)
	var named *disk.BrokenError
	switch {
	case errors.As(err, &named):
		if named.Path != path && filepath.Base(path) != "acknowledged" {
			t.Errorf("%s: %s is blamed", what, named.Path)
		}
	case err != nil:
		t.Errorf("%s: %v", what, err)
	case len(broken) > 0:
		if broken[0].Path != path || len(broken) != 1 {
			t.Errorf("%s: %v is blamed", what, broken)
		}
		if delete(got.Snapshots, broken[0].Index); len(got.Snapshots) != 1 {
			t.Errorf("%s: snapshots %v", what, got.Snapshots)
		}
		got.Snapshots = want.Snapshots
		fallthrough
	default:
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s: believed (-want +got):\n%s", what, d)
		}
	}
	now, err := os.ReadFile(path)
	if filepath.Base(path) != "acknowledged" && (err != nil || !bytes.Equal(now, bytesNow)) {
		t.Fatalf("%s: the file was changed (%v)", what, err)
	}
}

// TestStore_AFileThatIsGoneIsMissed removes each file.
func TestStore_AFileThatIsGoneIsMissed(t *testing.T) {
	base := filepath.Join(t.TempDir(), "g")
	made(t, base)
	want, _, err := read(t, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files(t, base) {
		dir := filepath.Join(t.TempDir(), "g")
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(base, path)
		if err := os.Remove(filepath.Join(dir, rel)); err != nil {
			t.Fatal(err)
		}
		got, _, err := read(t, dir)
		if _, broken := errors.AsType[*disk.BrokenError](err); broken {
			continue
		}
		// The first part of the log and a snapshot may go: pkg/consensus looks for holes.
		if len(got.Snapshots) < 2 {
			got.Snapshots = want.Snapshots
		}
		first := slices.Min(slices.Collect(maps.Keys(got.Log)))
		for i := range want.Log {
			if e, ok := got.Log[i]; i >= first && (!ok || cmp.Diff(want.Log[i], e) != "") {
				t.Errorf("without %s: entry %d is missing", rel, i)
			}
		}
		if first > 1 && rel != filepath.Join("log", "00000000000000000001.log") || got.Term != want.Term {
			t.Errorf("without %s: the log begins with %d, term %d", rel, first, got.Term)
		}
	}
}

// TestLog_ATornWriteLosesNothingElse cuts and zeroes what the last write wrote, as
// a power cut does, at each byte.
func TestLog_ATornWriteLosesNothingElse(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	if err := l.StoreLogs(entries(1, 3, 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before := snapshotOf(t, dir)
	l = openLog(t, dir)
	if err := errors.Join(l.StoreLogs(entries(4, 6, 1)), l.Close()); err != nil {
		t.Fatal(err)
	}
	name := "00000000000000000001.log"
	synced, written := before[name], snapshotOf(t, dir)[name]
	for cut := len(synced); cut <= len(written); cut += 3 {
		for _, torn := range [][]byte{
			written[:cut],
			append(slices.Clone(written[:cut]), make([]byte, len(written)-cut)...),
			slices.Concat(synced, make([]byte, cut-len(synced)), written[cut:]), // the end came first
		} {
			dir := t.TempDir()
			for file, b := range before {
				if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, name), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := disk.OpenLog(dir, 1<<20)
			if err != nil {
				t.Fatalf("torn at %d: %v", cut, err)
			}
			last, _ := l.LastIndex()
			if last < 3 {
				t.Fatalf("torn at %d: the log ends with %d", cut, last)
			}
			want := map[uint64]raft.Log{}
			for _, e := range append(entries(1, last, 1), entries(last+1, last+3, 2)...) {
				want[e.Index] = *e
			}
			if err := errors.Join(l.StoreLogs(entries(last+1, last+3, 2)), l.Close()); err != nil {
				t.Fatal(err)
			}
			l, err = disk.OpenLog(dir, 1<<20)
			if err != nil {
				t.Fatalf("torn at %d, then written: %v", cut, err)
			}
			if d := cmp.Diff(want, content(t, l)); d != "" {
				t.Fatalf("torn at %d, then written (-want +got):\n%s", cut, d)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestLog_DamageBeforeTheLastWriteIsNoTornWrite: even where a power cut took the
// note of what was acknowledged.
func TestLog_DamageBeforeTheLastWriteIsNoTornWrite(t *testing.T) {
	dir := t.TempDir()
	l, err := disk.OpenLog(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var synced int64
	path := filepath.Join(dir, "00000000000000000001.log")
	for i := uint64(1); i <= 12; i += 3 {
		if info, err := os.Stat(path); err == nil {
			synced = info.Size()
		}
		if err := l.StoreLogs(entries(i, i+2, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Close(), os.Remove(filepath.Join(dir, "acknowledged"))); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range synced {
		damaged := slices.Clone(whole)
		damaged[i] ^= 0x10
		if err := errors.Join(os.WriteFile(path, damaged, 0o600), os.RemoveAll(filepath.Join(dir, "acknowledged"))); err != nil {
			t.Fatal(err)
		}
		var broken *disk.BrokenError
		if l, err := disk.OpenLog(dir, 1<<20); !errors.As(err, &broken) {
			last, _ := l.LastIndex()
			t.Errorf("byte %d flipped: taken for a torn write after entry %d (%v)", i, last, err)
		}
	}
}

func snapshotOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, path := range files(t, dir) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(path)] = b
	}
	return out
}

func TestSnapshots_OneThatWasNotFinishedIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "g")
	s, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Snapshots.Create(1, 5, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(k, strings.NewReader("half of it")); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Snapshots.List(); err != nil || len(list) > 0 {
		t.Errorf("before its end: %v, %v", list, err)
	}
	if err := errors.Join(s.Close()); err != nil { // as if the machine had crashed
		t.Fatal(err)
	}
	if s, err = disk.Open(dir); err != nil {
		t.Fatal(err)
	}
	if got := files(t, filepath.Join(dir, "snapshots")); len(got) > 0 {
		t.Errorf("%v is still there", got)
	}
	if k, err = s.Snapshots.Create(1, 5, 1, raft.Configuration{}, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Cancel(), k.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if got := files(t, filepath.Join(dir, "snapshots")); len(got) > 0 {
		t.Errorf("after a cancel %v is still there", got)
	}
}
