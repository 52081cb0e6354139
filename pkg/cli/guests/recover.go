package guests

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

func (a verbs) recoverCmd() *cobra.Command {
	var on string
	var yes bool
	var r api.RecoverRequest
	cmd := &cobra.Command{
		Use:   "recover ID",
		Short: "Bring a guest back whose node is lost",
		Long: `Gives a guest whose node is lost to another node, with the newest complete point
that a live node has, and starts it there unless told otherwise. It shows who has what, and what will be
lost, and asks. The node that was lost must be off: what runs there would go on
writing. When it comes back it keeps what it alone had (` + "`tandem diverged list`" + `).

Refused while the owner is alive, while any member still hears it, and without a
majority. For scripts: --yes --owner-is-off; where the configuration has a
fence_command, --yes alone, and the command turns the node off.

` + frame.ExitCodes,
		Example: `  tandem guest recover 100
  tandem guest recover 100 --on n3
  tandem guest recover 100 --no-start
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
	f.BoolVar(&r.NoStart, "no-start", false, "leave the guest stopped on its new node")
	frame.Must(cmd.RegisterFlagCompletionFunc("on", a.CompleteNodes))
	return cmd
}

// recover shows the plan, asks, and has what was shown carried out.
func (a verbs) recover(cmd *cobra.Command, r api.RecoverRequest, yes bool) error {
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
	does := "starts it"
	if r.NoStart {
		does = "leaves it stopped"
	}
	return a.Print(done, fmt.Sprintf("Guest %s is on %s now, which goes on from %s and %s: tandem guest show %s",
		done.Guest, done.On, done.Point, does, done.Guest))
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

// recoverNodeCmd is `tandem node recover`.
func recoverNodeCmd(app *frame.App) *cobra.Command {
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
  tandem node recover n1 --no-start
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
	cmd.Flags().BoolVar(&r.NoStart, "no-start", false, "leave the guests stopped on their new nodes")
	return cmd
}

func (a verbs) recoverNode(cmd *cobra.Command, r api.RecoverNodeRequest, yes bool) error {
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

// NodeCommand is `tandem node`.
func NodeCommand(app *frame.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "node",
		Short:   "Bring back what a lost node had",
		Long:    "What concerns all guests of a node. The nodes themselves: `tandem nodes`, `tandem cluster`.",
		Example: "  tandem node recover n1",
		Args:    cobra.NoArgs,
		RunE:    frame.Help,
	}
	cmd.AddCommand(recoverNodeCmd(app))
	return cmd
}
