package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/cli/frame"
)

// completeJob offers the job IDs of the cluster for the only argument.
func (a *app) completeJob(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, frame.NoFiles
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), frame.CompleteTimeout)
	defer cancel()
	jobs, err := a.Client().Jobs(ctx)
	if err != nil {
		return nil, frame.NoFiles
	}
	var out []string
	for _, j := range jobs {
		out = append(out, cobra.CompletionWithDesc(j.ID.String(), string(j.Source)+" to "+string(j.Target)))
	}
	return out, frame.NoFiles
}

// completeCreate offers guests' IDs with the dash of a job ID, then nodes.
func (a *app) completeCreate(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.GuestIDs(cmd, "-"), frame.NoFiles | cobra.ShellCompDirectiveNoSpace
	case 1:
		return a.CompleteNodes(cmd, args, part)
	default:
		return nil, frame.NoFiles
	}
}
