package calendar

import (
	"errors"
	"fmt"
)

const tooRare = "and the longest interval allowed is one week"

// checkInterval refuses a schedule that pauses for more than a week in civil
// time, anywhere in the 400 years after which the calendar repeats. The lower
// limit, one minute, is that of the grammar.
func (s Schedule) checkInterval() error {
	if s.everyDate() { // some day of every week
		return nil
	}
	const (
		week  = 7
		first = 10_957 // 2000-01-01
		cycle = 146_097
	)
	last := int64(-1)
	for day := int64(first); day <= first+cycle+366; day++ {
		if !s.matchesDay(day) {
			continue
		}
		if last >= 0 && day-last > week {
			return fmt.Errorf("it pauses for %d days (%s to %s), %s", day-last, date(last), date(day), tooRare)
		}
		last = day
	}
	if last < 0 {
		return errors.New("this date never comes")
	}
	return nil
}

// checkYears refuses a schedule that begins or ends with some year.
func (c chain) checkYears() error {
	f := yearField()
	for y := f.from; y <= f.to && c != nil; y++ {
		if !c.matches(y) {
			return fmt.Errorf("it does not run in the year %d, %s; leave the year out", y, tooRare)
		}
	}
	return nil
}

func (c chain) matches(v int) bool {
	for _, e := range c {
		inside := v >= e.start && (e.stop < 0 || v <= e.stop)
		if v == e.start || inside && e.repeat > 0 && (v-e.start)%e.repeat == 0 {
			return true
		}
	}
	return false
}

func date(day int64) string {
	y, m, d := civil(day)
	return fmt.Sprintf("%04d-%02d-%02d", y, m, d)
}
