package hook_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/hook"
)

func script(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // Past the umask.
		t.Fatal(err)
	}
	return path
}

func TestRun_TellsWhatItSaidAndHowItEnded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := script(t, `echo "$1 $A $(pwd)"; printf 'a\033b\n' >&2; exit 3`, 0o700)
	said, err := hook.Run(t.Context(), hook.Call{Path: path, Args: []string{"100"}, Env: []string{"A=b c"}, Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || said != "100 b c "+dir+"\na b" {
		t.Errorf("said %q, %v", said, err)
	}
	long := script(t, "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done", 0o700)
	said, err = hook.Run(t.Context(), hook.Call{Path: long})
	if err != nil || len(said) > 4<<10 || !strings.HasSuffix(said, "line 2999") {
		t.Errorf("%d bytes, %v", len(said), err)
	}
}

func TestRun_EndsAllThatItStarted(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "mark")
	path := script(t, `( sleep 3600; echo late >"$1" ) & echo begun; wait`, 0o700)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begun := time.Now()
	said, err := hook.Run(ctx, hook.Call{Path: path, Args: []string{mark}})
	if !errors.Is(err, hook.ErrEnded) || said != "begun" || time.Since(begun) > time.Minute {
		t.Errorf("said %q, %v", said, err)
	}
}

func TestCheck_RefusesWhatOthersCouldHavePutThere(t *testing.T) {
	t.Parallel()
	for want, path := range map[string]string{
		"absolute path":     "hook",
		"no such file":      "/nowhere/hook",
		"it is no file":     t.TempDir(),
		"not executable":    script(t, "", 0o600),
		"others than its":   script(t, "", 0o777),
		"chmod go-w":        script(t, "", 0o720),
		"is not an absolut": "",
	} {
		if err := hook.Check(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := hook.Check(script(t, "", 0o755)); err != nil {
		t.Error(err)
	}
}
