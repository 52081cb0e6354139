package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
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

// completeCreate offers for each guest the ID of its next job, then the nodes that
// do not have the guest.
func (a *app) completeCreate(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.freeJobs(cmd), frame.NoFiles
	case 1:
		return a.targets(cmd, args, part), frame.NoFiles
	default:
		return nil, frame.NoFiles
	}
}

func (a *app) freeJobs(cmd *cobra.Command) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), frame.CompleteTimeout)
	defer cancel()
	guests, err := a.Client().Guests(ctx)
	if err != nil {
		return nil
	}
	jobs, err := a.Client().Jobs(ctx)
	if err != nil {
		return nil
	}
	taken := map[guest.JobID]bool{}
	for _, j := range jobs {
		taken[j.ID] = true
	}
	var out []string
	for _, g := range guests {
		id := guest.JobID{Guest: g.ID}
		for taken[id] {
			id.Number++
		}
		out = append(out, cobra.CompletionWithDesc(id.String(), report.OneLine(g.Name)))
	}
	return out
}

func (a *app) targets(cmd *cobra.Command, args []string, part string) []string {
	nodes, _ := a.CompleteNodes(cmd, args, part)
	id, err := guest.ParseJobID(args[0])
	if err != nil {
		return nodes
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), frame.CompleteTimeout)
	defer cancel()
	guests, err := a.Client().Guests(ctx)
	if err != nil {
		return nodes
	}
	for _, g := range guests {
		if g.ID == id.Guest {
			nodes = slices.DeleteFunc(nodes, func(s string) bool { return strings.HasPrefix(s, string(g.Owner)+"\t") })
		}
	}
	return nodes
}
