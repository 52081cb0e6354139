// Package cli is the command line `tandem`: it checks arguments, asks the daemon
// through pkg/api, and prints the answer as text or JSON.
//
// It decides nothing about guests and jobs; what an answer means is computed by
// the daemon, how it looks by pkg/cli/report. It is called by cmd/tandem.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/report"
)

// Env is what the command line takes from its surroundings.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Now is the clock; only `calendar` without --from looks at it.
	Now func() time.Time
	// Zone is the time zone in which times are printed and schedules without a zone are meant.
	Zone *time.Location
	// Version is what `version` prints.
	Version string
	// Terminal says that Stdout is one: what goes on is shown in place.
	Terminal bool
	// Pause waits, or returns an error when ctx ends before.
	Pause func(ctx context.Context, d time.Duration) error
}

// The exit codes of tandem.
const (
	exitOK = iota
	// exitError: it was refused or failed; `status`: something is in error or lagging.
	exitError
	// exitUnknown: it cannot be told, because somebody did not answer.
	exitUnknown
)

const exitCodes = `Exit codes:
  0  done; status: all is well
  1  refused or failed; status: something is in error or lagging
  2  cannot tell: tandemd or the node that knows did not answer; where a change
     may have been made all the same, the message says so`

// Run runs one command line, without the program's name in args, and returns
// its exit code: 0 done, 1 error, 2 cannot tell.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{Env: env, output: formatTable}
	root := a.root()                          //nolint:contextcheck // the commands get ctx from ExecuteContextC
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.exitCode(cmd, err)
}

// app is one run of the program.
type app struct {
	Env
	socket string
	output format
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tandem",
		Short: "Replicate guests' volumes between nodes",
		Long: `tandem talks to the daemon tandemd on this node, which replicates the volumes of
virtual machines and containers to other nodes with incremental ZFS snapshots.

A node joins a cluster (cluster), a guest is named with its volumes (guest), and
jobs say where it is replicated to and when (create-local-job, update, delete).
` + "`tandem status`" + ` tells how they fare, in the whole cluster, from any node.

` + exitCodes,
		Example: `  tandem cluster init
  tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0
  tandem create-local-job 100-0 n2 --schedule '*/5' --rate 10
  tandem status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          help,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.socket, "socket", api.DefaultSocket, "`path` of the daemon's socket")
	f.VarP(&a.output, "output", "o", "how to print: table or json")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(cmd, "%s", plain(err))
	})
	root.AddCommand(a.statusCmd(), a.clusterCmd(), a.guestCmd())
	root.AddCommand(a.createCmd(), a.updateCmd(), a.deleteCmd(), a.enableCmd(), a.disableCmd())
	root.AddCommand(a.listCmd(), a.readCmd(), a.scheduleNowCmd(), a.logCmd(), a.historyCmd())
	root.AddCommand(a.runCmd(), a.explainCmd())
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

func (a *app) text() report.Printer { return report.Printer{Zone: a.Zone} }

func (a *app) client() api.Backend { return api.NewClient(a.socket) }

// verdict is the exit code of a command that ran and found something wrong; its
// output has said what.
type verdict int

func (v verdict) Error() string { return fmt.Sprintf("exit code %d", int(v)) }

func (a *app) exitCode(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	if v, ok := errors.AsType[verdict](err); ok {
		return int(v)
	}
	text := "tandem: " + report.Printable(err.Error()) + "\n"
	e, ok := errors.AsType[*api.Error](err)
	if ok && e.Hint != "" {
		text += "hint: " + report.Printable(e.Hint) + "\n"
	}
	fmt.Fprint(a.Stderr, text) //nolint:errcheck // there is nowhere left to say it
	if cmd.Name() == "status" {
		return exitUnknown // It told nothing of what it was asked.
	}
	if ok && (e.Code == api.CodeUnavailable || e.Code == api.CodeUnknown) {
		return exitUnknown
	}
	return exitError
}

// invalid is an error in the arguments, found before anything was sent.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return &api.Error{Code: api.CodeInvalid, Message: err.Error()}
}

// usage is an error in how a command was called.
func usage(cmd *cobra.Command, message string, args ...any) error {
	return &api.Error{
		Code:    api.CodeInvalid,
		Message: fmt.Sprintf(message, args...),
		Hint:    fmt.Sprintf("usage: %s; more with `%s --help`", cmd.UseLine(), cmd.CommandPath()),
	}
}

// arguments wants exactly these arguments.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, "%s is missing", strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return usage(cmd, "%q is one argument too many", args[len(names)])
		default:
			return nil
		}
	}
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// must is for calls that fail only when the program text is wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// print writes doc as JSON, or the lines, as --output says.
func (a *app) print(doc any, lines ...string) error {
	if a.output == formatJSON {
		e := json.NewEncoder(a.Stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(doc)
	}
	if len(lines) == 0 {
		return nil
	}
	_, err := io.WriteString(a.Stdout, strings.Join(lines, "\n")+"\n")
	return err
}

// warn writes sentences that must not be lost in, or mixed with, the output.
func (a *app) warn(warnings []string) error {
	for _, w := range warnings {
		if _, err := fmt.Fprintf(a.Stderr, "warning: %s\n", report.Printable(w)); err != nil {
			return err
		}
	}
	return nil
}

// format is how answers are printed.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// String is pflag's.
func (f *format) String() string { return string(*f) }

// Type is pflag's: how help calls the value.
func (f *format) Type() string { return "table|json" }

// Set is pflag's.
func (f *format) Set(s string) error {
	switch v := format(s); v {
	case formatTable, formatJSON:
		*f = v
		return nil
	default:
		return errors.New("must be table or json")
	}
}
