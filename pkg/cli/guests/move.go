package guests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

func (a verbs) migrateCmd() *cobra.Command {
	var r api.MigrateRequest
	var cancel bool
	cmd := &cobra.Command{
		Use:   "migrate ID NODE",
		Short: "Move a guest to another node",
		Long: `Moves a guest to another node and starts it there. What it wrote is brought there
while it runs; then it is stopped, the rest is brought, and the other node owns
it. Only what the node does not have yet is sent. The job that pointed to that
node points back to this one; the other jobs go on from the new owner.

Until the owner is changed, everything that goes wrong, Ctrl-C and --cancel go
back: the guest runs again where it was. Where the answer to the change is lost
the move is in doubt: the guest stays stopped on both nodes until a majority can
tell; ` + "`tandem guest show ID`" + ` says so, and --cancel settles it for the old owner,
unless the change was made. A guest that did not run is not started.

` + frame.ExitCodes,
		Example: `  tandem guest migrate 100 n2
  tandem guest migrate 100 n2 --no-start
  tandem guest migrate 100 --cancel`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cancel {
				return frame.Arguments("ID")(cmd, args)
			}
			return frame.Arguments("ID", "NODE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.ID, err = guest.ParseID(args[0]); err != nil {
				return frame.Invalid(err)
			}
			if cancel {
				if r.NoStart || r.DeleteSource {
					return frame.Usage(cmd, "--cancel goes with no other option")
				}
				return a.cancelMigration(cmd.Context(), r.ID)
			}
			if r.To, err = guest.ParseNodeName(args[1]); err != nil {
				return frame.Invalid(err)
			}
			started, err := a.Client().Migrate(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.followMigration(cmd.Context(), started)
		},
		ValidArgsFunction: a.completeMove,
	}
	f := cmd.Flags()
	f.BoolVar(&r.NoStart, "no-start", false, "leave it stopped on the other node")
	f.BoolVar(&r.DeleteSource, "delete-source", false, "remove the copy that the old node keeps; refused where a job replicates to NODE")
	f.BoolVar(&cancel, "cancel", false, "undo the migration that goes on")
	return cmd
}

// completeMove offers guests, then nodes.
func (a verbs) completeMove(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return a.CompleteNodes(cmd, nil, typed)
	}
	return a.CompleteGuests(cmd, args, typed)
}

func (a verbs) cancelMigration(ctx context.Context, id guest.ID) error {
	started, err := a.Client().CancelMigration(ctx, id)
	if err != nil {
		return err
	}
	return a.followMigration(ctx, started)
}

// cancelPatience is how long a migration that was cancelled by Ctrl-C is watched on.
const cancelPatience = 5 * time.Minute

// followMigration shows a migration until its end. When ctx ends it asks for the
// cancel, and shows what becomes of that.
func (a verbs) followMigration(ctx context.Context, started api.StartedMigration) error {
	f := migrationFollower{verbs: a, at: api.WatchMigrationRequest{Guest: started.Guest, Node: started.Node}}
	m, err := f.follow(ctx)
	if ctx.Err() != nil && !m.Ended() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
		defer cancel()
		if err := errors.Join(f.clear(), a.Warn([]string{"interrupted: the migration is being cancelled"})); err != nil {
			return err
		}
		if _, err := a.Client().CancelMigration(late, started.Guest); err != nil {
			if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeRefused && e.Code != api.CodeNotFound {
				return err
			}
			if err := a.Warn([]string{err.Error()}); err != nil { // It is too late, or over.
				return err
			}
		}
		m, err = f.follow(late)
	}
	if err := errors.Join(err, f.clear()); err != nil {
		return err
	}
	return a.migrated(m)
}

// migrated prints how it ended.
func (a verbs) migrated(m api.Migration) error {
	m.Lines = frame.List(m.Lines)
	if err := a.Print(m, a.Text().Migrated(m)...); err != nil {
		return err
	}
	if err := a.Warn(m.Warnings); err != nil {
		return err
	}
	if m.Outcome != api.MigrationMoved || len(m.Warnings) > 0 {
		return frame.Verdict(frame.ExitError)
	}
	return nil
}

// migrationFollower shows what is new of a migration.
type migrationFollower struct {
	verbs
	at api.WatchMigrationRequest
	// open says that a line of progress stands on the terminal and is to be overwritten.
	open bool
	last string
	// silent is since when the node does not answer.
	silent int
}

// silences is how many questions without an answer, a second apart, are borne: the
// daemon may be restarted meanwhile.
const silences = 60

func (f *migrationFollower) follow(ctx context.Context) (m api.Migration, err error) {
	for {
		m, err = f.Client().WatchMigration(ctx, f.at)
		switch {
		case ctx.Err() != nil:
			return m, &api.Error{
				Code: api.CodeUnknown, Message: fmt.Sprintf("the migration of guest %s goes on without this command", f.at.Guest),
				Hint: fmt.Sprintf("see it with `tandem guest show %s`", f.at.Guest),
			}
		case err == nil:
			f.silent = 0
			if err := f.show(m); err != nil || m.Ended() {
				return m, err
			}
			continue
		}
		e, ok := errors.AsType[*api.Error](err)
		if f.silent++; !ok || e.Code != api.CodeUnavailable || f.silent > silences {
			return m, err
		}
		if err := f.Pause(ctx, time.Second); err != nil && ctx.Err() == nil {
			return m, err
		}
	}
}

func (f *migrationFollower) show(m api.Migration) error {
	f.at.Phase = m.Phase
	f.at.Lines += len(m.Lines)
	if f.Output == frame.FormatJSON {
		return nil
	}
	for _, l := range m.Lines {
		if err := f.write(report.Printable(f.Text().Time(l.Time)+"  "+l.Message) + "\n"); err != nil {
			return err
		}
	}
	text := ""
	switch {
	case !m.InDoubt.IsZero():
		text = "in doubt: the guest is stopped on both nodes; " + m.Advice
	case m.Progress != nil:
		text = fmt.Sprintf("sync %d: %s", m.Round, report.Progress(*m.Progress, m.Time))
	}
	if text == "" || text == f.last {
		return nil
	}
	f.last = text
	if f.Terminal && m.InDoubt.IsZero() {
		if err := f.clear(); err != nil {
			return err
		}
		f.open = true
		_, err := io.WriteString(f.Stdout, report.Printable(text))
		return err
	}
	if !m.InDoubt.IsZero() {
		return f.write(report.Printable(text) + "\n")
	}
	return nil
}

func (f *migrationFollower) write(s string) error {
	if err := f.clear(); err != nil {
		return err
	}
	_, err := io.WriteString(f.Stdout, s)
	return err
}

// clear takes the line of progress off the terminal.
func (f *migrationFollower) clear() error {
	if !f.open {
		return nil
	}
	f.open = false
	_, err := io.WriteString(f.Stdout, "\r\x1b[K")
	return err
}
