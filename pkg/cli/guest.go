package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

func (a *app) guestCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "guest",
		Short: "Name the guests that Tandem takes care of",
		Long: `A guest is a virtual machine or a container with its volumes. It belongs to
one node, its owner, whose data is the truth; jobs replicate it to others.`,
		Example: `  tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0
  tandem guest list`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	cmd.AddCommand(a.guestAddCmd(), a.guestListCmd())
	return cmd
}

// guestDoc is the JSON of `guest add`.
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
	kind, name, unit, node string
	volumes                []string
}

func (a *app) guestAddCmd() *cobra.Command {
	var in guestFlags
	cmd := &cobra.Command{
		Use:   "add ID --type vm|ct --name NAME --volume STORAGE:NAME...",
		Short: "Take a guest with its volumes under Tandem's care",
		Long: `Takes a guest under Tandem's care. Its volumes must exist on its node: STORAGE
is a name that every node maps to a dataset of its own in tandemd.toml, NAME
the zvol or the filesystem in it. Nothing on the volumes is changed but
Tandem's own ZFS properties.

` + exitCodes,
		Example: `  tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0
  tandem guest add 200 --type ct --name mail \
      --volume local-zfs:subvol-200-disk-0 --unit tandem-ct@200.service
  tandem guest add 101 --type vm --name db --node n2 \
      --volume local-zfs:vm-101-disk-0 --volume fast:vm-101-disk-1`,
		Args: arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := in.request(args[0])
			if err != nil {
				return invalid(err)
			}
			g, err := a.client().AddGuest(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(guestDoc{api.Version, g},
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
	f.StringVar(&in.node, "node", "", "`name` of its owner (this node unless given)")
	must(cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"vm", "ct"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("node", a.completeNodes))
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
	r.Type, r.Name, r.Unit = guest.Type(in.kind), in.name, in.unit
	for _, s := range in.volumes {
		v, err := guest.ParseVolume(s)
		if err != nil {
			return r, err
		}
		r.Volumes = append(r.Volumes, v)
	}
	if in.node != "" {
		if r.Node, err = guest.ParseNodeName(in.node); err != nil {
			return r, err
		}
	}
	g := guest.Guest{ID: r.ID, Type: r.Type, Name: r.Name, Unit: r.Unit, Volumes: r.Volumes, Owner: anyNode}
	return r, g.Validate()
}

// anyNode stands in for the ID of a node, which only the daemon knows, so that
// the rest can be checked before anything is sent.
const anyNode guest.NodeID = "00000000000000000000000000000000"

func (a *app) guestListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the guests of the cluster",
		Long:  "Lists all guests of the cluster with their owners and volumes.\n\n" + exitCodes,
		Example: `  tandem guest list
  tandem guest list -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			guests, err := a.client().Guests(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(guestsDoc{api.Version, list(guests)}, a.text().Guests(guests)...)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// list makes JSON say [] where there is none.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
