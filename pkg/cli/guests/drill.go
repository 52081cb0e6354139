package guests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/launch"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

// drillFlags are the flags of `guest drill` as typed.
type drillFlags struct {
	on, check string
	timeout   time.Duration
	list      bool
}

func (a verbs) drillCmd() *cobra.Command {
	var in drillFlags
	cmd := &cobra.Command{
		Use:   "drill [ID] --on NODE",
		Short: "Prove a replica: try it, and leave it as it is",
		Long: `Proves that a guest could go on from its replica on NODE. There a clone is made of
the newest complete point, of all its volumes; on it the executable of --check
looks at the data, or without one the guest itself is started under another name
and without a network, and has to stay up for half a minute. The clone is removed
afterwards, whatever happens. Syncs, moves and recoveries go on meanwhile: they
end a drill that is in their way.

The executable is root's, and on NODE. It is called with the guest's ID and, for
each volume, the device of its clone or where that is mounted; it may write there.
TANDEM_GUEST, TANDEM_POINT, TANDEM_VOLUMES (how many) and for each TANDEM_VOLUME_0,
TANDEM_DATASET_0, TANDEM_PATH_0 and so on tell the same and more. It is content
if it exits with 0.

A guest can be started beside itself if its unit is one of those that come with
Tandem, tandem-vm@ID and tandem-ct@ID; for others name a check. Of the guest's
configuration file args is left out, for it may name the network: drill_args
stands in its place.

Ctrl-C ends the drill. How it went is remembered: --list and ` + "`tandem status`" + ` tell
when which replica passed last.

` + frame.ExitCodes,
		Example: `  tandem guest drill 100 --on n2
  tandem guest drill 200 --on n3 --check /etc/tandem/check-db --timeout 10m
  tandem guest drill --list`,
		Args: func(cmd *cobra.Command, args []string) error {
			if in.list && len(args) == 0 {
				return nil
			}
			return frame.Arguments("ID")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.list {
				return a.listDrills(cmd, in, args)
			}
			r, err := in.request(cmd, args[0])
			if err != nil {
				return err
			}
			return a.drill(cmd.Context(), r)
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	f := cmd.Flags()
	f.StringVar(&in.on, "on", "", "`node` with the replica")
	f.StringVar(&in.check, "check", "", "`path` of an executable on that node that looks at the data")
	f.DurationVar(&in.timeout, "timeout", 5*time.Minute, "how `long` all of it may take")
	f.BoolVar(&in.list, "list", false, "tell when which replica passed last")
	frame.Must(cmd.RegisterFlagCompletionFunc("on", a.CompleteNodes))
	return cmd
}

func (in drillFlags) request(cmd *cobra.Command, id string) (r api.DrillRequest, err error) {
	if r.Guest, err = guest.ParseID(id); err != nil {
		return r, frame.Invalid(err)
	}
	if in.on == "" {
		return r, frame.Usage(cmd, "guest %s: --on is missing: the node with the replica", id)
	}
	if r.On, err = guest.ParseNodeName(in.on); err != nil {
		return r, frame.Invalid(err)
	}
	if in.check != "" && !filepath.IsAbs(in.check) {
		return r, frame.Invalid(fmt.Errorf("check %q: must be the absolute path of an executable on %s", in.check, in.on))
	}
	if in.timeout < time.Second {
		return r, frame.Invalid(fmt.Errorf("timeout %s: must be at least a second", in.timeout))
	}
	r.Check, r.Timeout = in.check, int64((in.timeout+time.Second-1)/time.Second)
	return r, nil
}

// drillsDoc is the JSON of `guest drill --list`.
type drillsDoc struct {
	Version int              `json:"version"`
	Drills  []drillDoc       `json:"drills"`
	Silent  []guest.NodeName `json:"silent"`
}

type drillDoc struct {
	Guest   guest.ID       `json:"guest"`
	Node    guest.NodeName `json:"node"`
	Drilled *api.Drilled   `json:"drilled"`
}

func (a verbs) listDrills(cmd *cobra.Command, in drillFlags, args []string) (err error) {
	if in.on != "" || in.check != "" {
		return frame.Usage(cmd, "--list goes with no other option")
	}
	var f api.Filter
	if len(args) > 0 {
		if f.Guest, err = guest.ParseID(args[0]); err != nil {
			return frame.Invalid(err)
		}
	}
	s, err := a.Client().Status(cmd.Context(), f)
	if err != nil {
		return err
	}
	return a.Print(drillsDoc{Version: api.Version, Drills: drillsOf(s.Jobs), Silent: frame.List(s.Silent)}, a.Text().Drills(s)...)
}

// drillsOf are those of the jobs' replicas.
func drillsOf(jobs []api.JobStatus) []drillDoc {
	out := []drillDoc{}
	for _, j := range jobs {
		out = append(out, drillDoc{j.Guest, j.Target, j.Drilled})
	}
	return out
}

// drill has a replica tried, shows how far it is, and ends it when ctx ends.
func (a verbs) drill(ctx context.Context, r api.DrillRequest) error {
	c := a.Client()
	started, err := c.StartDrill(ctx, r)
	if err != nil {
		return err
	}
	f := drillFollower{verbs: a}
	for {
		d, err := c.WatchDrill(ctx, started.DrillID)
		if ctx.Err() != nil {
			return errors.Join(f.clear(), a.endDrill(ctx, started.DrillID))
		}
		if err != nil {
			return errors.Join(f.clear(), err)
		}
		if d.Result != nil {
			return errors.Join(f.clear(), a.drilled(d))
		}
		if err := f.show(d); err != nil {
			return err
		}
	}
}

// endPatience is how long the node has to end a drill that nobody wants any more; it
// finds that out by itself, too.
const endPatience = 30 * time.Second

// endDrill ends it and waits until it has ended, for a while.
func (a verbs) endDrill(ctx context.Context, id api.DrillID) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	c := a.Client()
	err := c.CancelDrill(late, id)
	var d api.Drill
	for err == nil && d.Result == nil {
		d, err = c.WatchDrill(late, id)
	}
	if err == nil && d.Result.Outcome != api.DrillEnded {
		return a.drilled(d) // It was over already.
	}
	text := fmt.Sprintf("the drill of guest %s on %s was ended, and its clone is removed", id.Guest, id.Node)
	if err != nil || d.Result.Left != "" {
		text = fmt.Sprintf("the drill of guest %s on %s is being ended; its clone is removed there without this command", id.Guest, id.Node)
	}
	return &api.Error{Code: api.CodeUnknown, Message: text}
}

// drilled prints how it went.
func (a verbs) drilled(d api.Drill) error {
	d.Result.Output = frame.List(d.Result.Output)
	if err := a.Print(d, report.Drilled(d)...); err != nil {
		return err
	}
	if d.Result.Left != "" {
		if err := a.Warn([]string{fmt.Sprintf("node %s: %s; it is tried again", d.Node, d.Result.Left)}); err != nil {
			return err
		}
	}
	switch d.Result.Outcome {
	case api.DrillPassed:
		return nil
	case api.DrillFailed:
		return frame.Verdict(frame.ExitError)
	default:
		return frame.Verdict(frame.ExitUnknown)
	}
}

// drillFollower shows what a drill is at.
type drillFollower struct {
	verbs
	// last was shown, and open says that it stands on the terminal and is to be overwritten.
	last string
	open bool
}

func (f *drillFollower) show(d api.Drill) error {
	text := d.Phase
	if d.Point != "" {
		text += " at " + d.Point
	}
	if f.Output == frame.FormatJSON || !f.Terminal || text == f.last {
		return nil
	}
	if err := f.clear(); err != nil {
		return err
	}
	f.last, f.open = text, true
	_, err := io.WriteString(f.Stdout, report.Printable(text))
	return err
}

func (f *drillFollower) clear() error {
	if !f.open {
		return nil
	}
	f.open = false
	_, err := io.WriteString(f.Stdout, "\r\x1b[K")
	return err
}

// execDrillFlags are what the daemon says of the replica that is tried.
type execDrillFlags struct {
	kind, folder string
	disks        []string
	show         bool
}

// execDrillCmd becomes the program that runs a guest in a drill.
func (a verbs) execDrillCmd() *cobra.Command {
	var in execDrillFlags
	cmd := &cobra.Command{
		Use: "exec-drill ID", Short: "Run a guest's replica in this process", Hidden: true,
		Long: `Is called by tandemd in a drill: becomes QEMU or systemd-nspawn, with clones of the
guest's volumes, another name, and no network.`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			argv, err := in.line(cmd.Context(), id)
			if err != nil {
				return err
			}
			if in.show {
				return a.showLine(argv)
			}
			return become(id, argv)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVar(&in.kind, "type", "", "`vm|ct`")
	f.StringVar(&in.folder, "folder", "", "`folder` with the configuration file, and for the sockets")
	f.StringArrayVar(&in.disks, "disk", nil, "`VOLUME=DATASET`, once for each")
	f.BoolVar(&in.show, "show", false, "print the command line, a word on each line, and do nothing")
	return cmd
}

func (in execDrillFlags) line(ctx context.Context, id guest.ID) ([]string, error) {
	kind, err := guest.ParseType(in.kind)
	if err != nil {
		return nil, frame.Invalid(err)
	}
	if !filepath.IsAbs(in.folder) {
		return nil, frame.Invalid(fmt.Errorf("folder %q: must be an absolute path", in.folder))
	}
	var disks []launch.Disk
	for _, text := range in.disks {
		name, dataset, _ := strings.Cut(text, "=")
		v, err := guest.ParseVolume(name)
		if err != nil || dataset == "" {
			return nil, frame.Invalid(fmt.Errorf("disk %q: must be VOLUME=DATASET", text))
		}
		disks = append(disks, launch.Disk{Volume: v, Dataset: dataset})
	}
	env := launch.Env{Configs: in.folder, Sockets: in.folder, Drill: true}
	if kind == guest.CT {
		return env.Container(id, disks)
	}
	return env.Machine(ctx, id, disks)
}
