package frame

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/report"
)

// CompleteTimeout is how long a shell waits for names; a daemon that takes
// longer is not worth a frozen prompt.
const CompleteTimeout = 2 * time.Second

// NoFiles keeps the shell from offering files.
const NoFiles = cobra.ShellCompDirectiveNoFileComp

// CompleteGuests offers the IDs of guests, for a flag or the first argument.
func (a *App) CompleteGuests(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, NoFiles
	}
	return a.GuestIDs(cmd), NoFiles
}

// GuestIDs are the IDs of guests with their names.
func (a *App) GuestIDs(cmd *cobra.Command) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), CompleteTimeout)
	defer cancel()
	guests, err := a.Client().Guests(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for _, g := range guests {
		out = append(out, cobra.CompletionWithDesc(g.ID.String(), report.OneLine(g.Name)))
	}
	return out
}

// CompleteNodes offers the names of the members.
func (a *App) CompleteNodes(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := a.Quick(cmd)
	if err != nil {
		return nil, NoFiles
	}
	var out []string
	for _, m := range c.Members {
		out = append(out, cobra.CompletionWithDesc(string(m.Name), m.State))
	}
	return out, NoFiles
}

// Quick asks for the cluster, for completion.
func (a *App) Quick(cmd *cobra.Command) (api.Cluster, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), CompleteTimeout)
	defer cancel()
	return a.Client().Cluster(ctx)
}
