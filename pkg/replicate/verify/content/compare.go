package content

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// What can differ. A chunk has a content only.
const (
	Missing    = "missing" // the target does not have it
	Extra      = "extra"   // only the target has it
	Content    = "content"
	Type       = "type"
	Mode       = "mode"
	Owner      = "owner"
	Link       = "link"
	Device     = "device"
	Modified   = "time"
	Attributes = "attributes"
)

// Difference is where two copies differ.
type Difference struct {
	// Offset and Length are of a range of a zvol, in bytes.
	Offset int64 `json:"offset"`
	Length int64 `json:"length,omitempty"`
	// Path is that of a file, quoted where it is no printable text. Empty: a range.
	Path string `json:"path,omitempty"`
	// What differs, in the words above.
	What []string `json:"what"`
}

// Next gives entries in order, one at each call; false after the last.
type Next func() (Entry, bool, error)

// Compare reads both sides to their ends and tells each difference, in order.
func Compare(source, target Next, differ func(Difference)) error {
	s, t := &side{next: source, name: "source"}, &side{next: target, name: "target"}
	if err := errors.Join(s.advance(), t.advance()); err != nil {
		return err
	}
	for s.ok || t.ok {
		var err error
		switch o := place(s, t); {
		case o < 0:
			differ(s.at.alone(Missing))
			err = s.advance()
		case o > 0:
			differ(t.at.alone(Extra))
			err = t.advance()
		default:
			if what := compare(s.at, t.at); len(what) > 0 {
				d := s.at.alone(what...)
				d.Length = max(d.Length, t.at.Length)
				differ(d)
			}
			err = errors.Join(s.advance(), t.advance())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// side is one of the two copies, at one entry.
type side struct {
	next Next
	name string
	at   Entry
	ok   bool
}

// advance wants entries in order: without it, files that both have would be told
// as missing.
func (s *side) advance() error {
	e, ok, err := s.next()
	if err == nil && ok && s.ok && (order(s.at, e) >= 0 || (len(s.at.Path) == 0) != (len(e.Path) == 0)) {
		err = fmt.Errorf("the %s told of what it has out of order", s.name)
	}
	s.at, s.ok = e, ok
	return err
}

func place(s, t *side) int {
	switch {
	case !t.ok:
		return -1
	case !s.ok:
		return 1
	}
	return order(s.at, t.at)
}

func (e Entry) alone(what ...string) Difference {
	d := Difference{Offset: e.Offset, Length: e.Length, What: what}
	if len(e.Path) > 0 {
		d.Path = printable(e.Path)
	}
	return d
}

// printable is a path as people can read it, without a way to write on their terminal.
func printable(path []byte) string {
	text := string(path)
	quoted := strconv.Quote(text)
	if utf8.ValidString(text) && quoted == `"`+text+`"` {
		return text
	}
	return quoted
}

func compare(a, b Entry) []string {
	var what []string
	add := func(name string, same bool) {
		if !same {
			what = append(what, name)
		}
	}
	if a.File != nil && b.File != nil {
		f, g := a.File, b.File
		if f.Type != g.Type {
			return []string{Type}
		}
		add(Mode, f.Mode == g.Mode)
		add(Owner, f.UID == g.UID && f.GID == g.GID)
		add(Link, bytes.Equal(f.Link, g.Link))
		add(Device, f.Device == g.Device)
		add(Modified, f.Modified == g.Modified)
		add(Attributes, bytes.Equal(f.Attributes, g.Attributes))
	} else {
		add(Type, a.File == nil && b.File == nil)
	}
	add(Content, a.Length == b.Length && bytes.Equal(a.Sum, b.Sum))
	return what
}

// maxKept is how many differences of a volume are told one by one.
const maxKept = 100

// Findings gathers the differences of one volume.
type Findings struct {
	// Differences are the first ones; neighbouring ranges of a zvol are one.
	Differences []Difference `json:"differences,omitempty"`
	// More is how many there are besides.
	More int `json:"more,omitempty"`
	// last is where the range ends that was added last; 0: none was.
	last int64
}

// Add takes the next difference.
func (f *Findings) Add(d Difference) {
	if d.Path == "" && f.last != 0 && f.last == d.Offset {
		f.last += d.Length
		if f.More == 0 {
			last := &f.Differences[len(f.Differences)-1]
			if len(last.What) == len(d.What) && last.What[0] == d.What[0] {
				last.Length += d.Length
				return
			}
		} else {
			return
		}
	}
	if d.Path == "" {
		f.last = d.Offset + d.Length
	}
	if len(f.Differences) == maxKept {
		f.More++
		return
	}
	f.Differences = append(f.Differences, d)
}
