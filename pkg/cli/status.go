package cli

import (
	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

func (a *app) statusCmd() *cobra.Command {
	var guestID, node string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how all jobs of the cluster fare",
		Long: `Shows the cluster and every job in it, as far as the nodes answer; any node
can be asked.

  JobID .. State  as pvesr shows them, under the node that has the guest
  LastSync        when the last successful run began; never: there was none
  NextSync        when the next run is due; pending: it is due now
  Duration        how long the last run took
  FailCount       how many runs have failed in a row
  State           ok, running, error, disabled, removing; unknown: nobody told
  Lag             how old the target's newest complete state of the guest is;
                  with ! it is older than the schedule allows
  Last            what the last run sent over the wire (1K is 1024 bytes)

A time of day stands for less than 12 hours away or today. - means that there
is nothing to show, ? that nobody told. Errors, with what to do, stand below
the table, and what needs a person at once stands above it.

` + exitCodes,
		Example: `  tandem status
  tandem status --guest 100
  tandem status --node n1 -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := filter(guestID, node)
			if err != nil {
				return err
			}
			s, err := a.client().Status(cmd.Context(), f)
			if err != nil {
				return err
			}
			s.Jobs, s.Silent, s.Warnings = list(s.Jobs), list(s.Silent), list(s.Warnings)
			if err := a.print(s, a.text().Status(s, f == api.Filter{})...); err != nil {
				return err
			}
			if v := judge(s); v != exitOK {
				return verdict(v)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&guestID, "guest", "", "only the jobs of the guest with this `ID`")
	cmd.Flags().StringVar(&node, "node", "", "only the jobs from or to the node of this `name`")
	must(cmd.RegisterFlagCompletionFunc("guest", a.completeGuests))
	must(cmd.RegisterFlagCompletionFunc("node", a.completeNodes))
	return cmd
}

func filter(guestID, node string) (f api.Filter, err error) {
	if guestID != "" {
		if f.Guest, err = guest.ParseID(guestID); err != nil {
			return f, invalid(err)
		}
	}
	if node != "" {
		f.Node, err = guest.ParseNodeName(node)
	}
	return f, invalid(err)
}

// judge is the exit code of `status`: what is known to be wrong goes before what
// is not known.
func judge(s api.Status) int {
	trouble := !s.Cluster.Quorate || len(s.Warnings) > 0
	unknown := len(s.Silent) > 0
	for _, j := range s.Jobs {
		if j.State == api.StateDisabled {
			continue // Whoever disabled it knows.
		}
		trouble = trouble || j.State == api.StateError || j.FailCount > 0 || j.Lagging
		unknown = unknown || j.State == api.StateUnknown
	}
	switch {
	case trouble:
		return exitError
	case unknown:
		return exitUnknown
	default:
		return exitOK
	}
}
