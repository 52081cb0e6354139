package calendar

import (
	"fmt"
	"strings"
)

func weekdayNames() [7]string {
	return [7]string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
}

// weekdayNumber knows the long and the short English names in any case; 0 is Monday.
func weekdayNumber(name string) (int, bool) {
	for i, long := range weekdayNames() {
		if strings.EqualFold(name, long) || strings.EqualFold(name, long[:3]) {
			return i, true
		}
	}
	return 0, false
}

// isWeekdays tells a list of weekdays from a time zone.
func isWeekdays(word string) bool {
	first, _, _ := strings.Cut(word, ",")
	first, _, _ = strings.Cut(first, "..")
	first, _, _ = strings.Cut(first, "-")
	_, ok := weekdayNumber(first)
	return ok
}

// parseWeekdays reads a list of days and ranges, "mon..fri" or the older
// "mon-fri"; a comma at the end is allowed as in systemd. Bit 0 is Monday.
func parseWeekdays(word string) (uint8, error) {
	var set uint8
	for item := range strings.SplitSeq(strings.TrimSuffix(word, ","), ",") {
		first, last, ranges := strings.Cut(item, "..")
		if !ranges {
			first, last, ranges = strings.Cut(item, "-")
		}
		from, ok := weekdayNumber(first)
		if !ok {
			return 0, fmt.Errorf("%q is not a day of the week (mon, tue, wed, thu, fri, sat, sun)", first)
		}
		to := from
		if ranges {
			if to, ok = weekdayNumber(last); !ok {
				return 0, fmt.Errorf("%q is not a day of the week (mon, tue, wed, thu, fri, sat, sun)", last)
			}
		}
		if to < from {
			return 0, fmt.Errorf("the range %s runs backwards; weeks begin on Monday, so write %s..sun,mon..%s", item, first, last)
		}
		for d := from; d <= to; d++ {
			set |= 1 << d
		}
	}
	return set, nil
}

// writeWeekdays prints a set as systemd does: three days and more in a row are
// a range.
func writeWeekdays(b *strings.Builder, set uint8) {
	names := weekdayNames()
	comma := ""
	for d := 0; d < len(names); d++ {
		if set>>d&1 == 0 {
			continue
		}
		end := d
		for end+1 < len(names) && set>>(end+1)&1 == 1 {
			end++
		}
		b.WriteString(comma + names[d][:3])
		switch {
		case end == d+1:
			b.WriteString("," + names[end][:3])
		case end > d+1:
			b.WriteString(".." + names[end][:3])
		}
		comma = ","
		d = end
	}
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
