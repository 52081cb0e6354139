package folder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tandemd/tandem/deploy/lab/host"
)

// Exists reports whether there is something at path.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// WriteJSON replaces a small file as a whole.
func WriteJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	aside := path + ".new"
	if err := os.WriteFile(aside, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := syncPath(aside); err != nil {
		return err
	}
	return os.Rename(aside, path)
}

// ReadJSON reads what writeJSON wrote; a missing file matches os.ErrNotExist.
func ReadJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// RemoveEmpty removes a folder where it is empty.
func RemoveEmpty(path string) {
	// Any failure means that somebody uses it, or that it is gone.
	_ = os.Remove(path)
}

// IgnoreMissing leaves out the error that says only that a file is not there.
func IgnoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// ReadFrom returns a file's content from an offset on; a missing file is empty.
func ReadFrom(path string, offset int64) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", IgnoreMissing(err)
	}
	text, err := io.ReadAll(io.NewSectionReader(file, offset, 1<<30))
	return string(text), errors.Join(err, file.Close())
}

// RemoveTree removes a tree whose writers are just ending.
func RemoveTree(ctx context.Context, path string) error {
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var last error
	err := host.Poll(limit, 200*time.Millisecond, func() (bool, error) {
		last = os.RemoveAll(path)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// Key is a name for a folder in a cache: a hash of the words that decide what is in it.
func Key(words ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", words))
	return hex.EncodeToString(sum[:])[:16]
}
