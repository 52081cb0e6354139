// Package cli is the command line `tandem`: it checks arguments, asks the daemon
// through pkg/api, and prints the answer as text or JSON.
//
// It decides nothing about guests and jobs; what an answer means is computed by
// the daemon, how it looks by pkg/cli/report. It is called by cmd/tandem.
package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/cluster"
	"github.com/tandemd/tandem/pkg/cli/diverged"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/guests"
	"github.com/tandemd/tandem/pkg/cli/report"
)

// Env is what the command line takes from its surroundings.
type Env = frame.Env

// Run runs one command line, without the program's name in args, and returns
// its exit code: 0 done, 1 error, 2 cannot tell.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{&frame.App{Env: env, Output: frame.FormatTable}}
	root := a.root()                          //nolint:contextcheck // the commands get ctx from ExecuteContextC
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.exitCode(cmd, err)
}

// app is one run of the program.
type app struct{ *frame.App }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tandem",
		Short: "Replicate guests' volumes between nodes",
		Long: `tandem talks to the daemon tandemd on this node, which replicates the volumes of
virtual machines and containers to other nodes with incremental ZFS snapshots.

A node joins a cluster (cluster), a guest is named with its volumes (guest), and
jobs say where it is replicated to and when (create-local-job, update, delete).
` + "`tandem status`" + ` tells how they fare, in the whole cluster, from any node.

` + frame.ExitCodes,
		Example: `  tandem cluster init
  tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0
  tandem create-local-job 100-0 n2 --schedule '*/5' --rate 10
  tandem status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          frame.Help,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.Socket, "socket", api.DefaultSocket, "`path` of the daemon's socket")
	f.VarP(&a.Output, "output", "o", "how to print: table or json")
	frame.Must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return frame.Usage(cmd, "%s", plain(err))
	})
	root.AddCommand(a.statusCmd(), cluster.Command(a.App), guests.Command(a.App))
	root.AddCommand(cluster.Nodes(a.App), guests.NodeCommand(a.App), cluster.Storage(a.App))
	root.AddCommand(a.createCmd(), a.updateCmd(), a.deleteCmd(), a.enableCmd(), a.disableCmd())
	root.AddCommand(a.listCmd(), a.readCmd(), a.scheduleNowCmd(), a.logCmd(), a.historyCmd())
	root.AddCommand(a.runCmd(), a.explainCmd(), a.verifyCmd(), diverged.Command(a.App))
	root.AddCommand(a.calendarCmd(), a.versionCmd())
	return root
}

// plain is pflag's error without the name of the function that failed.
func plain(err error) string {
	text, _, cut := strings.Cut(err.Error(), ": strconv.Parse")
	switch {
	case !cut:
		return err.Error()
	case strings.Contains(err.Error(), "strconv.ParseBool"):
		return text + ": must be true or false"
	default:
		return text + ": must be a number"
	}
}

func (a *app) exitCode(cmd *cobra.Command, err error) int {
	if err == nil {
		return frame.ExitOK
	}
	if v, ok := errors.AsType[frame.Verdict](err); ok {
		return int(v)
	}
	text := "tandem: " + report.Printable(err.Error()) + "\n"
	e, ok := errors.AsType[*api.Error](err)
	if ok && e.Hint != "" {
		text += "hint: " + report.Printable(e.Hint) + "\n"
	}
	fmt.Fprint(a.Stderr, text) //nolint:errcheck // there is nowhere left to say it
	if cmd.Name() == "status" {
		return frame.ExitUnknown // It told nothing of what it was asked.
	}
	if ok && (e.Code == api.CodeUnavailable || e.Code == api.CodeUnknown) {
		return frame.ExitUnknown
	}
	return frame.ExitError
}
