// Package cluster is the commands that make, look at and change the cluster:
// `tandem cluster`, `tandem nodes`, `tandem storage`.
//
// They check arguments, ask the daemon and print; pkg/cli puts them into the tree.
package cluster

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
)

// defaultPort is the daemons' port for each other, unless configured otherwise.
const defaultPort = "7947"

// verbs are the commands of one run of the program.
type verbs struct{ *frame.App }

// Command is `tandem cluster`.
func Command(app *frame.App) *cobra.Command {
	a := verbs{app}
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Make, join and look at the cluster",
		Long: `A cluster begins on one node with init. For every further node, token on a
member prints the command to run on the new one. remove takes a node out again.

A cluster decides by majority. Where the majority is lost and cannot be brought
back, expected lets one node go on alone; yield settles it where two parts of a
cluster went on apart.`,
		Example: `  n1# tandem cluster init
  n1# tandem cluster token
  n2# tandem cluster join 192.0.2.1:7947 tandem1-...
  n1# tandem cluster status`,
		Args: cobra.NoArgs,
		RunE: frame.Help,
	}
	cmd.AddCommand(a.initCmd(), a.tokenCmd(), a.joinCmd(), a.statusCmd(), a.nodesCmd(), a.logCmd())
	cmd.AddCommand(a.expectedCmd(), a.yieldCmd(), a.removeCmd(), a.setCmd())
	return cmd
}

func (a verbs) initCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a cluster with this node as its only member",
		Long: `Makes a new cluster with this node as its only member. It is refused on a node
that is in a cluster. The name is for people; it can be changed later.

` + frame.ExitCodes,
		Example: `  tandem cluster init
  tandem cluster init --name prod`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkName(name); err != nil {
				return err
			}
			c, err := a.Client().InitCluster(cmd.Context(), api.InitRequest{Name: name})
			if err != nil {
				return err
			}
			return a.Print(c,
				fmt.Sprintf("Cluster %s is made; its only member is %s.", report.ClusterName(c), self(c)),
				"",
				"Next:",
				"  add a node:   tandem cluster token",
				"  add guests:   tandem guest discover, or tandem guest add --help")
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&name, "name", "", "what people call the cluster, `like` prod")
	return cmd
}

// checkName refuses what cannot be the name of a cluster; it may be empty.
func checkName(name string) error {
	if name == "" {
		return nil
	}
	if _, err := guest.ParseNodeName(name); err != nil {
		return frame.Invalid(fmt.Errorf("name of the cluster %q: must be 1 to 63 of a-z, 0-9 and inner hyphens", name))
	}
	return nil
}

// self is the name of the asked node.
func self(c api.Cluster) string {
	for _, m := range c.Members {
		if m.State == "self" {
			return string(m.Name)
		}
	}
	return "this node"
}

// tokenDoc is the JSON of `cluster token`.
type tokenDoc struct {
	Version int       `json:"version"`
	Token   api.Token `json:"token"`
}

func (a verbs) tokenCmd() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which one node can join",
		Long: `Makes a join token and prints the command to run on the node that is to join.
A token works once, until it expires, at the node that made it. Whoever has it
can join the cluster: hand it over as you would a password.

` + frame.ExitCodes,
		Example: `  tandem cluster token
  tandem cluster token --ttl 10m`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("ttl") && ttl < time.Second {
				return frame.Invalid(fmt.Errorf("--ttl %s: must be at least a second, like 10m or 1h", ttl))
			}
			t, err := a.Client().Token(cmd.Context(), api.TokenRequest{TTL: int64(ttl / time.Second)})
			if err != nil {
				return err
			}
			return a.Print(tokenDoc{api.Version, t},
				"Run this on the node that is to join:",
				"",
				fmt.Sprintf("  tandem cluster join %s %s", t.Address, t.Text),
				"",
				fmt.Sprintf("It works once, until %s. Whoever has it can join: treat it as a password.", a.Text().Time(t.Expires)))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it can be used, like 10m (an hour unless given)")
	return cmd
}

func (a verbs) joinCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "join ADDR TOKEN",
		Short: "Join this node to the cluster of the node at ADDR",
		Long: `Joins this node to a cluster, with what ` + "`tandem cluster token`" + ` printed on a
member. ADDR is the member's host and port; without a port ` + defaultPort + ` is
meant. TOKEN - reads the token from the standard input, which keeps it out of
the list of processes. A node that was removed joins again in the same way, and
keeps its ID and its volumes.

` + frame.ExitCodes,
		Example: `  tandem cluster join 192.0.2.1:7947 tandem1-...
  tandem cluster join n1.example.org - < token`,
		Args: frame.Arguments("ADDR", "TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.joinRequest(args[0], args[1])
			if err != nil {
				return err
			}
			r.Force = force
			c, err := a.Client().Join(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.Print(c,
				fmt.Sprintf("Joined cluster %s as %s; it has %s now.", report.ClusterName(c), self(c), report.Count(len(c.Members), "member")),
				"Cluster  "+report.ClusterLine(c),
				"",
				"Next:",
				"  look around:       tandem cluster status",
				"  replicate a guest: tandem create-local-job 100-0 NODE --schedule '*/15'",
				"  how jobs fare:     tandem status")
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&force, "force", false, "join even while the cluster runs on forced quorum")
	return cmd
}

func (a verbs) joinRequest(addr, token string) (r api.JoinRequest, err error) {
	if r.Address, err = joinAddress(addr); err != nil {
		return r, frame.Invalid(err)
	}
	if token == "-" {
		const enough = 64 << 10
		b, err := io.ReadAll(io.LimitReader(a.Stdin, enough))
		if err != nil {
			return r, frame.Invalid(fmt.Errorf("join token: standard input: %w", err))
		}
		token = string(b)
	}
	r.Token = strings.TrimSpace(token)
	_, err = identity.ParseToken(r.Token)
	return r, frame.Invalid(err)
}

// joinAddress takes HOST or HOST:PORT, IPv6 with and without brackets.
func joinAddress(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), defaultPort
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", fmt.Errorf("address %q: must be HOST:PORT, like 192.0.2.1:%s or [2001:db8::1]:%s", s, defaultPort, defaultPort)
		}
	}
	if host == "" || strings.ContainsAny(host, " /@") {
		return "", fmt.Errorf("address %q: must be HOST:PORT, like 192.0.2.1:%s", s, defaultPort)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("address %q: the port must be from 1 to 65535", s)
	}
	return net.JoinHostPort(host, port), nil
}

func (a verbs) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the cluster, its members and their votes",
		Long: `Shows the cluster as this node sees it, as pvecm status does. What needs a
person stands at the top. The exit code is 1 where this node is not quorate or
was removed, the cluster runs on forced quorum, a member is not alive, or an
alarm needs a person.

  Votes    expected: how many there are; total: how many of them this node
           sees; quorum: how many are needed. Of the members up to 7 vote, the
           others follow; a witness is one without storages.
  Since    since when this node has seen the member in that state
  Applied  how far this node has applied the ledger

` + frame.ExitCodes,
		Example: `  tandem cluster status
  tandem cluster status -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Client().Cluster(cmd.Context())
			if err != nil {
				return err
			}
			c.Members = frame.List(c.Members)
			if err := a.Print(c, a.Text().Cluster(c)...); err != nil {
				return err
			}
			if !well(c) {
				return frame.Verdict(frame.ExitError)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func well(c api.Cluster) bool {
	ok := c.Quorate && !c.Forced && len(c.Alarms) == 0 && c.Removed == nil
	for _, m := range c.Members {
		ok = ok && (m.State == "self" || m.State == "alive")
	}
	return ok
}
