package cli

import (
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/cli/frame"
)

// maxCount bounds the runs that `calendar` computes: a week of every minute.
const maxCount = 10080

// calendarDoc is the JSON of `calendar`.
type calendarDoc struct {
	Normalized string   `json:"normalized"`
	Next       []string `json:"next"`
}

func (a *app) calendarCmd() *cobra.Command {
	var from string
	var n int
	cmd := &cobra.Command{
		Use:   "calendar EXPR",
		Short: "Explain a schedule and show its next runs",
		Long: `Prints a schedule in its normalised form and when it runs next. It needs no
daemon.

Schedules are calendar events of systemd.time(7) down to minutes, running at
least once a week. Without a colon, a number stands for minutes: */5, 30,
8..17,22:0/15, mon..fri 8:00, sat 02:30, hourly, daily, weekly, */00 (once per
hour). A time zone may end it: 'daily Europe/Vienna'; else the zone of the
node (here: TZ) is meant. Quote it.`,
		Example: `  tandem calendar '*/5'
  tandem calendar 'mon..fri 8..17,22:0/15' --count 10
  tandem calendar 'sun 02:30 Europe/Vienna' --from 2026-03-28T00:00:00Z -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return frame.Usage(cmd, "a schedule of several words must be quoted, like 'mon..fri 8:00'")
			}
			return frame.Arguments("EXPR")(cmd, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := calendar.Parse(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			start := a.Now()
			if from != "" {
				if start, err = time.Parse(time.RFC3339, from); err != nil {
					return frame.Invalid(fmt.Errorf("--from %q: must be RFC 3339, like 2026-11-22T20:41:00Z", from))
				}
			}
			if n < 1 || n > maxCount {
				return frame.Invalid(fmt.Errorf("--count %d: must be from 1 to %d", n, maxCount))
			}
			return a.printCalendar(s, start, n)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&from, "from", "", "show runs after this `time` (RFC 3339) instead of now")
	cmd.Flags().IntVar(&n, "count", 5, "`number` of runs to show")
	return cmd
}

func (a *app) printCalendar(s calendar.Schedule, after time.Time, n int) error {
	doc := calendarDoc{Normalized: s.Normalized(), Next: []string{}}
	lines := []string{"Normalized: " + s.Normalized()}
	label := "Next:       "
	for range n {
		after = s.Next(after, a.Zone)
		if after.IsZero() {
			break
		}
		doc.Next = append(doc.Next, after.Format(time.RFC3339))
		lines = append(lines, label+after.Format("Mon 2006-01-02 15:04:05 MST"))
		label = "            "
	}
	return a.Print(doc, lines...)
}

// versionDoc is the JSON of `version`.
type versionDoc struct {
	Version int    `json:"version"`
	Tandem  string `json:"tandem"`
	Go      string `json:"go"`
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  frame.Arguments(),
		RunE: func(*cobra.Command, []string) error {
			return a.Print(versionDoc{api.Version, a.Version, runtime.Version()},
				fmt.Sprintf("tandem %s (%s, API version %d)", a.Version, runtime.Version(), api.Version))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
