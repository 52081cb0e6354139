package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/deploy/lab"
)

// app is what all commands share: the global options and the streams.
type app struct {
	opts   lab.Options
	stdin  *os.File
	stdout io.Writer
}

func command(stdin *os.File, stdout io.Writer) *cobra.Command {
	a := &app{opts: lab.Options{Log: stdout}, stdin: stdin, stdout: stdout}
	root := &cobra.Command{
		Use:           "labctl",
		Short:         "Machines with real ZFS and systemd under QEMU, to try Tandem on",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&a.opts.Name, "name", "lab", "name of the lab; labs of different names run side by side")
	root.PersistentFlags().StringVar(&a.opts.CacheDir, "cache", "/var/cache/tandem-lab", "folder for the image, saved machines and disks")
	root.AddCommand(a.up(), a.down(), a.image(), a.list(), a.ssh(), a.push(), a.console(), a.log())
	root.AddCommand(
		a.fault("cut", "cut a machine's cluster cable (`ssh` still works)", (*lab.Machine).Cut),
		a.fault("mend", "mend a machine's cluster cable", (*lab.Machine).Mend),
		a.fault("kill", "power cut: end a machine at once", (*lab.Machine).Kill),
		a.fault("start", "boot a machine that is off", (*lab.Machine).Start),
		a.fault("pause", "stall a machine", (*lab.Machine).Pause),
		a.fault("resume", "let a stalled machine go on", (*lab.Machine).Resume),
		a.saves("save", "save all machines under a name and let them go on", (*lab.Lab).SaveAll),
		a.saves("restore", "bring all machines back to what they were when they were saved", (*lab.Lab).RestoreAll),
	)
	return root
}

func (a *app) up() *cobra.Command {
	cmd := &cobra.Command{
		Use: "up", Short: "start the lab (builds the machine image the first time)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Up(cmd.Context(), a.opts)
			var already *lab.UpError
			if errors.As(err, &already) && already.Nodes == a.opts.Nodes {
				// What was asked for is there. A machine that is off may be off on purpose.
				if _, err := fmt.Fprintf(a.stdout, "%v\n", already); err != nil {
					return err
				}
				l, err = a.open()
			}
			if err != nil {
				return err
			}
			return a.show(cmd.Context(), l)
		},
	}
	cmd.Flags().IntVarP(&a.opts.Nodes, "nodes", "n", 3, "number of machines")
	cmd.Flags().IntVar(&a.opts.MemoryMiB, "memory", 1024, "memory of each machine in MiB")
	cmd.Flags().IntVar(&a.opts.CPUs, "cpus", 2, "processors of each machine")
	cmd.Flags().IntVar(&a.opts.DiskGiB, "disk", 8, "size of each machine's pool disk in GiB (sparse)")
	cmd.Flags().StringVar(&a.opts.Mirror, "mirror", "", "Debian mirror for the image (from the host's apt sources)")
	return cmd
}

func (a *app) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "end the lab and remove everything but the cache", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return lab.Down(cmd.Context(), a.opts) },
	}
}

func (a *app) image() *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Short: "build the machine image if the cache does not have it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := lab.BuildImage(cmd.Context(), a.opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, dir)
			return err
		},
	}
	cmd.Flags().StringVar(&a.opts.Mirror, "mirror", "", "Debian mirror (from the host's apt sources)")
	return cmd
}

func (a *app) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "show the machines of every lab", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := lab.Names()
			if err != nil {
				return err
			}
			if len(names) == 0 {
				_, err := fmt.Fprintln(a.stdout, "no lab is up")
				return err
			}
			// A lab that is not complete does not hide the others.
			var errs []error
			for _, name := range names {
				l, err := lab.Open(name, lab.Options{})
				if err == nil {
					err = a.show(cmd.Context(), l)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}

// show prints a lab's machines as a table.
func (a *app) show(ctx context.Context, l *lab.Lab) error {
	lines := []string{"LAB\tMACHINE\tSTATE\tCABLE\tADDRESS"}
	for _, m := range l.Machines() {
		state, err := m.State(ctx)
		if err != nil {
			return err
		}
		cut, err := m.IsCut(ctx)
		if err != nil {
			return err
		}
		cable := "ok"
		if cut {
			cable = "cut"
		}
		lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", l.Name(), m.Name(), state, cable, m.Address()))
	}
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	_, err := io.WriteString(table, strings.Join(lines, "\n")+"\n")
	return errors.Join(err, table.Flush())
}

func (a *app) ssh() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ssh NODE [COMMAND…]", Short: "a root shell on a machine, or one command", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			shell, err := m.Shell(cmd.Context(), lab.Terminal(isTerminal(a.stdin)), args[1:]...)
			if err != nil {
				return err
			}
			shell.Stdin, shell.Stdout, shell.Stderr = a.stdin, os.Stdout, os.Stderr
			return shell.Run()
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) push() *cobra.Command {
	return &cobra.Command{
		Use: "push [NODE…]", Short: "build this work tree and install it on the machines, all or those named",
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			var machines []*lab.Machine
			for _, name := range args {
				m, err := l.Machine(name)
				if err != nil {
					return err
				}
				machines = append(machines, m)
			}
			tree, err := lab.FindTree(".")
			if err != nil {
				return err
			}
			return l.Push(cmd.Context(), tree, machines...)
		},
	}
}

func (a *app) console() *cobra.Command {
	return &cobra.Command{
		Use: "console NODE", Short: "a machine's serial console, with a root shell; Ctrl-] leaves it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			return attach(cmd.Context(), m, a.stdin, a.stdout)
		},
	}
}

func (a *app) log() *cobra.Command {
	return &cobra.Command{
		Use: "log NODE", Short: "what a machine said on its serial console so far", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			file, err := os.Open(m.ConsoleLog())
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s has said nothing yet", m.Name())
			}
			if err != nil {
				return err
			}
			_, err = io.Copy(a.stdout, file)
			return errors.Join(err, file.Close())
		},
	}
}

// fault is a command that does one thing to the machines that are named.
func (a *app) fault(use, short string, do func(*lab.Machine, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NODE…", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				m, err := a.machine(name)
				if err != nil {
					return err
				}
				if err := do(m, cmd.Context()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (a *app) saves(use, short string, do func(*lab.Lab, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.open()
			if err != nil {
				return err
			}
			return do(l, cmd.Context(), args[0])
		},
	}
}

func (a *app) open() (*lab.Lab, error) {
	return lab.Open(a.opts.Name, lab.Options{Log: a.stdout})
}

func (a *app) machine(name string) (*lab.Machine, error) {
	l, err := a.open()
	if err != nil {
		return nil, err
	}
	return l.Machine(name)
}
