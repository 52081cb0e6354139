package calendar

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// component is one element of a comma-separated list: a value, a range, either
// with a repetition. In systemd.time(7): "Values may be suffixed with "/" and a
// repetition value", "Two values separated by ".." may be used to indicate a
// range of values".
type component struct {
	start, stop int // stop is -1 where there is none
	repeat      int // 0 where there is none
}

// chain is one field of a date or time; empty stands for "*".
type chain []component

// field says what a chain may hold.
type field struct {
	name     string
	from, to int
	width    int // digits in the normalized form
	// star0 allows "*/N" for "0/N", which systemd does not know and Proxmox VE does.
	star0 bool
}

// maxComponents is systemd's limit on the length of a list.
const maxComponents = 240

// parseChain reads a field as it was written. The chain is checked, but not
// normalized.
func parseChain(text string, f field) (chain, error) {
	if text == "*" {
		return nil, nil
	}
	var c chain
	for item := range strings.SplitSeq(text, ",") {
		if len(c) == maxComponents {
			return nil, fmt.Errorf("%s: more than %d values", f.name, maxComponents)
		}
		if rest, ok := strings.CutPrefix(item, "*/"); ok && f.star0 {
			item = "0/" + rest
		}
		one, err := parseComponent(item, f)
		if err != nil {
			return nil, err
		}
		c = append(c, one)
	}
	return c, nil
}

func parseComponent(item string, f field) (component, error) {
	c := component{stop: -1}
	span, repeat, repeats := strings.Cut(item, "/")
	start, stop, ranges := strings.Cut(span, "..")
	var err error
	if c.start, err = number(start, f); err != nil {
		return c, err
	}
	if ranges {
		if c.stop, err = number(stop, f); err != nil {
			return c, err
		}
		c.repeat = 1
	}
	if repeats {
		if c.repeat, err = number(repeat, f); err != nil {
			return c, err
		}
		if c.repeat == 0 {
			return c, fmt.Errorf("%s %q: the repetition must not be 0", f.name, item)
		}
	}
	return c, nil
}

func number(digits string, f field) (int, error) {
	if digits == "" {
		return 0, fmt.Errorf("%s: a number is missing", f.name)
	}
	for _, r := range digits {
		if r < '0' || r > '9' {
			return 0, fmt.Errorf("%s %q: must be a number, a range like %d..%d, a repetition like %d/2, a list of these, or *",
				f.name, digits, f.from, f.from+1, f.from)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%s %q: the number is too large", f.name, digits)
	}
	return int(n), nil
}

// normalize does what systemd does before it prints: ranges end at their last
// value, what never repeats is a plain value, values are in order and unique.
func (c chain) normalize() chain {
	for i := range c {
		e := &c[i]
		if e.stop > e.start && e.repeat > 0 {
			e.stop -= (e.stop - e.start) % e.repeat
		}
		if e.start == e.stop {
			e.repeat, e.stop = 0, -1
		}
	}
	slices.SortFunc(c, func(a, b component) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.stop, b.stop), cmp.Compare(a.repeat, b.repeat))
	})
	return slices.Compact(c)
}

// validate refuses what lies outside the field, in a normalized chain. fromEnd
// counts days from the end of the month, of which every month has 28.
func (c chain) validate(f field, daysFromEnd bool) error { //nolint:revive // flag-parameter: it is a property of the date, read from the expression
	to := f.to
	if daysFromEnd {
		to -= 3
	}
	for _, e := range c {
		if e.start < f.from || e.start > to {
			return fmt.Errorf("%s %d: must be from %d to %d", f.name, e.start, f.from, to)
		}
		if e.stop >= 0 {
			if e.stop > to {
				return fmt.Errorf("%s %d: must be from %d to %d", f.name, e.stop, f.from, to)
			}
			if e.start > e.stop {
				return fmt.Errorf("%s %d..%d: the range runs backwards", f.name, e.start, e.stop)
			}
			continue
		}
		if e.repeat == 0 {
			continue
		}
		if daysFromEnd && e.start-e.repeat < f.from || !daysFromEnd && e.start+e.repeat > to {
			return fmt.Errorf("%s %d/%d: the repetition never comes to pass, as the values go from %d to %d",
				f.name, e.start, e.repeat, f.from, to)
		}
	}
	return nil
}

// bits is the set of values that the chain matches.
func (c chain) bits(f field) uint64 {
	if c == nil {
		c = chain{{start: f.from, stop: f.to, repeat: 1}}
	}
	var set uint64
	for _, e := range c {
		stop := e.stop
		switch {
		case stop < 0 && e.repeat == 0:
			stop = e.start
		case stop < 0:
			stop = f.to
		}
		for v := e.start; v <= stop; v += max(1, e.repeat) {
			set |= 1 << v
		}
	}
	return set
}

// bitsFromEnd is the set of days, 1 for the last of the month. An open
// repetition goes on towards the end: "~07/1" are the last seven days. A range
// counts from its earlier day, which has the higher number.
func (c chain) bitsFromEnd() uint64 {
	var set uint64
	for _, e := range c {
		first, last := e.start, e.start
		switch {
		case e.stop >= 0:
			first, last = e.stop, e.start
		case e.repeat > 0:
			last = 1
		}
		for v := first; v >= last; v -= max(1, e.repeat) {
			set |= 1 << v
		}
	}
	return set
}

// write appends the chain as systemd prints it.
func (c chain) write(b *strings.Builder, f field) {
	if c == nil {
		b.WriteByte('*')
		return
	}
	for i, e := range c {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, "%0*d", f.width, e.start)
		if e.stop > 0 {
			fmt.Fprintf(b, "..%0*d", f.width, e.stop)
		}
		if e.repeat > 0 && (e.stop <= 0 || e.repeat != 1) {
			fmt.Fprintf(b, "/%d", e.repeat)
		}
	}
}
