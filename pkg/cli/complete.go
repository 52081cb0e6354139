package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/cli/report"
)

// completeTimeout is how long a shell waits for names; a daemon that takes
// longer is not worth a frozen prompt.
const completeTimeout = 2 * time.Second

const noFiles = cobra.ShellCompDirectiveNoFileComp

// completeJob offers the job IDs of the cluster for the only argument.
func (a *app) completeJob(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	jobs, err := a.client().Jobs(ctx)
	if err != nil {
		return nil, noFiles
	}
	var out []string
	for _, j := range jobs {
		out = append(out, cobra.CompletionWithDesc(j.ID.String(), string(j.Source)+" to "+string(j.Target)))
	}
	return out, noFiles
}

// completeGuests offers the IDs of guests.
func (a *app) completeGuests(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.guestIDs(cmd, ""), noFiles
}

// completeCreate offers guests' IDs with the dash of a job ID, then nodes.
func (a *app) completeCreate(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.guestIDs(cmd, "-"), noFiles | cobra.ShellCompDirectiveNoSpace
	case 1:
		return a.completeNodes(cmd, args, part)
	default:
		return nil, noFiles
	}
}

func (a *app) guestIDs(cmd *cobra.Command, suffix string) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	guests, err := a.client().Guests(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for _, g := range guests {
		out = append(out, cobra.CompletionWithDesc(g.ID.String()+suffix, report.OneLine(g.Name)))
	}
	return out
}

// completeNodes offers the names of the members.
func (a *app) completeNodes(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	c, err := a.client().Cluster(ctx)
	if err != nil {
		return nil, noFiles
	}
	var out []string
	for _, m := range c.Members {
		out = append(out, cobra.CompletionWithDesc(string(m.Name), m.State))
	}
	return out, noFiles
}
