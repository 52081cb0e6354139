package history_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/history"
)

func TestOpen_SecondProcessIsAnErrorNotDamage(t *testing.T) {
	file := path(t)
	open(t, file, 0)
	_, setAside, err := history.Open(file, history.Options{LockTimeout: 50 * time.Millisecond})
	if err == nil || setAside != "" || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("got %q, %v", setAside, err)
	}
}

func TestOpen_WhatCannotBeHadIsAnErrorNotDamage(t *testing.T) {
	for name, file := range map[string]string{
		"no folder": filepath.Join(t.TempDir(), "missing", "history.db"),
		"a folder":  t.TempDir(),
	} {
		if _, setAside, err := history.Open(file, history.Options{}); err == nil || setAside != "" {
			t.Errorf("%s: got %q, %v", name, setAside, err)
		}
	}
}

func filled(t *testing.T) (file string, content []byte) {
	t.Helper()
	file = path(t)
	s, _, err := history.Open(file, history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		add(t, s, run(i%3, i, history.OK))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err = os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, content
}

func TestOpen_DamagedFileIsSetAside(t *testing.T) {
	_, good := filled(t)
	for name, content := range map[string][]byte{
		"garbage":      []byte(strings.Repeat("not a database ", 1000)),
		"zeros":        make([]byte, 64<<10),
		"short":        good[:100],
		"cut in pages": good[:9000],
		"no metas":     append(make([]byte, 8192), good[8192:]...),
		"no pages":     append(good[:8192:8192], make([]byte, len(good)-8192)...),
	} {
		t.Run(name, func(t *testing.T) {
			file := path(t)
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, setAside, err := history.Open(file, history.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			kept, err := os.ReadFile(setAside)
			if err != nil || !strings.Contains(setAside, "history.db.broken-") {
				t.Fatalf("set aside as %q: %v", setAside, err)
			}
			if len(kept) < len(content) {
				t.Errorf("%d of %d bytes were kept", len(kept), len(content))
			}
			add(t, s, run(0, 0, history.OK))
		})
	}
}

// Wherever bits rot, the store opens, or sets the file aside; it never panics,
// and it works afterwards.
func TestOpen_AnyFlippedByte(t *testing.T) {
	_, good := filled(t)
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		content := append([]byte{}, good...)
		for range rapid.IntRange(1, 4).Draw(t, "flips") {
			content[rapid.IntRange(0, len(content)-1).Draw(t, "offset")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		}
		file := filepath.Join(dir, fmt.Sprint(n))
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, err := history.Open(file, history.Options{LockTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range 2 {
			_, err = s.Append(run(i, 40, history.OK))
			if damaged := (*history.DamagedError)(nil); errors.As(err, &damaged) {
				_, err = s.Append(run(i, 40, history.OK))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Damage that comes while the file is open costs one call, not the daemon.
func TestStore_DamageWhileOpen(t *testing.T) {
	for name, hurt := range map[string]func(f *os.File, size int64) error{
		"pages overwritten": func(f *os.File, size int64) error {
			_, err := f.WriteAt(make([]byte, size-8192), 8192)
			return err
		},
		"cut short": func(f *os.File, _ int64) error { return f.Truncate(4096) },
	} {
		t.Run(name, func(t *testing.T) {
			file, content := filled(t)
			s := open(t, file, 0)
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := hurt(f, int64(len(content))); err != nil {
				t.Fatal(err)
			}
			_, err = s.Append(run(0, 50, history.OK))
			damaged := (*history.DamagedError)(nil)
			if !errors.As(err, &damaged) {
				t.Fatalf("got %v, want a DamagedError", err)
			}
			if _, err := os.Stat(damaged.SetAside); err != nil {
				t.Error(err)
			}
			add(t, s, run(0, 50, history.OK))
			if runs, err := s.Runs(jobID(0), 0); err != nil || len(runs) != 1 {
				t.Errorf("afterwards: %v, %v", runs, err)
			}
		})
	}
}

// Where the file cannot be had for a while, each use tries again, and whoever asked for
// it hears how it went.
func TestStore_ComesBackWhenTheFileCanBeHad(t *testing.T) {
	file := path(t)
	if err := os.MkdirAll(filepath.Join(file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	var heard []bool
	s, _, err := history.Open(file, history.Options{Report: func(err error) { heard = append(heard, err == nil) }})
	if s == nil || err == nil {
		t.Fatalf("got %v, %v, want a store and an error", s, err)
	}
	if _, err := s.Append(run(0, 0, history.OK)); err == nil {
		t.Error("a run was added to a folder")
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	add(t, s, run(0, 0, history.OK))
	if got, err := s.Runs(jobID(0), 0); err != nil || len(got) != 1 {
		t.Errorf("afterwards: %v, %v", got, err)
	}
	if want := []bool{false, false, true, true}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(run(0, 1, history.OK)); err == nil {
		t.Error("a closed store took a run")
	}
}

// A file of another version is kept, and does not stand in the way.
func TestOpen_OtherFormatIsSetAside(t *testing.T) {
	_, good := filled(t)
	file := path(t)
	if err := os.WriteFile(file, bytes.ReplaceAll(good, []byte("format1"), []byte("format2")), 0o600); err != nil {
		t.Fatal(err)
	}
	s, setAside, err := history.Open(file, history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if kept, err := os.ReadFile(setAside); err != nil || !bytes.Contains(kept, []byte("format2")) {
		t.Errorf("set aside as %q: %v", setAside, err)
	}
	add(t, s, run(0, 0, history.OK))
}
