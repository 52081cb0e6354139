package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
)

// statusFlags are the flags of `status` as typed.
type statusFlags struct {
	guest, node string
	details     bool
	watch       time.Duration
}

func (a *app) statusCmd() *cobra.Command {
	var in statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how all jobs of the cluster fare",
		Long: `Shows the cluster and every job in it, as far as the nodes answer; any node
can be asked.

  JobID .. State  as pvesr shows them, under the node that has the guest
  LastSync        when the last successful run began; never: there was none
  NextSync        when the next run is due; pending: it is due now
  Duration        how long the last run took
  FailCount       how many runs have failed in a row
  State           ok, running, error, disabled, removing; unknown: nobody told
  Lag             how old the target's newest complete state of the guest is;
                  with ! it is older than the schedule allows
  Last            what the last run sent over the wire (1K is 1024 bytes)

Under a job that runs stand percent, rate (10^6 bytes per second) and the time
that is left. A time of day stands for less than 12 hours away or today. - means
that there is nothing to show, ? that nobody told. Errors, with what to do,
stand below the table, and what needs a person at once stands above it.

Jobs in good order that find no place on 80 columns and 24 rows are counted;
--details shows all, with everything about each.

Exit codes:
  0  all is well
  1  something is wrong: the cluster is not quorate or runs on forced quorum, there
     is a warning, or a job that is not disabled has failed since its last success
     or lags
  2  cannot tell: nothing of that, but the daemon, a member (with --guest and
     --node: one that a shown job is about) or a job's owner did not answer
With --watch it is that of the last one shown.`,
		Example: `  tandem status
  tandem status --guest 100
  tandem status --node n1 -o json
  tandem status --details
  tandem status --watch
  tandem status --watch=10s`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && cmd.Flags().Changed("watch") {
				return frame.Usage(cmd, "%q: the interval of --watch stands behind =, like --watch=10s", args[0])
			}
			return frame.Arguments()(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := frame.Filter(in.guest, in.node)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("watch") {
				if in.watch < time.Second {
					return frame.Usage(cmd, "--watch=%s: must be at least a second, like --watch=10s", in.watch)
				}
				return a.watchStatus(cmd.Context(), f, in)
			}
			s, err := a.Client().Status(cmd.Context(), f)
			if err != nil {
				return err
			}
			s = whole(s)
			if err := a.Print(s, a.statusLines(s, f, in)...); err != nil {
				return err
			}
			return judged(s, f)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	in.register(cmd)
	frame.Must(cmd.RegisterFlagCompletionFunc("guest", a.CompleteGuests))
	frame.Must(cmd.RegisterFlagCompletionFunc("node", a.CompleteNodes))
	return cmd
}

func (in *statusFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&in.guest, "guest", "", "only the jobs of the guest with this `ID`")
	fl.StringVar(&in.node, "node", "", "only the jobs from or to the node of this `name`")
	fl.BoolVarP(&in.details, "details", "v", false, "everything about every job and member")
	fl.DurationVar(&in.watch, "watch", 0, "show it again and again, every two seconds or as often as `=INTERVAL` says")
	fl.Lookup("watch").NoOptDefVal = "2s"
	frame.Must(cmd.RegisterFlagCompletionFunc("watch", cobra.FixedCompletions([]string{"2s", "10s", "1m"}, cobra.ShellCompDirectiveNoFileComp)))
}

// whole makes JSON say [] where there is none.
func whole(s api.Status) api.Status {
	s.Jobs, s.Silent, s.Warnings = frame.List(s.Jobs), frame.List(s.Silent), frame.List(s.Warnings)
	return s
}

func (a *app) statusLines(s api.Status, f api.Filter, in statusFlags) []string {
	if in.details {
		return a.Text().Details(s, f == api.Filter{})
	}
	return a.Text().Status(s, f == api.Filter{})
}

func judged(s api.Status, f api.Filter) error {
	if v := judge(s, f); v != frame.ExitOK {
		return frame.Verdict(v)
	}
	return nil
}

// watchStatus shows the status until ctx ends; its exit code is that of the last one.
func (a *app) watchStatus(ctx context.Context, f api.Filter, in statusFlags) error {
	var last error = frame.Verdict(frame.ExitUnknown)
	for {
		s, err := a.Client().Status(ctx, f)
		if ctx.Err() != nil {
			return last
		}
		var lines []string
		if err != nil {
			last = frame.Verdict(frame.ExitUnknown)
			lines = []string{"tandem: " + report.Printable(err.Error())}
		} else {
			s = whole(s)
			last = judged(s, f)
			lines = a.statusLines(s, f, in)
		}
		if err := a.frame(s, err, lines); err != nil {
			return err
		}
		if a.Pause(ctx, in.watch) != nil {
			return last
		}
	}
}

// frame shows one status: in place on a terminal, else below the one before. In
// JSON it is a line, and an error goes where errors go.
func (a *app) frame(s api.Status, failed error, lines []string) error {
	switch {
	case a.Output == frame.FormatJSON && failed != nil:
		_, err := fmt.Fprintln(a.Stderr, lines[0])
		return err
	case a.Output == frame.FormatJSON:
		return json.NewEncoder(a.Stdout).Encode(s)
	case a.Terminal:
		// Home, each line to its end, and what is left of the last frame: nothing flickers.
		_, err := io.WriteString(a.Stdout, "\x1b[H"+strings.Join(lines, "\x1b[K\n")+"\x1b[K\n\x1b[J")
		return err
	default:
		_, err := io.WriteString(a.Stdout, strings.Join(lines, "\n")+"\n\n")
		return err
	}
}

// judge is the exit code of `status`: what is known to be wrong goes before what
// is not known.
func judge(s api.Status, f api.Filter) int {
	trouble := !s.Cluster.Quorate || s.Cluster.Forced || len(s.Warnings) > 0
	unknown := f == api.Filter{} && len(s.Silent) > 0
	for _, j := range s.Jobs {
		if j.State == api.StateDisabled {
			continue // Whoever disabled it knows.
		}
		trouble = trouble || j.State == api.StateError || j.FailCount > 0 || j.Lagging
		unknown = unknown || j.State == api.StateUnknown || slices.Contains(s.Silent, j.Source) || slices.Contains(s.Silent, j.Target)
	}
	switch {
	case trouble:
		return frame.ExitError
	case unknown:
		return frame.ExitUnknown
	default:
		return frame.ExitOK
	}
}
