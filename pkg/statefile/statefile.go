// Package statefile reads and writes the small state files of the daemon: one
// JSON value behind a line with its checksum.
//
// A file is written aside, fsynced, renamed and its folder fsynced, so that after
// a crash there is the old content or the new one. A file whose checksum does not
// match is refused with an error that names it; nothing in here repairs or
// overwrites it by itself. It is not a database: everything is read and written
// whole. Adapters that keep something on disk call it.
package statefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSize bounds what is read into memory; a state file has some kilobytes.
const maxSize = 16 << 20

// magic starts the first line; the checksum of the rest of the file follows.
const magic = "tandem-state 1 sha256="

// BrokenError says that a state file exists and cannot be believed.
type BrokenError struct {
	Path   string
	Reason string
	// Advice is what the operator can do, from whoever knows what the file is for.
	Advice string
}

// Error names the file and what is wrong with it.
func (e *BrokenError) Error() string {
	return fmt.Sprintf("state file %s is broken: %s", e.Path, e.Reason)
}

// Hint tells the operator what to do about it.
func (e *BrokenError) Hint() string {
	if e.Advice != "" {
		return "the file was left as it is; look at the disk, then " + e.Advice
	}
	return "the file was left as it is; look at the disk, then restore " + e.Path +
		" from a backup, or move it away if what it holds may be lost"
}

// Read decodes the file at path into v. A missing file gives an error that
// matches fs.ErrNotExist, a damaged one a *BrokenError; v may then be partly set.
func Read(path string, v any) error {
	data, err := readFile(path)
	if err != nil {
		return fmt.Errorf("read state file: %w", err)
	}
	head, body, found := bytes.Cut(data, []byte("\n"))
	switch {
	case len(data) == 0:
		return &BrokenError{Path: path, Reason: "it is empty"}
	case len(data) > maxSize:
		return &BrokenError{Path: path, Reason: fmt.Sprintf("it is larger than %d bytes", maxSize)}
	case !bytes.HasPrefix(head, []byte(magic)):
		return &BrokenError{Path: path, Reason: "its first line is not that of a state file of this version"}
	case !found || string(head[len(magic):]) != checksum(body):
		return &BrokenError{Path: path, Reason: "the checksum does not match, so it was cut or changed"}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &BrokenError{Path: path, Reason: "its content does not fit: " + err.Error()}
	}
	return nil
}

// Write puts v into the file at path, mode 0600, replacing what is there. When it
// returns nil the content is on disk; otherwise the old content or the new one is.
// There is at most one writer of a path at a time.
func Write(path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode state file %s: %w", path, err)
	}
	body = append(body, '\n')
	data := append([]byte(magic+checksum(body)+"\n"), body...)
	if len(data) > maxSize {
		return fmt.Errorf("write state file %s: %d bytes are more than the limit of %d", path, len(data), maxSize)
	}
	if err := writeAside(path, data); err != nil {
		return fmt.Errorf("write state file %s: %w", path, err)
	}
	return nil
}

func writeAside(path string, data []byte) error {
	// A fixed name, so that a crash leaves at most one, and the next write takes it.
	aside := path + ".new"
	if err := writeSynced(aside, data); err != nil {
		return errors.Join(err, removeIfThere(aside))
	}
	if err := os.Rename(aside, path); err != nil {
		return errors.Join(err, removeIfThere(aside))
	}
	return syncFolder(filepath.Dir(path))
}

func writeSynced(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func syncFolder(path string) (err error) {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}

// maxAside bounds how many broken files are kept beside one path.
const maxAside = 1000

// SetAside renames the file at path, so that another can be written in its place,
// and returns where it is now. It is for files that may be lost without harm; what
// they held is kept for people to look at.
func SetAside(path string) (string, error) {
	for n := 1; n <= maxAside; n++ {
		aside := fmt.Sprintf("%s.broken-%d", path, n)
		if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Rename(path, aside); err != nil {
			return "", fmt.Errorf("set a broken state file aside: %w", err)
		}
		return aside, nil
	}
	return "", fmt.Errorf("set %s aside: %d broken ones are there already; look at the disk, and remove them", path, maxAside)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readFile(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
