package calendar

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	allMonths   = 1<<13 - 1<<1
	allDays     = 1<<32 - 1<<1
	allWeekdays = 1<<7 - 1
)

// maxLength keeps a schedule readable in tables and messages.
const maxLength = 1024

// expression is a schedule while it is being read.
type expression struct {
	weekdays uint8
	fromEnd  bool

	year, month, day, hour, minute chain

	zone     *time.Location
	zoneName string
}

func yearField() field   { return field{name: "year", from: 1970, to: 2199, width: 4} }
func monthField() field  { return field{name: "month", from: 1, to: 12, width: 2} }
func dayField() field    { return field{name: "day", from: 1, to: 31, width: 2} }
func hourField() field   { return field{name: "hour", from: 0, to: 23, width: 2, star0: true} }
func minuteField() field { return field{name: "minute", from: 0, to: 59, width: 2, star0: true} }

// Parse reads a schedule. Its errors name the expression, the part that is
// wrong and, where the interval does not fit, the limit: one minute or one week.
func Parse(expr string) (Schedule, error) {
	s, err := parse(expr)
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule %q: %w", expr, err)
	}
	return s, nil
}

func parse(expr string) (Schedule, error) {
	if len(expr) > maxLength {
		return Schedule{}, fmt.Errorf("longer than %d bytes", maxLength)
	}
	words := strings.Fields(expr)
	if len(words) == 0 {
		return Schedule{}, fmt.Errorf("it is empty; the default is %s", Default)
	}
	var x expression
	words, err := x.takeZone(words)
	if err != nil {
		return Schedule{}, err
	}
	if err := x.readWords(words); err != nil {
		return Schedule{}, err
	}
	if err := x.normalize(); err != nil {
		return Schedule{}, err
	}
	if err := x.year.checkYears(); err != nil {
		return Schedule{}, err
	}
	s := x.schedule(expr)
	if err := s.checkInterval(); err != nil {
		return Schedule{}, err
	}
	return s, nil
}

// takeZone reads a zone at the end: "UTC", or a name of the IANA database.
func (x *expression) takeZone(words []string) ([]string, error) {
	last := words[len(words)-1]
	if len(words) == 1 || !isLetter(last[0]) || isWeekdays(last) {
		return words, nil
	}
	rest := words[:len(words)-1]
	if strings.EqualFold(last, "UTC") {
		x.zone, x.zoneName = time.UTC, "UTC"
		return rest, nil
	}
	zone, err := time.LoadLocation(last)
	if err != nil || last == "Local" || strings.HasPrefix(last, "right/") { // right/ counts leap seconds
		return nil, fmt.Errorf("%q is not a time zone that this machine knows (like UTC or Europe/Vienna)", last)
	}
	x.zone, x.zoneName = zone, last
	return rest, nil
}

func (x *expression) readWords(words []string) error {
	if len(words) == 1 {
		if long, ok := shorthand(words[0]); ok {
			words = strings.Fields(long)
		}
	}
	if isLetter(words[0][0]) {
		set, err := parseWeekdays(words[0])
		if err != nil {
			return err
		}
		x.weekdays, words = set, words[1:]
	}
	if len(words) > 0 && isDate(words[0]) {
		if err := x.readDate(words[0]); err != nil {
			return err
		}
		words = words[1:]
	}
	if len(words) == 0 { // "Either time or date specification may be omitted, in which case … 00:00:00 is implied"
		x.hour, x.minute = chain{{stop: -1}}, chain{{stop: -1}}
		return nil
	}
	if len(words) > 1 {
		return fmt.Errorf("%q is one word too many; the form is [WEEKDAYS] [DATE] [TIME] [ZONE]", words[1])
	}
	return x.readTime(words[0])
}

// shorthand spells out the special expressions of systemd.time(7). Those beyond
// a week are known here so that they are refused for their interval.
func shorthand(word string) (string, bool) {
	switch strings.ToLower(word) {
	case "minutely":
		return "*:*", true
	case "hourly":
		return "*:00", true
	case "daily":
		return "00:00", true
	case "weekly":
		return "mon 00:00", true
	case "monthly":
		return "*-*-01 00:00", true
	case "quarterly":
		return "*-01,04,07,10-01 00:00", true
	case "semiannually", "semi-annually", "biannually", "bi-annually":
		return "*-01,07-01 00:00", true
	case "yearly", "annually", "anually":
		return "*-01-01 00:00", true
	default:
		return "", false
	}
}

func isDate(word string) bool { return word[0] == '@' || strings.ContainsAny(word, "-~") }

// readDate reads "[YEAR-]MONTH-DAY", where "~" before the day counts from the
// end of the month.
func (x *expression) readDate(word string) error {
	if strings.HasPrefix(word, "@") {
		return errors.New("a time stamp happens once, " + tooRare)
	}
	i := strings.LastIndexAny(word, "-~")
	x.fromEnd = word[i] == '~'
	parts := append(strings.Split(word[:i], "-"), word[i+1:])
	fields := []field{yearField(), monthField(), dayField()}
	into := []*chain{&x.year, &x.month, &x.day}
	if len(parts) > len(fields) {
		return fmt.Errorf("date %q: must be [YEAR-]MONTH-DAY, like *-*-01 or 12-24", word)
	}
	skip := len(fields) - len(parts)
	for i, part := range parts {
		c, err := parseChain(part, fields[skip+i])
		if err != nil {
			return fmt.Errorf("date %q: %w", word, err)
		}
		*into[skip+i] = c
	}
	return nil
}

// readTime reads "HOUR:MINUTE[:00]", or minutes alone, which is the shorthand
// of Proxmox VE ("if no hour separation (:) is used the value gets interpreted
// as minute").
func (x *expression) readTime(word string) (err error) {
	parts := strings.Split(word, ":")
	switch len(parts) {
	case 1:
		return x.readMinutes(word)
	case 2, 3:
	default:
		return fmt.Errorf("time %q: must be HOUR:MINUTE, or minutes alone", word)
	}
	if x.hour, err = parseChain(parts[0], hourField()); err != nil {
		return fmt.Errorf("time %q: %w", word, err)
	}
	if x.minute, err = parseChain(parts[1], minuteField()); err != nil {
		return fmt.Errorf("time %q: %w", word, err)
	}
	if len(parts) == 3 && strings.Trim(parts[2], "0") != "" || len(parts) == 3 && parts[2] == "" {
		return fmt.Errorf("time %q: schedules go down to minutes, and the shortest interval is one minute; leave the seconds out", word)
	}
	return nil
}

func (x *expression) readMinutes(word string) (err error) {
	// "*/00" stands in the specification for once per hour.
	if zeros, ok := strings.CutPrefix(word, "*/"); ok && zeros != "" && strings.Trim(zeros, "0") == "" {
		word = "0"
	}
	if x.minute, err = parseChain(word, minuteField()); err != nil {
		return fmt.Errorf("%w (without a colon the value is minutes)", err)
	}
	return nil
}

func (x *expression) normalize() error {
	x.month, x.hour, x.minute = x.month.normalize(), x.hour.normalize(), x.minute.normalize()
	for i := range x.year { // "12" is 2012, "89" is 1989, as in systemd
		x.year[i].start, x.year[i].stop = fullYear(x.year[i].start), fullYear(x.year[i].stop)
	}
	x.year, x.day = x.year.normalize(), x.day.normalize()
	if x.day == nil {
		x.fromEnd = false
	}
	for _, c := range []struct {
		chain chain
		field field
	}{{x.year, yearField()}, {x.month, monthField()}, {x.hour, hourField()}, {x.minute, minuteField()}} {
		if err := c.chain.validate(c.field, false); err != nil {
			return err
		}
	}
	return x.day.validate(dayField(), x.fromEnd)
}

func fullYear(y int) int {
	switch {
	case y >= 0 && y < 70:
		return y + 2000
	case y >= 70 && y < 100:
		return y + 1900
	default:
		return y
	}
}

func (x *expression) schedule(given string) Schedule {
	s := Schedule{
		given:    given,
		weekdays: x.weekdays,
		months:   uint16(x.month.bits(monthField())),
		fromEnd:  x.fromEnd,
		days:     uint32(x.day.bits(dayField())),
		hours:    uint32(x.hour.bits(hourField())),
		minutes:  x.minute.bits(minuteField()),
		zone:     x.zone,
	}
	if s.weekdays == 0 {
		s.weekdays = allWeekdays
	}
	if x.fromEnd {
		s.days = uint32(x.day.bitsFromEnd())
	}
	s.normalized = x.text()
	return s
}

// text is the normalized form.
func (x *expression) text() string {
	var b strings.Builder
	if x.weekdays != 0 && x.weekdays != allWeekdays {
		writeWeekdays(&b, x.weekdays)
		b.WriteByte(' ')
	}
	x.year.write(&b, yearField())
	b.WriteByte('-')
	x.month.write(&b, monthField())
	if x.fromEnd {
		b.WriteByte('~')
	} else {
		b.WriteByte('-')
	}
	x.day.write(&b, dayField())
	b.WriteByte(' ')
	x.hour.write(&b, hourField())
	b.WriteByte(':')
	x.minute.write(&b, minuteField())
	b.WriteString(":00")
	if x.zoneName != "" {
		b.WriteString(" " + x.zoneName)
	}
	return b.String()
}
