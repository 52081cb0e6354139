package cli

import (
	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

func (a *app) explainCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "explain ID",
		Short: "Tell why a job is in its state, and what it will do next",
		Long: `Tells why a job is in the state it is in, what will happen next and when, from
which common state its next sync would start and about how many bytes it would
send. The sync is planned by the node that has the guest, and not begun:
nothing is changed anywhere.

Where the target does not answer, the plan is made from what the owner
remembers of it, and says so. Where the owner does not answer, the asked node
tells what it knows itself.

Exit codes:
  0  explained
  1  refused or failed: there is no such job
  2  cannot tell: the daemon or the guest's owner did not answer`,
		Example: `  tandem explain 100-0
  tandem explain 100-0 -o json`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseJobID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			e, err := a.Client().Explain(cmd.Context(), id)
			if err != nil {
				return err
			}
			e.Why, e.Next, e.Silent = frame.List(e.Why), frame.List(e.Next), frame.List(e.Silent)
			if err := a.Print(e, a.Text().Explanation(e)...); err != nil {
				return err
			}
			if e.Status.State == api.StateUnknown {
				return frame.Verdict(frame.ExitUnknown)
			}
			return nil
		},
		ValidArgsFunction: a.completeJob,
	}
}
