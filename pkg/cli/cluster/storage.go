package cluster

import (
	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
)

// Storage is `tandem storage`.
func Storage(app *frame.App) *cobra.Command {
	a := verbs{app}
	cmd := &cobra.Command{
		Use:     "storage",
		Short:   "Look at the storages of the nodes",
		Long:    "A storage is a name that each node maps to a ZFS dataset of its own, in tandemd.toml.",
		Example: "  tandem storage list",
		Args:    cobra.NoArgs,
		RunE:    frame.Help,
	}
	cmd.AddCommand(a.storageListCmd())
	return cmd
}

// storagesDoc is the JSON of `storage list`.
type storagesDoc struct {
	Version int                `json:"version"`
	Nodes   []api.NodeStorages `json:"nodes"`
}

func (a verbs) storageListCmd() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the storages of all nodes with their free space",
		Long: `Lists every node's storages with their datasets, free and used space and the
health of their pools, as the nodes tell now. The exit code is 1 where a storage
cannot be used, 2 where a node did not answer.

` + frame.ExitCodes,
		Example: `  tandem storage list
  tandem storage list --node n2
  tandem storage list -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := frame.Filter("", node)
			if err != nil {
				return err
			}
			nodes, err := a.Client().Storages(cmd.Context(), f.Node)
			if err != nil {
				return err
			}
			if err := a.Print(storagesDoc{api.Version, frame.List(nodes)}, a.Text().Storages(nodes)...); err != nil {
				return err
			}
			return storageVerdict(nodes)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&node, "node", "", "only those of the node of this `name`")
	frame.Must(cmd.RegisterFlagCompletionFunc("node", a.CompleteNodes))
	return cmd
}

// storageVerdict: what is known to be wrong goes before what is not known.
func storageVerdict(nodes []api.NodeStorages) error {
	var v error
	for _, n := range nodes {
		for _, s := range n.Storages {
			if s.Error != "" {
				return frame.Verdict(frame.ExitError)
			}
		}
		if n.Silent {
			v = frame.Verdict(frame.ExitUnknown)
		}
	}
	return v
}
