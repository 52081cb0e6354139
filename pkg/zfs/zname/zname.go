// Package zname says which names of datasets, snapshots, bookmarks, properties and tokens may reach a command line of zfs. It is
// pure; pkg/zfs and its in-memory pool check with it whatever they are given, and so can whoever takes names from people.
package zname

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxName is the longest full name of a dataset, snapshot or bookmark, in bytes (ZFS_MAX_DATASET_NAME_LEN less the NUL).
const maxName = 255

// Dataset tells what is wrong with a dataset's full name ("tank/guests/vm-100-disk-0"); nil if nothing is.
// It is stricter than zfs: no spaces, no '%'.
func Dataset(name string) error {
	if err := checkLength("dataset", name); err != nil {
		return err
	}
	for part := range strings.SplitSeq(name, "/") {
		if err := checkPart(part, ""); err != nil {
			return fmt.Errorf("dataset %q: %w", name, err)
		}
	}
	if first := name[0]; first >= '0' && first <= '9' || strings.IndexByte("_.:", first) >= 0 {
		return fmt.Errorf("dataset %q: a pool's name begins with a letter", name)
	}
	return nil
}

// Own tells what is wrong with a snapshot's or bookmark's own name, without dataset. Inner spaces are allowed, as zfs does.
func Own(name string) error {
	if strings.HasPrefix(name, " ") || strings.HasSuffix(name, " ") {
		return fmt.Errorf("name %q: begins or ends with a space", name)
	}
	if err := checkPart(name, " "); err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	return nil
}

// Snapshot tells what is wrong with a snapshot's full name ("tank/vm@a").
func Snapshot(full string) error { return checkFull("snapshot", full, "@") }

// Bookmark tells what is wrong with a bookmark's full name ("tank/vm#a").
func Bookmark(full string) error { return checkFull("bookmark", full, "#") }

func checkFull(kind, full, sep string) error {
	if err := checkLength(kind, full); err != nil {
		return err
	}
	dataset, name, found := strings.Cut(full, sep)
	if !found {
		return fmt.Errorf("%s %q: no %q in it", kind, full, sep)
	}
	if err := Dataset(dataset); err != nil {
		return fmt.Errorf("%s %q: %w", kind, full, err)
	}
	if err := Own(name); err != nil {
		return fmt.Errorf("%s %q: %w", kind, full, err)
	}
	return nil
}

// Any tells what is wrong with a full name that may be a dataset's, a snapshot's or a bookmark's.
func Any(name string) error {
	switch {
	case strings.Contains(name, "@"):
		return Snapshot(name)
	case strings.Contains(name, "#"):
		return Bookmark(name)
	default:
		return Dataset(name)
	}
}

func checkLength(kind, name string) error {
	if name == "" {
		return fmt.Errorf("%s: the name is empty", kind)
	}
	if len(name) > maxName {
		return fmt.Errorf("%s %q: the name has %d bytes, zfs allows %d", kind, name, len(name), maxName)
	}
	return nil
}

func checkPart(part, alsoAllowed string) error {
	switch {
	case part == "":
		return errors.New("a part of the name is empty")
	case part[0] == '-':
		return errors.New("a part of the name begins with '-'")
	case part == "." || part == "..":
		return errors.New("a part of the name is '.' or '..'")
	}
	for _, r := range part {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("_.:-", r):
		case strings.ContainsRune(alsoAllowed, r):
		default:
			return fmt.Errorf("character %q is not allowed", r)
		}
	}
	return nil
}

// Tag tells what is wrong with the tag of a hold.
func Tag(tag string) error {
	if err := checkPart(tag, ""); err != nil {
		return fmt.Errorf("tag %q: %w", tag, err)
	}
	return nil
}

// Prop tells what is wrong with a property's name.
func Prop(name string) error {
	if name == "" || len(name) >= 256 {
		return fmt.Errorf("property %q: the name has %d bytes, want 1 to 255", name, len(name))
	}
	if name[0] == '-' {
		return fmt.Errorf("property %q: begins with '-'", name)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("_.:-", r) {
			return fmt.Errorf("property %q: character %q is not allowed", name, r)
		}
	}
	return nil
}

// Props tells what is wrong with properties to set. Control characters would break the lines that zfs prints.
func Props(props map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(props)) {
		if err := Prop(name); err != nil {
			return err
		}
		value := props[name]
		if len(value) >= 8<<10 {
			return fmt.Errorf("property %s: the value has %d bytes, zfs allows %d", name, len(value), 8<<10-1)
		}
		if i := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
			return fmt.Errorf("property %s: control character %q in the value", name, value[i])
		}
	}
	return nil
}

// Token tells what is wrong with a resume token's form.
func Token(token string) error {
	if token == "" || token[0] == '-' || len(token) > 64<<10 {
		return errors.New("this is not the form of a resume token")
	}
	for _, r := range token {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return fmt.Errorf("character %q is not allowed in a resume token", r)
		}
	}
	return nil
}

// PoolOf returns the pool of a dataset, snapshot or bookmark.
func PoolOf(name string) string {
	if i := strings.IndexAny(name, "/@#"); i >= 0 {
		return name[:i]
	}
	return name
}

// DatasetOf returns the dataset of a snapshot or bookmark.
func DatasetOf(name string) string {
	if i := strings.IndexAny(name, "@#"); i >= 0 {
		return name[:i]
	}
	return name
}
