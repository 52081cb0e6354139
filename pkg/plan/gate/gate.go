// Package gate says whether the ZFS of two nodes can exchange a volume without harm: by the bugs of their versions, each with
// its number and the releases in which it was fixed, and by the features of their pools.
//
// It is pure. pkg/plan turns what it finds into warnings and refusals; pkg/replicate asks which features matter.
package gate

import (
	"fmt"
	"slices"
	"strings"
)

// Side is the ZFS of one node.
type Side struct {
	// Node is how people call it.
	Node string
	// ZFS is the version of the kernel module as it is printed, like "2.3.2-2"; empty where it is not known.
	ZFS string
	// Pool is the name of the pool; Features are its features, name (without "feature@") to disabled, enabled or active. Nil
	// where they are not known: then nothing is said of them.
	Pool     string
	Features map[string]string
}

// Needs is what a volume asks of both sides.
type Needs struct {
	Encrypted  bool
	Filesystem bool
	// First: the target has nothing of it yet.
	First bool
	// RecordSize is its recordsize or volblocksize in bytes.
	RecordSize uint64
	// Compression and DNodeSize are the properties compression and dnodesize.
	Compression, DNodeSize string
	// LargeMicrozap: what it receives may hold a large microzap, because the pool that sends has one somewhere.
	LargeMicrozap bool
}

// Finding is something that stands against a sync, or that an operator should know.
type Finding struct {
	// Refuse says that data would be lost or nothing would arrive; else it is a warning.
	Refuse bool
	// Feature says that it is about a pool and not about a version.
	Feature bool
	Text    string
	Hint    string
}

// Check tells all that is known of the two sides, worst first, nothing twice.
func Check(source, target Side, n Needs) []Finding {
	received := n
	received.LargeMicrozap = source.Features["large_microzap"] == active
	out := slices.Concat(Version(source, n), Version(target, received), features(source, target, n))
	slices.SortStableFunc(out, func(a, b Finding) int {
		switch {
		case a.Refuse == b.Refuse:
			return 0
		case a.Refuse:
			return -1
		}
		return 1
	})
	return out
}

// bug is a row of the table. Bugs whose fix is older than one that refuses the same volumes are left out: for encrypted data
// openzfs#12014 stands for #16104, #15039 and the panic on unencrypted blocks.
type bug struct {
	number, harm string
	// fixed are the first releases without it, one for each series that has one, oldest first. A series older than the newest
	// of them and without one of its own has the bug; a newer one does not.
	fixed []string
	// touches says whether a volume can meet it.
	touches func(Needs) bool
	refuse  bool
}

func bugs() []bug {
	all := func(Needs) bool { return true }
	encrypted := func(n Needs) bool { return n.Encrypted }
	return []bug{
		{
			number: "#12014", harm: "damages snapshots when encrypted data is sent or received", fixed: []string{"2.2.8", "2.3.3", "2.4.0"},
			touches: encrypted, refuse: true,
		},
		{
			number: "#18143", harm: "stops the machine when a large microzap is received", fixed: []string{"2.4.1"},
			touches: func(n Needs) bool { return n.Filesystem && n.LargeMicrozap }, refuse: true,
		},
		{number: "#15526", harm: "can read zeros where there is data", fixed: []string{"2.1.14", "2.2.2"}, touches: all},
		{
			number: "#18105", harm: "can refuse blocks of more than 128 KiB after the direction of replication has turned", fixed: []string{"2.4.1"},
			touches: func(n Needs) bool { return n.RecordSize > 128<<10 },
		},
		{
			number: "#15927", harm: "begins anew when a transfer of very many small files is cut", fixed: []string{"2.2.4"},
			touches: func(n Needs) bool { return n.Filesystem && n.First },
		},
	}
}

// Version tells which known bugs of its ZFS a volume meets on a node.
func Version(s Side, n Needs) []Finding {
	if s.ZFS == "" && !n.Encrypted {
		return nil
	}
	v, known := parse(s.ZFS)
	var out []Finding
	for _, b := range bugs() {
		if !b.touches(n) {
			continue
		}
		switch {
		case known && !v.before(b.fixed):
		case known:
			out = append(out, Finding{
				Refuse: b.refuse, Text: fmt.Sprintf("ZFS %s on %s %s (openzfs%s)", s.ZFS, s.Node, b.harm, b.number),
				Hint: fmt.Sprintf("upgrade ZFS on %s to at least %s", s.Node, either(b.fixed)),
			})
		case b.refuse:
			out = append(out, Finding{
				Refuse: true, Hint: fmt.Sprintf("run ZFS %s or later on %s", either(b.fixed), s.Node),
				Text: fmt.Sprintf("the version of ZFS on %s, %q, says nothing of a bug that %s (openzfs%s)", s.Node, s.ZFS, b.harm, b.number),
			})
		}
	}
	return out
}

func either(releases []string) string { return strings.Join(releases, " or ") }

// release is a version of OpenZFS. A candidate comes before its release.
type release struct {
	series    [2]int
	patch     int
	candidate bool
}

// parse reads what `zfs version` prints: a release and whatever a distribution put after it ("2.1.11-1", "2.2.2-0ubuntu9",
// "2.4.0-rc2", "2.3.99-12_gabcdef").
func parse(text string) (release, bool) {
	var v release
	var rest string
	n, _ := fmt.Sscanf(text, "%d.%d.%d%s", &v.series[0], &v.series[1], &v.patch, &rest)
	if n < 3 || v.series[0] < 0 || v.series[1] < 0 || v.patch < 0 {
		return release{}, false
	}
	v.candidate = strings.HasPrefix(rest, "-rc")
	return v, true
}

// before says that the version is of none of the releases, nor after them.
func (v release) before(fixed []string) bool {
	var newest release
	for _, text := range fixed {
		f, _ := parse(text)
		newest = f
		if f.series == v.series {
			return v.patch < f.patch || v.patch == f.patch && v.candidate
		}
	}
	return slices.Compare(v.series[:], newest.series[:]) < 0
}
