package calendar_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/calendar"
)

const form = "Mon 2006-01-02 15:04 -0700"

func mustParse(tb testing.TB, expr string) calendar.Schedule {
	tb.Helper()
	s, err := calendar.Parse(expr)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func mustZone(tb testing.TB, name string) *time.Location {
	tb.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		tb.Fatal(err)
	}
	return zone
}

func runs(s calendar.Schedule, after time.Time, n int) []string {
	var out []string
	for range n {
		after = s.Next(after, after.Location())
		out = append(out, after.Format(form))
	}
	return out
}

// What is no row of a table: spellings of the shorthand.
func TestParse_Shorthand(t *testing.T) {
	for expr, normalized := range map[string]string{
		"*/0":               "*-*-* *:00:00",
		"30":                "*-*-* *:30:00",
		"*/1":               "*-*-* *:00/1:00",
		"0/5":               "*-*-* *:00/5:00",
		"sat..sun":          "Sat,Sun *-*-* 00:00:00",
		"mon,tue,wed 30/10": "Mon..Wed *-*-* *:30/10:00",
		"fri 12,13:5/20":    "Fri *-*-* 12,13:05/20:00",
		"12/2:5":            "*-*-* 12/2:05:00",
	} {
		s := mustParse(t, expr)
		if got := s.Normalized(); got != normalized {
			t.Errorf("%q: normalized %q, want %q", expr, got, normalized)
		}
		if got := s.String(); got != expr {
			t.Errorf("%q: as given %q", expr, got)
		}
	}
}

// The rest of the grammar of systemd.time(7), as far as the intervals fit.
func TestParse_SystemdGrammar(t *testing.T) {
	for expr, want := range map[string]string{
		"Sat,Thu,Mon..Wed,Sat..Sun":  "Mon..Thu,Sat,Sun *-*-* 00:00:00",
		"Wed, 17:48":                 "Wed *-*-* 17:48:00",
		"monday 17:00":               "Mon *-*-* 17:00:00",
		"Wed..Wed,Wed":               "Wed *-*-* 00:00:00",
		"mon-fri 6:00":               "Mon..Fri *-*-* 06:00:00",
		"12,14,13,12:20,10,30":       "*-*-* 12,13,14:10,20,30:00",
		"*:2/3":                      "*-*-* *:02/3:00",
		"05:40:00":                   "*-*-* 05:40:00",
		"daily UTC":                  "*-*-* 00:00:00 UTC",
		"daily utc":                  "*-*-* 00:00:00 UTC",
		"weekly Pacific/Auckland":    "Mon *-*-* 00:00:00 Pacific/Auckland",
		"mon..sun 4:00":              "*-*-* 04:00:00",
		"*-*-1/7 03:00":              "*-*-01/7 03:00:00",
		"*-*-1,8,15,22,29 03:00":     "*-*-01,08,15,22,29 03:00:00",
		"*-*~1/7 03:00":              "",
		"*-*~28/1":                   "*-*~28/1 00:00:00",
		"1970..2199-*-* 1:00":        "1970..2199-*-* 01:00:00",
		"1..12-* 1:00":               "*-01..12-* 01:00:00",
		"0..10/20":                   "*-*-* *:00:00",
		"0..50/20":                   "*-*-* *:00..40/20:00",
		"*/2:30":                     "*-*-* 00/2:30:00",
		"  mon   3:00   ":            "Mon *-*-* 03:00:00",
		"mon..fri 9 Europe/Vienna":   "Mon..Fri *-*-* *:09:00 Europe/Vienna",
		"*-* 04:00 America/New_York": "*-*-* 04:00:00 America/New_York",
	} {
		s, err := calendar.Parse(expr)
		if want == "" {
			if err == nil {
				t.Errorf("%q: accepted as %q", expr, s.Normalized())
			}
			continue
		}
		if err != nil {
			t.Error(err)
		} else if got := s.Normalized(); got != want {
			t.Errorf("%q: got %q, want %q", expr, got, want)
		}
	}
}

func TestParse_RefusesAndSaysWhy(t *testing.T) {
	for expr, want := range map[string]string{
		"":                       "it is empty; the default is */15",
		"   ":                    "it is empty",
		"monthly":                "it pauses for 31 days (2000-01-01 to 2000-02-01), and the longest interval allowed is one week",
		"yearly":                 "one week",
		"quarterly":              "one week",
		"semiannually":           "one week",
		"mon *-*-1..7":           "one week",
		"Sat *-1..7 15:00":       "one week",
		"*-05":                   "one week",
		"*-*-1,8,15,22":          "one week",
		"*-*-2/7":                "it pauses for 8 days",
		"2015-10-21":             "does not run in the year 1970, and the longest interval allowed is one week; leave the year out",
		"2020/1-*-* 3:00":        "does not run in the year 1970",
		"@1395716396":            "one week",
		"*-02-30":                "this date never comes",
		"*-*-* *:*:*":            "the shortest interval is one minute",
		"*:*:0/30":               "the shortest interval is one minute",
		"12:00:30":               "leave the seconds out",
		"12:00:":                 "leave the seconds out",
		"60":                     "minute 60: must be from 0 to 59 ",
		"24:00":                  "hour 24: must be from 0 to 23",
		"*-13-*":                 "month 13: must be from 1 to 12",
		"*-*-0":                  "day 0: must be from 1 to 31",
		"*-*~29":                 "day 29: must be from 1 to 28",
		"*/60":                   "the repetition never comes to pass",
		"0/0:5":                  "the repetition must not be 0",
		"30/0":                   "the repetition must not be 0",
		"17..8:00":               "hour 17..8: the range runs backwards",
		"fri..mon":               "the range fri..mon runs backwards; weeks begin on Monday, so write fri..sun,mon..mon",
		"5,":                     "minute: a number is missing",
		"*,5":                    `minute "*": must be a number`,
		"-5":                     "a number is missing",
		"banana":                 `"banana" is not a day of the week`,
		"mon..blah":              `"blah" is not a day of the week`,
		"daily Europe/Atlantis":  `"Europe/Atlantis" is not a time zone that this machine knows`,
		"daily Local":            `"Local" is not a time zone`,
		"daily ../../etc/passwd": `"daily" is not a day of the week`,
		"mon 1:00 2:00":          `"2:00" is one word too many`,
		"1:2:3:4":                "must be HOUR:MINUTE",
		"1-2-3-4":                "must be [YEAR-]MONTH-DAY",
		"99999999999999999999":   "the number is too large",
		"½":                      `minute "½"`,
	} {
		_, err := calendar.Parse(expr)
		if err == nil {
			t.Errorf("%q: accepted", expr)
			continue
		}
		if got := err.Error(); !strings.Contains(got+" ", want) || !strings.Contains(got, "schedule ") {
			t.Errorf("%q: got %q, want it to contain %q", expr, got, want)
		}
	}
}

func TestSchedule_ZeroNeverRuns(t *testing.T) {
	var zero calendar.Schedule
	if got := zero.Next(time.Unix(0, 0), nil); !got.IsZero() {
		t.Errorf("got %v, want the zero time", got)
	}
}

func TestSchedule_OwnZoneWinsOverTheLocalOne(t *testing.T) {
	after := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	vienna := mustZone(t, "Europe/Vienna")
	for _, c := range []struct {
		expr  string
		local *time.Location
		want  string
	}{
		{"daily", nil, "Thu 2026-07-02 00:00 +0000"},
		{"daily", vienna, "Thu 2026-07-02 00:00 +0200"},
		{"daily UTC", vienna, "Thu 2026-07-02 00:00 +0000"},
		{"daily Asia/Kolkata", vienna, "Thu 2026-07-02 00:00 +0530"},
	} {
		if got := mustParse(t, c.expr).Next(after, c.local).Format(form); got != c.want {
			t.Errorf("%q: got %s, want %s", c.expr, got, c.want)
		}
	}
}

func TestSchedule_ZoneSwitches(t *testing.T) {
	for _, c := range []struct {
		name, zone, after string
		expr              string
		want              []string
	}{
		{"missing time runs after the gap", "Europe/Vienna", "2026-03-28 12:00", "2:30", []string{
			"Sun 2026-03-29 03:00 +0200", "Mon 2026-03-30 02:30 +0200",
		}},
		{"several missing times run once", "Europe/Vienna", "2026-03-29 01:40", "20/15", []string{
			"Sun 2026-03-29 01:50 +0100", "Sun 2026-03-29 03:00 +0200", "Sun 2026-03-29 03:20 +0200",
		}},
		{"quarters pass the gap", "Europe/Vienna", "2026-03-29 01:30", "*/15", []string{
			"Sun 2026-03-29 01:45 +0100", "Sun 2026-03-29 03:00 +0200", "Sun 2026-03-29 03:15 +0200",
		}},
		{"quarters go on through the repeated hour", "Europe/Vienna", "2026-10-25 01:50", "*/15", []string{
			"Sun 2026-10-25 02:00 +0200", "Sun 2026-10-25 02:15 +0200", "Sun 2026-10-25 02:30 +0200", "Sun 2026-10-25 02:45 +0200",
			"Sun 2026-10-25 02:00 +0100", "Sun 2026-10-25 02:15 +0100", "Sun 2026-10-25 02:30 +0100", "Sun 2026-10-25 02:45 +0100",
			"Sun 2026-10-25 03:00 +0100",
		}},
		{"repeated time runs the first time", "Europe/Vienna", "2026-10-25 00:00", "2:30", []string{
			"Sun 2026-10-25 02:30 +0200", "Mon 2026-10-26 02:30 +0100",
		}},
		{"hourly is not finer than an hour", "Europe/Vienna", "2026-10-25 01:15", "30", []string{
			"Sun 2026-10-25 01:30 +0200", "Sun 2026-10-25 02:30 +0200", "Sun 2026-10-25 03:30 +0100",
		}},
		{"weekly over the switch", "Europe/Vienna", "2026-03-25 00:00", "weekly", []string{
			"Mon 2026-03-30 00:00 +0200", "Mon 2026-04-06 00:00 +0200",
		}},
		{"gap at midnight", "America/Asuncion", "2023-09-30 12:00", "daily", []string{
			"Sun 2023-10-01 01:00 -0300", "Mon 2023-10-02 00:00 -0300",
		}},
		{"last day of a leap year", "Europe/Vienna", "2040-12-28 22:45", "mon..fri 8:00", []string{
			"Mon 2040-12-31 08:00 +0100", "Tue 2041-01-01 08:00 +0100",
		}},
		{"half an hour repeated", "Australia/Lord_Howe", "2026-04-05 01:20", "*/15", []string{
			"Sun 2026-04-05 01:30 +1100", "Sun 2026-04-05 01:45 +1100",
			"Sun 2026-04-05 01:30 +1030", "Sun 2026-04-05 01:45 +1030", "Sun 2026-04-05 02:00 +1030",
		}},
		{"a whole day left out", "Pacific/Apia", "2011-12-29 12:00", "daily", []string{
			"Sat 2011-12-31 00:00 +1400", "Sun 2012-01-01 00:00 +1400",
		}},
		{"the weekday left out runs the day after", "Pacific/Apia", "2011-12-29 12:00", "fri 5:00", []string{
			"Sat 2011-12-31 00:00 +1400", "Fri 2012-01-06 05:00 +1400",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, err := time.ParseInLocation("2006-01-02 15:04", c.after, mustZone(t, c.zone))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, runs(mustParse(t, c.expr), after, len(c.want))); diff != "" {
				t.Errorf("runs (-want +got):\n%s", diff)
			}
		})
	}
}

// Asked from within the second pass of the repeated hour, a time that ran in
// the first pass does not come again.
func TestSchedule_AskedInTheRepeatedHour(t *testing.T) {
	second := time.Date(2026, 10, 25, 1, 10, 0, 0, time.UTC) // 02:10 +0100
	got := mustParse(t, "2:30").Next(second, mustZone(t, "Europe/Vienna")).Format(form)
	if want := "Mon 2026-10-26 02:30 +0100"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkSchedule_Next(b *testing.B) {
	zone := mustZone(b, "Europe/Vienna")
	for _, expr := range []string{"*", "*/15", "mon..fri 8..17,22:0/15", "weekly", "*-*-1/7 03:00"} {
		s := mustParse(b, expr)
		b.Run(expr, func(b *testing.B) {
			begin := time.Date(2026, 1, 1, 0, 0, 0, 0, zone)
			at := begin
			for b.Loop() {
				if at = s.Next(at, zone); at.Year() > 2100 { // as often in a zone switch as it comes
					at = begin
				}
			}
		})
	}
}
