package diverged

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

// copyArgs reads NODE DATASET.
func copyArgs(args []string) (api.CopyRequest, error) {
	node, err := guest.ParseNodeName(args[0])
	return api.CopyRequest{Node: node, Dataset: args[1]}, frame.Invalid(err)
}

// completeNode completes the first argument.
func (a verbs) completeNode(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, frame.NoFiles
	}
	return a.CompleteNodes(cmd, args, typed)
}

func (a verbs) showCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show NODE DATASET",
		Short: "Tell all of one copy, and what differs in it",
		Long: `Tells whose data a copy is, since when and why it is set aside, how much was written
since the snapshot that it shares with the replica, what was cloned from it, and of a
filesystem which files differ from that snapshot. For the last it is mounted,
read-only, as long as that takes.

` + frame.ExitCodes,
		Example: "  tandem diverged show n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z",
		Args:    frame.Arguments("NODE", "DATASET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := copyArgs(args)
			if err != nil {
				return err
			}
			d, err := a.Client().ShowDiverged(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.Print(d, a.Text().DivergedCopy(d)...)
		},
		ValidArgsFunction: a.completeNode,
	}
}

func (a verbs) mountCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "mount NODE DATASET",
		Short: "Make one copy readable on its node",
		Long: `Makes a copy readable on the node that has it, and prints where: a filesystem is
mounted read-only at a folder, a zvol gets a read-only device node. No mount is left
after a boot. tandem diverged umount ends it.

` + frame.ExitCodes,
		Example: "  tandem diverged mount n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z",
		Args:    frame.Arguments("NODE", "DATASET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := copyArgs(args)
			if err != nil {
				return err
			}
			m, err := a.Client().MountDiverged(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.Print(m, m.At)
		},
		ValidArgsFunction: a.completeNode,
	}
}

func (a verbs) unmountCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "umount NODE DATASET",
		Aliases: []string{"unmount"},
		Short:   "End what mount did",
		Long: `Unmounts a copy, or takes its device node away. It refuses while somebody uses it; what
is not mounted stays so.

` + frame.ExitCodes,
		Example: "  tandem diverged umount n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z",
		Args:    frame.Arguments("NODE", "DATASET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := copyArgs(args)
			if err != nil {
				return err
			}
			c, err := a.Client().UnmountDiverged(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.Print(unmountedDoc{api.Version, c}, fmt.Sprintf("%s on %s is not mounted.", c.Dataset, c.Node))
		},
		ValidArgsFunction: a.completeNode,
	}
}

// unmountedDoc is the JSON of `diverged umount`.
type unmountedDoc struct {
	Version   int              `json:"version"`
	Unmounted api.DivergedCopy `json:"unmounted"`
}

func (a verbs) restoreCmd() *cobra.Command {
	var as string
	var r api.RestoreRequest
	cmd := &cobra.Command{
		Use:   "restore NODE DATASET...",
		Short: "Make a guest of its own out of copies",
		Long: `Makes a new guest on the node that has the copies, with clones of their newest
snapshots as its volumes: vm-100-disk-0 becomes vm-900-disk-0. Name all copies that
belong together; they must be of one guest. Nothing is ever overwritten, and the
copies stay as they are: they cannot be discarded as long as the new guest depends on
them. The new guest has no unit and no configuration file: those of the old one name
the old one's volumes. Cut anywhere, the same command with --as goes on.

` + frame.ExitCodes,
		Example: `  tandem diverged restore n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z
  tandem diverged restore n2 tank/guests/diverged/100/vm-100-disk-0_20270115T080000Z --as 900`,
		Args: func(cmd *cobra.Command, args []string) error {
			return frame.Arguments("NODE", "DATASET")(cmd, args[:min(len(args), 2)])
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Node, err = guest.ParseNodeName(args[0]); err != nil {
				return frame.Invalid(err)
			}
			if as != "" {
				if r.As, err = guest.ParseID(as); err != nil {
					return frame.Invalid(err)
				}
			}
			r.Datasets = args[1:]
			made, err := a.Client().RestoreDiverged(cmd.Context(), r)
			if err != nil {
				return err
			}
			if err := a.Print(made, a.Text().Restored(made)...); err != nil {
				return err
			}
			return a.Warn(made.Warnings)
		},
		ValidArgsFunction: a.completeNode,
	}
	cmd.Flags().StringVar(&as, "as", "", "the new guest's `ID`; default: one above the highest")
	cmd.Flags().BoolVar(&r.Force, "force", false, "also while the cluster runs on forced quorum")
	return cmd
}

// discardKept is `diverged discard NODE GUEST`.
func (a verbs) discardKept(cmd *cobra.Command, q api.KeptRequest, yes bool) error { //nolint:revive // flag-parameter: the operator's word
	if !yes {
		return a.wouldGoKept(cmd, q)
	}
	done, err := a.Client().DiscardKept(cmd.Context(), q)
	if err != nil {
		return err
	}
	var lines []string
	for _, d := range done.Destroyed {
		lines = append(lines, fmt.Sprintf("%s on %s is destroyed.", d, done.Node))
	}
	for _, l := range done.Left {
		lines = append(lines, fmt.Sprintf("left on %s: %s", done.Node, l))
	}
	if err := a.Print(done, lines...); err != nil {
		return err
	}
	if len(done.Left) > 0 {
		return frame.Verdict(frame.ExitError)
	}
	return nil
}

// wouldGoKept refuses, and tells what --yes would destroy.
func (a verbs) wouldGoKept(cmd *cobra.Command, q api.KeptRequest) error {
	list, err := a.Client().Diverged(cmd.Context(), api.DivergedRequest{Node: q.Node, Guest: q.Guest})
	if err != nil {
		return err
	}
	if len(list.Kept) > 0 {
		return &api.Error{
			Code: api.CodeRefused, Hint: "add --yes to destroy it for good", Message: "nothing was changed; " + a.Text().KeptCopy(list.Kept[0]),
		}
	}
	if err := a.Warn(list.Warnings); err != nil {
		return err
	}
	return &api.Error{
		Code: api.CodeNotFound, Message: fmt.Sprintf("node %s is not known to have a kept copy of guest %s", q.Node, q.Guest),
		Hint: "`tandem diverged list` shows all",
	}
}
