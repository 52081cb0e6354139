package calendar

import "time"

const minutesPerDay = 24 * 60

// local is the local time of t in seconds since 1970-01-01 00:00 on the same
// wall clock.
func local(t time.Time) int64 {
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}

// weekday of a day counted since 1970-01-01; 0 is Monday.
func weekday(day int64) int {
	const thursday = 3
	return int(day + thursday - floorDiv(day+thursday, 7)*7)
}

// civil turns a day counted since 1970-01-01 into its date in the Gregorian
// calendar. It counts years from March, so that a leap day is a year's last, in
// eras of 400 years.
func civil(day int64) (year, month, dayOfMonth int) {
	const (
		toMarch0000 = 719_468
		era         = 146_097
	)
	day += toMarch0000
	eras := floorDiv(day, era)
	n := int(day - eras*era) // 0 to 146096
	yearOfEra := (n - n/1460 + n/36_524 - n/146_096) / 365
	dayOfYear := n - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	m := (5*dayOfYear + 2) / 153 // 0 is March
	dayOfMonth = dayOfYear - (153*m+2)/5 + 1
	year = yearOfEra + int(eras)*400
	if m >= 10 {
		return year + 1, m - 9, dayOfMonth
	}
	return year, m + 3, dayOfMonth
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	default:
		return 31
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func ceilDiv(a, b int64) int64 { return -floorDiv(-a, b) }
