// Package guests is the commands that name the guests that Tandem takes care of:
// `tandem guest`.
//
// They check arguments, ask the daemon and print; pkg/cli puts them into the tree.
package guests

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

// verbs are the commands of one run of the program.
type verbs struct{ *frame.App }

// Command is `tandem guest`.
func Command(app *frame.App) *cobra.Command {
	a := verbs{app}
	cmd := &cobra.Command{
		Use:   "guest",
		Short: "Name the guests that Tandem takes care of",
		Long: `A guest is a virtual machine or a container with its volumes. It belongs to
one node, its owner, whose data is the truth; jobs replicate it to others.`,
		Example: `  tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0
  tandem guest discover
  tandem guest list`,
		Args: cobra.NoArgs,
		RunE: frame.Help,
	}
	cmd.AddCommand(a.addCmd(), a.listCmd(), a.showCmd(), a.setCmd(), a.removeCmd(), a.discoverCmd())
	cmd.AddCommand(a.migrateCmd(), a.recoverCmd(), a.drillCmd())
	cmd.AddCommand(a.statusCmd(), a.startCmd(), a.stopCmd(), a.mayStartCmd())
	cmd.AddCommand(a.launchCmds()...)
	return cmd
}

// guestDoc is the JSON of `guest add`, `show` and `set`.
type guestDoc struct {
	Version int       `json:"version"`
	Guest   api.Guest `json:"guest"`
}

// guestsDoc is the JSON of `guest list`.
type guestsDoc struct {
	Version int         `json:"version"`
	Guests  []api.Guest `json:"guests"`
}

// guestFlags are the flags of `guest add` as typed.
type guestFlags struct {
	kind, name, unit, node, config string
	volumes                        []string
	force                          bool
	owning                         owningFlags
}

func (a verbs) addCmd() *cobra.Command {
	var in guestFlags
	cmd := &cobra.Command{
		Use:   "add ID --type vm|ct --name NAME --volume STORAGE:NAME...",
		Short: "Take a guest with its volumes under Tandem's care",
		Long: `Takes a guest under Tandem's care. Its volumes must exist on its node: STORAGE
is a name that every node maps to a dataset of its own in tandemd.toml, NAME
the zvol or the filesystem in it. Nothing on the volumes is changed but
Tandem's own ZFS properties. The file of --config moves with the guest.

` + owningText + `

` + frame.ExitCodes,
		Example: `  tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0
  tandem guest add 200 --type ct --name mail \
      --volume local-zfs:subvol-200-disk-0 --unit tandem-ct@200.service
  tandem guest add 101 --type vm --name db --node n2 \
      --volume local-zfs:vm-101-disk-0 --volume fast:vm-101-disk-1`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := in.request(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			if in.config != "" {
				if r.Config, err = a.readConfig(in.config); err != nil {
					return err
				}
			}
			g, err := a.Client().AddGuest(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.Print(guestDoc{api.Version, g},
				fmt.Sprintf("Guest %s (%s) is taken care of; its owner is %s.", g.ID, g.Name, g.Owner),
				fmt.Sprintf("Next: tandem create-local-job %s-0 NODE --schedule '*/15'", g.ID))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&in.kind, "type", "", "`vm|ct`: virtual machine or container")
	f.StringVar(&in.name, "name", "", "`name` for people")
	f.StringSliceVar(&in.volumes, "volume", nil, "`STORAGE:NAME` of a volume; once for each")
	f.StringVar(&in.unit, "unit", "", "systemd `service` that runs it")
	f.StringVar(&in.config, "config", "", "its configuration `file`; - is the standard input")
	f.BoolVar(&in.force, "force", false, "add it even while the cluster runs on forced quorum")
	f.StringVar(&in.node, "node", "", "`name` of its owner (this node unless given)")
	in.owning.add(cmd)
	frame.Must(cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"vm", "ct"}, cobra.ShellCompDirectiveNoFileComp)))
	frame.Must(cmd.RegisterFlagCompletionFunc("node", a.CompleteNodes))
	return cmd
}

func (in guestFlags) request(id string) (r api.AddGuestRequest, err error) {
	if r.ID, err = guest.ParseID(id); err != nil {
		return r, err
	}
	if in.kind == "" {
		return r, fmt.Errorf("guest %s: --type is missing: vm or ct", id)
	}
	if in.name == "" {
		return r, fmt.Errorf("guest %s: --name is missing", id)
	}
	r.Type, r.Name, r.Unit, r.Force = guest.Type(in.kind), in.name, in.unit, in.force
	if r.Volumes, err = volumes(in.volumes); err != nil {
		return r, err
	}
	if in.node != "" {
		if r.Node, err = guest.ParseNodeName(in.node); err != nil {
			return r, err
		}
	}
	if r.Boot, r.Quiesce, err = in.owning.values(); err != nil {
		return r, fmt.Errorf("guest %s: %w", id, err)
	}
	g := guest.Guest{
		ID: r.ID, Type: r.Type, Name: r.Name, Unit: r.Unit, Volumes: r.Volumes, Boot: r.Boot, Quiesce: r.Quiesce, Owner: frame.AnyNode,
	}
	return r, g.Validate()
}

func (a verbs) listCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the guests of the cluster",
		Long:  "Lists all guests of the cluster with their owners and volumes.\n\n" + frame.ExitCodes,
		Example: `  tandem guest list
  tandem guest list -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			guests, err := a.Client().Guests(cmd.Context())
			if err != nil {
				return err
			}
			return a.Print(guestsDoc{api.Version, frame.List(guests)}, a.Text().Guests(guests)...)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func volumes(texts []string) (out []guest.Volume, err error) {
	for _, s := range texts {
		v, err := guest.ParseVolume(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
