// Package diverged is the commands about data that was set aside: `tandem
// diverged`.
//
// They check arguments, ask the daemon and print; pkg/cli puts them into the tree.
package diverged

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

// verbs are the commands of one run of the program.
type verbs struct{ *frame.App }

// Command is `tandem diverged`.
func Command(app *frame.App) *cobra.Command {
	a := verbs{app}
	cmd := &cobra.Command{
		Use:   "diverged",
		Short: "Look at diverged data and kept copies, restore and discard them",
		Long: `A copy of a volume has diverged when it has data that the guest's owner does not
have: a replica that somebody wrote to, or what an owner had before it was rolled
back. The next sync sets it aside on its node, as STORAGE/diverged/GUEST/..., and
makes the replica anew, out of what both have in common where that is possible.

What was set aside stays until you discard it. So do kept copies: what a node still
has of a guest to which no job points any more.`,
		Example: `  tandem diverged list
  tandem diverged show n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z
  tandem diverged discard n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z --yes`,
		Args: cobra.NoArgs,
		RunE: frame.Help,
	}
	cmd.AddCommand(a.listCmd(), a.showCmd(), a.mountCmd(), a.unmountCmd(), a.restoreCmd(), a.discardCmd())
	return cmd
}

// copyDoc is the JSON of `diverged discard`.
type copyDoc struct {
	Version   int              `json:"version"`
	Discarded api.DivergedCopy `json:"discarded"`
}

func (a verbs) listCmd() *cobra.Command {
	var node, id string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List diverged data that was set aside, and kept copies",
		Long: `Lists the diverged data that was set aside on all nodes: whose it was, since when,
why, how much space it takes, and the snapshot that it shares with the replica. Then
the kept copies: replicas to which no job points, with how old their data is.

` + frame.ExitCodes,
		Example: `  tandem diverged list
  tandem diverged list --node n2 --guest 100
  tandem diverged list -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := frame.Filter(id, node)
			if err != nil {
				return err
			}
			list, err := a.Client().Diverged(cmd.Context(), api.DivergedRequest(f))
			if err != nil {
				return err
			}
			list.Copies, list.Kept = frame.List(list.Copies), frame.List(list.Kept)
			list.Silent, list.Warnings = frame.List(list.Silent), frame.List(list.Warnings)
			if err := a.Print(list, a.Text().Diverged(list)...); err != nil {
				return err
			}
			if err := a.Warn(list.Warnings); err != nil {
				return err
			}
			if len(list.Silent) > 0 {
				return frame.Verdict(frame.ExitUnknown)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&node, "node", "", "only on the node of this `name`")
	cmd.Flags().StringVar(&id, "guest", "", "only of the guest of this `ID`")
	frame.Must(cmd.RegisterFlagCompletionFunc("node", a.CompleteNodes))
	frame.Must(cmd.RegisterFlagCompletionFunc("guest", a.CompleteGuests))
	return cmd
}

func (a verbs) discardCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "discard NODE DATASET|GUEST --yes",
		Short: "Destroy diverged data or a kept copy, for good",
		Long: `Destroys one copy that was set aside, with its snapshots, for good. NODE and
DATASET are as ` + "`tandem diverged list`" + ` shows them. Without --yes it says what would
be destroyed and changes nothing. It refuses what does not carry Tandem's marks,
what somebody holds or has mounted, and what other data still depends on: a guest
that was restored from it too.

With the ID of a guest it destroys the node's kept copy of that guest. The guest's
owner must be alive: it says what it has itself. What it does not have, and did not
send, stays and is named.

` + frame.ExitCodes,
		Example: `  tandem diverged discard n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z --yes
  tandem diverged discard n1 100 --yes`,
		Args: frame.Arguments("NODE", "DATASET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := guest.ParseNodeName(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			if id, err := guest.ParseID(args[1]); err == nil { // A dataset's name begins with a letter.
				return a.discardKept(cmd, api.KeptRequest{Node: node, Guest: id}, yes)
			}
			if !yes {
				return a.wouldGo(cmd, node, args[1])
			}
			gone, err := a.Client().DiscardDiverged(cmd.Context(), api.CopyRequest{Node: node, Dataset: args[1]})
			if err != nil {
				return err
			}
			return a.Print(copyDoc{api.Version, gone}, fmt.Sprintf("%s on %s is destroyed: volume %s of guest %s, set aside %s.",
				gone.Dataset, gone.Node, gone.Volume, gone.Guest, a.Text().Time(gone.SetAside)))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// wouldGo refuses, and tells what --yes would destroy.
func (a verbs) wouldGo(cmd *cobra.Command, node guest.NodeName, dataset string) error {
	list, err := a.Client().Diverged(cmd.Context(), api.DivergedRequest{Node: node})
	if err != nil {
		return err
	}
	for _, c := range list.Copies {
		if c.Dataset == dataset {
			return &api.Error{
				Code: api.CodeRefused, Hint: "add --yes to destroy it for good",
				Message: fmt.Sprintf("nothing was changed; %s on %s is volume %s of guest %s, set aside %s because %s",
					c.Dataset, c.Node, c.Volume, c.Guest, a.Text().Time(c.SetAside), c.Why),
			}
		}
	}
	if err := a.Warn(list.Warnings); err != nil {
		return err
	}
	return &api.Error{
		Code: api.CodeNotFound, Message: fmt.Sprintf("%s on %s is not known as diverged data", dataset, node), Hint: "`tandem diverged list` shows all",
	}
}
