// Package content turns what a volume holds into entries that two nodes can
// compare: checksums of chunks for a zvol, one entry for each file of a
// filesystem. It reads streams and compares entries; it knows neither ZFS nor
// the network. pkg/replicate/verify and the reading beside it call it.
package content

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// ChunkSize is how much of a zvol one checksum is about, in bytes.
const ChunkSize = 4 << 20

// Entry is a chunk of a zvol, or a file of a filesystem.
type Entry struct {
	// Offset and Length are a chunk's, in bytes.
	Offset int64 `json:"offset,omitempty"`
	Length int64 `json:"length,omitempty"`
	// Path is a file's, from the top of its filesystem; any bytes. Empty: a chunk.
	Path []byte `json:"path,omitempty"`
	File *File  `json:"file,omitempty"`
	// Sum is the SHA-256 of the content.
	Sum []byte `json:"sum,omitempty"`
}

// File is what a file has besides its content.
type File struct {
	// Type is one of the letters of a tar header.
	Type byte  `json:"type"`
	Mode int64 `json:"mode"`
	UID  int   `json:"uid"`
	GID  int   `json:"gid"`
	// Link is where a link points, Device the numbers of a device.
	Link   []byte   `json:"link,omitempty"`
	Device [2]int64 `json:"device,omitzero"`
	// Modified is in nanoseconds since 1970.
	Modified int64 `json:"modified"`
	// Attributes is the SHA-256 of the extended attributes, access lists among them.
	Attributes []byte `json:"attributes,omitempty"`
}

// Chunks reads a zvol to its end.
func Chunks(r io.Reader, emit func(Entry) error) error {
	buf := make([]byte, ChunkSize)
	for offset := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			sum := sha256.Sum256(buf[:n])
			if err := emit(Entry{Offset: offset, Length: int64(n), Sum: sum[:]}); err != nil {
				return err
			}
			offset += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Files reads a tar archive of a filesystem, whose folders are sorted by name, to
// its end.
func Files(r io.Reader, emit func(Entry) error) error {
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r) // The blocks that fill it up.
			return err
		}
		if err != nil {
			return fmt.Errorf("read the archive of a filesystem: %w", err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, archive); err != nil {
			return fmt.Errorf("read %q: %w", h.Name, err)
		}
		e := Entry{Path: path(h.Name), File: describe(h)}
		if h.Typeflag == tar.TypeReg {
			e.Length, e.Sum = h.Size, sum.Sum(nil)
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}

// path is the name in an archive of ".", without that and without a folder's slash.
func path(name string) []byte {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if name == "" {
		name = "."
	}
	return []byte(name)
}

func describe(h *tar.Header) *File {
	f := &File{
		Type: h.Typeflag, Mode: h.Mode, UID: h.Uid, GID: h.Gid, Device: [2]int64{h.Devmajor, h.Devminor}, Modified: h.ModTime.UnixNano(),
	}
	if h.Linkname != "" {
		f.Link = []byte(h.Linkname)
	}
	sum := sha256.New()
	known := false
	for _, name := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if !strings.HasPrefix(name, "SCHILY.xattr.") {
			continue // SCHILY.acl.* is a text about some of them, with a node's own names for users.
		}
		known = true
		fmt.Fprintf(sum, "%d %s %d %s\n", len(name), name, len(h.PAXRecords[name]), h.PAXRecords[name]) //nolint:errcheck // a hash takes everything
	}
	if known {
		f.Attributes = sum.Sum(nil)
	}
	return f
}

// order compares the places of two entries: folders come before what is in them,
// and all that is in them before what follows them.
func order(a, b Entry) int {
	if len(a.Path) == 0 && len(b.Path) == 0 {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return 0
	}
	return bytes.Compare(key(a.Path), key(b.Path))
}

// key sorts by byte as a walk goes: the end of a name comes before any byte.
func key(p []byte) []byte {
	if string(p) == "." {
		return nil
	}
	return bytes.ReplaceAll(p, []byte("/"), []byte{0})
}
