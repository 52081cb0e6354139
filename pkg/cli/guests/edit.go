package guests

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

func (a verbs) showCmd() *cobra.Command {
	var config bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a guest with its volumes, jobs and configuration",
		Long: `Shows a guest, how the last drill of each of its replicas went, and what nodes
keep of it beside that: diverged data and kept copies. --config prints only its
configuration file, as it is.

` + frame.ExitCodes,
		Example: `  tandem guest show 100
  tandem guest show 100 --config > 100.conf`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			g, err := a.Client().Guest(cmd.Context(), id)
			if err != nil {
				return err
			}
			if config {
				_, err := io.WriteString(a.Stdout, g.Config)
				return err
			}
			c, err := a.copies(cmd.Context(), id)
			if err != nil {
				return err
			}
			if err := a.Print(showDoc{guestDoc{api.Version, g}, docOf(c, g)}, a.Text().Guest(g, c)...); err != nil {
				return err
			}
			return a.Warn(c.Diverged.Warnings)
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	cmd.Flags().BoolVar(&config, "config", false, "print only the configuration file")
	return cmd
}

// setFlags are the flags of `guest set` as typed.
type setFlags struct {
	name, unit, config, digest string
	add, remove, take          []string
	deleteData                 bool
	owning                     owningFlags
}

func (a verbs) setCmd() *cobra.Command {
	var in setFlags
	cmd := &cobra.Command{
		Use:   "set ID",
		Short: "Change a guest's name, unit, configuration, volumes, and how it is treated",
		Long: `Changes what the options name. A volume that is added must exist on the guest's
node and belong to nobody else, and the nodes that the guest is replicated to
must have its storage. A volume that is removed keeps its data and becomes an
ordinary dataset; replicas of it stay where they are. --delete-data destroys
both, unless somebody made snapshots of them or uses them; nothing is changed
then. --take-volume says that a dataset without Tandem's marks, which stands in
the place of a volume of the guest, is the guest's data from now on, as after a
restore from a backup.

` + owningText + `

--digest, from ` + "`guest show`" + `, refuses the change where somebody else was faster.

` + frame.ExitCodes,
		Example: `  tandem guest set 100 --name web --unit tandem-vm@100.service
  tandem guest set 100 --config /etc/guests/100.conf
  tandem guest set 100 --onboot on --boot-order 10 --boot-delay 30
  tandem guest set 100 --quiesce agent
  tandem guest set 100 --add-volume local-zfs:vm-100-disk-1
  tandem guest set 100 --remove-volume local-zfs:vm-100-disk-1`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.setRequest(cmd, args[0], in)
			if err != nil {
				return err
			}
			g, err := a.Client().SetGuest(cmd.Context(), r)
			if err != nil {
				return err
			}
			lines := append([]string{fmt.Sprintf("Guest %s (%s) is changed.", g.ID, g.Name)}, a.Text().Traces(g.Traces)...)
			if err := a.Print(guestDoc{api.Version, g}, lines...); err != nil {
				return err
			}
			return errors.Join(a.Warn(g.Warnings), left(g.Traces))
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	f := cmd.Flags()
	f.StringVar(&in.name, "name", "", "`name` for people")
	f.StringVar(&in.unit, "unit", "", "systemd `service` that runs it; empty: none")
	f.StringVar(&in.config, "config", "", "its configuration `file`; - is the standard input, empty: none")
	f.StringSliceVar(&in.add, "add-volume", nil, "`STORAGE:NAME` of a volume to add; once for each")
	f.StringSliceVar(&in.remove, "remove-volume", nil, "`STORAGE:NAME` of a volume to remove; once for each")
	f.StringSliceVar(&in.take, "take-volume", nil, "`STORAGE:NAME` of a volume that was made anew or restored; once for each")
	f.BoolVar(&in.deleteData, "delete-data", false, "destroy the removed volumes and their replicas")
	f.StringVar(&in.digest, "digest", "", "refuse unless the guest still has this `digest`")
	in.owning.add(cmd)
	return cmd
}

// left is the verdict where datasets were not changed as asked.
func left(traces []api.Trace) error {
	for _, t := range traces {
		if t.Fate == api.FateLeft {
			return frame.Verdict(frame.ExitError)
		}
	}
	return nil
}

func (a verbs) setRequest(cmd *cobra.Command, id string, in setFlags) (r api.SetGuestRequest, err error) {
	if r.ID, err = guest.ParseID(id); err != nil {
		return r, frame.Invalid(err)
	}
	changes := 0
	for _, name := range append([]string{"name", "unit", "config", "add-volume", "remove-volume", "take-volume"}, owningNames()...) {
		if cmd.Flags().Changed(name) {
			changes++
		}
	}
	if changes == 0 {
		return r, frame.Usage(cmd, "nothing to change in guest %s: give an option", r.ID)
	}
	if in.deleteData && len(in.remove) == 0 {
		return r, frame.Usage(cmd, "--delete-data goes with --remove-volume")
	}
	r.Digest, r.DeleteData = in.digest, in.deleteData
	if cmd.Flags().Changed("name") {
		r.Name = &in.name
	}
	if cmd.Flags().Changed("unit") {
		r.Unit = &in.unit
	}
	if r.AddVolumes, err = volumes(in.add); err != nil {
		return r, frame.Invalid(err)
	}
	if r.RemoveVolumes, err = volumes(in.remove); err != nil {
		return r, frame.Invalid(err)
	}
	if r.TakeVolumes, err = volumes(in.take); err != nil {
		return r, frame.Invalid(err)
	}
	if r.Unit != nil {
		err = guest.ValidateUnit(in.unit)
	}
	if r.Name != nil && in.name == "" {
		err = fmt.Errorf("guest %s: name: it is empty", r.ID)
	}
	if err == nil {
		err = in.owning.change(cmd, &r)
	}
	if err == nil && cmd.Flags().Changed("config") {
		text := ""
		if in.config != "" {
			text, err = a.readConfig(in.config)
		}
		r.Config = &text
	}
	return r, frame.Invalid(err)
}

// readConfig reads a guest's configuration file.
func (a verbs) readConfig(path string) (string, error) {
	in := a.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", frame.Invalid(fmt.Errorf("configuration file: %w", err))
		}
		defer f.Close() //nolint:errcheck // it was only read
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, guest.MaxConfig+1))
	switch {
	case err != nil:
		return "", frame.Invalid(fmt.Errorf("configuration file: %w", err))
	case len(b) > guest.MaxConfig:
		return "", frame.Invalid(fmt.Errorf("configuration file %s: it is longer than %d bytes", path, guest.MaxConfig))
	case !utf8.Valid(b) || strings.ContainsRune(string(b), 0):
		return "", frame.Invalid(fmt.Errorf("configuration file %s: it is not text", path))
	}
	return string(b), nil
}

func (a verbs) removeCmd() *cobra.Command {
	var r api.RemoveGuestRequest
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Take a guest out of Tandem's care",
		Long: `Takes a guest out of Tandem's care. It must have no jobs: delete them first. Its
volumes keep their data and become ordinary datasets; replicas that jobs left
with --keep stay where they are. --delete-data destroys both, unless the guest's
unit runs, or somebody made snapshots of them or uses them (a zvol that is open,
a filesystem in use); nothing is changed then. Filesystems of a guest whose unit
is stopped are unmounted for it.

` + frame.ExitCodes,
		Example: `  tandem guest remove 100
  tandem guest remove 100 --delete-data`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.ID, err = guest.ParseID(args[0]); err != nil {
				return frame.Invalid(err)
			}
			gone, err := a.Client().RemoveGuest(cmd.Context(), r)
			if err != nil {
				return err
			}
			gone.Traces, gone.Warnings = frame.List(gone.Traces), frame.List(gone.Warnings)
			lines := append([]string{fmt.Sprintf("Guest %s is removed.", gone.ID)}, a.Text().Traces(gone.Traces)...)
			if err := a.Print(gone, lines...); err != nil {
				return err
			}
			return errors.Join(a.Warn(gone.Warnings), left(gone.Traces))
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	cmd.Flags().BoolVar(&r.DeleteData, "delete-data", false, "destroy its volumes and their replicas")
	cmd.Flags().StringVar(&r.Digest, "digest", "", "refuse unless the guest still has this `digest`")
	return cmd
}

func (a verbs) discoverCmd() *cobra.Command {
	var node string
	var r api.DiscoverRequest
	cmd := &cobra.Command{
		Use:   "discover",
		Short: "Find volumes of guests that are not known yet",
		Long: `Looks through the storages of all nodes for datasets that look like volumes of
guests that are not known, and prints the commands that would add them; it adds
nothing itself. Unless told otherwise it looks for the names that Proxmox VE
gives: vm-100-disk-0, vm-100-cloudinit, subvol-200-disk-0.

In --pattern, {id} stands for the guest's ID, * for any characters and ? for
one. Without {id} every dataset becomes a guest of its own with a free ID.

` + frame.ExitCodes,
		Example: `  tandem guest discover
  tandem guest discover --node n2
  tandem guest discover --pattern 'guest{id}-*'`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cmd.Flags().Changed("pattern") {
				if _, err := guest.ParsePattern(r.Pattern); err != nil {
					return frame.Invalid(err)
				}
			}
			if node != "" {
				if r.Node, err = guest.ParseNodeName(node); err != nil {
					return frame.Invalid(err)
				}
			}
			d, err := a.Client().Discover(cmd.Context(), r)
			if err != nil {
				return err
			}
			d.Guests, d.Silent, d.Warnings = frame.List(d.Guests), frame.List(d.Silent), frame.List(d.Warnings)
			if err := a.Print(d, a.Text().Discovery(d)...); err != nil {
				return err
			}
			if err := a.Warn(d.Warnings); err != nil {
				return err
			}
			if len(d.Silent) > 0 {
				return frame.Verdict(frame.ExitUnknown)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&node, "node", "", "only on the node of this `name`")
	cmd.Flags().StringVar(&r.Pattern, "pattern", "", "names to look for, `like` guest{id}-*")
	frame.Must(cmd.RegisterFlagCompletionFunc("node", a.CompleteNodes))
	return cmd
}
