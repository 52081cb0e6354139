// Package frame is what the commands of tandem share: where they write, how they
// refuse arguments, how an answer is printed, what completion offers.
//
// It knows no command. pkg/cli and the packages beside it build theirs on it.
package frame

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
	"github.com/tandemd/tandem/pkg/guest"
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
	ExitOK = iota
	// ExitError: it was refused or failed; `status`: something is wrong.
	ExitError
	// ExitUnknown: it cannot be told, because somebody did not answer.
	ExitUnknown
)

// ExitCodes is the end of every command's help.
const ExitCodes = `Exit codes:
  0  done; status: all is well
  1  refused or failed; status: something is wrong
  2  cannot tell: tandemd or the node that knows did not answer; where a change
     may have been made all the same, the message says so`

// App is one run of the program.
type App struct {
	Env
	// Socket is the path of the daemon's.
	Socket string
	Output Format
}

// Text prints for people.
func (a *App) Text() report.Printer { return report.Printer{Zone: a.Zone} }

// Client asks the daemon.
func (a *App) Client() api.Backend { return api.NewClient(a.Socket) }

// Verdict is the exit code of a command that ran and found something wrong; its
// output has said what.
type Verdict int

// Error is for errors.As only; it is never shown.
func (v Verdict) Error() string { return fmt.Sprintf("exit code %d", int(v)) }

// Invalid is an error in the arguments, found before anything was sent.
func Invalid(err error) error {
	if err == nil {
		return nil
	}
	return &api.Error{Code: api.CodeInvalid, Message: err.Error()}
}

// Usage is an error in how a command was called.
func Usage(cmd *cobra.Command, message string, args ...any) error {
	return &api.Error{
		Code:    api.CodeInvalid,
		Message: fmt.Sprintf(message, args...),
		Hint:    fmt.Sprintf("usage: %s; more with `%s --help`", cmd.UseLine(), cmd.CommandPath()),
	}
}

// Arguments wants exactly these arguments.
func Arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return Usage(cmd, "%s is missing", strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return Usage(cmd, "%q is one argument too many", args[len(names)])
		default:
			return nil
		}
	}
}

// Help is RunE of a command that has only commands below it.
func Help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// Must is for calls that fail only when the program text is wrong.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Print writes doc as JSON, or the lines, as --output says.
func (a *App) Print(doc any, lines ...string) error {
	if a.Output == FormatJSON {
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

// Warn writes sentences that must not be lost in, or mixed with, the output.
func (a *App) Warn(warnings []string) error {
	for _, w := range warnings {
		if _, err := fmt.Fprintf(a.Stderr, "warning: %s\n", report.Printable(w)); err != nil {
			return err
		}
	}
	return nil
}

// Format is how answers are printed.
type Format string

// The formats.
const (
	FormatTable Format = "table"
	FormatJSON  Format = "json"
)

// String is pflag's.
func (f *Format) String() string { return string(*f) }

// Type is pflag's: how help calls the value.
func (f *Format) Type() string { return "table|json" }

// Set is pflag's.
func (f *Format) Set(s string) error {
	switch v := Format(s); v {
	case FormatTable, FormatJSON:
		*f = v
		return nil
	default:
		return errors.New("must be table or json")
	}
}

// List makes JSON say [] where there is none.
func List[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// AnyNode stands in for the ID of a node, which only the daemon knows, so that the
// rest can be checked before anything is sent.
const AnyNode guest.NodeID = "00000000000000000000000000000000"
