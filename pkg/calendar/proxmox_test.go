package calendar_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/calendar"
)

// The tables of the appendix "Calendar Events" of the Proxmox VE Administration
// Guide (pve-docs, calendar-events.adoc), row by row: an example, what it is said
// to be the same as, and when it runs after Friday 2026-01-02 09:58:30. What is
// beyond the limits of replication, one minute to one week, is refused, and the
// message says which limit.
func TestParse_TheTablesOfProxmoxVE(t *testing.T) {
	const tooRare = "and the longest interval allowed is one week"
	after := time.Date(2026, 1, 2, 9, 58, 30, 0, time.UTC)
	for _, row := range []struct {
		example, alternative, meaning string
		normalized                    string // empty: refused
		runs                          []string
	}{
		{
			"mon,tue,wed,thu,fri", "mon..fri", "every working day at 0:00", "Mon..Fri *-*-* 00:00:00",
			[]string{"Mon 05 00:00", "Tue 06 00:00", "Wed 07 00:00", "Thu 08 00:00", "Fri 09 00:00", "Mon 12 00:00"},
		},
		{
			"sat,sun", "sat..sun", "only on weekends at 0:00", "Sat,Sun *-*-* 00:00:00",
			[]string{"Sat 03 00:00", "Sun 04 00:00", "Sat 10 00:00"},
		},
		{
			"mon,wed,fri", "", "Monday, Wednesday and Friday at 0:00", "Mon,Wed,Fri *-*-* 00:00:00",
			[]string{"Mon 05 00:00", "Wed 07 00:00", "Fri 09 00:00", "Mon 12 00:00"},
		},
		{"12:05", "12:05", "every day at 12:05", "*-*-* 12:05:00", []string{"Fri 02 12:05", "Sat 03 12:05"}},
		{"*/5", "0/5", "every five minutes", "*-*-* *:00/5:00", []string{"Fri 02 10:00", "Fri 02 10:05", "Fri 02 10:10"}},
		{
			"mon..wed 30/10", "mon,tue,wed 30/10", "Monday to Wednesday 30, 40 and 50 minutes after every full hour",
			"Mon..Wed *-*-* *:30/10:00",
			[]string{"Mon 05 00:30", "Mon 05 00:40", "Mon 05 00:50", "Mon 05 01:30"},
		},
		{
			"mon..fri 8..17,22:0/15", "", "working days, every 15 minutes from 8 to 18 and from 22 to 23", "Mon..Fri *-*-* 08..17,22:00/15:00",
			[]string{"Fri 02 10:00", "Fri 02 10:15"},
		},
		{
			"fri 12..13:5/20", "fri 12,13:5/20", "Friday at 12:05, 12:25, 12:45, 13:05, 13:25 and 13:45", "Fri *-*-* 12..13:05/20:00",
			[]string{"Fri 02 12:05", "Fri 02 12:25", "Fri 02 12:45", "Fri 02 13:05", "Fri 02 13:25", "Fri 02 13:45", "Fri 09 12:05"},
		},
		{
			"12,14,16,18,20,22:5", "12/2:5", "every day from 12:05 until 22:05, every two hours", "*-*-* 12,14,16,18,20,22:05:00",
			[]string{"Fri 02 12:05", "Fri 02 14:05", "Fri 02 16:05", "Fri 02 18:05", "Fri 02 20:05", "Fri 02 22:05", "Sat 03 12:05"},
		},
		{"*", "*/1", "every minute, the shortest interval", "*-*-* *:*:00", []string{"Fri 02 09:59", "Fri 02 10:00", "Fri 02 10:01"}},
		{"*-05", "", "the 5th of every month", "", nil},
		{"Sat *-1..7 15:00", "", "the first Saturday of each month", "", nil},
		{"2015-10-21", "", "once", "", nil},

		// The special values.
		{"minutely", "*-*-* *:*:00", "", "*-*-* *:*:00", []string{"Fri 02 09:59", "Fri 02 10:00"}},
		{"hourly", "*-*-* *:00:00", "", "*-*-* *:00:00", []string{"Fri 02 10:00", "Fri 02 11:00"}},
		{"daily", "*-*-* 00:00:00", "", "*-*-* 00:00:00", []string{"Sat 03 00:00", "Sun 04 00:00"}},
		{"weekly", "mon *-*-* 00:00:00", "", "Mon *-*-* 00:00:00", []string{"Mon 05 00:00", "Mon 12 00:00"}},
		{"monthly", "*-*-01 00:00:00", "", "", nil},
		{"yearly", "annually", "", "", nil},
		{"quarterly", "*-01,04,07,10-01 00:00:00", "", "", nil},
		{"semiannually", "semi-annually", "", "", nil},

		// The examples in the text. Its 'mon..fri 22' is said to be 10 PM there, against
		// its own rule, which counts: "if no hour separation (:) is used the value gets
		// interpreted as minute".
		{"8:00/15", "", "at 8:00 and every 15 minutes until 9", "*-*-* 08:00/15:00", []string{
			"Sat 03 08:00", "Sat 03 08:15", "Sat 03 08:30", "Sat 03 08:45", "Sun 04 08:00",
		}},
		{"mon..fri 22", "mon,tue,wed,thu,fri 22", "", "Mon..Fri *-*-* *:22:00", []string{"Fri 02 10:22", "Fri 02 11:22"}},
	} {
		for _, expr := range []string{row.example, row.alternative} {
			if expr == "" {
				continue
			}
			s, err := calendar.Parse(expr)
			if row.normalized == "" {
				if err == nil || !strings.Contains(err.Error(), tooRare) {
					t.Errorf("%q (%s): got %q, %v; want it refused, %s", expr, row.meaning, s.Normalized(), err, tooRare)
				}
				continue
			}
			if err != nil {
				t.Errorf("%q (%s): %v", expr, row.meaning, err)
				continue
			}
			if expr == row.example && s.Normalized() != row.normalized {
				t.Errorf("%q: normalized %q, want %q", expr, s.Normalized(), row.normalized)
			}
			var got []string
			at := after
			for range row.runs {
				at = s.Next(at, time.UTC)
				got = append(got, at.Format("Mon 02 15:04"))
			}
			if diff := cmp.Diff(row.runs, got); diff != "" {
				t.Errorf("%q (%s) runs (-want +got):\n%s", expr, row.meaning, diff)
			}
		}
	}
}

// All that the specification itself names: the default, the examples of its
// commands, the shortest and the longest interval.
func TestParse_TheSpecification(t *testing.T) {
	after := time.Date(2026, 1, 2, 9, 58, 30, 0, time.UTC)
	for expr, want := range map[string][]string{
		calendar.Default: {"Fri 02 10:00", "Fri 02 10:15"}, // "the default of all 15 minutes"
		"*/5":            {"Fri 02 10:00", "Fri 02 10:05"}, // "runs every 5 minutes"
		"*/00":           {"Fri 02 10:00", "Fri 02 11:00"}, // "once per hour"
		"*":              {"Fri 02 09:59", "Fri 02 10:00"}, // "the minimum replication interval is one minute"
		"weekly":         {"Mon 05 00:00", "Mon 12 00:00"}, // "the maximal interval once a week"
	} {
		s := mustParse(t, expr)
		at := after
		var got []string
		for range want {
			at = s.Next(at, nil)
			got = append(got, at.Format("Mon 02 15:04"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q runs at %q, want %q", expr, got, want)
		}
	}
}
