// Package calendar reads schedules and computes when they run next.
//
// The grammar is that of calendar events in systemd.time(7) down to minutes,
// with the shorthand of Proxmox VE's storage replication: an expression without
// a colon gives minutes ("*/5", "30", "mon..wed 30/10"), and "*/00" is once per
// hour. Intervals go from one minute to one week.
//
// # Zone switches
//
//   - A local time that does not exist runs at the first instant after the gap.
//   - A local time that comes twice runs once, the first time.
//   - A schedule finer than an hour (two runs less than 60 minutes apart) goes on
//     in real time through the repeated hour.
//
// systemd differs here on purpose: it leaves out a time that does not exist.
//
// The package is pure but for one thing: a zone's name is looked up with
// [time.LoadLocation], in the machine's zone database. It has no clock, knows
// nothing of jobs, and does not wait. The ledger and the command line parse
// with it, pkg/job asks it for the next run.
package calendar

import (
	"math/bits"
	"time"
)

// Default is the schedule of a job for which the operator gave none ("the
// default of all 15 minutes").
const Default = "*/15"

// Schedule is a parsed expression. It is a comparable value; the zero Schedule
// never runs.
type Schedule struct {
	given      string
	normalized string

	weekdays uint8  // bit 0 is Monday
	months   uint16 // bit 1 is January
	days     uint32 // bit 1 is the first; with fromEnd: the last
	fromEnd  bool
	hours    uint32
	minutes  uint64

	zone *time.Location // nil: the local zone of the caller
}

// String is the expression as it was given.
func (s Schedule) String() string { return s.given }

// Normalized is the expression as systemd-analyze(1) prints it, like
// "Mon..Fri *-*-* 08..17,22:00/15:00".
func (s Schedule) Normalized() string { return s.normalized }

// Equal says that both run at the same times for the same reason: their
// normalized forms are equal.
func (s Schedule) Equal(o Schedule) bool { return s.normalized == o.normalized }

// Next is the first run strictly after the given instant. The schedule is
// evaluated in the zone that it names, else in local (nil is UTC), and the
// result is in that zone. The zero Schedule gives the zero time.
func (s Schedule) Next(after time.Time, local *time.Location) time.Time {
	if s.minutes == 0 {
		return time.Time{}
	}
	zone := s.zone
	if zone == nil {
		zone = local
	}
	if zone == nil {
		zone = time.UTC
	}
	return s.next(after.In(zone)).In(zone)
}

// finerThanHour says that some runs are less than 60 minutes apart, which needs
// two minutes in one hour.
func (s Schedule) finerThanHour() bool { return bits.OnesCount64(s.minutes) > 1 }

// next walks the spans of constant offset, from the one that holds t. In each,
// local time and real time run side by side, so that searching is plain
// arithmetic; the rules of zone switches apply between them.
func (s Schedule) next(t time.Time) time.Time {
	fine := s.finerThanHour()
	begin, end := span(t)
	from := floorDiv(local(t), 60) + 1 // local minutes since 1970
	if !begin.IsZero() && !fine {
		from = max(from, repeatedUntil(begin))
	}
	for {
		_, offset := t.Zone()
		m := s.nextLocal(from)
		at := time.Unix(m*60-int64(offset), 0)
		if end.IsZero() || at.Before(end) {
			return at
		}
		t = end.In(t.Location())
		if m*60 < local(t) { // it falls into the gap, or is the first instant after it
			return t
		}
		from = ceilDiv(local(t), 60)
		if !fine {
			from = max(from, repeatedUntil(end.In(t.Location())))
		}
		_, end = span(t)
	}
}

// span is a stretch of constant offset that holds t; a zero time means that it
// has no bound on that side.
func span(t time.Time) (begin, end time.Time) {
	begin, end = t.ZoneBounds()
	if !end.IsZero() && !end.After(t) {
		// Beyond the transitions that the database lists, Go 1.26 lets every
		// year end after 365 days, so that the last of a leap year lies outside.
		end = t.Add(24 * time.Hour)
	}
	return begin, end
}

// repeatedUntil is the local minute at which the repetition ends that the zone
// switch at t began. Where clocks went forward it is before t.
func repeatedUntil(t time.Time) int64 {
	_, before := t.Add(-time.Second).Zone()
	return ceilDiv(t.Unix()+int64(before), 60)
}

// nextLocal is the first matching local minute at or after m, both counted
// since 1970-01-01 00:00. It ends because Parse has seen that some day of any
// eight in a row matches.
func (s Schedule) nextLocal(m int64) int64 {
	day := floorDiv(m, minutesPerDay)
	hour, minute := int(m-day*minutesPerDay)/60, int(m-day*minutesPerDay)%60
	if !s.matchesDay(day) {
		hour, minute = 0, 0
		for !s.matchesDay(day) {
			day++
		}
	}
	for {
		if h, mi, ok := s.nextTime(hour, minute); ok {
			return day*minutesPerDay + int64(h*60+mi)
		}
		hour, minute = 0, 0
		day++
		for !s.matchesDay(day) {
			day++
		}
	}
}

// nextTime is the first matching time of a day at or after hour:minute.
func (s Schedule) nextTime(hour, minute int) (h, m int, ok bool) {
	if s.hours>>hour&1 == 1 {
		if later := s.minutes >> minute; later != 0 {
			return hour, minute + bits.TrailingZeros64(later), true
		}
	}
	later := s.hours >> (hour + 1)
	if later == 0 {
		return 0, 0, false
	}
	return hour + 1 + bits.TrailingZeros32(later), bits.TrailingZeros64(s.minutes), true
}

func (s Schedule) matchesDay(day int64) bool {
	if s.weekdays>>weekday(day)&1 == 0 {
		return false
	}
	if s.everyDate() {
		return true
	}
	year, month, d := civil(day)
	if s.fromEnd {
		d = daysIn(year, month) - d + 1
	}
	return s.months>>month&1 == 1 && s.days>>d&1 == 1
}

// everyDate says that only the day of the week restricts the days.
func (s Schedule) everyDate() bool { return s.months == allMonths && s.days == allDays }
