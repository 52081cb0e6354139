package cli

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/identity"
)

// defaultPort is the daemons' port for each other, unless configured otherwise.
const defaultPort = "7947"

func (a *app) clusterCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Make, join and look at the cluster",
		Long: `A cluster begins on one node with init. For every further node, token on a
member prints the command to run on the new one.`,
		Example: `  n1# tandem cluster init
  n1# tandem cluster token
  n2# tandem cluster join 192.0.2.1:7947 tandem1-...
  n1# tandem cluster status`,
		Args: cobra.NoArgs,
		RunE: help,
	}
	cmd.AddCommand(a.initCmd(), a.tokenCmd(), a.joinCmd(), a.clusterStatusCmd())
	return cmd
}

func (a *app) initCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make a cluster with this node as its only member",
		Long: `Makes a new cluster with this node as its only member. It is refused on a node
that is in a cluster.

` + exitCodes,
		Example: "  tandem cluster init",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client().InitCluster(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(c,
				fmt.Sprintf("Cluster %s is made; its only member is %s.", c.ID, self(c)),
				"",
				"Next:",
				"  add a node:   tandem cluster token",
				"  add a guest:  tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0")
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
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

func (a *app) tokenCmd() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which one node can join",
		Long: `Makes a join token and prints the command to run on the node that is to join.
A token works once, until it expires, at the node that made it. Whoever has it
can join the cluster: hand it over as you would a password.

` + exitCodes,
		Example: `  tandem cluster token
  tandem cluster token --ttl 10m`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("ttl") && ttl < time.Second {
				return invalid(fmt.Errorf("--ttl %s: must be at least a second, like 10m or 1h", ttl))
			}
			t, err := a.client().Token(cmd.Context(), api.TokenRequest{TTL: int64(ttl / time.Second)})
			if err != nil {
				return err
			}
			return a.print(tokenDoc{api.Version, t},
				"Run this on the node that is to join:",
				"",
				fmt.Sprintf("  tandem cluster join %s %s", t.Address, t.Text),
				"",
				fmt.Sprintf("It works once, until %s. Whoever has it can join: treat it as a password.", a.text().Time(t.Expires)))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it can be used, like 10m (an hour unless given)")
	return cmd
}

func (a *app) joinCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "join ADDR TOKEN",
		Short: "Join this node to the cluster of the node at ADDR",
		Long: `Joins this node to a cluster, with what ` + "`tandem cluster token`" + ` printed on a
member. ADDR is the member's host and port; without a port ` + defaultPort + ` is
meant. TOKEN - reads the token from the standard input, which keeps it out of
the list of processes.

` + exitCodes,
		Example: `  tandem cluster join 192.0.2.1:7947 tandem1-...
  tandem cluster join n1.example.org - < token`,
		Args: arguments("ADDR", "TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.joinRequest(args[0], args[1])
			if err != nil {
				return err
			}
			c, err := a.client().Join(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(c,
				fmt.Sprintf("Joined cluster %s as %s; it has %s now.", c.ID, self(c), report.Count(len(c.Members), "member")),
				"Cluster  "+report.ClusterLine(c),
				"",
				"Next:",
				"  look around:       tandem cluster status",
				"  replicate a guest: tandem create-local-job 100-0 NODE --schedule '*/15'",
				"  how jobs fare:     tandem status")
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a *app) joinRequest(addr, token string) (r api.JoinRequest, err error) {
	if r.Address, err = joinAddress(addr); err != nil {
		return r, invalid(err)
	}
	if token == "-" {
		const enough = 64 << 10
		b, err := io.ReadAll(io.LimitReader(a.Stdin, enough))
		if err != nil {
			return r, invalid(fmt.Errorf("join token: standard input: %w", err))
		}
		token = string(b)
	}
	r.Token = strings.TrimSpace(token)
	_, err = identity.ParseToken(r.Token)
	return r, invalid(err)
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

func (a *app) clusterStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the members, their votes and their storages",
		Long: `Shows the cluster as this node sees it. The exit code is 1 where it is not
quorate, or a member is not alive.

` + exitCodes,
		Example: `  tandem cluster status
  tandem cluster status -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client().Cluster(cmd.Context())
			if err != nil {
				return err
			}
			c.Members = list(c.Members)
			if err := a.print(c, a.text().Cluster(c)...); err != nil {
				return err
			}
			well := c.Quorate
			for _, m := range c.Members {
				well = well && (m.State == "self" || m.State == "alive")
			}
			if !well {
				return verdict(exitError)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
