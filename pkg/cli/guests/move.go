package guests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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
	f.BoolVar(&r.DeleteSource, "delete-source", false, "remove the copy that the old node keeps, where no job points back to it")
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

func (a verbs) recoverCmd() *cobra.Command {
	var on string
	var yes bool
	var r api.RecoverRequest
	cmd := &cobra.Command{
		Use:   "recover ID",
		Short: "Bring a guest back whose node is lost",
		Long: `Gives a guest whose node is lost to another node, with the newest complete point
that a live node has, and starts it there. It shows who has what, and what will be
lost, and asks. The node that was lost must be off: what runs there would go on
writing. When it comes back it keeps what it alone had (` + "`tandem diverged list`" + `).

Refused while the owner is alive, while any member still hears it, and without a
majority. For scripts: --yes --owner-is-off; where the configuration has a
fence_command, --yes alone, and the command turns the node off.

` + frame.ExitCodes,
		Example: `  tandem guest recover 100
  tandem guest recover 100 --on n3
  tandem guest recover 100 --yes --owner-is-off`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.ID, err = guest.ParseID(args[0]); err != nil {
				return frame.Invalid(err)
			}
			if on != "" {
				if r.On, err = guest.ParseNodeName(on); err != nil {
					return frame.Invalid(err)
				}
			}
			return a.recover(cmd, r, yes)
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	f := cmd.Flags()
	f.StringVar(&on, "on", "", "the `node` that is to have it; default: the one with the newest point")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&r.OwnerIsOff, "owner-is-off", false, "the old node is off; I have made sure")
	frame.Must(cmd.RegisterFlagCompletionFunc("on", a.CompleteNodes))
	return cmd
}

// recover shows the plan, asks, and has what was shown carried out.
func (a verbs) recover(cmd *cobra.Command, r api.RecoverRequest, yes bool) error { //nolint:revive // flag-parameter: the option
	shown := r
	shown.DryRun = true
	p, err := a.Client().RecoverGuest(cmd.Context(), shown)
	if err != nil {
		return err
	}
	if p.Refused != "" {
		if a.Output != frame.FormatJSON {
			if err := a.Print(nil, a.Text().Candidates(p)...); err != nil {
				return err
			}
		}
		return &api.Error{Code: api.CodeRefused, Message: p.Refused, Hint: p.Hint}
	}
	if a.Output != frame.FormatJSON {
		if err := a.Print(nil, a.Text().Recovery(p)...); err != nil {
			return err
		}
	}
	if r.OwnerIsOff, err = a.sure(sureAbout{p.Owner, p.Fence, yes, r.OwnerIsOff}); err != nil {
		return err
	}
	r.Owner, r.Term, r.Point = p.Owner, p.Term, p.Point
	done, err := a.Client().RecoverGuest(cmd.Context(), r)
	if err != nil {
		return err
	}
	return a.Print(done, fmt.Sprintf("Guest %s is on %s now, which goes on from %s and starts it: tandem guest show %s",
		done.Guest, done.On, done.Point, done.Guest))
}

// sureAbout is what has to be certain before a recovery.
type sureAbout struct {
	owner           guest.NodeName
	fence, yes, off bool
}

// sure asks where nobody has said it yet, and returns whether the old node is off by somebody's word.
func (a verbs) sure(s sureAbout) (off bool, err error) {
	switch {
	case s.yes && (s.off || s.fence):
		return s.off, nil
	case s.yes:
		return false, &api.Error{
			Code: api.CodeInvalid, Message: fmt.Sprintf("--yes needs --owner-is-off: nobody has said that %s is off", s.owner),
			Hint: "make sure that it is; or configure a fence_command, which turns it off",
		}
	case a.Output == frame.FormatJSON:
		return false, &api.Error{Code: api.CodeInvalid, Message: "with -o json nothing is asked: say --yes --owner-is-off"}
	}
	question := fmt.Sprintf("Is %s off, and is this to be done? Type the node's name: ", s.owner)
	if s.fence && !s.off {
		question = fmt.Sprintf("The fence command will turn %s off. Is this to be done? Type the node's name: ", s.owner)
	}
	if _, err := io.WriteString(a.Stdout, question); err != nil {
		return false, err
	}
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if strings.TrimSpace(answer) != string(s.owner) {
		text := "nothing was changed"
		if err != nil && answer == "" {
			text = "nothing was changed: there is nobody to ask"
		}
		return false, &api.Error{Code: api.CodeRefused, Message: text, Hint: "for scripts: --yes --owner-is-off"}
	}
	return s.off || !s.fence, nil
}

// RecoverNode is `tandem node recover`.
func RecoverNode(app *frame.App) *cobra.Command {
	a := verbs{app}
	var yes bool
	var r api.RecoverNodeRequest
	cmd := &cobra.Command{
		Use:   "recover NODE",
		Short: "Bring all guests of a lost node back",
		Long: `Does what ` + "`tandem guest recover`" + ` does for all guests of a node, each on the node that
has its newest point; where several have it, on the one with the fewest guests. The
plan is shown first. What fails is told and does not keep the others from it.

` + frame.ExitCodes,
		Example: `  tandem node recover n1
  tandem node recover n1 --yes --owner-is-off`,
		Args: frame.Arguments("NODE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Node, err = guest.ParseNodeName(args[0]); err != nil {
				return frame.Invalid(err)
			}
			return a.recoverNode(cmd, r, yes)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, frame.NoFiles
			}
			return a.CompleteNodes(cmd, args, typed)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&r.OwnerIsOff, "owner-is-off", false, "the node is off; I have made sure")
	return cmd
}

func (a verbs) recoverNode(cmd *cobra.Command, r api.RecoverNodeRequest, yes bool) error { //nolint:revive // flag-parameter: the option
	shown := r
	shown.DryRun = true
	p, err := a.Client().RecoverNode(cmd.Context(), shown)
	if err != nil {
		return err
	}
	r.Shown = []api.RecoverRequest{}
	for _, g := range p.Guests {
		if g.Refused == "" && g.Error == nil {
			r.Shown = append(r.Shown, api.RecoverRequest{ID: g.Guest, On: g.On, Owner: g.Owner, Term: g.Term, Point: g.Point})
		}
	}
	if a.Output != frame.FormatJSON || len(r.Shown) == 0 {
		if err := a.Print(p, a.Text().NodeRecovery(p)...); err != nil {
			return err
		}
	}
	if len(r.Shown) == 0 {
		if len(p.Guests) == 0 {
			return nil
		}
		return frame.Verdict(frame.ExitError)
	}
	if r.OwnerIsOff, err = a.sure(sureAbout{p.Node, p.Fence, yes, r.OwnerIsOff}); err != nil {
		return err
	}
	done, err := a.Client().RecoverNode(cmd.Context(), r)
	if err != nil {
		return err
	}
	if err := a.Print(done, a.Text().NodeRecovered(done)...); err != nil {
		return err
	}
	for _, g := range done.Guests {
		if !g.Done {
			return frame.Verdict(frame.ExitError)
		}
	}
	if len(r.Shown) < len(p.Guests) {
		return frame.Verdict(frame.ExitError)
	}
	return nil
}
