package zfs

import (
	"errors"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

// said is what a process that lists datasets said on stderr.
type said struct {
	// closed are its words of those that it could not open, by name.
	closed map[string]string
	// rest is all that is about none of the datasets that were asked for; empty: what it printed of the others is all there is.
	rest string
}

// listen sorts stderr. zfs get prints what it has when the list of a dataset's snapshots ends with an error, says "cannot iterate
// filesystems" of no dataset in particular, and ends with 0; or it aborts. So what cannot be told makes all of it doubtful.
func listen(stderr string, failed error, asked []string) said {
	s := said{closed: map[string]string{}}
	var rest []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		about, isClosed := strings.CutPrefix(line, "cannot open '")
		name, _, _ := strings.Cut(about, "'")
		switch {
		case isClosed && slices.Contains(asked, name):
			s.closed[name] = line
		case line != "" && !linkers(line):
			rest = append(rest, line)
		}
	}
	if s.rest = strings.Join(rest, "\n"); s.rest == "" && failed != nil && len(s.closed) == 0 {
		s.rest = failed.Error()
	}
	return s
}

// linkers tells the dynamic linker's warnings, which come before zfs begins: they are about the machine's other software.
func linkers(line string) bool {
	return strings.HasPrefix(line, "ERROR: ld.so: ") && strings.HasSuffix(line, ": ignored.") ||
		strings.Contains(line, ": no version information available (required by ")
}

// doubt is the error of a dataset, or of a dataset's children, of which zfs did not tell everything.
func (s said) doubt(name string) error {
	e := zerr.New("list", name, -1, s.rest)
	e.Err = errors.New("the list is not complete")
	if e.Class == ClassGone { // something else is
		e.Class = ClassUnknown
	}
	return e
}
