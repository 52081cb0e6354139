package zerr_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

// fixture is what one command of one series of OpenZFS said.
type fixture struct {
	class zerr.Class
	op    string
	exit  int
	since string
	text  string
}

// fixtures are all of testdata: a file for each class.
func fixtures(tb testing.TB) []fixture {
	tb.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no fixtures: %v", err)
	}
	var out []fixture
	for _, file := range files {
		class := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".txtar"), "-", " ")
		archive, err := txtar.ParseFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for _, f := range archive.Files {
			x := fixture{class: zerr.Class(class), text: string(f.Data)}
			if _, err := fmt.Sscanf(f.Name, "%s exit=%d since=%s", &x.op, &x.exit, &x.since); err != nil {
				tb.Fatalf("%s: header %q: %v", file, f.Name, err)
			}
			out = append(out, x)
		}
	}
	return out
}

func TestClassify_KnowsEveryText(t *testing.T) {
	seen := map[zerr.Class]bool{}
	for _, f := range fixtures(t) {
		seen[f.class] = true
		for _, form := range []string{f.text, strings.ReplaceAll(f.text, "\n", " "), strings.ReplaceAll(f.text, " ", "\n\t")} {
			e := zerr.New(f.op, "tank/g/vm-100-disk-0", f.exit, form)
			if e.Class != f.class {
				t.Errorf("%s (exit %d): %q: got %q, want %q", f.op, f.exit, form, e.Class, f.class)
			}
			if want := strings.Join(strings.Fields(f.text), " "); e.Stderr != want || e.Exit != f.exit {
				t.Errorf("%s: the error shows %q and exit code %d, want all of %q and %d", f.op, e.Stderr, e.Exit, want, f.exit)
			}
		}
	}
	for _, class := range []zerr.Class{
		zerr.Diverged, zerr.Partial, zerr.Token, zerr.Gone, zerr.Exists, zerr.Stream, zerr.Space, zerr.Busy, zerr.Held, zerr.Clones,
		zerr.Feature, zerr.Key, zerr.Pool, zerr.PoolAbsent, zerr.PoolReadOnly, zerr.BadArg, zerr.Peer, zerr.Unknown,
	} {
		if !seen[class] {
			t.Errorf("no fixture for class %q", class)
		}
	}
}

// Every text of the table is printed by some fixture: what nobody says any more is not kept.
func TestClassify_HasAFixtureForEveryPhrase(t *testing.T) {
	all := fixtures(t)
	for _, parts := range zerr.Phrases() {
		used := false
		for _, f := range all {
			text := strings.Join(strings.Fields(f.text), " ")
			found := true
			for _, part := range parts {
				_, rest, ok := strings.Cut(text, part)
				text, found = rest, found && ok
			}
			used = used || found
		}
		if !used {
			t.Errorf("no fixture says %q", parts)
		}
	}
}

// A long list of clones after the first line must not push out what the message is.
func TestNew_TheFirstLineDecidesHoweverMuchFollows(t *testing.T) {
	text := "cannot destroy 'tank/x@a': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\n" +
		strings.Repeat("tank/clones/a-clone-with-quite-a-long-name\n", 1000)
	e := zerr.New("destroy", "tank/x", 1, text)
	if e.Class != zerr.Clones || len(e.Stderr) > 5<<10 || !strings.Contains(e.Stderr, "dependent clones") {
		t.Errorf("class %q, %d bytes shown, beginning %.60q", e.Class, len(e.Stderr), e.Stderr)
	}
}

func TestError_TellsWhatClassAndWhatToDo(t *testing.T) {
	err := fmt.Errorf("sync: %w", zerr.New("receive", "tank/x", 1, "cannot receive:\n  out of space\n"))
	if got, want := err.Error(), "sync: receive tank/x: cannot receive: out of space"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, zerr.Space) || errors.Is(err, zerr.Busy) || zerr.Of(err) != zerr.Space {
		t.Errorf("class of %v is %q", err, zerr.Of(err))
	}
	absent := zerr.New("list", "tank/x", 1, "cannot open 'tank': no such pool")
	if !errors.Is(absent, zerr.PoolAbsent) || !errors.Is(absent, zerr.Pool) || errors.Is(absent, zerr.Gone) {
		t.Errorf("an absent pool is a failure of the pool and no absent volume: %v", absent)
	}
	if zerr.Of(nil) != "" || zerr.Of(errors.New("x")) != zerr.Unknown {
		t.Error("classes of nil and of a stranger")
	}
	cause := errors.New("cause")
	if err := zerr.Refuse("send", "tank/x", cause); !errors.Is(err, cause) || !errors.Is(err, zerr.Refused) {
		t.Errorf("refusal: %v", err)
	}
	for _, f := range fixtures(t) {
		e := &zerr.Error{Class: f.class}
		if f.class != zerr.Unknown && e.Hint() == "" {
			t.Errorf("no hint for %q", f.class)
		}
		if f.class.Outlook() == "" {
			t.Errorf("no outlook for %q", f.class)
		}
	}
	if zerr.Unknown.Outlook() != zerr.OutlookPerson {
		t.Error("what nobody classified needs a person")
	}
	if long := zerr.New("x", "", 1, strings.Repeat("ü", 1<<20)); len(long.Stderr) > 5<<10 {
		t.Errorf("stderr of %d bytes kept", len(long.Stderr))
	}
}

func FuzzClassify(f *testing.F) {
	for _, x := range fixtures(f) {
		f.Add(x.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e := zerr.New("op", "tank/x", 1, text)
		if e.Class == "" || e.Error() == "" || e.Class.Outlook() == "" || len(e.Stderr) > 5<<10 {
			t.Errorf("%q: %+v", text, e)
		}
	})
}
