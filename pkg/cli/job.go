package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/calendar"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

// jobDoc is the JSON of the verbs that show or change one job.
type jobDoc struct {
	Version int     `json:"version"`
	Job     api.Job `json:"job"`
}

// doneDoc is the JSON of verbs that only do something.
type doneDoc struct {
	Version int         `json:"version"`
	ID      guest.JobID `json:"id"`
}

// jobFlags are the flags of `create-local-job` and `update` as typed.
type jobFlags struct {
	schedule, comment, snapshots string
	rate                         float64
	disable                      bool
	digest                       string
	remove                       []string
}

func (in *jobFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&in.schedule, "schedule", "", "calendar `expression`; see tandem calendar")
	f.Float64Var(&in.rate, "rate", 0, "limit in `MB/s` (10^6 bytes), at least 1")
	f.StringVar(&in.comment, "comment", "", "`text` for people")
	f.StringVar(&in.snapshots, "snapshots", "", "operators' snapshots: `mirror|keep|none`")
	f.BoolVar(&in.disable, "disable", false, "keep it, but do not run it")
	frame.Must(cmd.RegisterFlagCompletionFunc("schedule", cobra.FixedCompletions(
		[]string{"*/5", "*/15", "*/30", "hourly", "daily", "weekly"}, cobra.ShellCompDirectiveNoFileComp)))
	frame.Must(cmd.RegisterFlagCompletionFunc("rate", cobra.NoFileCompletions))
	frame.Must(cmd.RegisterFlagCompletionFunc("comment", cobra.NoFileCompletions))
	frame.Must(cmd.RegisterFlagCompletionFunc("snapshots", cobra.FixedCompletions(
		[]string{"mirror", "keep", "none"}, cobra.ShellCompDirectiveNoFileComp)))
}

// check refuses, before anything is sent, what no daemon would take.
func (in *jobFlags) check(cmd *cobra.Command, id guest.JobID) error {
	given := cmd.Flags().Changed
	if given("schedule") {
		if _, err := calendar.Parse(in.schedule); err != nil {
			return err
		}
	}
	if given("rate") && in.rate == 0 {
		return fmt.Errorf("rate 0: must be at least %v MB/s; without --rate there is no limit", guest.MinRate)
	}
	j := guest.Job{ID: id, Target: frame.AnyNode, Schedule: calendar.Default, Rate: in.rate, Comment: in.comment, Snapshots: guest.Mirror}
	if given("snapshots") {
		j.Snapshots = guest.SnapshotMode(in.snapshots)
	}
	return j.Validate()
}

const snapshotsHelp = `--snapshots says what becomes of snapshots that operators made on the source:
  mirror  they are copied, and the copies go when the originals go (the default)
  keep    they are copied, and the copies stay
  none    they are not copied`

func (a *app) createCmd() *cobra.Command {
	var in jobFlags
	cmd := &cobra.Command{
		Use:   "create-local-job ID TARGET",
		Short: "Replicate a guest to a node",
		Long: `Makes a replication job. ID is the guest's ID and a job number, like 100-0;
TARGET is the name of the node to replicate to. A guest can be replicated to
several nodes, but not twice to the same. The first run, which sends
everything, begins when the schedule says (` + calendar.Default + ` unless given) or
with ` + "`tandem schedule-now`" + `.

` + snapshotsHelp + `

` + frame.ExitCodes,
		Example: `  # every 5 minutes, with at most 10 MB/s
  tandem create-local-job 100-0 pve1 --schedule '*/5' --rate 10
  # every quarter of an hour
  tandem create-local-job 100-1 n3 --comment 'second copy'`,
		Args: frame.Arguments("ID", "TARGET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := api.CreateJobRequest{
				Schedule: in.schedule, Rate: in.rate, Comment: in.comment,
				Disabled: in.disable, Snapshots: guest.SnapshotMode(in.snapshots),
			}
			var err error
			if r.ID, err = guest.ParseJobID(args[0]); err != nil {
				return frame.Invalid(err)
			}
			if r.Target, err = guest.ParseNodeName(args[1]); err != nil {
				return frame.Invalid(fmt.Errorf("target: %w", err))
			}
			if err := in.check(cmd, r.ID); err != nil {
				return frame.Invalid(err)
			}
			j, err := a.Client().CreateJob(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.printJob(j, fmt.Sprintf("Job %s is made: %s.", j.ID, report.JobLine(j)))
		},
		ValidArgsFunction: a.completeCreate,
	}
	in.register(cmd)
	return cmd
}

func (a *app) printJob(j api.Job, line string) error {
	if err := a.Warn(j.Warnings); err != nil {
		return err
	}
	return a.Print(jobDoc{api.Version, j}, line)
}

func (a *app) updateCmd() *cobra.Command {
	var in jobFlags
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Change a job",
		Long: `Changes what is given and leaves the rest. --delete takes settings back to
their defaults. With --digest, as ` + "`tandem read`" + ` shows it, the change is
refused if somebody else has changed the job since.

` + snapshotsHelp + `

` + frame.ExitCodes,
		Example: `  # once per hour
  tandem update 100-0 --schedule '*/00'
  # no limit any more
  tandem update 100-0 --delete rate`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseJobID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			if err := in.check(cmd, id); err != nil {
				return frame.Invalid(err)
			}
			r, err := in.update(cmd, id)
			if err != nil {
				return err
			}
			j, err := a.Client().UpdateJob(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.printJob(j, fmt.Sprintf("Job %s is changed: %s.", j.ID, report.JobLine(j)))
		},
		ValidArgsFunction: a.completeJob,
	}
	in.register(cmd)
	cmd.Flags().StringVar(&in.digest, "digest", "", "change it only if it still has this `digest`")
	cmd.Flags().StringSliceVar(&in.remove, "delete", nil, "`settings` to take back, like rate,comment")
	frame.Must(cmd.RegisterFlagCompletionFunc("delete", cobra.FixedCompletions(removable(), cobra.ShellCompDirectiveNoFileComp)))
	frame.Must(cmd.RegisterFlagCompletionFunc("digest", cobra.NoFileCompletions))
	return cmd
}

func removable() []string { return []string{"comment", "disable", "rate", "schedule", "snapshots"} }

// update is the request: what was given, and what --delete takes back.
func (in *jobFlags) update(cmd *cobra.Command, id guest.JobID) (api.UpdateJobRequest, error) {
	r := api.UpdateJobRequest{ID: id, Digest: in.digest}
	change := func(name string) {
		switch mode, enabled := guest.SnapshotMode(in.snapshots), !in.disable; name {
		case "comment":
			r.Comment = &in.comment
		case "disable":
			r.Enabled = &enabled
		case "rate":
			r.Rate = &in.rate
		case "schedule":
			r.Schedule = &in.schedule
		case "snapshots":
			r.Snapshots = &mode
		}
	}
	for _, name := range in.remove {
		if !slices.Contains(removable(), name) {
			return r, frame.Usage(cmd, "--delete %q: only comment, disable, rate, schedule and snapshots can be taken back", name)
		}
		if cmd.Flags().Changed(name) {
			return r, frame.Usage(cmd, "--%s and --delete %s contradict each other", name, name)
		}
		switch name {
		case "schedule":
			in.schedule = calendar.Default
		case "snapshots":
			in.snapshots = string(guest.Mirror)
		}
		change(name)
	}
	changed := len(in.remove) > 0
	for _, name := range removable() {
		if cmd.Flags().Changed(name) {
			change(name)
			changed = true
		}
	}
	if !changed {
		return r, frame.Usage(cmd, "nothing to change in job %s: give at least one of --schedule, --rate, --comment, --disable, --snapshots, --delete", id)
	}
	return r, nil
}

func (a *app) deleteCmd() *cobra.Command {
	var r api.DeleteJobRequest
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "End a job and remove its replica",
		Long: `Ends a job. Tandem's snapshots for it on the source and the replica on the
target are removed in the background; ` + "`tandem status`" + ` shows it as removing
meanwhile. With --keep the replica stays on the target. Only what carries
Tandem's marks for this guest is ever removed.

With --force the job is dropped at once, also where its source or its target
does not answer. Then nothing is removed on any node, and what is left is named.

` + frame.ExitCodes,
		Example: `  tandem delete 100-0
  tandem delete 100-0 --keep
  tandem delete 100-0 --force`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.ID, err = guest.ParseJobID(args[0]); err != nil {
				return frame.Invalid(err)
			}
			done, err := a.Client().DeleteJob(cmd.Context(), r)
			if err != nil {
				return err
			}
			done.Left = frame.List(done.Left)
			return a.Print(deletedDoc{api.Version, done}, deletedLines(r, done)...)
		},
		ValidArgsFunction: a.completeJob,
	}
	cmd.Flags().BoolVar(&r.Keep, "keep", false, "leave the replica's data on the target")
	cmd.Flags().BoolVar(&r.Force, "force", false, "drop it at once and remove nothing")
	return cmd
}

// deletedDoc is the JSON of `delete`.
type deletedDoc struct {
	Version int `json:"version"`
	api.DeletedJob
}

func deletedLines(r api.DeleteJobRequest, done api.DeletedJob) []string {
	switch {
	case done.Dropped:
		lines := []string{fmt.Sprintf("Job %s is dropped. It leaves:", r.ID)}
		for _, l := range done.Left {
			lines = append(lines, "  "+report.Printable(l))
		}
		return append(lines, "To have it cleaned up later, make the job again and delete it without --force.")
	case r.Keep:
		return []string{fmt.Sprintf("Job %s is being removed; its replica stays on the target.", r.ID)}
	default:
		return []string{fmt.Sprintf("Job %s is being removed; its replica goes with it.", r.ID)}
	}
}

func (a *app) enableCmd() *cobra.Command {
	cmd := a.switchCmd("enabled", true)
	cmd.Use = "enable ID"
	cmd.Short = "Run a disabled job again"
	cmd.Long = "Runs a disabled job again, from its next due time.\n\n" + frame.ExitCodes
	cmd.Example = "  tandem enable 100-0"
	return cmd
}

func (a *app) disableCmd() *cobra.Command {
	cmd := a.switchCmd("disabled", false)
	cmd.Use = "disable ID"
	cmd.Short = "Keep a job, but do not run it"
	cmd.Long = "Keeps a job and its replica, but does not run it until it is enabled.\n\n" + frame.ExitCodes
	cmd.Example = "  tandem disable 100-0"
	return cmd
}

func (a *app) switchCmd(word string, to bool) *cobra.Command {
	return &cobra.Command{
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseJobID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			j, err := a.Client().UpdateJob(cmd.Context(), api.UpdateJobRequest{ID: id, Enabled: &to})
			if err != nil {
				return err
			}
			return a.printJob(j, fmt.Sprintf("Job %s is %s.", id, word))
		},
		ValidArgsFunction: a.completeJob,
	}
}
