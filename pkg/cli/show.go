package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

// jobsDoc is the JSON of `list`.
type jobsDoc struct {
	Version int       `json:"version"`
	Jobs    []api.Job `json:"jobs"`
}

// runsDoc is the JSON of `log` and `history`.
type runsDoc struct {
	Version int       `json:"version"`
	Runs    []api.Run `json:"runs"`
}

func (a *app) listCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the jobs of the cluster",
		Long:  "Lists the configuration of all jobs of the cluster; `tandem status` shows how\nthey fare.\n\n" + frame.ExitCodes,
		Example: `  tandem list
  tandem list -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			jobs, err := a.Client().Jobs(cmd.Context())
			if err != nil {
				return err
			}
			return a.Print(jobsDoc{api.Version, frame.List(jobs)}, a.Text().Jobs(jobs)...)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a *app) readCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "read ID",
		Short: "Show the configuration of a job",
		Long:  "Shows a job's configuration, with the digest that `update --digest` takes.\n\n" + frame.ExitCodes,
		Example: `  tandem read 100-0
  tandem read 100-0 -o json`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseJobID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			j, err := a.Client().Job(cmd.Context(), id)
			if err != nil {
				return err
			}
			if err := a.Warn(j.Warnings); err != nil {
				return err
			}
			return a.Print(jobDoc{api.Version, j}, a.Text().Job(j)...)
		},
		ValidArgsFunction: a.completeJob,
	}
}

func (a *app) scheduleNowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "schedule-now ID",
		Short: "Run a job now",
		Long: `Has a job run as soon as the limits allow, also while it waits after an error.
It does not wait for the run.

` + frame.ExitCodes,
		Example: "  tandem schedule-now 100-0",
		Args:    frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseJobID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			if err := a.Client().ScheduleNow(cmd.Context(), id); err != nil {
				return err
			}
			return a.Print(doneDoc{api.Version, id},
				fmt.Sprintf("Job %s will run now. Look: tandem status --guest %s; tandem log %s", id, id.Guest, id))
		},
		ValidArgsFunction: a.completeJob,
	}
}

func (a *app) logCmd() *cobra.Command {
	var n int
	var follow bool
	cmd := &cobra.Command{
		Use:   "log ID",
		Short: "Show what the last runs of a job did",
		Long: `Prints the log of the last run of a job, or of the last N runs, oldest first.
With -f it goes on with the log and the progress of a run that is going on, or
about to begin, until that has ended or Ctrl-C is typed; where none is, it says
so. With -f and -o json each event is a line.

` + frame.ExitCodes,
		Example: `  tandem log 100-0
  tandem log 100-0 --runs 5
  tandem log -f 100-0`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow {
				return a.followLog(cmd, args[0], n)
			}
			return a.printRuns(cmd, args[0], n, a.Text().Log)
		},
		ValidArgsFunction: a.completeJob,
	}
	cmd.Flags().IntVar(&n, "runs", 1, "`number` of runs to show")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with a run that is going on")
	frame.Must(cmd.RegisterFlagCompletionFunc("runs", cobra.NoFileCompletions))
	return cmd
}

// printRuns asks for the n newest runs and prints them in the order in which they happened.
func (a *app) printRuns(cmd *cobra.Command, job string, n int, text func([]api.Run) []string) error {
	id, runs, err := a.runs(cmd, job, n)
	if err != nil {
		return err
	}
	lines := []string{fmt.Sprintf("Job %s has not run yet.", id)}
	if len(runs) > 0 {
		lines = text(runs)
	}
	return a.Print(runsDoc{api.Version, frame.List(runs)}, lines...)
}

// runs are the n newest, oldest first.
func (a *app) runs(cmd *cobra.Command, job string, n int) (guest.JobID, []api.Run, error) {
	id, err := guest.ParseJobID(job)
	if err != nil {
		return id, nil, frame.Invalid(err)
	}
	if n < 1 {
		return id, nil, frame.Usage(cmd, "--runs %d: must be at least 1", n)
	}
	runs, err := a.Client().Runs(cmd.Context(), id, n)
	slices.Reverse(runs)
	return id, runs, err
}

func (a *app) historyCmd() *cobra.Command {
	var n int
	cmd := &cobra.Command{
		Use:   "history ID",
		Short: "List the runs of a job",
		Long:  "Lists the last runs of a job, one a line, oldest first. -o json has\neverything that was recorded.\n\n" + frame.ExitCodes,
		Example: `  tandem history 100-0
  tandem history 100-0 --runs 100 -o json`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.printRuns(cmd, args[0], n, a.Text().History)
		},
		ValidArgsFunction: a.completeJob,
	}
	cmd.Flags().IntVar(&n, "runs", 20, "`number` of runs to list")
	frame.Must(cmd.RegisterFlagCompletionFunc("runs", cobra.NoFileCompletions))
	return cmd
}
