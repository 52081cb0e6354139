package guests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/launch"
	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
)

// launchCmds are what the units tandem-vm@.service and tandem-ct@.service call.
func (a verbs) launchCmds() []*cobra.Command {
	return []*cobra.Command{a.execCmd(guest.VM), a.execCmd(guest.CT), a.powerDownCmd(), a.execDrillCmd()}
}

// execCmd becomes the program that runs the guest.
func (a verbs) execCmd(kind guest.Type) *cobra.Command {
	var path string
	var show bool
	cmd := &cobra.Command{
		Use: "exec-" + string(kind) + " ID", Short: "Run a guest of type " + string(kind) + " in this process", Hidden: true,
		Long: `Is called by the guest's unit: becomes QEMU or systemd-nspawn, with the guest's
volumes and what its configuration file says.`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			argv, err := a.launchLine(cmd, kind, id, path)
			if err != nil {
				return err
			}
			if show {
				return a.showLine(argv)
			}
			return become(id, argv)
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	cmd.Flags().StringVar(&path, "config", config.Path, "tandemd's configuration `file`")
	cmd.Flags().BoolVar(&show, "show", false, "print the command line, a word on each line, and do nothing")
	return cmd
}

func (a verbs) showLine(argv []string) error {
	for _, word := range argv {
		if _, err := fmt.Fprintln(a.Stdout, word); err != nil {
			return err
		}
	}
	return nil
}

// become makes this process the program that runs the guest. It returns only where it cannot.
func become(id guest.ID, argv []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("guest %s: %w: install it", id, err)
	}
	return fmt.Errorf("guest %s: become %s: %w", id, program, syscall.Exec(program, argv, os.Environ()))
}

// launchLine is the command line that runs the guest.
func (a verbs) launchLine(cmd *cobra.Command, kind guest.Type, id guest.ID, path string) ([]string, error) {
	conf, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	g, err := a.launched(cmd, id, conf.StateDir)
	if err != nil {
		return nil, err
	}
	if g.Type != kind {
		return nil, fmt.Errorf("guest %s is of type %s, not %s: its unit should be tandem-%s@%s.service", id, g.Type, kind, g.Type, id)
	}
	var disks []launch.Disk
	for _, v := range g.Volumes {
		root, ok := conf.Storages[v.Storage]
		if !ok {
			return nil, fmt.Errorf("guest %s: volume %s: this node has no storage %s in %s", id, v, v.Storage, path)
		}
		disks = append(disks, launch.Disk{Volume: v, Dataset: root + "/" + v.Name})
	}
	env := launch.Env{Configs: filepath.Join(conf.StateDir, "guests")}
	if kind == guest.CT {
		return env.Container(id, disks)
	}
	return env.Machine(cmd.Context(), id, disks)
}

// launched is the guest by the daemon or, where none runs, as this node knew it last: a
// forced start works without.
func (a verbs) launched(cmd *cobra.Command, id guest.ID, state string) (api.Guest, error) {
	g, err := a.Client().Guest(cmd.Context(), id)
	if !notRunning(err) {
		return g, err
	}
	var s ledger.State
	if err := statefile.Read(filepath.Join(state, "cluster.json"), &s); err != nil {
		return g, fmt.Errorf("tandemd does not run, and what this node knew last of its cluster: %w", err)
	}
	known, ok := s.Guests[id]
	if !ok {
		return g, fmt.Errorf("tandemd does not run, and guest %s is not known to this node", id)
	}
	return api.Guest{ID: id, Type: known.Type, Name: known.Name, Volumes: known.Volumes}, nil
}

// powerDownCmd asks a virtual machine to power off.
func (a verbs) powerDownCmd() *cobra.Command {
	var patience time.Duration
	cmd := &cobra.Command{
		Use: "power-down ID", Short: "Have a virtual machine of this node power off", Hidden: true,
		Long: `Is called by tandem-vm@.service to stop: presses the power button of the virtual
machine, waits until it has powered off, and else has QEMU end.`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			if patience <= 0 {
				return frame.Invalid(errors.New("--within must be more than nothing, like 60s"))
			}
			return launch.Env{}.PowerDown(cmd.Context(), id, patience)
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	cmd.Flags().DurationVar(&patience, "within", time.Minute, "how `long` the guest system has")
	return cmd
}
