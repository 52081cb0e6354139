package cluster

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

// Nodes is `tandem nodes`, the same as `tandem cluster nodes`.
func Nodes(app *frame.App) *cobra.Command { return verbs{app}.nodesCmd() }

// nodesDoc is the JSON of `nodes`.
type nodesDoc struct {
	Version int          `json:"version"`
	Nodes   []api.Member `json:"nodes"`
}

func (a verbs) nodesCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List the members in a short table",
		Long:  "Lists the members of the cluster with their votes, as pvecm nodes does.\n\n" + frame.ExitCodes,
		Example: `  tandem nodes
  tandem nodes -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Client().Cluster(cmd.Context())
			if err != nil {
				return err
			}
			return a.Print(nodesDoc{api.Version, frame.List(c.Members)}, a.Text().Nodes(c)...)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a verbs) expectedCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "expected N",
		Short: "Force quorum: let this node go on with N expected votes",
		Long: `Lets this node decide without the majority that it lost, as pvecm expected does:
from then on N votes are expected, and this node goes on alone. It is refused
while the node is quorate, for an N with which it would not become so, and while
a member that answers went on already.

If there is no quorum, fix that first: bring the other nodes or the network back.
Use this only where that is not possible at the moment, to get vital guests up
and running again or to resolve the quorum issue itself.

The ledger is copied into a new generation; the old one is kept. Avoid changes
that affect the cluster while it runs so: joining and removing nodes and adding
guests ask for --force, and a change of [storages] is not taken over. When the
other members come back they follow this node, if they were not a majority all
the while and did nothing on their own. Otherwise one side gives up by itself, or
` + "`tandem cluster status`" + ` asks you to decide with yield.

` + frame.ExitCodes,
		Example: "  tandem cluster expected 1",
		Args:    frame.Arguments("N"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 {
				return frame.Invalid(fmt.Errorf("expected votes %q: must be a number, at least 1", args[0]))
			}
			e, err := a.Client().Expected(cmd.Context(), api.ExpectedRequest{Votes: n})
			if err != nil {
				return err
			}
			e.Cluster.Members, e.Warnings = frame.List(e.Cluster.Members), frame.List(e.Warnings)
			if err := a.Print(e, a.Text().Expected(e)...); err != nil {
				return err
			}
			return a.Warn(e.Warnings)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a verbs) yieldCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "yield [GENERATION]",
		Short: "Give this node's side up where two went on apart",
		Long: `Where a cluster went on in two parts that both acted, neither gives up by itself:
somebody must say which part is to be the truth. Run yield on a node of the part
that is not. Its members then follow the other part. What was changed in the
given-up part since the two parted no longer counts; its ledger is kept in the
state folder and shown by ` + "`tandem cluster status`" + `. No data of guests is lost.

GENERATION, as cluster status shows it, is needed where there is more than one.

` + frame.ExitCodes,
		Example: `  tandem cluster yield
  tandem cluster yield 0123456789abcdef`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r api.YieldRequest
			if len(args) == 1 {
				r.Generation = args[0]
			}
			if strings.Trim(r.Generation, "0123456789abcdef") != "" {
				return frame.Invalid(fmt.Errorf("generation %q: must be hex digits, as cluster status shows them", r.Generation))
			}
			c, err := a.Client().Yield(cmd.Context(), r)
			if err != nil {
				return err
			}
			c.Members = frame.List(c.Members)
			return a.Print(c,
				fmt.Sprintf("%s follows generation %s now.", self(c), c.Generation),
				"Cluster  "+report.ClusterLine(c))
		},
		ValidArgsFunction: a.completeGenerations,
	}
}

func (a verbs) completeGenerations(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, frame.NoFiles
	}
	c, err := a.Quick(cmd)
	if err != nil {
		return nil, frame.NoFiles
	}
	var out []string
	for _, g := range c.Others {
		out = append(out, cobra.CompletionWithDesc(g.ID, report.NodeNames(g.Nodes)))
	}
	return out, frame.NoFiles
}

func (a verbs) removeCmd() *cobra.Command {
	var r api.RemoveMemberRequest
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the cluster",
		Long: `Takes a node off the member list. Its jobs are ended first: those that replicate
to it, with their replicas there, while it and their owners are alive. Then its
key is refused, and the key of gossip is changed. A node that owns guests, and
the last one that votes, is not removed.

The removed node keeps its volumes. To join again it needs a new token.

--force does not wait for anything to be cleaned up: the jobs are dropped, what
they leave is named. It also removes a node while the cluster runs on forced
quorum, as a dead one of two nodes.

` + frame.ExitCodes,
		Example: `  tandem cluster remove n3 --dry-run
  tandem cluster remove n3
  tandem cluster remove n2 --force`,
		Args: frame.Arguments("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := guest.ParseNodeName(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			r.Node = name
			return a.remove(cmd, r)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, frame.NoFiles
			}
			return a.CompleteNodes(cmd, args, part)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.Force, "force", false, "do not clean up; do it on forced quorum too")
	f.BoolVar(&r.Keep, "keep", false, "leave the replicas on the node")
	f.BoolVar(&r.DryRun, "dry-run", false, "only show what would be done")
	return cmd
}

// remove shows the plan before it is carried out: that may take a while.
func (a verbs) remove(cmd *cobra.Command, r api.RemoveMemberRequest) error {
	plan := r
	plan.DryRun = true
	p, err := a.Client().RemoveMember(cmd.Context(), plan)
	if err != nil {
		return err
	}
	if r.DryRun || a.Output == frame.FormatTable {
		if err := a.Print(p, a.Text().Removal(p)...); err != nil {
			return err
		}
	}
	if err := a.Warn(p.Warnings); err != nil || r.DryRun {
		return err
	}
	p, err = a.Client().RemoveMember(cmd.Context(), r)
	if err != nil {
		return err
	}
	return a.Print(p, "", fmt.Sprintf("%s is removed.", p.Node),
		"To join again, on a member:  tandem cluster token")
}

// logDoc is the JSON of `cluster log`.
type logDoc struct {
	Version int          `json:"version"`
	Changes []api.Change `json:"changes"`
}

func (a verbs) logCmd() *cobra.Command {
	var n int
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show who changed what in the cluster, and when",
		Long: `Shows the last changes of members, guests, jobs and settings, the newest last.
The last 10,000 are kept.

` + frame.ExitCodes,
		Example: `  tandem cluster log
  tandem cluster log -n 100 -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 {
				return frame.Invalid(fmt.Errorf("-n %d: must be at least 1", n))
			}
			changes, err := a.Client().Log(cmd.Context(), n)
			if err != nil {
				return err
			}
			return a.Print(logDoc{api.Version, frame.List(changes)}, a.Text().Changes(changes)...)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 20, "how many changes")
	return cmd
}

func (a verbs) setCmd() *cobra.Command {
	var digest string
	cmd := &cobra.Command{
		Use:   "set name=NAME",
		Short: "Change the cluster's settings",
		Long:  "Changes the cluster's settings. name is what people call the cluster; name= takes it away.\n\n" + frame.ExitCodes,
		Example: `  tandem cluster set name=prod
  tandem cluster set name=`,
		Args: frame.Arguments("name=NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, value, ok := strings.Cut(args[0], "=")
			if !ok || key != "name" {
				return frame.Usage(cmd, "%q: must be name=NAME", args[0])
			}
			if err := checkName(value); err != nil {
				return err
			}
			c, err := a.Client().SetCluster(cmd.Context(), api.SetClusterRequest{Name: &value, Digest: digest})
			if err != nil {
				return err
			}
			c.Members = frame.List(c.Members)
			return a.Print(c, fmt.Sprintf("The cluster is %s.", report.ClusterName(c)))
		},
		ValidArgsFunction: cobra.FixedCompletions([]string{"name="}, frame.NoFiles|cobra.ShellCompDirectiveNoSpace),
	}
	cmd.Flags().StringVar(&digest, "digest", "", "refuse unless the settings still have this `digest`")
	return cmd
}
